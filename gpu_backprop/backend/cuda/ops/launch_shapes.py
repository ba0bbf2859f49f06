"""Launch shapes: how the elements of an operation are shared out among blocks and threads.

They depend on the shape of the arrays alone, so that partial sums are added up in the same order in every run.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from gpu_backprop.backend.formula import Array

THREADS = 256
"""Of every block; the kernels are compiled for it."""

WARP = 32

BLOCKS = 2048
"""More blocks than run at once on any device; threads go on to further elements from there."""

GROUPS, REDUCING_BLOCKS, ROWS_EACH = 128, 1024, 4
"""A sum over rows: the most groups of rows that are added up apart, the most blocks in all, since each leaves a partial
sum in memory, and how many rows a thread should have at least."""

NARROW = 8
"""Columns of a block that goes through whole columns: as few as fill a sector of memory, so that blocks are many."""

LONG, SPREAD = 512, 128
"""A row of so many columns keeps its warp busy for long: such rows get blocks of their own until there are so many."""

Sizes = tuple[int, int, int]


class Launch(NamedTuple):
    """gridDim and blockDim."""

    grid: Sizes
    block: Sizes


def columns(rows: int, cols: int, models: int, width: int = 1) -> Launch:
    """Threads side by side along the columns, `width` of them each."""
    across, high, left = _columns(cols, width)
    groups = min(_ceil(rows, high), max(1, BLOCKS // (left * models)))
    return Launch((left, max(1, groups), models), (across, high, 1))


def column_sums(rows: int, cols: int, models: int, width: int = 1) -> Launch:
    """The same, where every group of rows ends in a partial sum."""
    across, high, left = _columns(cols, width)
    groups = min(_ceil(rows, high * ROWS_EACH), max(1, REDUCING_BLOCKS // (left * models)), GROUPS)
    return Launch((left, max(1, groups), models), (across, high, 1))


def whole_rows(rows: int, cols: int, models: int) -> Launch:
    """Some lanes of a warp to each row."""
    lanes = _power_of_two(cols)
    high = THREADS // lanes
    if cols >= LONG:
        high = min(high, max(1, rows * models // SPREAD))
    return Launch((max(1, min(_ceil(rows, high), REDUCING_BLOCKS)), 1, models), (lanes, high, 1))


def whole_columns(cols: int, models: int) -> Launch:
    """Some columns to each block, and all of their rows."""
    return Launch((_ceil(cols, NARROW), 1, models), (NARROW, THREADS // NARROW, 1))


def flat(n: int, models: int = 1, width: int = 1) -> Launch:
    """n elements of each model in a row."""
    return Launch((max(1, min(_ceil(n, width * THREADS), BLOCKS)), 1, models), (THREADS, 1, 1))


def one_block(models: int) -> Launch:
    """A block for each model."""
    return Launch((1, 1, models), (THREADS, 1, 1))


def _columns(cols: int, width: int) -> Sizes:
    """Threads across a block, threads down, and blocks from left to right."""
    across = _power_of_two(_ceil(cols, width))
    return across, THREADS // across, _ceil(cols, width * across)


def _power_of_two(n: int) -> int:
    """The smallest power of two that is not below n, at most a warp."""
    return min(WARP, 1 << (n - 1).bit_length())


def _ceil(n: int, by: int) -> int:
    return -(-n // by)


def sizes(array: Array) -> Sizes:
    """(models, rows, cols) of an array (..., rows, cols)."""
    return math.prod(array.shape[:-2]), array.shape[-2], array.shape[-1]


def flat_sizes(array: Array) -> tuple[int, int]:
    """(models, n) of an array (..., n)."""
    return math.prod(array.shape[:-1]), array.shape[-1]
