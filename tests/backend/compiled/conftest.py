"""Devices with compiled kernels. Where there is no C++ compiler, these tests are skipped."""

from __future__ import annotations

import sys
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.compiled import compiler, program
from gpu_backprop.backend.compiled import open_device as opening
from gpu_backprop.backend.compiled import ops as compiled_ops
from gpu_backprop.backend.compiled.device import CpuDevice
from gpu_backprop.backend.compiled.library import CpuLibrary
from gpu_backprop.backend.compiled.program import KernelCall
from gpu_backprop.backend.device import Device

sys.path.append(str(Path(__file__).parent))  # for against_numpy.py


@cache
def _library(threads, dtype):
    return CpuLibrary(compiler.find(), threads, dtype=dtype)


@pytest.fixture
def made_by():
    """The compiler."""
    try:
        return compiler.find()
    except compiler.NoCompilerError as error:
        pytest.skip(f"kernels cannot be compiled: {error}")


@pytest.fixture
def on_threads(made_by):
    """A function that gives a device of so many threads, for a dtype."""
    return lambda threads, dtype="float32": CpuDevice("for a test", _library(threads, dtype), compiled_ops)


@pytest.fixture(params=[1, 2, 3], ids="{} threads".format)
def device(request, on_threads):
    return on_threads(request.param)


@pytest.fixture
def plain():
    """The CPU with NumPy alone, in float32."""
    return Device("cpu", "for a test", "float32", np, numpy_ops)


@pytest.fixture
def networks_on(made_by, monkeypatch):
    """A function that makes new networks work on so many threads."""
    return lambda count: monkeypatch.setattr(opening, "threads", lambda: count)


@pytest.fixture
def split(monkeypatch):
    """All that is small is shared among the threads too."""
    monkeypatch.setattr(program, "SPLIT_NS", 0)
    monkeypatch.setattr(program, "PARALLEL_NS", 0)


@pytest.fixture
def same():
    """A function that runs a binder of a device, and NumPy's, on copies of the same arguments, and compares them."""

    def compare(device, plain, name, *arguments, rtol=1e-6, atol=1e-6, compiled=True):
        expected, given = deepcopy(arguments), deepcopy(arguments)
        calls = list(getattr(device.ops, name)(device, *given))
        assert all(isinstance(call, KernelCall) for call in calls) == compiled
        for call in device.sequence(calls):
            call()
        for call in getattr(numpy_ops, name)(plain, *expected):
            call()
        for got, want in zip(_arrays(given), _arrays(expected), strict=True):
            np.testing.assert_allclose(got, want, rtol, atol)
        return given

    return compare


def _arrays(arguments):
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            yield argument
        elif isinstance(argument, (list, tuple)):
            yield from _arrays(argument)
