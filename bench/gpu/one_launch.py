"""Epochs of many small networks in one launch, a network a block, beside ordinary steps, for bench/gpu_check.py.

Both are `Trainer.fit` on the same data from the same weights, and draw the same new order of the rows in each epoch, on
the host. First each trains an epoch in the order of the rows, and their losses have to be equal. Then they train in
turns, some epochs each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from lib.timing import spread

import gpu_backprop as gb
from gpu.fits import ADAM, CLOSE, EPOCHS
from gpu.timing import Extent, clocks_up
from gpu_backprop.backend.formula import Array
from gpu_backprop.data.digits import load_digits

MODELS = 1, 132, 264
"""Networks that train together: one, as many as an H100 has multiprocessors, and twice as many."""

ROWS, BATCH = 2048, 32
TINY_MODELS, TINY_ROWS = (1, 2), 64

WAYS = {"ordinary": False, "one_launch": True}
"""The values of Trainer(one_launch=), by the names of the two ways."""


@dataclass(frozen=True)
class Task:
    """A small network, and what it learns: as many rows as the batch divides, so that there is one plan of a step."""

    name: str
    x: Array
    target: Array
    layers: tuple[gb.Dense, ...]

    def trainer(self, models: int, one_launch: bool) -> gb.Trainer:
        seed = range(models) if models > 1 else 0
        net = gb.Network(self.x.shape[1], list(self.layers), device="cuda", seed=seed)
        return gb.Trainer(net, optimizer=gb.Adam(*ADAM), batch_size=BATCH, one_launch=one_launch)


def tasks(extent: Extent) -> Iterator[Task]:
    """A regression 8-16-1, and the digits by 64-64-64-10."""
    rows = ROWS if extent.bytes else TINY_ROWS
    x = np.random.default_rng(0).standard_normal((rows, 8), np.float32)
    yield Task("8-16-1", x, np.sin(x.sum(axis=1, keepdims=True)), (gb.Dense(16, "tanh"), gb.Dense(1)))
    digits, labels = load_digits()
    rows = min(rows, len(digits)) // BATCH * BATCH
    layers = *(gb.Dense(64, "relu") for _ in range(2)), gb.Dense(10, "softmax")
    yield Task("64-64-64-10", np.float32(digits[:rows] / 16), labels[:rows], layers)


def numbers_of_models(extent: Extent) -> tuple[int, ...]:
    return MODELS if extent.bytes else TINY_MODELS


def measure(task: Task, models: int, extent: Extent) -> dict[str, Any]:
    """Times epochs of so many networks, in both ways.

    Raises:
        RuntimeError: the two ways come to different losses.
    """
    trainers = {way: task.trainer(models, one_launch) for way, one_launch in WAYS.items()}
    losses = [np.array(_fit(task, trainer, 1, shuffle=False)["loss"]) for trainer in trainers.values()]
    if not np.allclose(*losses, rtol=CLOSE["float32"]):
        worst = np.nanmax(np.abs(losses[0] - losses[1]))
        raise RuntimeError(
            f"the ordinary steps and the epoch in one launch differ by up to {worst:.3g} in their losses"
        )
    row: dict[str, Any] = {"network": task.name, "models": models, "rows": len(task.x), "batch": BATCH}
    with clocks_up(trainers["ordinary"].device, extent, row):
        turns = [{way: _milliseconds(task, trainer) for way, trainer in trainers.items()} for _ in range(extent.turns)]
    row |= {way: {"ms_an_epoch": spread([turn[way] for turn in turns], 4)} for way in WAYS}
    return row | {"ordinary / one_launch": spread([turn["ordinary"] / turn["one_launch"] for turn in turns])}


def _milliseconds(task: Task, trainer: gb.Trainer) -> float:
    """Of an epoch, the mean of a turn but for its first epoch, which compiles and captures."""
    return float(np.mean(_fit(task, trainer, EPOCHS, shuffle=True)["seconds"][1 - EPOCHS :])) * 1e3


def _fit(task: Task, trainer: gb.Trainer, epochs: int, shuffle: bool) -> gb.History:
    return trainer.fit(task.x, task.target, epochs, shuffle=shuffle, progress=False)
