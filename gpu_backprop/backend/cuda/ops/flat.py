"""Copies, sums of squares and unscaling over flat buffers."""

from __future__ import annotations

import numpy as np

from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.backend.cuda.ops.launch_shapes import flat, flat_sizes
from gpu_backprop.backend.formula import Array, Calls


def copy(device: CudaDevice, source: Array, destination: Array) -> Calls:
    n = destination.size
    width = device.kernels.width(destination.dtype, n, source, destination)
    launch = flat(n, width=width)
    yield device.kernels.launch(
        "copy", (source.dtype, destination.dtype, width), *launch,
        source=source, destination=destination, n=n,
    )  # fmt: skip


def sum_of_squares(device: CudaDevice, a: Array, out: Array) -> Calls:
    models, n = flat_sizes(a)
    width = device.kernels.width(a.dtype, n, a)
    launch = flat(n, models, width)
    yield device.kernels.launch(
        "sum_of_squares", (a.dtype, width), *launch,
        a=a, out=out, partial=device.work((models, launch.grid[0]), np.float64), tickets=device.tickets(models), n=n,
    )  # fmt: skip


def unscale(
    device: CudaDevice, g: Array, scaling: Array, counted: Array | None, factor: Array, patience: int, largest: float
) -> Calls:
    models, n = flat_sizes(g)
    width = device.kernels.width(g.dtype, n, g)
    launch = flat(n, models, width)
    yield device.kernels.launch(
        "unscale", (g.dtype, width), *launch,
        g=g, scaling=scaling, counted=counted, factor=factor, partial=device.work((models, launch.grid[0]), np.uint32),
        tickets=device.tickets(models), n=n, patience=patience, largest=largest,
    )  # fmt: skip
