"""docs/cost.md says what was counted: its figures are those of the results, and these those of today's plans."""

from __future__ import annotations

import importlib
import json
import math
from itertools import pairwise
from pathlib import Path

import pytest

import gpu_backprop as gb

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
RECORD = json.loads((ROOT / "bench" / "results" / "launches.json").read_text(encoding="utf-8"))


@pytest.fixture
def launches(monkeypatch):
    """bench/launches.py as a module; it can be imported without CuPy."""
    monkeypatch.syspath_prepend(ROOT / "bench")
    return importlib.import_module("launches")


def test_the_table_of_networks_is_that_of_the_results(launches):
    assert launches.table(RECORD["networks"]) in PAGE
    assert [(row["network"], row["batch"]) for row in RECORD["networks"]] == [(str(c), c.batch) for c in launches.CASES]


@pytest.mark.parametrize("number", range(4))  # the fifth takes a second and 300 MB
def test_the_results_are_those_of_a_plan_of_today(launches, number):
    row, step = RECORD["networks"][number], launches.build(launches.CASES[number], "cpu")
    assert row["plan"] == launches.plan_account(step.plan) | {"allocations": 0}
    assert row["parameters"] == sum(layer.weight.size + layer.bias.size for layer in step.net.layers)
    if number < 3:
        assert row["cupy"]["bytes"] == launches.plain_bytes(step)


def test_the_formulas_of_the_page_hold_for_the_results(launches):
    for case, row in zip(launches.CASES, RECORD["networks"], strict=True):
        depth = len(case.widths) - 1
        assert row["plan"]["launches"] == 5 * depth - 2
        assert row["cupy"]["launches"] == 34 * depth + 16
        inputs, *hidden, outputs = case.widths
        of_head = 4 * (case.batch * hidden[-1] + hidden[-1] * outputs + case.batch * outputs)  # z, and ∇x, as products
        assert row["plan"]["bytes"]["products"] == row["cupy"]["bytes"]["products"] - 2 * of_head
        in_rows = math.ceil(outputs / 4) * 4  # of 16 bytes
        activations = 4 * case.batch * (2 * inputs + 5 * sum(hidden) - hidden[-1] + in_rows) + 4 * hidden[-1] * outputs
        stated = 2 * 4 * (sum(hidden) + outputs) + 3 * 8 * case.batch + 8 * case.batch + 72
        assert row["plan"]["bytes"]["elementwise"] == activations + stated
        padded = sum(math.ceil(n / 64) * 64 for a, b in pairwise(case.widths) for n in (a * b, b))
        assert row["plan"]["bytes"]["optimizer"] == 28 * padded + 8 * 5


def test_where_the_page_says_that_times_meet(launches):
    """Adam and the products, and elementwise traffic and the products, on the peaks of the model."""
    rows, width = (n * launches.FLOPS / (6 * launches.BANDWIDTH) for n in (28, 5 * 4))
    said = " ".join(PAGE.split())
    assert f"a batch of about {round(rows, -1):.0f} rows" in said
    assert f"a width of about {round(width, -1):.0f};" in said
    first = RECORD["networks"][0]
    assert (first["plan"]["launches"] * 5, first["cupy"]["launches"] * 5) == (40, 420)
    assert "take 40 µs, and the 84 of plain CuPy 420 µs" in PAGE


def test_the_page_says_what_was_not_measured():
    assert "**Nothing on this page was measured on a GPU." in PAGE
    assert "model, not a measurement" in PAGE
    assert RECORD["device"] == "emulated"


def test_the_activations_that_keep_z():
    names = [name for name, f in gb.ACTIVATIONS.items() if f.reads == "z"]
    assert f"f′ is written in z ({', '.join(names)})" in " ".join(PAGE.split())


def test_without_a_cuda_device_the_script_says_so(launches, monkeypatch, capsys):
    def no_device(*_, **__):
        raise gb.DeviceError("device 'cuda' cannot be used: there is none.")

    monkeypatch.setattr(gb, "Network", no_device)
    assert launches.main(["--quick"]) == 1
    assert "It needs a CUDA device, real or emulated." in capsys.readouterr().err


def test_an_array_that_counts(launches):
    """Operands once, results once; a slice passes nothing, and what a product moves stands apart."""
    plain_step = importlib.import_module("lib.plain_step")
    a, b = (plain_step.counted([[1.0, 2.0], [3.0, 4.0]]) for _ in range(2))
    order = plain_step.np.array([1, 0, 1])
    for action, moved in (
        (lambda: a + b, 3 * 32),
        (lambda: a * 2.0, 2 * 32),
        (lambda: a.__iadd__(b), 3 * 32),
        (lambda: a + b[0], 32 + 16 + 32),
        (lambda: a.sum(axis=0), 32 + 16),
        (lambda: a.argmax(axis=1), 32 + 16),
        (lambda: a[:1], 0),
        (lambda: a[order], 24 + 2 * 48),
    ):
        plain_step.Counted.moved = {"products": 0, "other": 0}
        assert isinstance(action(), plain_step.Counted)
        assert plain_step.Counted.moved == {"products": 0, "other": moved}
    plain_step.Counted.moved = {"products": 0, "other": 0}
    assert (a @ b.T).shape == (2, 2)
    assert plain_step.Counted.moved == {"products": 3 * 32, "other": 0}
