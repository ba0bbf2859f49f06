"""One pass over the flat buffers, as numpy_ops.optimizers describes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.compiled.ops.fallback import or_numpy
from gpu_backprop.backend.compiled.program import Argument, KernelCall, UnsupportedArguments
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.numpy_ops.scratch import Bound

if TYPE_CHECKING:
    from gpu_backprop.backend.compiled.device import CpuDevice

BLOCK = 4096
"""Numbers whose squares are added up together."""


@or_numpy(numpy_ops.sgd)
def sgd(
    device: CpuDevice, w: Array, g: Array, velocity: Array | None, nesterov: bool, hyper: Array, gate: Array | None,
    half_parameters: Array | None,
) -> Bound:  # fmt: skip
    """v ← μv + g; W ← W − ηv, or W − η(g + μv) with Nesterov's momentum. hyper: step, η, μ"""
    yield from _counted("sgd", 0.2, device, w, g, hyper, gate, half_parameters, velocity=velocity, nesterov=nesterov)


@or_numpy(numpy_ops.rmsprop)
def rmsprop(
    device: CpuDevice, w: Array, g: Array, v: Array, hyper: Array, gate: Array | None, half_parameters: Array | None
) -> Bound:
    """v ← ρv + (1 − ρ)g²; W ← W − ηg/(√v + ε). hyper: step, η, ρ, ε"""
    yield from _counted("rmsprop", 0.5, device, w, g, hyper, gate, half_parameters, v=v)


@or_numpy(numpy_ops.adagrad)
def adagrad(
    device: CpuDevice, w: Array, g: Array, v: Array, hyper: Array, gate: Array | None, half_parameters: Array | None
) -> Bound:
    """v ← v + g²; W ← W − ηg/(√v + ε). hyper: step, η, ε"""
    yield from _counted("adagrad", 0.5, device, w, g, hyper, gate, half_parameters, v=v)


@or_numpy(numpy_ops.adam)
def adam(
    device: CpuDevice, w: Array, g: Array, m: Array, v: Array, decay: bool, hyper: Array, gate: Array | None,
    half_parameters: Array | None,
) -> Bound:  # fmt: skip
    """W ← W − ηλW − η·m̂/(√v̂ + ε). hyper: step, η, β₁, β₂, ε, λ (the decoupled decay of AdamW; 0 without decay)"""
    yield from _counted("adam", 0.7, device, w, g, hyper, gate, half_parameters, m=m, v=v)


def _counted(
    name: str, each: float, device: CpuDevice, w: Array, g: Array, hyper: Array, gate: Array | None,
    half_parameters: Array | None, **others: Argument,
) -> Bound:  # fmt: skip
    """Counts the step, then takes it, in `each` nanoseconds a parameter."""
    if half_parameters is not None:
        raise UnsupportedArguments("a copy in 16 bits is for CUDA")
    models, settings = len(w) if w.ndim == 2 else 1, hyper.shape[-1]
    yield KernelCall(device, "count_step", models, hyper=hyper, gate=gate, models=models, settings=settings)
    yield KernelCall(
        device, name, each * w.size, w=w, g=g, hyper=hyper, gate=gate, models=models, n=w.shape[-1], **others
    )


@or_numpy(numpy_ops.sum_of_squares)
def sum_of_squares(device: CpuDevice, a: Array, out: Array) -> Bound:
    """out = Σa² over the last axis, in float64 (...,)."""
    models, n = len(a) if a.ndim == 2 else 1, a.shape[-1]
    blocks = -(-n // BLOCK)
    sums = device.empty((models, blocks), np.float64)
    yield KernelCall(
        device, "sum_block_squares", 0.1 * a.size, a=a, sums=sums, models=models, n=n, blocks=blocks, block_size=BLOCK
    )
    yield KernelCall(device, "add_block_sums", sums.size, sums=sums, out=out, models=models, blocks=blocks)
