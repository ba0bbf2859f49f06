"""The rows of a minibatch, chosen by a permutation and a cursor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Array, Call, Calls, call


def gather(device: Device, sources: Sequence[Array], permutation: Array, cursor: Array, outs: Sequence[Array]) -> Calls:
    taken = [
        out if source.dtype == out.dtype else device.empty(out.shape, source.dtype)
        for source, out in zip(sources, outs, strict=True)
    ]
    yield _take(sources, permutation, cursor, taken)
    for rows, into in zip(taken, outs, strict=True):
        if rows is not into:
            yield partial(np.copyto, into, rows, "unsafe")


def _take(sources: Sequence[Array], permutation: Array, cursor: Array, outs: Sequence[Array]) -> Call:
    rows = permutation.shape[:-1]
    count = outs[0].shape[len(rows)]
    members = [(permutation, outs)] if not rows else [(permutation[m], [o[m] for o in outs]) for m in range(rows[0])]
    takes = [(order, [(_taker(s), o) for s, o in zip(sources, member, strict=True)]) for order, member in members]

    def run() -> None:
        start = cursor.item()
        for order, pairs in takes:
            chosen = order[start : start + count]
            for take, out in pairs:
                take(chosen, 0, out, "clip")

    return run


def _taker(source: Array) -> Callable[..., object]:
    """source.take, or its like for a view of a file with gaps: of such an array take copies all of it first."""
    if source.flags.c_contiguous and source.flags.aligned:
        return source.take

    def take(chosen: Array, axis: int, out: Array, mode: str) -> None:
        np.copyto(out, source[chosen])

    return take


def advance(
    device: Device, cursor: Array | None, rows: int, position: Array | None = None, random: Array | None = None,
    step: Array | None = None, counted: Array | None = None,
) -> Calls:  # fmt: skip
    for counter, by in ((cursor, rows), (position, 1), (random, 1), (None if counted is not None else step, 1)):
        if counter is not None:
            yield call(np.add, counter, np.asarray(by, counter.dtype), out=counter)
    if step is not None and counted is not None:
        counts = np.empty(step.shape, np.bool_)
        yield call(np.not_equal, counted, 0.0, out=counts)
        yield call(np.add, step, counts, out=step)
