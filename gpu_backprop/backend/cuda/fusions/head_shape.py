"""How the kernel of a network's head is launched, and how much memory each of its blocks takes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

WARP, WARPS = 32, 8

BLOCKS, REDUCING_BLOCKS = 128, 1024
"""The most that share the rows of a model, and that there are in all: each leaves partial sums in memory."""

MOST_OUTPUTS = 32
"""That the kernel can have: a lane for each."""

LINE, VECTOR = 128, 16
"""Bytes of all banks of a block's memory, and of an access."""

SUMS = 8
"""A warp's sums are padded to so many, which begin where an access may."""


class HeadShape(NamedTuple):
    """A launch of the kernel.

    Attributes:
        outputs: how many it is made for, a power of two.
        pitch: elements from one row of Wᵀ to the next in a block's memory: rows begin 16 bytes apart in its banks.
        sums: of the columns of ∇z and, where they are wanted, of the layer below.
        bytes: of a block's memory.
    """

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    outputs: int
    pitch: int
    sums: int
    bytes: int

    @classmethod
    def of(cls, dtype: Any, rows: int, units: int, cols: int, models: int, sums_below: bool) -> HeadShape:
        """The launch for (models, rows, units) of that dtype and `cols` outputs."""
        item = np.dtype(dtype).itemsize
        outputs = 1 << (cols - 1).bit_length()
        high = WARPS * _rows_of_a_warp(item, outputs)
        groups = min(-(-rows // high), BLOCKS, max(1, REDUCING_BLOCKS // models))
        pitch = _padded(units * item - VECTOR, LINE) + VECTOR
        sums = _padded((units if sums_below else 0) + cols, SUMS)
        size = WARPS * sums * max(4, item) + cols * pitch
        return cls((max(1, groups), 1, models), (WARP, WARPS, 1), outputs, pitch // item, sums, size)


def _rows_of_a_warp(item: int, outputs: int) -> int:
    """As many as the registers hold: RowsOf of the kernel."""
    if item == 8:
        return 2 if 2 < outputs <= 8 else 1
    return max(1, min(4 if item == 4 else 2, WARP // outputs))


def _padded(number: int, unit: int) -> int:
    return -(-number // unit) * unit
