"""Class labels instead of one-hot rows."""

from __future__ import annotations

from functools import partial

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Array, Call, Calls, call


def places(y: Array) -> Array:
    """Where each row of y begins in a flat view of it, (..., rows)."""
    samples = y.shape[:-1]
    return np.arange(0, y.size, y.shape[-1], dtype=np.intp).reshape(samples)


class Labels:
    """Labels as places in a flat (rows, outputs) array. One that is out of range is read as the nearest that is not,
    and spoils the loss of its row, which becomes NaN, and not the parameters: its gradient is 0."""

    def __init__(self, device: Device, label: Array, y: Array) -> None:
        self.label, self.start, self.classes = label, places(y), np.arange(y.shape[-1], dtype=label.dtype)
        self.near, self.place = np.empty_like(label), np.empty(label.shape, np.intp)
        self.bad, self.value = np.empty(label.shape, np.bool_), device.empty((*label.shape, 1), y.dtype)

    def find(self) -> Calls:
        yield partial(self.classes.take, self.label, None, self.near, "clip")
        yield call(np.not_equal, self.near, self.label, out=self.bad)
        yield call(np.add, self.start, self.near, out=self.place)

    def take(self, a: Array, out: Array) -> Call:
        """out = a[row, label]"""
        return partial(a.reshape(-1).take, self.place, None, out[..., 0], "clip")

    def subtract(self, a: Array, factor: Array | float, share: Array | float) -> Calls:
        """a[row, label] −= factor·share"""
        yield self.take(a, self.value)
        amount: Array | float = share
        if isinstance(factor, float) and isinstance(share, float):
            amount = factor * share
        else:
            amount = np.empty_like(self.value)
            yield call(np.multiply, factor, share, out=amount)
        yield call(np.subtract, self.value, amount, out=self.value)
        yield partial(a.reshape(-1).put, self.place, self.value, "clip")

    def spread(self, onehot: Array) -> Calls:
        """onehot[row, label] = 1, all others 0"""
        yield from self.find()
        yield partial(onehot.fill, 0)
        yield partial(onehot.reshape(-1).put, self.place, np.ones((), onehot.dtype), "clip")

    def mark_invalid(self, e: Array, gradient: Array | None) -> Call:
        bad, count = self.bad, np.count_nonzero  # a quarter of the time of any

        def run() -> None:
            if count(bad):
                e[bad] = np.nan
                if gradient is not None:
                    gradient[bad] = 0

        return run
