"""Copies, sums of squares and unscaling over flat buffers."""

from __future__ import annotations

from functools import partial

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import SCALE, SKIPPED, STREAK, Array, Calls, call


def copy(device: Device, source: Array, destination: Array) -> Calls:
    yield partial(np.copyto, destination, source, "unsafe")


def sum_of_squares(device: Device, a: Array, out: Array) -> Calls:
    yield partial(np.einsum, "...i,...i->...", a, a, out=out, dtype=np.float64)  # which needs no room for the squares


def unscale(
    device: Device, g: Array, scaling: Array, counted: Array | None, factor: Array, patience: int, largest: float
) -> Calls:
    finite, good = device.work(g.shape, np.bool_), np.empty(factor.shape, np.bool_)
    scale, streak, skipped = (scaling[..., column] for column in (SCALE, STREAK, SKIPPED))

    def settle() -> None:
        counts = np.not_equal(1.0 if counted is None else counted, 0)
        spoilt, grows = counts & ~good, counts & good & (streak + 1 >= patience)
        factor[...] = np.where(good & counts, 1 / scale, 0)
        scale[spoilt] = np.maximum(scale / 2, 1)[spoilt]
        scale[grows] = np.minimum(scale * 2, largest)[grows]
        streak[...] = np.where(spoilt | grows, 0, streak + counts)
        skipped[...] += spoilt

    yield call(np.isfinite, g, out=finite)
    yield partial(np.logical_and.reduce, finite, -1, None, good)
    yield settle
