"""One pass over the flat buffers, or over a layer's weights."""

from __future__ import annotations

import numpy as np

from gpu_backprop.backend.compiled.device import CpuDevice
from gpu_backprop.backend.compiled.ops.fallback import or_numpy
from gpu_backprop.backend.compiled.ops.layers import sizes
from gpu_backprop.backend.compiled.program import KernelCall, UnsupportedArguments
from gpu_backprop.backend.formula import Array, Calls
from gpu_backprop.backend.update_rule import UpdateRule

BLOCK = 4096
"""Numbers whose squares are added up together."""

PARAMETER, MOMENT = 0.2, 0.25
"""Nanoseconds that one thread takes for a parameter, and besides for each of its moments."""


@or_numpy
def update(
    device: CpuDevice, w: Array, g: Array, moments: Array | None, rule: UpdateRule, hyper: Array,
    gradient_factor: Array | None, groups: Array | None, half_parameters: Array | None,
) -> Calls:  # fmt: skip
    if half_parameters is not None:
        raise UnsupportedArguments("a copy in 16 bits is for CUDA")
    models, settings, count = len(w) if w.ndim == 2 else 1, hyper.shape[-1], len(rule.moments)
    yield KernelCall(
        device, "update", (PARAMETER + MOMENT * count) * w.size, rule,
        w=w, g=g, moments=moments, hyper=hyper, gradient_factor=gradient_factor, groups=groups, models=models,
        n=w.shape[-1], count=count, apart=w.size, settings=settings,
        blocks=0 if groups is None else groups.shape[-1],
    )  # fmt: skip


@or_numpy
def sum_of_squares(device: CpuDevice, a: Array, out: Array) -> Calls:
    models, n = len(a) if a.ndim == 2 else 1, a.shape[-1]
    blocks = -(-n // BLOCK)
    partial = device.empty((models, blocks), np.float64)
    yield KernelCall(
        device, "sum_block_squares", 0.1 * a.size, a=a, partial=partial, models=models, n=n, blocks=blocks,
        block_size=BLOCK,
    )  # fmt: skip
    yield KernelCall(device, "add_block_sums", partial.size, partial=partial, out=out, models=models, blocks=blocks)


@or_numpy
def blend(device: CpuDevice, source: Array, numbers: Array, counted: Array | None, destination: Array) -> Calls:
    models, n = len(destination) if destination.ndim == 2 else 1, destination.shape[-1]
    yield KernelCall(
        device, "blend", PARAMETER * destination.size,
        source=source, numbers=numbers, counted=counted, destination=destination, models=models, n=n,
    )  # fmt: skip


@or_numpy
def clip_factor(device: CpuDevice, squares: Array, limit: Array, counted: Array | None, factor: Array) -> Calls:
    yield KernelCall(
        device, "clip_factor", 10 * factor.size,
        squares=squares, limit=limit, counted=counted, factor=factor, models=factor.size,
    )  # fmt: skip


@or_numpy
def limit_norms(
    device: CpuDevice, weight: Array, limit: Array, counted: Array | None, half_weight: Array | None
) -> Calls:
    if half_weight is not None:
        raise UnsupportedArguments("a copy in 16 bits is for CUDA")
    yield KernelCall(
        device, "limit_norms", PARAMETER * weight.size, weight=weight, limit=limit, counted=counted, **sizes(weight)
    )
