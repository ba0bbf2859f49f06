"""What else is done over flat buffers."""

from __future__ import annotations

import numpy as np

from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.backend.cuda.ops.launch_shapes import Bound, flat, flat_sizes
from gpu_backprop.backend.formula import Array


def copy(device: CudaDevice, source: Array, destination: Array) -> Bound:
    """destination = source, of the same shape, in its own dtype."""
    n = destination.size
    width = device.kernels.width(destination.dtype, n, source, destination)
    launch = flat(n, width=width)
    yield device.kernels.launch(
        "copy", (source.dtype, destination.dtype, width), *launch,
        source=source, destination=destination, n=n,
    )  # fmt: skip


def sum_of_squares(device: CudaDevice, a: Array, out: Array) -> Bound:
    """out = Σa² over the last axis, in float64 (...,)."""
    models, n = flat_sizes(a)
    width = device.kernels.width(a.dtype, n, a)
    launch = flat(n, models, width)
    yield device.kernels.launch(
        "sum_of_squares", (a.dtype, width), *launch,
        a=a, out=out, part=device.work((models, launch.grid[0]), np.float64), tickets=device.tickets(models), n=n,
    )  # fmt: skip


def unscale(
    device: CudaDevice, g: Array, scaling: Array, weight_sum: Array | None, gate: Array, patience: int, largest: float
) -> Bound:
    """g ← g/S, where S, the scale of the loss, is in scaling, float64 (..., 3), see formula.py. gate, float64 (...,),
    becomes 0 where a number of g is not finite, else weight_sum, or 1.

    Such an overflow halves S, down to 1; `patience` steps in a row without one double it, up to `largest`. Where
    weight_sum is 0, scaling stays as it is.
    """
    models, n = flat_sizes(g)
    width = device.kernels.width(g.dtype, n, g)
    launch = flat(n, models, width)
    yield device.kernels.launch(
        "unscale", (g.dtype, width), *launch,
        g=g, scaling=scaling, weight_sum=weight_sum, gate=gate, part=device.work((models, launch.grid[0]), np.uint32),
        tickets=device.tickets(models), n=n, patience=patience, largest=largest,
    )  # fmt: skip
