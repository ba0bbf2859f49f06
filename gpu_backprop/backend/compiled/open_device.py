"""Opens the CPU: compiles the kernels, or loads them, tries them, and binds them to a device."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from contextlib import suppress
from ctypes import CDLL
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

from gpu_backprop.backend.compiled import compiler
from gpu_backprop.backend.compiled import ops as compiled_ops
from gpu_backprop.backend.compiled.device import CpuDevice
from gpu_backprop.backend.compiled.library import CpuLibrary
from gpu_backprop.backend.compiled.self_test import PARTS, check, compare
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.kernel_text import Row
from gpu_backprop.backend.numpy_ops.device import NumpyDevice
from gpu_backprop.backend.threads import threads


def open_device(reason: str, dtype: str) -> Device:
    """The CPU, with compiled kernels where they can be had, else NumPy alone: its reason says which."""
    try:
        library = _library(compiler.find(), threads(), dtype)
    except compiler.NoCompilerError as error:
        why = str(error)
    else:
        if isinstance(library, CpuLibrary):
            return CpuDevice(f"{reason}; kernels compiled by {library.compiler}", library, compiled_ops)
        why = library
    return NumpyDevice(f"{reason}; NumPy alone: {why}", dtype)


@cache
def _library(made_by: compiler.Compiler, count: int, dtype: str) -> CpuLibrary | str:
    """The kernels, compared with NumPy's; or why there are none, of which one warning tells."""
    try:
        return CpuLibrary(made_by, count, _check, partial(_trial, dtype), dtype)
    except DeviceError as error:
        warnings.warn(
            f"the compiled kernels for the CPU are not used: {error}. Networks run on NumPy alone: the results are the "
            f"same, training is slower. Set {compiler.VARIABLE}={compiler.NONE} to choose that without a warning.",
            RuntimeWarning,
            stacklevel=2,
        )
        return str(error)


def _check(library: CpuLibrary, loaded: compiler.Library, row: Row | None) -> None:
    check(CpuDevice("", library, compiled_ops), loaded, row)


TRIAL = f"import sys; sys.path[:] = sys.argv[3:]; from {__name__} import attempt; attempt(*sys.argv[1:3])"


def _trial(dtype: str, made: Path) -> None:
    """Has another process load a new library and run all of it: it may have been compiled for another processor.

    Raises:
        DeviceError: that was the end of the process.
    """
    if "python" not in os.path.basename(sys.executable or ""):  # a program that Python is a part of
        return
    paths = [str(Path(__file__).parents[3]), *filter(None, sys.path)]
    with suppress(OSError):
        code = compiler.run(
            [sys.executable, "-I", "-S", "-c", TRIAL, str(made), dtype, *paths], made.with_name("trial")
        )
        if code is None or code < 0:
            how = "does not come to an end" if code is None else f"is ended by {signal.Signals(-code).name}"
            raise DeviceError(f"a process that tries what was compiled {how}")


def attempt(made: str, dtype: str) -> None:
    """Loads a library and runs all of it."""
    loaded = compiler.Library(CDLL(made), "", Path())
    library = CpuLibrary(SimpleNamespace(load=lambda *_: loaded), PARTS, dtype=dtype)  # type: ignore[arg-type]
    compare(CpuDevice("", library, compiled_ops))
