"""The kernels of this machine's CPU, compiled when they are first asked for."""

from __future__ import annotations

import ctypes
import threading
import warnings
from collections.abc import Callable, Mapping
from ctypes import c_void_p
from typing import Any

from gpu_backprop.backend.compiled import compiler
from gpu_backprop.backend.compiled.operations_text import base, of_row
from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.kernel_text import Row, functor
from gpu_backprop.backend.numpy_blas import numpy_blas
from gpu_backprop.backend.signatures import Head

BASE = "the CPU's kernels for {}, once; that usually takes 5 to 20 s"
ROW = "{} for the CPU in {}, once; that usually takes 1 to 3 s"
"""Descriptions of a compilation, for the log."""

RowLibrary = tuple[ctypes.CDLL, Mapping[str, Head]]

Check = Callable[["CpuLibrary", compiler.Library, Row | None], None]
"""Gets a library before it is used, all of it or the operations of a row; raises DeviceError where it is wrong."""


class CpuLibrary:
    """The operations of kernels/cpu as functions, for arrays of one dtype.

    Args:
        threads: how many threads may work at once, up to the maximum of kernels/cpu/program.cpp.
        check: compares each library before its operations are used; None: nothing does.
        trial: tries a new library before it is loaded.
        dtype: "float32" or "float64", which is `real` in the texts.

    Attributes:
        compiler: such as "g++ 12.2.0".
        threads: how many threads work at once: 1 where NumPy's BLAS cannot be limited to one thread.
        multiplies: whether that has a product of such matrices.
        largest_product: m n k up to which products of (m, k) and (k, n) may be made by a kernel of ours.
        run: the function that runs a Program.
        limit_blas_threads: called with (1, inside) it keeps the BLAS to one thread until it is called with (0, inside),
            where inside is the address of a number that is 0 before.
        call_size: bytes of its struct KernelCall.

    Raises:
        DeviceError: it cannot be compiled or loaded.
    """

    def __init__(
        self, made_by: compiler.Compiler, threads: int, check: Check | None = None,
        trial: compiler.Trial | None = None, dtype: str = "float32",
    ) -> None:  # fmt: skip
        self._compiler, self._check, self._lock = made_by, check, threading.RLock()
        self.dtype = dtype
        loaded = made_by.load(base(dtype).text, BASE.format(dtype), trial)
        self._base = loaded.functions
        self._rows: dict[str, RowLibrary | DeviceError] = {}  # by functor: one for all numbers
        self.run: Any = self._base.bp_run
        self.limit_blas_threads: Any = self._base.bp_limit_blas_threads
        self.run.restype = self.limit_blas_threads.restype = None
        self.limit_blas_threads.argtypes = [ctypes.c_longlong, c_void_p]
        self._base.bp_compiler.restype = ctypes.c_char_p
        self.call_size = ctypes.c_longlong.in_dll(self._base, "bp_call_size").value
        self.largest_product = ctypes.c_longlong.in_dll(self._base, "bp_largest_product").value
        self.compiler = self._base.bp_compiler().decode()
        self.blas = numpy_blas(dtype)
        self.multiplies = self.blas.product is not None
        self._base.bp_set_product(c_void_p(self.blas.product), ctypes.c_longlong(self.blas.wide))
        self._base.bp_set_blas_threads(c_void_p(self.blas.get_threads), c_void_p(self.blas.set_threads))
        # Two pools of threads would compete for the cores. OpenBLAS alone can be limited to one thread.
        others = self.multiplies and self.blas.set_threads is None
        limit = ctypes.c_longlong.in_dll(self._base, "bp_max_threads").value
        self.threads = 1 if others else min(threads, limit)
        if check:
            check(self, loaded, None)

    def operation(self, name: str, row: Row | None = None) -> tuple[Head, int]:
        """Returns the head of an operation and its address; with a row, of the instance with its formula.

        Raises:
            DeviceError: the row has no formula in C++, or the compiler refuses it.
        """
        library, heads = (self._base, base(self.dtype).heads) if row is None else self._of_row(row)
        return heads[name], ctypes.cast(getattr(library, f"bp_{name}"), c_void_p).value or 0

    def _of_row(self, row: Row) -> RowLibrary:
        key = functor(row)
        with self._lock:  # held during the check, which calls this itself
            if key not in self._rows:
                self._load_row(row, key)
            found = self._rows[key]
        if isinstance(found, DeviceError):
            raise found
        return found

    def _load_row(self, row: Row, key: str) -> None:
        try:
            operations = of_row(row, self.dtype)
            loaded = self._compiler.load(operations.text, ROW.format(row.name, self.dtype))
            self._rows[key] = loaded.functions, operations.heads
            if self._check:
                self._check(self, loaded, row)
        except DeviceError as error:
            self._rows[key] = error
            warnings.warn(f"{row.name} is left to NumPy: {error}", RuntimeWarning, stacklevel=2)
        except BaseException:  # Ctrl-C: it was not checked
            self._rows.pop(key, None)
            raise
