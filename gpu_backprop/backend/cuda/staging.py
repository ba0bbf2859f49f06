"""How host arrays reach a CUDA device: in pieces, through a few pinned buffers that take turns."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from gpu_backprop.backend.device import memory_size
from gpu_backprop.backend.errors import OutOfMemoryError
from gpu_backprop.backend.formula import Array

OUT_OF_MEMORY = 2
"""cudaErrorMemoryAllocation, which comes through where there is no memory pool of CuPy's to say it in its own way."""

BUFFERS = 8
PIECE = 4 << 20  # bytes; at 25 GB/s the device takes longer to fetch one than the host to ask for it


class Staging:
    """Pinned memory of one device and stream.

    A copy from ordinary host memory may or may not have read it when the call returns, and one from pinned memory has
    not. Here the source has been read, whatever it is, and the host need not wait for the device. A dtype is converted
    on the way, piece by piece, so that no second array of the size of a data set is ever there.

    Args:
        cupy: the module.
        index: the device's.
        stream: a CuPy stream of that device, on which all copies are made.
    """

    def __init__(self, cupy: Any, index: int, stream: Any) -> None:
        self._cupy, self._stream = cupy, stream
        self._lock = threading.Lock()
        with cupy.cuda.Device(index):
            self._copied = [cupy.cuda.Event(disable_timing=True) for _ in range(BUFFERS)]
        self._buffers: list[Any] = [None] * BUFFERS
        self._sizes = [0] * BUFFERS
        self._turn = 0

    def send(self, destination: Array, source: Array) -> None:
        """destination[...] = source; the device must be the current one.

        Args:
            destination: a C-contiguous CuPy array.
            source: a NumPy array of the same shape, of any dtype and strides.
        """
        if destination.size:
            with self._lock:
                self._split(destination, source)

    def _split(self, destination: Array, source: Array) -> None:
        if destination.nbytes <= PIECE or not destination.ndim:
            self._send_piece(destination, source)
        elif len(destination) == 1:
            self._split(destination[0], source[0])
        else:
            rows = max(1, PIECE * len(destination) // destination.nbytes)
            for start in range(0, len(destination), rows):
                self._split(destination[start : start + rows], source[start : start + rows])

    def _send_piece(self, destination: Any, source: Array) -> None:
        turn, self._turn = self._turn, (self._turn + 1) % BUFFERS
        if not self._copied[turn].done:
            self._copied[turn].synchronize()
        if self._sizes[turn] < destination.nbytes:
            size = 1 << (destination.nbytes - 1).bit_length()
            self._buffers[turn], self._sizes[turn] = pinned_memory(self._cupy, size), size
        piece: Array = np.ndarray(destination.shape, destination.dtype, self._buffers[turn])
        np.copyto(piece, source, casting="unsafe")
        try:
            destination.set(piece, self._stream)
        finally:  # also on Ctrl-C: until it is copied, the buffer is not free for the next one
            self._copied[turn].record(self._stream)


def pinned_memory(cupy: Any, size: int) -> Any:
    """Memory of the host that the device can read by itself, at least one byte of it.

    Raises:
        OutOfMemoryError: the host has no more of it.
    """
    try:
        return cupy.cuda.alloc_pinned_memory(max(1, size))
    except (MemoryError, cupy.cuda.runtime.CUDARuntimeError) as error:
        if getattr(error, "status", OUT_OF_MEMORY) != OUT_OF_MEMORY:
            raise
        raise OutOfMemoryError(
            f"the host cannot give {memory_size(size)} of pinned memory, from which data are copied to the device. "
            "End other programs, or allow this one more memory that cannot be paged out.",
            needs={"pinned memory": size},
        ) from None
