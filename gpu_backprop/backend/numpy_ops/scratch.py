"""What the binders of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Array, Call

Bound = Iterator[Call]


class Scratch:
    """Work arrays for operands of one shape, from the device's shared scratch memory."""

    def __init__(self, device: Device, operand: Array) -> None:
        self.device, self.shape, self.dtype = device, operand.shape, operand.dtype

    def full(self, slot: int = 0) -> Array:
        return self.device.work(self.shape, self.dtype, slot)

    def rows(self, slot: int = 0) -> Array:
        return self.device.work((*self.shape[:-1], 1), self.dtype, 8 + slot)

    def mask(self) -> Array:
        return self.device.work(self.shape, np.bool_)


def beside(row: Array) -> Array:
    """A vector of units a model, (..., units), as it stands beside (..., rows, units)."""
    return row[..., None, :]
