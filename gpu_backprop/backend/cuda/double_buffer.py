"""A double buffer on a CUDA device: while steps read one buffer, the other is filled from pinned host memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.backend.cuda.staging import pinned_memory
from gpu_backprop.backend.formula import Array

BUFFERS = 2


class DoubleBuffer:
    """Two buffers, each of some arrays, copied to the device on a stream of their own.

    Two events of each buffer keep copies and steps in order; the host waits only in `pinned`:

        ready: the copy into this buffer is done. The steps that read it wait for this, and so does whoever refills the
            pinned memory.
        free: the steps on this buffer are done. The next copy into it waits for this.

    Args:
        forms: for each array the shape in one buffer, and the dtype.

    Attributes:
        arrays: the arrays on the device, of twice that length; the second buffer follows the first.
    """

    def __init__(self, device: CudaDevice, forms: Sequence[tuple[tuple[int, ...], np.dtype[Any]]]) -> None:
        cuda = device.xp.cuda
        self._compute = device.stream
        self.arrays = [device.empty((BUFFERS * length, *rest), dtype) for (length, *rest), dtype in forms]
        with device.computing():
            self._copies = cuda.Stream(non_blocking=True)
            self._ready = [cuda.Event(disable_timing=True) for _ in range(BUFFERS)]
            self._free = [cuda.Event(disable_timing=True) for _ in range(BUFFERS)]
            self._pinned = [[_pinned(device.xp, shape, dtype) for shape, dtype in forms] for _ in range(BUFFERS)]
        for buffer in range(BUFFERS):
            self.release(buffer)  # work that is still queued may use this memory, which comes from the pool

    # The reader's side: any one thread, inside device.computing() ----------------------------------------------------

    def pinned(self, buffer: int) -> list[Array]:
        """Returns the pinned arrays of a buffer, to be filled, once their last contents have been copied."""
        self._ready[buffer].synchronize()
        return self._pinned[buffer]

    def send(self, buffer: int, rows: int) -> None:
        """Queues the copies of the first rows of a buffer, behind the steps that were queued on it before."""
        self._copies.wait_event(self._free[buffer])
        try:
            for array, pinned in zip(self.arrays, self._pinned[buffer], strict=True):
                block: Any = array[buffer * len(pinned) : buffer * len(pinned) + rows]
                block.data.copy_from_host_async(pinned.ctypes.data, block.nbytes, self._copies)
        finally:
            self._ready[buffer].record(self._copies)

    # The side of the steps -------------------------------------------------------------------------------------------

    def acquire(self, buffer: int) -> None:
        """Makes all that is queued from here on wait for the last copy into the buffer."""
        self._compute.wait_event(self._ready[buffer])

    def release(self, buffer: int) -> None:
        """Allows the next copy into the buffer after all that was queued up to here."""
        self._free[buffer].record(self._compute)


def _pinned(cupy: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Makes a NumPy array in pinned memory, which it keeps alive."""
    size = int(np.prod(shape)) * dtype.itemsize
    return np.ndarray(shape, dtype, pinned_memory(cupy, size))
