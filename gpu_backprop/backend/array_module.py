"""Device: NumPy on a CPU or CuPy on CUDA, decided once, when it is opened."""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import DeviceError, InputError
from gpu_backprop.backend.formula import Array

DTYPES = {"cpu": ("float32", "float64"), "cuda": ("float32", "float64", "float16", "bfloat16")}
ALIGNMENT = 256
"""Bytes: where buffers, and the slices of a flat one, begin. Serves every vector width of both back ends."""


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
        raw: Array = np.empty(size + ALIGNMENT, np.uint8)
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

    def computing(self) -> AbstractContextManager[Any]:
        """The context in which plans run: overflow becomes inf or NaN, which the trainer looks for, not a warning."""
        return np.errstate(all="ignore")


def open_device(name: str = "auto", dtype: str = "float32") -> Device:
    """Opens a device: "auto", "cpu", "cuda" or "cuda:N".

    "auto" takes CUDA where it can be used and says in `Device.reason` what it chose and why.

    Raises:
        InputError: the name or the dtype is unknown, or the dtype is not for this device.
        DeviceError: CUDA was asked for and cannot be used; the message says what is missing.
    """
    if not isinstance(name, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise InputError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {name!r}.")
    dtype = _dtype_name(dtype)
    if name == "auto":
        obstacle = _cuda_obstacle(0)
        return _open_cpu(f"auto: {obstacle}", dtype) if obstacle else _open_cuda(0, "auto: CUDA works", dtype)
    if name == "cpu":
        return _open_cpu("as asked", dtype)
    index = int(name.partition(":")[2] or 0)
    obstacle = _cuda_obstacle(index)
    if obstacle:
        raise DeviceError(
            f"device {name!r} cannot be used: {obstacle}. Use device='cpu', or 'auto' to take what works."
        )
    return _open_cuda(index, "as asked", dtype)


def _dtype_name(dtype: Any) -> str:
    if dtype == "bfloat16":  # unknown to NumPy itself
        return "bfloat16"
    try:
        name = str(np.dtype(dtype).name)
    except TypeError:
        name = ""
    if dtype is None or name not in DTYPES["cuda"]:
        raise InputError(f"dtype must be one of {', '.join(DTYPES['cuda'])}, got {dtype!r}.")
    return name


def _open_cpu(reason: str, dtype: str) -> Device:
    if dtype not in DTYPES["cpu"]:
        raise InputError(
            f"dtype {dtype} is for CUDA devices only; this device is the CPU ({reason}). Use float32 or float64."
        )
    from gpu_backprop.backend import numpy_ops

    return Device("cpu", reason, dtype, np, numpy_ops)


def _open_cuda(index: int, reason: str, dtype: str) -> Device:
    module = importlib.import_module("gpu_backprop.backend.cuda_ops")
    device: Device = module.open_device(index, reason, dtype)
    return device


def _cuda_obstacle(index: int) -> str:
    """What keeps CUDA device `index` from being used, as the rest of a sentence; empty if nothing does."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed (pip install 'gpu-backprop[cuda13]', or [cuda12] for older drivers)"
    try:
        cupy = importlib.import_module("cupy")
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # whatever a damaged CuPy, a missing library or a missing driver raises
        said = " ".join(str(error).split()) or type(error).__name__
        return f"CuPy is installed, but finds no CUDA driver or device ({said})"
    if index >= count:
        return f"there is no CUDA device {index}; this machine has {count}, numbered from 0"
    if importlib.util.find_spec("gpu_backprop.backend.cuda_ops") is None:
        return "this version of gpu_backprop trains on the CPU only (its CUDA operations are still to come)"
    return ""
