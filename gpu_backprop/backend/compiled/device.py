"""The CPU with kernels of its own, compiled on this machine."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from ctypes import CDLL, byref, c_longlong
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from gpu_backprop.backend.compiled import compiler
from gpu_backprop.backend.compiled import ops as compiled_ops
from gpu_backprop.backend.compiled.library import CpuLibrary
from gpu_backprop.backend.compiled.program import sequence
from gpu_backprop.backend.compiled.self_test import PARTS, check, compare
from gpu_backprop.backend.compiled.threads import threads
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.formula import Array, Call
from gpu_backprop.backend.numpy_device import NumpyDevice

LARGE = 1 << 20
"""Bytes from which on a copy is worth the threads."""


class CpuDevice(Device):
    """The CPU with compiled kernels, for networks in float32.

    Numbers too small to be normal, below 1.2e-38, become 0 in them, as on CUDA.

    Attributes:
        library: the kernels.
        threads: how many work at once.
    """

    def __init__(self, reason: str, library: CpuLibrary) -> None:
        super().__init__("cpu", reason, "float32", np, compiled_ops)
        self.library, self.threads = library, library.threads

    def sequence(self, calls: Iterable[Call]) -> tuple[Call, ...]:
        return sequence(calls)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """What NumPy still does in a plan may use no BLAS threads: those look for work long after it is done, and take
        the cores from ours."""
        inside = c_longlong(0)
        try:
            self.library.limit_blas_threads(1, byref(inside))
            with super().computing():
                yield
        finally:
            self.library.limit_blas_threads(0, byref(inside))

    def copy_in(self, destination: Array, source: Array) -> None:
        if source.nbytes < LARGE or source.dtype != destination.dtype or source.shape != destination.shape:
            super().copy_in(destination, source)
        else:
            for call in self.ops.copy(self, source, destination):
                call()


def open_device(reason: str) -> Device:
    """The CPU for float32, with compiled kernels where they can be had, else NumPy alone: its reason says which."""
    try:
        library = _library(compiler.find(), threads())
    except compiler.NoCompilerError as error:
        why = str(error)
    else:
        if isinstance(library, CpuLibrary):
            return CpuDevice(f"{reason}; kernels compiled by {library.compiler}", library)
        why = library
    return NumpyDevice(f"{reason}; NumPy alone: {why}", "float32")


@cache
def _library(made_by: compiler.Compiler, count: int) -> CpuLibrary | str:
    """The kernels, compared with NumPy's; or why there are none, of which one warning tells."""
    try:
        return CpuLibrary(
            made_by, count, lambda library, loaded, row: check(CpuDevice("", library), loaded, row), _trial
        )
    except DeviceError as error:
        warnings.warn(
            f"the compiled kernels for the CPU are not used: {error}. Networks run on NumPy alone: the results are the "
            f"same, training is slower. Set {compiler.VARIABLE}={compiler.NONE} to choose that without a warning.",
            RuntimeWarning,
            stacklevel=2,
        )
        return str(error)


TRIAL = f"import sys; sys.path[:] = sys.argv[2:]; from {__name__} import attempt; attempt(sys.argv[1])"


def _trial(made: Path) -> None:
    """Has another process load a new library and run all of it: it may have been compiled for another processor.

    Raises:
        DeviceError: that was the end of the process.
    """
    if "python" not in os.path.basename(sys.executable or ""):  # a program that Python is a part of
        return
    paths = [str(Path(__file__).parents[3]), *filter(None, sys.path)]
    with suppress(OSError):
        code = compiler.run([sys.executable, "-I", "-S", "-c", TRIAL, str(made), *paths], made.with_name("trial"))
        if code is None or code < 0:
            how = "does not come to an end" if code is None else f"is ended by {signal.Signals(-code).name}"
            raise DeviceError(f"a process that tries what was compiled {how}")


def attempt(made: str) -> None:
    """Loads a library and runs all of it."""
    loaded = compiler.Library(CDLL(made), "", Path())
    compare(CpuDevice("", CpuLibrary(SimpleNamespace(load=lambda *_: loaded), PARTS)))  # type: ignore[arg-type]
