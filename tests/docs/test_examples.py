"""The examples run in an empty folder, do what they say, and are short."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpu_backprop as gb

EXAMPLES = Path(__file__).parents[2] / "examples"
ALL = sorted(EXAMPLES.glob("*.py"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs an example: its names, and what it printed."""
    monkeypatch.chdir(tmp_path)

    def example(name: str) -> tuple[dict[str, Any], str]:
        names = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return names, capsys.readouterr().out

    return example


def test_there_are_five() -> None:
    assert [path.stem for path in ALL] == ["callbacks", "digits", "multi_label", "outer_scalar", "regression_csv"]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_each_is_short_and_says_what_one_learns(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    assert "\nWhat one learns here: " in (ast.get_docstring(ast.parse(text)) or "")


def test_digits(run: Any, tmp_path: Path) -> None:
    names, printed = run("digits")
    share = re.search(r"^held-out digits read rightly: ([\d.]+)%$", printed, re.MULTILINE)
    assert share and float(share[1]) > 95
    assert re.search(r"^\d+ derivatives agree; the worst is off by \d\.\de-\d\d of its size$", printed, re.MULTILINE)
    assert [path.name for path in tmp_path.iterdir()] == ["digits.safetensors"]
    assert len(names["guesses"]) == len(names["test"]) == 359


def test_callbacks(run: Any) -> None:
    names, printed = run("callbacks")
    stopped = r"stopped after epoch (\d+) by EarlyStop \(val_loss was lowest in epoch (\d+)\)"
    found = re.fullmatch(rf"{stopped}: (\S+), in the end it was (\S+)\n", printed)
    assert found and int(found[1]) == int(found[2]) + 60 < 400
    assert float(found[3]) < float(found[4])
    assert 0 < names["trainer"].optimizer.learning_rate < 0.02


def test_regression_csv(run: Any, tmp_path: Path) -> None:
    names, printed = run("regression_csv")
    score = re.search(r"held out: ([\d.]+)$", printed, re.MULTILINE)
    assert score and float(score[1]) > 0.95
    assert "regression" in printed and "'district=hill'" in printed
    new, old, _ = names["rents"].ravel()
    assert new == pytest.approx((14 + 3) * 60, rel=0.06)
    assert old == pytest.approx(9 * 60, rel=0.06)
    assert "{'district': 1}" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"flats.csv", "new.csv", "flats.safetensors"}


def test_multi_label(run: Any) -> None:
    names, printed = run("multi_label")
    shares = [float(share) for share in re.findall(r"([\d.]+)% right", printed)]
    assert len(shares) == 3 and min(shares) > 93
    assert names["trainer"].evaluate(names["x"][names["test"]], names["y"][names["test"]])["accuracy"] > 0.9
    sums = names["answers"].sum(axis=1)
    assert sums.min() < 0.1 and sums.max() > 2.9  # the outputs do not compete


def test_outer_scalar(run: Any) -> None:
    names, printed = run("outer_scalar")
    throws = re.findall(r"^([\d.]+) m: thrown at (\d+)°, lands at ([\d.]+) m$", printed, re.MULTILINE)
    assert len(throws) == 3
    for distance, angle, landed in throws:
        assert abs(float(angle) - 45) <= 2
        assert float(landed) == pytest.approx(float(distance), abs=0.1)
    assert names["E"] < 0.3


def test_the_derivatives_of_the_throw_are_right(run: Any) -> None:
    throw = run("outer_scalar")[0]["throw"]
    stream = np.random.default_rng(1)
    d, v, step = stream.uniform(1, 5, (4, 1)), stream.uniform(1, 6, (4, 2)), 1e-6
    for place in np.ndindex(v.shape):
        above, below = v.copy(), v.copy()
        above[place] += step
        below[place] -= step
        difference = (throw(d, above)[0] - throw(d, below)[0]) / (2 * step)
        assert throw(d, v)[1][place] == pytest.approx(difference, rel=1e-6)


def test_every_name_that_an_example_takes_from_the_package_is_public() -> None:
    for path in ALL:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "gb":
                assert node.attr in gb.__all__
