"""How many examples hypothesis draws: a few, always the same ones, or with GPU_BACKPROP_PROOF=1 many new ones.

And what device="auto" takes: the CPU, also where there is a CUDA device, but in tests that are marked gpu.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

sys.path.append(str(Path(__file__).parent))  # for sweep.py, kernel_grammar.py, ptx.py
sys.path.append(str(Path(__file__).parents[1] / "bench"))  # for lib/kernel_instances.py

# The matrices here are small. On a machine that has other work to do, BLAS threads that wait for each other make the
# tests ten times as slow. NumPy, which reads this when it is imported, is not imported yet.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A shell ignores Ctrl-C for what it starts in the background, and all that the tests start would ignore it too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("quick", max_examples=20, derandomize=True, database=None, deadline=None)
settings.register_profile("proof", max_examples=1000, print_blob=True, deadline=None)
settings.load_profile("proof" if os.environ.get("GPU_BACKPROP_PROOF") == "1" else "quick")


def pytest_configure(config: pytest.Config) -> None:
    """Leaves the marker long out where neither files nor markers are chosen."""
    if config.args_source is not pytest.Config.ArgsSource.ARGS and not config.option.markexpr:
        config.option.markexpr = "not long"


SLOWEST = "kernels_on_host", "test_packaging.py", "cli", "backend"
"""Folders and files of tests, those that take longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where workers of pytest-xdist share the tests, the slowest come first: none of them is left at the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = {name: number for number, name in enumerate(SLOWEST)}
        here = Path(__file__).parent
        items.sort(key=lambda item: place.get(item.path.relative_to(here).parts[0], len(SLOWEST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives a worker whole files: what one of them compiles is for all its tests. A CUDA device is for one worker."""
    if config.option.dist != "load":  # another one was asked for
        return None
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "tests/gpu" if nodeid.startswith("tests/gpu/") else super()._split_scope(nodeid)

    config.option.loadscopereorder = False
    return Files(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Around the fixtures of a module too, as no fixture of our own would be."""
    if item.get_closest_marker("gpu") or item.get_closest_marker("nvrtc"):
        return (yield)
    from gpu_backprop.backend.cuda import setup as cuda_setup  # not above, because it imports NumPy

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", None)
        patch.setattr(cuda_setup, "_working", {})
        patch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # for the programs that a test starts
        return (yield)


@pytest.fixture(autouse=True)
def tables_as_before():
    """Takes what a test registers out of the tables again."""
    from gpu_backprop import ACTIVATIONS, LOSSES, OPTIMIZERS

    kept = [(table, dict(table)) for table in (ACTIVATIONS, LOSSES, OPTIMIZERS)]
    yield
    for table, rows in kept:
        if table != rows:
            table.clear()
            table.update(rows)


@pytest.fixture
def half_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the CPU take float16, with two binders that write float32 from it: BLAS does not."""
    from functools import partial
    from types import SimpleNamespace

    import numpy as np

    from gpu_backprop.backend import numpy_ops, open_device
    from gpu_backprop.backend.numpy_ops import device as numpy_device

    monkeypatch.setenv("GPU_BACKPROP_COMPILER", "none")
    monkeypatch.setitem(open_device.DTYPES, "cpu", ("float32", "float64", "float16"))
    mixed = {
        "matmul": lambda device, a, b, out: iter([partial(np.matmul, a, b, out, dtype=out.dtype)]),
        "column_sum": lambda device, grad_z, grad_bias: iter([partial(np.add.reduce, grad_z, -2, None, grad_bias)]),
    }
    ops = SimpleNamespace(**vars(numpy_ops) | mixed)
    monkeypatch.setattr(numpy_device, "numpy_ops", ops)
    monkeypatch.setattr("gpu_backprop.backend.numpy_ops.layers.column_sum", mixed["column_sum"])
