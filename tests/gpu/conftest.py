"""Tests that need a CUDA device, real or emulated. Without one they are skipped; the reason says what is missing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Generator
from functools import cache
from pathlib import Path

import pytest

from gpu_backprop.backend.cuda import setup as cuda_setup
from gpu_backprop.backend.errors import DeviceError

sys.path.insert(0, str(Path(__file__).parent))  # for the modules that tests share
pytest.register_assert_rewrite("operation_pairs")


@cache
def missing() -> str:
    return str(cuda_setup.obstacle(0) or "")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and missing():
        pytest.skip(missing())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Skips what an older device has not: bfloat16, TF32."""
    try:
        return (yield)
    except DeviceError as error:
        if "begins at compute capability" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture
def captured(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The log lines that tell of a captured plan, so far."""
    caplog.set_level(logging.INFO, "gpu_backprop")
    return lambda: [r.getMessage() for r in caplog.records if "replayed as a CUDA graph" in r.getMessage()]
