"""The rows of a minibatch, chosen by a permutation and a cursor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Array, call
from gpu_backprop.backend.numpy_ops.scratch import Bound


def gather(device: Device, sources: Sequence[Array], permutation: Array, cursor: Array, outs: Sequence[Array]) -> Bound:
    """out = source[permutation[cursor : cursor + rows]] for each pair: x, target and weights at once."""
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

    yield run


def advance(device: Device, counter: Array, by: int) -> Bound:
    """counter += by"""
    yield call(np.add, counter, np.asarray(by, counter.dtype), out=counter)
