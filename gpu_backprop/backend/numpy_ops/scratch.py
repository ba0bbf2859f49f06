"""What the binders of this folder share."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Array, Calls, call

ROWS, SPREAD, ZEROS = 8, 14, 15
"""Slots of scratch memory: from ROWS on those of one number a row, SPREAD for `broadcast`, ZEROS what nobody writes."""

FAST_BROADCAST = 256
"""Units from which on NumPy is fast with an operand that is broadcast."""


class Scratch:
    """Work arrays for operands of one shape, from the device's shared scratch memory.

    Args:
        operand: a whole one, or a block of it.
        row: where the block begins.
    """

    def __init__(self, device: Device, operand: Array, row: int = 0) -> None:
        self.device, self.shape, self.dtype, self.row = device, operand.shape, operand.dtype, row

    def full(self, slot: int = 0) -> Array:
        return self.array(self.shape, self.dtype, slot)

    def rows(self, slot: int = 0) -> Array:
        return self.array((*self.shape[:-1], 1), self.dtype, ROWS + slot)

    def mask(self, slot: int = 0) -> Array:
        return self.array(self.shape, np.bool_, slot)

    def zeros(self) -> Array:
        zeros = self.array(self.shape, self.dtype, ZEROS)
        zeros[...] = 0
        return zeros

    def array(self, shape: tuple[int, ...], dtype: Any, slot: int = 0) -> Array:
        """One of any shape and dtype."""
        return self.device.work(shape, dtype, slot)


def as_row(row: Array) -> Array:
    """A vector of units a model, (..., units), as it stands beside (..., rows, units)."""
    return row[..., None, :]


def broadcast(function: np.ufunc, a: Array, thin: Array, out: Array, work: Scratch) -> Calls:
    """out = function(a, thin), where thin is a row or a column; where rows are short, by way of a copy for all of a."""
    if a.shape[-1] >= FAST_BROADCAST:
        yield call(function, a, thin, out=out)
    else:
        spread = work.full(SPREAD)
        yield partial(np.copyto, spread, thin)
        yield call(function, a, spread, out=out)
