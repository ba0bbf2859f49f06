"""Opens the CPU: compiles the kernels, or loads them, tries them, and binds them to a device."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

from gpu_backprop.backend.compiled import compiler, prebuilt
from gpu_backprop.backend.compiled import ops as compiled_ops
from gpu_backprop.backend.compiled.compiler import Attempt, Compiler
from gpu_backprop.backend.compiled.device import CpuDevice
from gpu_backprop.backend.compiled.library import CpuLibrary
from gpu_backprop.backend.compiled.library_files import Library, load
from gpu_backprop.backend.compiled.operations_text import Unit
from gpu_backprop.backend.compiled.prebuilt import Prebuilt
from gpu_backprop.backend.compiled.self_test import PARTS, check
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.numpy_ops.device import NumpyDevice
from gpu_backprop.backend.threads import threads


def open_device(reason: str, dtype: str) -> Device:
    """The CPU, with compiled kernels where they can be had, else NumPy alone: its reason says which."""
    try:
        made_by = prebuilt.find()
        library = _library(made_by, threads(), dtype)
    except compiler.NoCompilerError as error:
        why = str(error)
    else:
        if isinstance(library, CpuLibrary):
            return CpuDevice(f"{reason}; {made_by.kernels} compiled by {library.compiler}", library, compiled_ops)
        why = library
    return NumpyDevice(f"{reason}; NumPy alone: {why}", dtype)


@cache
def _library(made_by: Compiler | Prebuilt, count: int, dtype: str) -> CpuLibrary | str:
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


def _check(library: CpuLibrary, loaded: Library, unit: Unit) -> None:
    check(CpuDevice("", library, compiled_ops), loaded, unit)


TRIAL = f"""
import sys, types
sys.path[:] = sys.argv[1].split(":")
package = sys.modules["gpu_backprop"] = types.ModuleType("gpu_backprop")
package.__path__ = [sys.path[0] + "/gpu_backprop"]
from {__name__} import attempt
attempt(sys.argv[2], sys.stdin.buffer.read())
"""
"""Imports nothing above backend/, which takes longer than the trial itself."""


@contextmanager
def _trial(dtype: str, log: Path) -> Iterator[Attempt]:
    """Has another process load the libraries of BASE and compare them with NumPy: they may have been compiled for
    another processor. Until there are some, it gets ready."""
    paths = ":".join([str(Path(__file__).parents[3]), *filter(None, sys.path)])
    command = [sys.executable, "-I", "-S", "-c", TRIAL, paths, dtype]
    process = None
    if "python" in os.path.basename(sys.executable or ""):  # else it is a program that Python is a part of
        with suppress(OSError):
            process = compiler.start(command, log, subprocess.PIPE)
    if not process:
        yield lambda made: None
        return

    def ask(made: Sequence[Path]) -> None:
        code = compiler.end(process, b"\0".join(map(os.fsencode, made)))
        if code is None or code < 0:
            how = "does not come to an end" if code is None else f"is ended by {signal.Signals(-code).name}"
            raise DeviceError(f"a process that tries what was compiled {how}")

    with process:
        try:
            yield ask
        finally:
            if process.poll() is None:
                compiler.kill(process)


def attempt(dtype: str, made: bytes) -> None:
    """Loads the libraries of BASE, by their paths, and compares them with NumPy, of which it leaves a note."""
    loaded = [load(Path(os.fsdecode(path))) for path in filter(None, made.split(b"\0"))]
    if loaded:  # else the process that compiles was ended
        CpuLibrary(SimpleNamespace(load=lambda *_: loaded), PARTS, _check, dtype=dtype)  # type: ignore[arg-type]
