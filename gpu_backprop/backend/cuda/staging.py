"""Copies host arrays to a CUDA device in blocks, through a few pinned buffers in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from gpu_backprop.backend.device import memory_size
from gpu_backprop.backend.errors import OutOfMemoryError
from gpu_backprop.backend.formula import Array

OUT_OF_MEMORY = 2
"""cudaErrorMemoryAllocation, which CuPy raises as it is where its memory pool is not involved."""

BUFFERS = 8
BLOCK_BYTES = 4 << 20  # at 25 GB/s the copy of one takes longer than the host takes to launch it


class Staging:
    """Pinned memory of device `index`, the CuPy stream on which all copies are made, and what waits for an event.

    When a call that copies returns, ordinary host memory may have been read or not, and pinned memory has not. Here the
    source has been read, whatever it is, and the host need not wait for the device. A dtype is converted a block at a
    time, so that there is never a second array of the size of a data set.
    """

    def __init__(self, cupy: Any, index: int, stream: Any, wait: Callable[[Any], None]) -> None:
        self._cupy, self._stream, self._wait = cupy, stream, wait
        self._lock = threading.Lock()
        with cupy.cuda.Device(index):
            self._copied = [cupy.cuda.Event(disable_timing=True) for _ in range(BUFFERS)]
        self._buffers: list[Any] = [None] * BUFFERS
        self._sizes = [0] * BUFFERS
        self._turn = 0

    def send(self, destination: Array, source: Array) -> None:
        """Queues destination[...] = source; the device must be the current one.

        Args:
            destination: a C-contiguous CuPy array.
            source: a NumPy array of the same shape, of any dtype and strides.
        """
        if destination.size:
            with self._lock:
                self._split(destination, source)

    def _split(self, destination: Array, source: Array) -> None:
        if destination.nbytes <= BLOCK_BYTES or not destination.ndim:
            self._send_block(destination, source)
        elif len(destination) == 1:
            self._split(destination[0], source[0])
        else:
            rows = max(1, BLOCK_BYTES * len(destination) // destination.nbytes)
            for start in range(0, len(destination), rows):
                self._split(destination[start : start + rows], source[start : start + rows])

    def _send_block(self, destination: Any, source: Array) -> None:
        turn, self._turn = self._turn, (self._turn + 1) % BUFFERS
        if not self._copied[turn].done:
            self._wait(self._copied[turn])
        if self._sizes[turn] < destination.nbytes:
            size = 1 << (destination.nbytes - 1).bit_length()
            self._buffers[turn], self._sizes[turn] = pinned_memory(self._cupy, size), size
        block: Array = np.ndarray(destination.shape, destination.dtype, self._buffers[turn])
        np.copyto(block, source, casting="unsafe")
        try:
            destination.set(block, self._stream)
        finally:  # also on Ctrl-C: until it is copied, the buffer is not free for the next one
            self._copied[turn].record(self._stream)


def pinned_memory(cupy: Any, size: int) -> Any:
    """Allocates pinned host memory, at least one byte of it.

    Raises:
        OutOfMemoryError: the host has not enough.
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
