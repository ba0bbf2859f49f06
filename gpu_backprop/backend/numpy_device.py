"""The CPU with NumPy alone.

The threads of OpenBLAS wait for each other by asking over and over. Where the machine has other work to do, a product
on two of them can take a hundred times as long as on one: each waits for one that has lost its core, and keeps another
from it. So it is told to use one, and large products are worked out in parts by threads of ours, which sleep while they
wait (numpy_ops/parts.py).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, c_int
from functools import cache
from typing import Any

import numpy as np

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.compiled.library import numpy_blas
from gpu_backprop.backend.compiled.threads import threads
from gpu_backprop.backend.device import Device


class NumpyDevice(Device):
    """The CPU with NumPy's operations, in float32 or float64."""

    def __init__(self, reason: str, dtype: str) -> None:
        super().__init__("cpu", reason, dtype, np, numpy_ops)
        self.threads = threads() if _blas().known else 1

    @contextmanager
    def computing(self) -> Iterator[None]:
        blas, me = _blas(), object()
        try:
            blas.enter(me)
            with super().computing():
                yield
        finally:  # wherever Ctrl-C came
            blas.leave(me)


class _Blas:
    """NumPy's BLAS, which uses one thread as long as somebody wants that; what a user has set meanwhile stays."""

    def __init__(self) -> None:
        blas = numpy_blas()
        self.known = blas.get_threads is not None and blas.set_threads is not None
        self._get: Any = CFUNCTYPE(c_int)(blas.get_threads or 0)
        self._set: Any = CFUNCTYPE(None, c_int)(blas.set_threads or 0)
        self._inside: set[object] = set()  # who wants it
        self._lock, self._hushed, self._loud = threading.Lock(), False, 1
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin_anew)

    def enter(self, who: object) -> None:
        self._inside.add(who)
        self._settle()

    def leave(self, who: object) -> None:
        self._inside.discard(who)
        self._settle()

    def _begin_anew(self) -> None:
        """In the child of a fork: those who were inside, and may have had the lock, are not there."""
        self._lock = threading.Lock()
        self._inside.clear()
        self._settle()

    def _settle(self) -> None:
        if not self.known or self._hushed == bool(self._inside):
            return
        with self._lock:
            if self._inside and not self._hushed:
                self._loud, self._hushed = self._get(), True
                self._set(1)
            elif self._hushed and not self._inside:
                if self._get() == 1:
                    self._set(self._loud)
                self._hushed = False


@cache
def _blas() -> _Blas:
    return _Blas()
