"""Checks the arguments of a launch against the kernel's head, and packs them.

CuPy checks nothing: neither a Python float, which is a double, where the kernel reads a float, nor a view whose strides
the kernel does not know, nor the number of arguments. Here each is an error that names the kernel and the parameter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from gpu_backprop.backend.cuda.kernel_instance import DType, Instance
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.signatures import NUMBERS, Parameter

GRID_LIMITS = 2**31 - 1, 65535, 65535
BLOCK_LIMITS = 1024, 1024, 64
THREADS = 1024
SLOT = 8
"""Bytes of each argument, whatever its type."""

Sizes = tuple[int, int, int]


def address(array: Any) -> int:
    """Returns the device address of a CuPy array."""
    return int(array.data.ptr)


def common_stride(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> int | None:
    """Returns the elements from one to the next of an array in C order: 1 where it is contiguous, None where the stride
    is not the same everywhere."""
    if 0 in shape:
        return 1
    axes = [(count, stride) for count, stride in zip(shape, strides, strict=True) if count > 1]
    if not axes:
        return 1
    for (_, outer), (count, inner) in pairwise(axes):
        if outer != count * inner:
            return None
    step, rest = divmod(axes[-1][1], itemsize)
    return None if rest else step


def launch_shape(grid: Sequence[int], block: Sequence[int], where: str) -> tuple[Sizes, Sizes]:
    """Checks a grid and a block, and returns each as three numbers."""
    grid, block = _three_sizes("grid", grid, GRID_LIMITS, where), _three_sizes("block", block, BLOCK_LIMITS, where)
    if (threads := math.prod(block)) > THREADS:
        raise InputError(f"{where}: a block has at most {THREADS} threads, got {threads}.")
    return grid, block


def _three_sizes(name: str, sizes: Sequence[int], limits: Sizes, where: str) -> Sizes:
    whole = all(isinstance(size, (int, np.integer)) for size in sizes) and 1 <= len(sizes) <= 3
    x, y, z = (*map(int, sizes), 1, 1)[:3] if whole else (0, 0, 0)
    if not all(1 <= size <= limit for size, limit in zip((x, y, z), limits, strict=True)):
        raise InputError(
            f"{where}: {name} must be one to three integers from 1 to {' × '.join(map(str, limits))}, got {sizes!r}; "
            "where there is nothing to do, do not launch."
        )
    return x, y, z


@dataclass
class Arguments:
    """The arguments of one launch on the device `index`, whose arrays are of the class `ndarray`.

    Attributes:
        arrays: the arrays among them, to be kept alive.
        slots: the packed arguments, a row of 8 bytes for each parameter.
    """

    instance: Instance
    grid: Sizes
    given: Mapping[str, Any]
    ndarray: Any
    index: int
    arrays: list[Array] = field(default_factory=list, init=False)
    slots: Array = field(init=False)

    def __post_init__(self) -> None:
        self._check_names()
        parameters = self.instance.kernel.parameters
        models = self.grid[2]
        self._sizes = dict(zip(("gridDim.x", "gridDim.y", "gridDim.z", "models"), (*self.grid, models), strict=True))
        self._found: dict[str, int] = {}  # the numbers NAME_step and NAME_stride
        packed = {p.name: self._number(p, self.given[p.name]) for p in parameters if not p.pointer and not p.of}
        packed |= {p.name: self._pointer(p, self.given[p.name]) for p in parameters if p.pointer}
        packed |= {p.name: self._number(p, self._found[p.name]) for p in parameters if p.of}
        rows = b"".join(packed[p.name].ljust(SLOT, b"\0") for p in parameters)
        self.slots = np.frombuffer(rows, np.uint8).reshape(-1, SLOT).copy()

    def _refuse(self, text: str) -> InputError:
        return InputError(f"kernel {self.instance.name}: {text}")

    def _check_names(self) -> None:
        wanted = self.instance.kernel.given
        takes = f"It takes {', '.join(wanted)}."
        for p in self.instance.kernel.parameters:
            if p.of and p.name in self.given:
                raise self._refuse(f"{p.name} is found from {p.of} and cannot be given. {takes}")
        if missing := [name for name in wanted if name not in self.given]:
            raise self._refuse(f"{', '.join(missing)} missing. {takes}")
        if unknown := [name for name in self.given if name not in wanted]:
            raise self._refuse(f"no parameter is called {', '.join(unknown)}. {takes}")

    def _number(self, p: Parameter, value: Any) -> bytes:
        dtype = self.instance.dtype(p.type)
        kinds = (int, np.integer) if dtype.kind in "iu" else (int, np.integer, float, np.floating)
        if not isinstance(value, kinds):
            what = "an integer" if dtype.kind in "iu" else "a number"
            raise self._refuse(f"{p.name} must be {what} ({dtype.name}), got {_described(value)}.")
        if dtype.kind in "iu":
            value, limits = int(value), np.iinfo(dtype)
            self._sizes[p.name] = value
            if not limits.min <= value <= limits.max:
                raise self._refuse(
                    f"{p.name} must lie between {limits.min} and {limits.max} ({dtype.name}), got {value}."
                )
        with np.errstate(over="ignore"):
            number = np.asarray(value, dtype)
        if np.isinf(number) and not np.isinf(value):
            raise self._refuse(f"{p.name} must fit {dtype.name}, got {value}.")
        return number.tobytes()

    def _pointer(self, p: Parameter, array: Any) -> bytes:
        dtype = self.instance.dtype(p.type)
        if array is None:
            if not p.nullable:
                raise self._refuse(f"{p.name} must be an array of {dtype.name}, got None.")
            self._found |= {f"{p.name}_step": 0, f"{p.name}_stride": 0}
            return bytes(SLOT)
        if not isinstance(array, self.ndarray):
            hint = "; copy it to the device first" if isinstance(array, np.ndarray) else ""
            raise self._refuse(f"{p.name} must be a CuPy array of {dtype.name}, got {_described(array)}{hint}.")
        if array.device.id != self.index:
            raise self._refuse(
                f"devices mixed: {p.name} lies on CUDA device {array.device.id}, and this kernel runs on device "
                f"{self.index}; copy the array there."
            )
        if array.dtype != dtype:
            raise self._refuse(f"{p.name} must be {dtype.name}, got {array.dtype.name}.")
        self._check_size(p, array)
        self._find_strides(p, array)
        self._check_vectors(p, array, dtype)
        self.arrays.append(array)
        return np.uint64(address(array)).tobytes()

    def _check_size(self, p: Parameter, array: Array) -> None:
        entries = p.shape or ()
        sizes = [int(entry) if entry.isdecimal() else self._sizes[entry] for entry in entries]
        if array.size != math.prod(sizes):
            raise self._refuse(
                f"{p.name} must have {' × '.join(map(str, sizes))} elements, [{', '.join(entries)}]; got {array.size}, "
                f"shape {array.shape}."
            )

    def _find_strides(self, p: Parameter, array: Array) -> None:
        """Checks the strides, and notes NAME_step and NAME_stride."""
        stride = common_stride(array.shape, array.strides, array.itemsize)
        names = {q.name for q in self.instance.kernel.parameters if q.of == p.name}
        if f"{p.name}_stride" in names:
            if stride is None:
                raise self._refuse(f"{p.name} must have its elements at equal distances; {_layout(array)}.")
            self._found[f"{p.name}_stride"] = stride
        elif f"{p.name}_step" in names:
            self._found[f"{p.name}_step"] = self._step(p, array, stride)
        elif stride != 1:
            raise self._refuse(f"{p.name} must be C-contiguous; {_layout(array)}.")

    def _step(self, p: Parameter, array: Array, stride: int | None) -> int:
        models = self.grid[2]
        if stride == 1:
            return array.size // models
        inside = common_stride(array.shape[1:], array.strides[1:], array.itemsize)
        if array.shape[:1] == (models,) and inside == 1 and not array.strides[0] % array.itemsize:
            return array.strides[0] // array.itemsize
        raise self._refuse(f"the part of each model of {p.name} must be C-contiguous; {_layout(array)}.")

    def _check_vectors(self, p: Parameter, array: Array, dtype: DType) -> None:
        width, axis = self.instance.width, self.instance.kernel.vector_axis
        if width == 1 or p.type in NUMBERS or (p.shape or ("",))[-1] != axis:
            return
        cols = int(axis) if axis.isdecimal() else self._sizes[axis]
        if cols % width:
            raise self._refuse(f"{axis} must be a multiple of V = {width}, got {cols}; take V = 1.")
        unit = width * dtype.itemsize
        step = self._found.get(f"{p.name}_step", 0) * dtype.itemsize
        if address(array) % unit or step % unit:
            raise self._refuse(
                f"{p.name} must be aligned to {unit} bytes, in each model, for V = {width}; it lies at "
                f"{address(array):#x}, with {step} bytes between models; take V = 1."
            )


def _described(value: Any) -> str:
    """Describes a value in an error: its type and, of an array, dtype and shape."""
    kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}".removeprefix("builtins.")
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{kind} of {value.dtype.name}, shape {value.shape}"
    return f"{kind} {value!r}"


def _layout(array: Array) -> str:
    return f"shape {array.shape} has strides {array.strides} bytes"
