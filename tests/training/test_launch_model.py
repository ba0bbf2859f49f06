"""What the model of a step's time says, which decides how epochs run. It is no measurement."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import gpu_backprop as gb
from gpu_backprop.backend.cuda.setup import PROCESSORS
from gpu_backprop.backend.device import Processors
from gpu_backprop.training.launch_model import BYTES, LEAST, NODE, ordinary_step, resident_step
from gpu_backprop.training.one_launch import layout

DEVICES = {"H100": (132, (9, 0), 227), "A100": (108, (8, 0), 163), "T4": (40, (7, 5), 64)}
"""Multiprocessors, compute capability and KB of a block."""


def device(name, double=False):
    count, capability, kilobytes = DEVICES[name]
    single, doubles, megahertz = PROCESSORS[capability]
    return Processors(count, doubles if double else single, megahertz), kilobytes * 1024 - 1024


def resident(widths, batch, name, models=1, dtype="float32"):
    inputs, *hidden, outputs = widths
    layers = [*(gb.Dense(n, "relu") for n in hidden), gb.Dense(outputs)]
    net = gb.Network(inputs, layers, device="cpu", dtype=dtype)
    processors, memory = device(name, dtype == "float64")
    found = layout(net, gb.Trainer(net).loss, moments=2)
    return resident_step(found, models, batch, memory, processors) if found.fit(batch, memory)[0] else None


def test_the_figures_of_the_docs():
    text = (Path(__file__).parents[2] / "docs" / "cost.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d-]+) \| (\d+) \| (\d+) \| (.+) \| (.+) \| (.+) \|$", text, re.MULTILINE)
    assert len(rows) > 5
    for widths, batch, models, *told in rows:
        for name, figure in zip(DEVICES, told, strict=True):
            found = resident([*map(int, widths.split("-"))], int(batch), name, int(models))
            assert figure == ("does not fit" if found is None else f"{found:.1f}"), (widths, batch, models, name)


@pytest.mark.parametrize(
    ("widths", "batch", "dtype"),
    [
        ([64, 32, 4], 32, "float32"), ([16, 64, 4], 32, "float32"), ([16, 32, 32, 4], 32, "float32"),
        ([16, 32, 4], 64, "float32"), ([16, 32, 4], 32, "float64"),
    ],
)  # fmt: skip
def test_more_work_takes_longer(widths, batch, dtype):
    assert resident(widths, batch, "H100", dtype=dtype) > resident([16, 32, 4], 32, "H100")


def test_moments_outside_the_block_are_waited_for():
    """Of 64-64-64-10 an H100's block holds them, and a smaller one does not."""
    net = gb.Network(64, [gb.Dense(64, "relu"), gb.Dense(64, "relu"), gb.Dense(10)], device="cpu")
    found, (processors, memory) = layout(net, gb.Trainer(net).loss, moments=2), device("H100")
    assert found.fit(32, memory) == (32, 2) and found.fit(32, memory - 70_000) == (32, 0)
    assert resident_step(found, 1, 32, memory, processors) < resident_step(found, 1, 32, memory - 70_000, processors)


def test_an_ordinary_step_takes_its_launches_at_least():
    trainer = gb.Trainer(gb.Network(8, [gb.Dense(16, "tanh"), gb.Dense(1)], device="cpu"), batch_size=4)
    processors, _ = device("H100")
    path = trainer.plan().cost()["path"]
    assert ordinary_step(trainer.plan(), processors) == pytest.approx(path * (NODE + LEAST))
    wide = trainer.plan(1_000_000)
    assert ordinary_step(wide, processors) > wide.cost()["bytes"] / BYTES > path * LEAST * 10
    slow = Processors(1, 1, 1)
    assert ordinary_step(trainer.plan(), slow) > trainer.plan().cost()["flops"] / 2
