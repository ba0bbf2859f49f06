"""A double buffer on a CUDA device: while steps read one half, the other is filled from pinned host memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu_backprop.backend.cuda.staging import pinned_memory
from gpu_backprop.backend.device import HALVES, Device, DoubleBuffer, Form
from gpu_backprop.backend.formula import Array


class CudaDoubleBuffer(DoubleBuffer):
    """Copies arrive on a stream of their own.

    Two kinds of events keep copies and steps in order, one of each kind for a half, and the host waits for none of them
    but in `lend`:

        ready: the copy into this half is done. Steps on it wait for it, and so does whoever fills the pinned memory
            from which it was copied again.
        free: the steps on this half are done. The next copy into it waits for it.

    Args:
        compute: the stream of the steps.
    """

    def __init__(self, device: Device, compute: Any, forms: Sequence[Form]) -> None:
        cuda = device.xp.cuda
        self._compute = compute
        self.arrays = [device.empty((HALVES * length, *rest), dtype) for (length, *rest), dtype in forms]
        with device.computing():
            self._copies = cuda.Stream(non_blocking=True)
            self._ready = [cuda.Event(disable_timing=True) for _ in range(HALVES)]
            self._free = [cuda.Event(disable_timing=True) for _ in range(HALVES)]
            self._pinned = [[_pinned(device.xp, shape, dtype) for shape, dtype in forms] for _ in range(HALVES)]
        for half in range(HALVES):
            self.release(half)  # work that is still queued may use this memory, which came from the pool

    # The reader's side: any one thread, inside device.computing() ----------------------------------------------------

    def lend(self, half: int) -> list[Array]:
        self._ready[half].synchronize()
        return self._pinned[half]

    def send(self, half: int, rows: int) -> None:
        self._copies.wait_event(self._free[half])
        try:
            for array, pinned in zip(self.arrays, self._pinned[half], strict=True):
                part: Any = array[half * len(pinned) : half * len(pinned) + rows]
                part.data.copy_from_host_async(pinned.ctypes.data, part.nbytes, self._copies)
        finally:
            self._ready[half].record(self._copies)

    # The side of the steps -------------------------------------------------------------------------------------------

    def acquire(self, half: int) -> None:
        self._compute.wait_event(self._ready[half])

    def release(self, half: int) -> None:
        self._free[half].record(self._compute)


def _pinned(cupy: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A NumPy array in memory that the device can read by itself; it holds on to that memory."""
    size = int(np.prod(shape)) * dtype.itemsize
    return np.ndarray(shape, dtype, pinned_memory(cupy, size))
