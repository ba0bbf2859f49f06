"""A double buffer on a CUDA device: while steps read one buffer, the other is filled from pinned host memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu_backprop.backend.cuda.staging import pinned_memory
from gpu_backprop.backend.device import Device, DoubleBuffer, Form
from gpu_backprop.backend.formula import Array


class CudaDoubleBuffer(DoubleBuffer):
    """Copies arrive on a stream of their own.

    Two events of each buffer keep copies and steps in order; the host waits only in `pinned`:

        ready: the copy into this buffer is done. The steps that read it wait for this, and so does whoever refills the
            pinned memory.
        free: the steps on this buffer are done. The next copy into it waits for this.

    `compute` is the stream of the steps.
    """

    def __init__(self, device: Device, compute: Any, forms: Sequence[Form], buffers: int) -> None:
        cuda = device.xp.cuda
        self._device, self._compute = device, compute
        self.arrays = [device.empty((buffers * length, *rest), dtype) for (length, *rest), dtype in forms]
        with device.computing():
            self._copies = cuda.Stream(non_blocking=True)
            self._ready = [cuda.Event(disable_timing=True) for _ in range(buffers)]
            self._free = [cuda.Event(disable_timing=True) for _ in range(buffers)]
            self._pinned = [[_pinned(device.xp, shape, dtype) for shape, dtype in forms] for _ in range(buffers)]
        for buffer in range(buffers):
            self.release(buffer)  # work that is still queued may use this memory, which came from the pool

    # The reader's side: any one thread, inside device.computing() ----------------------------------------------------

    def pinned(self, buffer: int) -> list[Array]:
        self._device.wait(self._ready[buffer])
        return self._pinned[buffer]

    def send(self, buffer: int, rows: int) -> None:
        self._copies.wait_event(self._free[buffer])
        try:
            for array, pinned in zip(self.arrays, self._pinned[buffer], strict=True):
                part: Any = array[buffer * len(pinned) : buffer * len(pinned) + rows]
                part.data.copy_from_host_async(pinned.ctypes.data, part.nbytes, self._copies)
        finally:
            self._ready[buffer].record(self._copies)

    # The side of the steps -------------------------------------------------------------------------------------------

    def acquire(self, buffer: int) -> None:
        self._compute.wait_event(self._ready[buffer])

    def release(self, buffer: int) -> None:
        self._free[buffer].record(self._compute)


def _pinned(cupy: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A NumPy array in memory that the device can read by itself; it holds on to that memory."""
    size = int(np.prod(shape)) * dtype.itemsize
    return np.ndarray(shape, dtype, pinned_memory(cupy, size))
