"""Large operands in blocks: a block passes through all calls of a formula while it is in cache, then the next one.

How an operand is cut makes no difference to the values: what is cut works element by element or row by row, and sums
over rows come after it. The blocks are not shared among threads. The threads of OpenBLAS wait for the next product by
asking for it over and over, and a thread beside them gets so little of their cores that it saves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Array, Calls
from gpu_backprop.backend.numpy_ops.scratch import Scratch

BLOCK = 1 << 20
"""Bytes of an operand in a block. Half as many cost more in calls than they gain, twice as many leave the cache."""

Index = tuple[slice, ...]


def in_blocks(
    device: Device, formula: Callable[..., Calls], operand: Array, *others: Any, axes: int | None = None
) -> Calls:
    """The calls of formula(work, operand, *others) for each block; work is scratch memory for arrays of its shape.

    Args:
        operand: what is cut: (..., rows, units) before units.
        others: arrays that are cut in the same places, but not along an axis of length 1, or one that they lack at the
            end. What is no array is handed on as it is.
        axes: along how many axes it may be cut: all but the last, unless told otherwise.
    """
    axes = operand.ndim - 1 if axes is None else axes
    for index in _cut(operand.shape[:axes], math.ceil(operand.nbytes / BLOCK)):
        parts = {id(a): _part(a, index) for a in (operand, *others)}  # one array, one part: NumPy is faster in place
        part, *rest = (parts[id(a)] for a in (operand, *others))
        row = index[-1].start if len(index) == axes > 0 else 0
        yield from formula(Scratch(device, part, row), part, *rest)


def _cut(shape: Sequence[int], blocks: int) -> list[Index]:
    """Where to cut an array with these leading axes into about so many blocks."""
    if blocks <= 1 or not shape:
        return [()]
    length, *rest = shape
    if rest and blocks > length:  # one of the first axis is still too large
        inner = _cut(rest, math.ceil(blocks / length))
        return [(slice(k, k + 1), *index) for k in range(length) for index in inner]
    step = math.ceil(length / blocks)
    return [(slice(k, min(k + step, length)),) for k in range(0, length, step)]


def _part(a: Any, index: Index) -> Any:
    """That block of an array."""
    if not isinstance(a, np.ndarray):
        return a
    there: Any = tuple(slice(None) if n == 1 else cut for n, cut in zip(a.shape, index, strict=False))
    return a[(*there, ...)]
