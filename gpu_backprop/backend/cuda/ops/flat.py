"""What is done to whole buffers of parameters or gradients, besides the optimizer's update."""

from __future__ import annotations

import numpy as np

from gpu_backprop.backend.communicator import Communicator
from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.backend.cuda.ops.launch_shapes import flat, flat_sizes, sizes, whole_columns
from gpu_backprop.backend.formula import Array, Calls


def all_reduce(device: CudaDevice, communicator: Communicator, array: Array) -> Calls:
    yield from communicator.all_reduce(device, array)


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


def clip_factor(device: CudaDevice, squares: Array, limit: Array, counted: Array | None, factor: Array) -> Calls:
    launch = flat(factor.size)
    yield device.kernels.launch(
        "clip_factor", (), *launch, squares=squares, limit=limit, counted=counted, factor=factor, count=factor.size
    )  # fmt: skip


def blend(device: CudaDevice, source: Array, numbers: Array, counted: Array | None, destination: Array) -> Calls:
    models, n = flat_sizes(destination)
    width = device.kernels.width(destination.dtype, n, source, destination)
    launch = flat(n, models, width)
    yield device.kernels.launch(
        "blend", (destination.dtype, width), *launch,
        source=source, numbers=numbers, counted=counted, destination=destination, n=n,
    )  # fmt: skip


def limit_norms(
    device: CudaDevice, weight: Array, limit: Array, counted: Array | None, half_weight: Array | None
) -> Calls:
    models, rows, cols = sizes(weight)
    launch = whole_columns(cols, models)
    yield device.kernels.launch(
        "limit_norms", (weight.dtype if half_weight is None else half_weight.dtype,), *launch,
        weight=weight, limit=limit, counted=counted, half_weight=half_weight, rows=rows, cols=cols,
    )  # fmt: skip
