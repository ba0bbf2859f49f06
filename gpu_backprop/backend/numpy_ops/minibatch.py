"""The rows of a minibatch, chosen by a permutation and a cursor."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Array, Call, call
from gpu_backprop.backend.numpy_ops.scratch import Bound


def gather(
    device: Device, sources: Sequence[Array], permutation: Array, cursor: Array, outs: Sequence[Array],
    scale: float = 1.0, shift: float = 0.0,
) -> Bound:  # fmt: skip
    """out = source[permutation[cursor : cursor + rows]] for each pair: x, target and weights at once. The first becomes
    scale·out + shift, and may come from another dtype."""
    x, out = sources[0], outs[0]
    if x.dtype != out.dtype:
        outs = [device.empty(out.shape, x.dtype), *outs[1:]]
    yield _take(sources, permutation, cursor, outs)
    if x.dtype != out.dtype:
        yield partial(np.copyto, out, outs[0], "unsafe")
    if scale != 1.0:
        yield call(np.multiply, out, scale, out=out)
    if shift != 0.0:
        yield call(np.add, out, shift, out=out)


def _take(sources: Sequence[Array], permutation: Array, cursor: Array, outs: Sequence[Array]) -> Call:
    rows = permutation.shape[:-1]
    count = outs[0].shape[len(rows)]
    members = [(permutation, outs)] if not rows else [(permutation[m], [o[m] for o in outs]) for m in range(rows[0])]
    takes = [(order, [(s.take, o) for s, o in zip(sources, member, strict=True)]) for order, member in members]

    def run() -> None:
        start = cursor.item()
        for order, pairs in takes:
            chosen = order[start : start + count]
            for take, out in pairs:
                take(chosen, 0, out, "clip")

    return run


def advance(device: Device, counter: Array, by: int) -> Bound:
    """counter += by"""
    yield call(np.add, counter, np.asarray(by, counter.dtype), out=counter)
