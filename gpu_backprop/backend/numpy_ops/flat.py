"""What else is done over flat buffers."""

from __future__ import annotations

from functools import partial

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Array, call
from gpu_backprop.backend.numpy_ops.scratch import Bound


def copy(device: Device, source: Array, destination: Array) -> Bound:
    """destination = source, of the same shape, in its own dtype."""
    yield partial(np.copyto, destination, source, "unsafe")


def sum_of_squares(device: Device, a: Array, out: Array) -> Bound:
    """out = Σa² over the last axis, in float64 (...,)."""
    squares = device.work(a.shape, np.float64)
    yield call(np.multiply, a, a, out=squares, dtype=np.float64)
    yield partial(np.add.reduce, squares, -1, None, out)
