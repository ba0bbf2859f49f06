"""gpu-backprop doctor --compile: compile the kernels of usual fits ahead. CuPy keeps them on disk, where later programs
find them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import gpu_backprop as gb
from gpu_backprop.backend.check import Check
from gpu_backprop.backend.open_device import open_device, open_dry_run
from gpu_backprop.network.layer import Layer
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.fit_schedule import FitSchedule
from gpu_backprop.training.memory import make_fit

EVEN, ODD = 64, 33
"""Widths that are a multiple of what a thread reads at once, and others: these are different kernels."""

OUTPUTS = 1, 2, 4, 8, 16, 32, 100
"""Each stands for all from the one before it on; of the last layer there is a kernel for each but the last."""

CLASSES, MANY = 10, OUTPUTS[-1]
BATCH, ROWS = 128, 300


def compile_usual(device: str, dtype: str) -> Iterator[Check]:
    """Compile them for a CUDA device, and tell how many there are and how long it took."""
    begin = time.perf_counter()
    try:
        opened = open_device(device, dtype)
    except gb.GpuBackpropError as error:
        yield Check("compiled", False, str(error), "name another dtype, as in --compile float32")
        return
    try:
        needed = usual_kernels(device, dtype)
        new = opened.compile(needed.values())
    except gb.GpuBackpropError as error:
        yield Check("compiled", False, str(error), "report this, with all lines above")
        return
    seconds = time.perf_counter() - begin
    yield Check("compiled", True, f"{len(needed)} kernels of usual {dtype} networks, {new} now, in {seconds:.1f} s")


def usual_kernels(device: str, dtype: str) -> dict[Any, Any]:
    """The kernels that `usual_fits` need, as their dry runs tell."""
    needed: dict[Any, Any] = {}
    for trainer, data in usual_fits(device, dtype):
        dry_run = open_dry_run(trainer.device)
        schedule = FitSchedule(trainer.network, trainer.optimizer, 1, 1, -(-ROWS // BATCH))
        make_fit(dry_run, trainer.training_step, trainer.settings, data, data, schedule=schedule)
        needed |= dry_run.needed_kernels
    return needed


def usual_fits(device: str, dtype: str) -> Iterator[tuple[gb.Trainer, Samples]]:
    """Yield fits that have, among them, every activation, loss and optimizer, each with what is usual besides, and
    whatever else a fit may have."""

    def fit(
        *hidden: Layer, outputs: int = CLASSES, output: str = "softmax", loss: str = "cross_entropy",
        dense: bool = False, weighted: bool = False, inputs: int = EVEN, pixels: bool = False, **options: Any,
    ) -> tuple[gb.Trainer, Samples]:  # fmt: skip
        layers = [*(hidden or (gb.Dense(EVEN, "relu"),)), gb.Dense(outputs, output)]
        net = gb.Network(inputs, layers, device=device, dtype=dtype)
        trainer = gb.Trainer(net, loss, batch_size=BATCH, one_launch=False, **options)
        labels = trainer.loss.labels and not dense
        target = np.zeros(ROWS, np.int64) if labels else np.zeros((ROWS, outputs), net.device.master)
        weights = np.ones(ROWS, net.device.master) if weighted else None
        return trainer, Samples(np.zeros((ROWS, inputs), np.uint8 if pixels else net.device.dtype), target, weights)

    for activation in gb.ACTIVATIONS:
        yield fit(gb.Dense(EVEN, activation))
        yield fit(*(gb.Dense(units, activation) for units in (EVEN, ODD, EVEN)))
        yield fit(gb.Dense(EVEN, activation), outputs=1, output="identity", loss="half_squared_error")
        yield fit(gb.Dense(EVEN, activation), outputs=1, output="sigmoid", loss="binary_cross_entropy")
    for units, outputs in itertools.product((EVEN, ODD), OUTPUTS[:-1]):
        yield fit(gb.Dense(units, "relu"), outputs=outputs, output="identity", loss="half_squared_error")
        if outputs > 1:
            yield fit(gb.Dense(units, "relu"), outputs=outputs)
    for (name, loss), outputs in itertools.product(gb.LOSSES.items(), (CLASSES, MANY)):
        for output in loss.needs or ("identity",):
            yield fit(outputs=outputs, output=output, loss=name)
            yield fit(outputs=outputs, output=output, loss=name, dense=True, weighted=True)
    for optimizer in (*gb.OPTIMIZERS, gb.SGD(0.1, 0.9), gb.SGD(0.1, 0.9, True)):
        yield fit(optimizer=optimizer)
    for inputs, pixels in itertools.product((EVEN, ODD), (False, True)):
        yield fit(inputs=inputs, pixels=pixels)
        yield fit(inputs=inputs, pixels=pixels, output="identity", loss="half_squared_error")
    yield fit(gb.Periodic(), gb.Dense(EVEN, "relu"))
    bounded = gb.Dense(EVEN, "relu", max_norm=1.0), gb.Dropout(0.5), gb.Dense(ODD, "relu"), gb.Dropout(0.5)
    yield fit(*bounded, weighted=True, clip_norm=1.0, average=0.9, accumulate=2, optimizer=gb.Adam(schedule="cosine"))
