"""Tests that need a CUDA device, real or emulated. Without one they are skipped; the reason says what is missing.

GPU_BACKPROP_TEST_ORDER=reverse runs them backwards, each file too: none may depend on what ran before it.
GPU_BACKPROP_PRODUCTS=varied makes the last bits of a product depend on its shape, and on whether it is one of several
members, as a real cuBLAS's may: the same product gives the same bits, and nothing else may be taken for granted.
"""

from __future__ import annotations

import logging
import os
import sys
import zlib
from collections.abc import Callable, Generator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gpu_backprop.backend.cuda import setup as cuda_setup
from gpu_backprop.backend.cuda.cublas import CublasLibrary
from gpu_backprop.backend.cuda.epilogues import VARIABLE
from gpu_backprop.backend.errors import DeviceError

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "distributed")]  # for the modules that tests share
os.environ.setdefault(VARIABLE, "off")  # which ones serve depends on times; tests/gpu/test_epilogues.py has them all
pytest.register_assert_rewrite("operation_pairs")


if os.environ.get("GPU_BACKPROP_PRODUCTS") == "varied":
    bind = CublasLibrary.bind

    def varied(library: CublasLibrary, a: Any, b: Any, out: Any, shape: tuple[int, ...], *rest: Any) -> Any:
        """A product times 1 and up to three units in the last place, but for small ones, some of which are exact."""
        call, (models, rows, inner, cols) = bind(library, a, b, out, shape, *rest), shape
        alpha = next(value._obj for value in call.args if hasattr(value, "_obj"))
        if rows * inner * cols > 60:
            units = zlib.crc32(repr((models > 1, rows, inner, cols)).encode()) % 4
            alpha.value = 1 + units * (2.0**-52 if out.array.dtype == "float64" else 2.0**-23)
        return call

    varied.plain = bind
    CublasLibrary.bind = varied


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("GPU_BACKPROP_TEST_ORDER") == "reverse":
        items.reverse()


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
