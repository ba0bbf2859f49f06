"""One pass over the flat buffers."""

from __future__ import annotations

import numpy as np

from gpu_backprop.backend.compiled.device import CpuDevice
from gpu_backprop.backend.compiled.ops.fallback import or_numpy
from gpu_backprop.backend.compiled.program import Argument, KernelCall, UnsupportedArguments
from gpu_backprop.backend.formula import Array, Calls

BLOCK = 4096
"""Numbers whose squares are added up together."""


@or_numpy
def sgd(
    device: CpuDevice, w: Array, g: Array, velocity: Array | None, nesterov: bool, hyper: Array, gate: Array | None,
    half_parameters: Array | None,
) -> Calls:  # fmt: skip
    yield from _counted("sgd", 0.2, device, w, g, hyper, gate, half_parameters, velocity=velocity, nesterov=nesterov)


@or_numpy
def rmsprop(
    device: CpuDevice, w: Array, g: Array, v: Array, hyper: Array, gate: Array | None, half_parameters: Array | None
) -> Calls:
    yield from _counted("rmsprop", 0.5, device, w, g, hyper, gate, half_parameters, v=v)


@or_numpy
def adagrad(
    device: CpuDevice, w: Array, g: Array, v: Array, hyper: Array, gate: Array | None, half_parameters: Array | None
) -> Calls:
    yield from _counted("adagrad", 0.5, device, w, g, hyper, gate, half_parameters, v=v)


@or_numpy
def adam(
    device: CpuDevice, w: Array, g: Array, m: Array, v: Array, decay: bool, hyper: Array, gate: Array | None,
    half_parameters: Array | None,
) -> Calls:  # fmt: skip
    yield from _counted("adam", 0.7, device, w, g, hyper, gate, half_parameters, m=m, v=v)


def _counted(
    name: str, each: float, device: CpuDevice, w: Array, g: Array, hyper: Array, gate: Array | None,
    half_parameters: Array | None, **others: Argument,
) -> Calls:  # fmt: skip
    """Counts the step, then takes it, in `each` nanoseconds a parameter."""
    if half_parameters is not None:
        raise UnsupportedArguments("a copy in 16 bits is for CUDA")
    models, settings = len(w) if w.ndim == 2 else 1, hyper.shape[-1]
    yield KernelCall(device, "count_step", models, hyper=hyper, gate=gate, models=models, settings=settings)
    yield KernelCall(
        device, name, each * w.size, w=w, g=g, hyper=hyper, gate=gate, models=models, n=w.shape[-1], **others
    )


@or_numpy
def sum_of_squares(device: CpuDevice, a: Array, out: Array) -> Calls:
    models, n = len(a) if a.ndim == 2 else 1, a.shape[-1]
    blocks = -(-n // BLOCK)
    sums = device.empty((models, blocks), np.float64)
    yield KernelCall(
        device, "sum_block_squares", 0.1 * a.size, a=a, sums=sums, models=models, n=n, blocks=blocks, block_size=BLOCK
    )
    yield KernelCall(device, "add_block_sums", sums.size, sums=sums, out=out, models=models, blocks=blocks)
