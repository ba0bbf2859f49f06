"""The rows of a minibatch, chosen by a permutation and a cursor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Array, Call, Calls, call


def gather(
    device: Device, sources: Sequence[Array | None], permutation: Array, cursor: Array, outs: Sequence[Array | None],
    counts: Array | None = None,
) -> Calls:  # fmt: skip
    moved = [(s, out) for s, out in zip(sources, outs, strict=True) if s is not None and out is not None]
    taken = [(s, out if s.dtype == out.dtype else device.empty(out.shape, s.dtype)) for s, out in moved]
    yield _take(taken, permutation, cursor)
    for (_, rows), (_, into) in zip(taken, moved, strict=True):
        if rows is not into:
            yield partial(np.copyto, into, rows, "unsafe")
    if counts is not None:
        yield _mark_empty(cursor, counts, moved[-1][1])


def _take(moved: Sequence[tuple[Array, Array]], permutation: Array, cursor: Array) -> Call:
    models = permutation.shape[:-1]
    count = moved[0][1].shape[len(models)]
    takes = [
        (permutation[m], [(_taker(s[m] if s.ndim == out.ndim else s), out[m]) for s, out in moved])
        for m in (range(*models) if models else [()])
    ]

    def run() -> None:
        start = cursor.item()
        for order, pairs in takes:
            chosen = order[start : start + count]
            for take, out in pairs:
                take(chosen, 0, out, "clip")

    return run


def _mark_empty(cursor: Array, counts: Array, weights: Array) -> Call:
    """The weights of places that hold no row become −0."""

    def run() -> None:
        for own, count in zip(weights, (counts - cursor).tolist(), strict=True):
            own[max(0, count) :] = -0.0

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
    always = (cursor, rows), (position, 1), *(((random, 1), (step, 1)) if counted is None else ())
    for counter, by in always:
        if counter is not None:
            yield call(np.add, counter, np.asarray(by, counter.dtype), out=counter)
    if counted is not None:
        counts = np.empty(counted.shape, np.bool_)
        yield call(np.not_equal, counted, 0.0, out=counts)
        for of_models, by in ((random, counts[..., None]), (step, counts)):
            if of_models is not None:
                yield call(np.add, of_models, by, out=of_models)
