"""The kernels of this machine's CPU, compiled when they are first asked for."""

from __future__ import annotations

import ctypes
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from ctypes import c_void_p
from typing import Any

from gpu_backprop.backend.compiled.compiler import Compiler, Trial
from gpu_backprop.backend.compiled.library_files import Library, folder
from gpu_backprop.backend.compiled.operations_text import Unit, operations_text, unit_of
from gpu_backprop.backend.compiled.prebuilt import Prebuilt
from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.kernel_text import Row, functor
from gpu_backprop.backend.numpy_blas import numpy_blas
from gpu_backprop.backend.signatures import Head

BASE = "program", "layers", "minibatch", "products"
"""The units that every training needs."""

Check = Callable[["CpuLibrary", Library, Unit], None]
"""Gets a unit before its operations are used; raises DeviceError where it is wrong."""


class CpuLibrary:
    """The operations of kernels/cpu as functions, for arrays of one dtype.

    Args:
        threads: how many threads may work at once, up to the maximum of kernels/cpu/program.cpp.
        check: compares each unit before its operations are used; None: nothing does.
        trial: tries the units of BASE, where some are new, before they are loaded.
        dtype: "float32" or "float64", which is `real` in the texts.

    Attributes:
        compiler: such as "g++ 12.2.0".
        threads: how many threads work at once.
        path: of the library of products in the user's folder, where notes stand beside it.
        blas: NumPy's BLAS.
        run: the function that runs a Program.
        limit_blas_threads: called with (1, inside) it keeps the BLAS to one thread until it is called with (0, inside),
            where inside is the address of a number that is 0 before.
        shuffle: called with (order, rows, state, next_uint32), three addresses among them, it fills an order with what
            the numbers of a generator of NumPy make of it.
        call_size: bytes of its struct KernelCall.

    Raises:
        DeviceError: a unit of BASE cannot be compiled or loaded, or is wrong.
    """

    def __init__(
        self, made_by: Compiler | Prebuilt, threads: int, check: Check | None = None, trial: Trial | None = None,
        dtype: str = "float32",
    ) -> None:  # fmt: skip
        self._made_by, self._check, self._lock, self.dtype = made_by, check, threading.RLock(), dtype
        self._units: dict[str, Library | DeviceError] = {}  # those of rows by functor: one for all numbers
        self._heads: dict[str, Mapping[str, Head]] = {}
        self._load({unit: unit for unit in BASE}, "the CPU's kernels", trial)
        program, products, minibatch = (self._library(unit).functions for unit in ("program", "products", "minibatch"))
        self.run: Any = program.bp_run
        self.limit_blas_threads: Any = program.bp_limit_blas_threads
        self.shuffle: Any = minibatch.bp_shuffle
        self.run.restype = self.limit_blas_threads.restype = self.shuffle.restype = None
        self.limit_blas_threads.argtypes = [ctypes.c_longlong, c_void_p]
        self.shuffle.argtypes = [c_void_p, ctypes.c_longlong, c_void_p, c_void_p]
        program.bp_compiler.restype = ctypes.c_char_p
        self.call_size = ctypes.c_longlong.in_dll(program, "bp_call_size").value
        self.compiler = program.bp_compiler().decode()
        self.path, self.blas = folder() / self._library("products").path.name, numpy_blas(dtype)
        products.bp_set_product(c_void_p(self.blas.product), ctypes.c_longlong(self.blas.wide))
        program.bp_set_blas_threads(c_void_p(self.blas.get_threads), c_void_p(self.blas.set_threads))
        self.threads = min(threads, ctypes.c_longlong.in_dll(program, "bp_max_threads").value)
        if check:
            for unit in BASE:
                check(self, self._library(unit), unit)

    def operation(self, name: str, row: Row | None = None) -> tuple[Head, int]:
        """Returns the head of an operation and its address; with a row, of the instance with its formula.

        Raises:
            DeviceError: it has no text in C++, the compiler refuses that, or it is wrong.
        """
        unit = unit_of(name) if row is None else row
        self.prepare([unit])
        head = self._heads[_key(unit)][name]
        return head, ctypes.cast(getattr(self._library(unit).functions, f"bp_{name}"), c_void_p).value or 0

    def prepare(self, units: Iterable[Unit]) -> None:
        """Compiles those units that are not there yet, several at once. What fails is left to NumPy, with a warning."""
        with self._lock:  # held during the checks, which ask for operations
            if new := {key: unit for unit in units if (key := _key(unit)) not in self._units}:
                try:
                    self._load(new, f"{', '.join(map(_name, new.values()))} for the CPU")
                    for key, unit in new.items():
                        self._compare(key, unit)
                except BaseException:  # Ctrl-C: they were not compared
                    for key in new:
                        self._units.pop(key, None)
                    raise

    def _load(self, units: Mapping[str, Unit], what: str, trial: Trial | None = None) -> None:
        made = [operations_text(unit, self.dtype) for unit in units.values()]
        self._heads |= {key: one.heads for key, one in zip(units, made, strict=True)}
        self._units |= zip(units, self._made_by.load([one.text for one in made], what, trial), strict=True)

    def _compare(self, key: str, unit: Unit) -> None:
        try:
            library = self._library(unit)
            if self._check:
                self._check(self, library, unit)
        except DeviceError as error:
            self._units[key] = error
            warnings.warn(f"{_name(unit)} is left to NumPy: {error}", RuntimeWarning, stacklevel=2)

    def _library(self, unit: Unit) -> Library:
        found = self._units[_key(unit)]
        if isinstance(found, DeviceError):
            raise found
        return found


def _key(unit: Unit) -> str:
    return unit if isinstance(unit, str) else functor(unit)


def _name(unit: Unit) -> str:
    return unit if isinstance(unit, str) else unit.name
