"""The CPU with NumPy alone.

The threads of OpenBLAS spin while they wait for each other. On a busy machine a product on two of them can take a
hundred times as long as on one: each spins, on a core, for one that has lost its core. So OpenBLAS is limited to one
thread, and large products are split among threads of ours, which sleep while they wait (numpy_ops/parts.py).
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
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.numpy_blas import numpy_blas
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.threads import threads


class NumpyDevice(Device):
    """The CPU with NumPy's operations, in float32 or float64."""

    def __init__(self, reason: str, dtype: str) -> None:
        ops: Operations[Device] = numpy_ops
        super().__init__("cpu", reason, dtype, np, ops)
        self.threads = threads() if _blas().has_threads else 1

    @contextmanager
    def computing(self) -> Iterator[None]:
        blas, me = _blas(), object()
        try:
            blas.limit(me)
            with super().computing():
                yield
        finally:  # wherever Ctrl-C came
            blas.release(me)


class _Blas:
    """NumPy's BLAS, limited to one thread while anybody computes; a number that the user sets meanwhile stays."""

    def __init__(self) -> None:
        blas = numpy_blas()
        self.has_threads = blas.get_threads is not None and blas.set_threads is not None
        self._get: Any = CFUNCTYPE(c_int)(blas.get_threads or 0)
        self._set: Any = CFUNCTYPE(None, c_int)(blas.set_threads or 0)
        self._limiting: set[object] = set()  # whoever computes now
        self._lock, self._limited, self._usual_threads = threading.Lock(), False, 1
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def limit(self, who: object) -> None:
        self._limiting.add(who)
        self._update()

    def release(self, who: object) -> None:
        self._limiting.discard(who)
        self._update()

    def _after_fork(self) -> None:
        """Forgets, in the child of a fork, the threads that were computing, and may have had the lock."""
        self._lock = threading.Lock()
        self._limiting.clear()
        self._update()

    def _update(self) -> None:
        if not self.has_threads or self._limited == bool(self._limiting):
            return
        with self._lock:
            if self._limiting and not self._limited:
                self._usual_threads, self._limited = self._get(), True
                self._set(1)
            elif self._limited and not self._limiting:
                if self._get() == 1:
                    self._set(self._usual_threads)
                self._limited = False


@cache
def _blas() -> _Blas:
    return _Blas()
