"""What a minibatch adds to the total, float64 (..., 3), see formula.py: Σ w·e and the number of right answers."""

from __future__ import annotations

from functools import partial

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import CORRECT, LOSS, Array, Calls, LossFormula, call
from gpu_backprop.backend.numpy_ops.scratch import Scratch


class LossSums:
    """A row of numbers for each column of the total, so that one product with ones adds them all up in float64.

    Attributes:
        e: the loss of each sample, (..., rows, 1), in the dtype of y; used up by `add`.
        right: whether it was answered rightly, (..., rows); None where the loss does not know right answers.
    """

    def __init__(self, device: Device, y: Array, loss: LossFormula, total: Array) -> None:
        samples = y.shape[:-1]
        self.e, self.total = device.empty((*samples, 1), y.dtype), total
        self.right = np.empty(samples, np.bool_) if loss.accuracy else None
        self._columns, self._sums = device.zeros((*samples[:-1], 3, samples[-1]), np.float64), np.empty(total.shape)

    def add(self, weights: Array | None) -> Calls:
        """total += Σ w·e, and the number of right answers"""
        if weights is not None:
            yield call(np.multiply, self.e, weights[..., None], out=self.e)
            if self.right is not None:
                empty = np.empty(self.right.shape, np.bool_)
                yield call(np.signbit, weights, out=empty)  # −0 is no row
                yield call(np.greater, self.right, empty, out=self.right)
        yield partial(np.copyto, self._columns[..., LOSS, :], self.e[..., 0])
        if self.right is not None:
            yield partial(np.copyto, self._columns[..., CORRECT, :], self.right)
        product = np.dot if self._columns.ndim == 2 else np.matmul
        yield partial(product, self._columns, np.ones(self._columns.shape[-1]), self._sums)
        yield call(np.add, self.total, self._sums, out=self.total)


def largest(y: Array, best: Array, target: Array, right: Array | None) -> Calls:
    """best = the place of the largest output, the first of equals; right = whether it is that of the target."""
    yield partial(y.argmax, -1, best)
    if right is None:
        return
    truth = target
    if target.ndim == y.ndim:
        truth = np.empty_like(best)
        yield partial(target.argmax, -1, truth)
    yield call(np.equal, best, truth, out=right)


def count_correct(work: Scratch, y: Array, target: Array, accuracy: str, half: float, right: Array | None) -> Calls:
    """Whether each row was answered rightly; `half` is ½ for y, and 0 where z is given instead."""
    if accuracy == "argmax":
        yield from largest(y, np.empty(y.shape[:-1], np.intp), target, right)
    elif right is not None:
        side, truth = work.mask(0), work.mask(1)
        yield call(np.greater, y, half, out=side)
        yield call(np.greater, target, 0.5, out=truth)
        yield call(np.equal, side, truth, out=side)
        yield partial(np.logical_and.reduce, side, -1, None, right)
