"""Device: where the arrays of a network live, and the few things that are done there besides its operations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.formula import Array

ALIGNMENT = 256
"""Bytes: where buffers, and the slices of a flat one, begin. Serves every vector width of both back ends."""

BUFFER = 128
"""How many numbers NumPy's own buffer holds. An operand that is broadcast is copied into it, by default 8,192 numbers
in every call, unless rows are longer than that. With a small one NumPy reads long rows where they lie."""


class Device:
    """Where the arrays of a network live and which operations work on them.

    Attributes:
        name: "cpu" or "cuda:0".
        reason: why this device, in a sentence.
        dtype: the working dtype of its networks.
        xp: the array module, numpy or cupy.
        ops: the binders for it (numpy_ops or cuda_ops): the same names and signatures.
    """

    def __init__(self, name: str, reason: str, dtype: str, xp: ModuleType, ops: ModuleType) -> None:
        self.name, self.reason, self.dtype, self.xp, self.ops = name, reason, np.dtype(dtype), xp, ops
        self._work: dict[tuple[str, int], Array] = {}

    def __repr__(self) -> str:
        return f"Device({self.name}, {self.dtype.name}: {self.reason})"

    def empty(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """Uninitialised memory whose first byte is aligned; NumPy's own alignment is 16 bytes."""
        dtype = np.dtype(self.dtype if dtype is None else dtype)
        size = math.prod(shape) * dtype.itemsize
        try:
            raw: Array = np.empty(size + ALIGNMENT, np.uint8)
        except (MemoryError, ValueError):  # NumPy's ValueError: beyond the address space
            raise DeviceError(
                f"{self.name} cannot give {size / 2**30:,.1f} GiB for an array of shape {shape}. "
                "Use fewer units or a smaller batch."
            ) from None
        start = -raw.__array_interface__["data"][0] % ALIGNMENT
        array: Array = raw[start : start + size].view(dtype)
        return array.reshape(shape)

    def zeros(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        array = self.empty(shape, dtype)
        array[...] = 0
        return array

    def work(self, shape: tuple[int, ...], dtype: Any = None, slot: int = 0) -> Array:
        """Scratch memory, shared by all operations of this device: it holds its values for one operation only."""
        dtype = np.dtype(self.dtype if dtype is None else dtype)
        size, key = math.prod(shape), (dtype.name, slot)
        if key not in self._work or self._work[key].size < size:
            self._work[key] = self.empty((size,), dtype)
        return self._work[key][:size].reshape(shape)

    def from_host(self, array: Array, dtype: Any = None) -> Array:
        """The values of a host array on this device; on a CPU the array itself where it already fits."""
        dtype = np.dtype(array.dtype if dtype is None else dtype)
        if array.dtype == dtype and array.flags.c_contiguous:
            return array
        out = self.empty(array.shape, dtype)
        np.copyto(out, array, casting="unsafe")
        return out

    def to_host(self, array: Array) -> Array:
        """A NumPy copy of a device array; waits for the device."""
        return np.array(array)

    def copy(self, array: Array) -> Array:
        """A new array on this device with the same values."""
        return np.array(array)

    def copy_in(self, destination: Array, source: Array) -> None:
        """destination[...] = source, which may be smaller by a leading axis; the dtype may change."""
        np.copyto(destination, source, casting="unsafe")

    def address(self, array: Array) -> int:
        """Where the array's first element lies."""
        return int(array.__array_interface__["data"][0])

    @contextmanager
    def computing(self) -> Iterator[None]:
        """The context in which plans run: overflow becomes inf or NaN, which the trainer looks for, not a warning."""
        with np.errstate(all="ignore"):  # which also brings the buffer size back
            np.setbufsize(BUFFER)
            yield
