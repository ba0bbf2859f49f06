"""The CPU with kernels of its own, compiled on this machine."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ctypes import byref, c_longlong
from functools import cache

import numpy as np

from gpu_backprop.backend import compiled_ops, compiler, numpy_ops
from gpu_backprop.backend.cpu_check import compare
from gpu_backprop.backend.cpu_library import CpuLibrary
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.formula import Array, Call
from gpu_backprop.backend.program import sequence
from gpu_backprop.backend.threads import threads

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
            self.library.hush(1, byref(inside))
            with super().computing():
                yield
        finally:
            self.library.hush(0, byref(inside))

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
    return Device("cpu", f"{reason}; NumPy alone: {why}", "float32", np, numpy_ops)


@cache
def _library(made_by: compiler.Compiler, count: int) -> CpuLibrary | str:
    """The kernels, compared with NumPy's; or why there are none, of which one warning tells."""
    try:
        library = CpuLibrary(made_by, count)
        compare(CpuDevice("", library))
        return library
    except DeviceError as error:
        warnings.warn(
            f"the kernels for the CPU are not used: {error}. NumPy serves instead, as good and slower. "
            f"{compiler.VARIABLE}={compiler.NONE} does so without a warning.",
            RuntimeWarning,
            stacklevel=2,
        )
        return str(error)
