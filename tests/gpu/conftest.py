"""Tests that need a CUDA device, real or emulated. Without one they are skipped; the reason says what is missing."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import pytest

from gpu_backprop.backend import cuda_setup

sys.path.insert(0, str(Path(__file__).parent))  # for operation_pairs
pytest.register_assert_rewrite("operation_pairs")


@cache
def missing() -> str:
    return str(cuda_setup.obstacle(0) or "")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and missing():
        pytest.skip(missing())
