"""Launch shapes: all elements are reached, within CUDA's limits, and with blocks enough but not too many."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gpu_backprop.backend.cuda.kernel_arguments import BLOCK_LIMITS, GRID_LIMITS
from gpu_backprop.backend.cuda.ops import launch_shapes

ROWS = 0, 1, 3, 8, 100, 1000, 60_000, 10_000_000
COLS = 1, 2, 3, 10, 32, 33, 300, 1000, 100_000
MODELS = 1, 2, 7, 1000, 65_535
ALL = list(itertools.product(ROWS, COLS, MODELS))
WIDTHS = 1, 2, 4, 8


def check_limits(launch, models):
    grid, block = launch
    assert all(1 <= size <= limit for size, limit in zip(grid, GRID_LIMITS, strict=True))
    assert all(1 <= size <= limit for size, limit in zip(block, BLOCK_LIMITS, strict=True))
    assert block[2] == 1 and grid[2] == models


@pytest.mark.parametrize("kind", [launch_shapes.columns, launch_shapes.column_sums])
def test_columns(kind):
    for (rows, cols, models), width in itertools.product(ALL, WIDTHS):
        launch = grid, block = kind(rows, cols, models, width)
        check_limits(launch, models)
        assert block[0] * block[1] == 256
        reached = grid[0] * block[0] * width
        assert cols <= reached and (grid[0] == 1 or reached - block[0] * width < cols)
        assert block[0] <= 32 and block[1] & (block[1] - 1) == 0
        assert grid[1] == 1 or (grid[1] - 1) * block[1] < rows  # no group of rows without rows


def test_partial_sums_stay_few():
    """At most 128 to a column, 1024 blocks in all where one group would do, and four rows at least to a thread."""
    for rows, cols, models in ALL:
        grid, block = launch_shapes.column_sums(rows, cols, models)
        assert grid[1] == 1 or (grid[1] <= 128 and grid[0] * grid[1] * models <= 1024)
        assert grid[1] == 1 or rows > (grid[1] - 1) * block[1] * 4


def test_many_rows_are_summed_in_groups():
    assert launch_shapes.column_sums(60_000, 10, 1) == ((1, 128, 1), (16, 16, 1))
    assert launch_shapes.column_sums(128, 1024, 1, 4) == ((8, 4, 1), (32, 8, 1))
    assert launch_shapes.columns(128, 1024, 1, 4) == ((8, 16, 1), (32, 8, 1))
    assert launch_shapes.column_sums(1, 1, 1) == ((1, 1, 1), (1, 256, 1))


def test_whole_rows():
    for rows, cols, models in ALL:
        launch = grid, block = launch_shapes.whole_rows(rows, cols, models)
        check_limits(launch, models)
        assert grid[1] == 1 and grid[0] <= 1024
        assert block[0] * block[1] == 256 if cols < 512 else block[0] == 32 and block[1] <= 8
        assert block[0] == 32 or block[0] // 2 < cols <= block[0]
        assert grid[0] == 1024 or rows <= grid[0] * block[1]


def test_few_long_rows_are_spread_over_blocks():
    assert launch_shapes.whole_rows(128, 511, 1) == ((16, 1, 1), (32, 8, 1))
    assert launch_shapes.whole_rows(128, 512, 1) == ((128, 1, 1), (32, 1, 1))
    assert launch_shapes.whole_rows(5, 10_000, 1) == ((5, 1, 1), (32, 1, 1))
    assert launch_shapes.whole_rows(300, 10_000, 2) == ((75, 1, 2), (32, 4, 1))
    assert launch_shapes.whole_rows(4096, 10_000, 1) == ((512, 1, 1), (32, 8, 1))


def test_flat():
    for (rows, cols, models), width in itertools.product(ALL, WIDTHS):
        launch = grid, block = launch_shapes.flat(rows * cols, models, width)
        check_limits(launch, models)
        assert block == (256, 1, 1)
        assert grid[0] == 2048 or rows * cols <= grid[0] * 256 * width


def test_sizes():
    assert launch_shapes.sizes(np.empty((5, 3))) == (1, 5, 3) and launch_shapes.sizes(np.empty((2, 0, 3))) == (2, 0, 3)
    assert launch_shapes.flat_sizes(np.empty(7)) == (1, 7) and launch_shapes.flat_sizes(np.empty((4, 0))) == (4, 0)
    assert launch_shapes.one_block(3) == ((1, 1, 3), (256, 1, 1))
