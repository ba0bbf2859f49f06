"""The rows of a minibatch, chosen by a permutation and a cursor; and copies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from gpu_backprop.backend.compiled.device import CpuDevice
from gpu_backprop.backend.compiled.ops.fallback import or_numpy
from gpu_backprop.backend.compiled.program import KernelCall, UnsupportedArguments
from gpu_backprop.backend.formula import Array, Calls

NOTHING: Any = None, None
"""In the place of a source, and of where its rows go."""

RATE = 8
"""Bytes that one thread copies in a nanosecond."""


@or_numpy
def gather(
    device: CpuDevice, sources: Sequence[Array | None], permutation: Array, cursor: Array,
    outs: Sequence[Array | None], counts: Array | None = None,
) -> Calls:  # fmt: skip
    moved = [(s, out) for s, out in zip(sources, outs, strict=True) if s is not None and out is not None]
    if any(s.dtype != out.dtype for s, out in moved):
        raise UnsupportedArguments("rows are copied as they are")
    (x, x_out), (target, target_out), (weights, weights_out) = [*zip(sources, outs, strict=True), NOTHING, NOTHING][:3]
    models, own = math.prod(permutation.shape[:-1]), weights is not None and weights.ndim > 1
    (source, out), axes = moved[0], permutation.ndim - 1
    yield KernelCall(
        device, "gather", 10 * models + sum(out.nbytes for _, out in moved) / RATE, x=x, x_out=x_out, target=target,
        target_out=target_out, weights=None if own else weights, own_weights=weights if own else None,
        weights_out=weights_out, order=permutation, cursor=cursor, row_counts=counts,
        samples=source.shape[source.ndim - out.ndim + axes], places=permutation.shape[-1], models=models,
        rows=out.shape[axes], x_row=_row(x), target_row=_row(target), weight_row=0 if weights is None else 4,
    )  # fmt: skip


def _row(source: Array | None) -> int:
    return 0 if source is None else source[:1].nbytes


@or_numpy
def advance(
    device: CpuDevice, cursor: Array | None, rows: int, position: Array | None = None, random: Array | None = None,
    step: Array | None = None, counted: Array | None = None,
) -> Calls:  # fmt: skip
    for counter, by in ((cursor, rows), (position, 1)):
        if counter is not None:
            yield KernelCall(device, "advance", counter.size, counter=counter, models=counter.size, by=by)
    layers = [] if random is None else [random.view(np.int64)[..., k] for k in range(random.shape[-1])]
    for of_layer, of_model in zip_longest(layers, [] if step is None else [step]):
        models = (of_layer if of_model is None else of_model).size
        yield KernelCall(device, "count_step", models, step=of_model, random=of_layer, counted=counted, models=models)


@or_numpy
def copy(device: CpuDevice, source: Array, destination: Array) -> Calls:
    if source.dtype != destination.dtype:
        raise UnsupportedArguments("only bytes are copied")
    yield KernelCall(device, "copy", source.nbytes / RATE, source=source, destination=destination, size=source.nbytes)
