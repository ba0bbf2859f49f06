"""What a kernel is run on and what has to come out: poisoned memory, launches, and results to compare with."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from kernel_program import FORWARD, MIXED, RANDOM, REVERSE, Launch, Program

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.cuda.kernel_arguments import Arguments
from gpu_backprop.backend.cuda.kernel_instance import Instance
from gpu_backprop.backend.device import Device

Array = np.ndarray
CPU = Device("cpu", "the reference", "float64", np, numpy_ops)


class HostArray(np.ndarray):
    """An array that tells of itself what CuPy's arrays tell, so that the checks of launches can be run on it."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.__array_interface__["data"][0])

    @property
    def device(self):
        return SimpleNamespace(id=0)


class Memory:
    """The buffers of one launch. Each begins as 0xff bytes: NaN, or -1. Each is aligned to V numbers and no more."""

    def __init__(self, width: int) -> None:
        self.width, self.buffers = width, []

    def empty(self, shape: Sequence[int], dtype: Any, width: int = 0) -> Array:
        count, itemsize = int(np.prod(shape, dtype=np.int64)), np.dtype(dtype).itemsize
        unit = itemsize * (width or self.width)
        size = count * itemsize or unit  # NumPy's empty slices begin anywhere
        raw = np.full(size + 512, 0xFF, np.uint8)
        start = (unit - raw.__array_interface__["data"][0]) % 256
        self.buffers.append(raw[start : start + size])
        return self.buffers[-1].view(dtype)[:count].reshape(shape).view(HostArray)

    def holding(self, values: Any, dtype: Any) -> Array:
        """The values, rounded to dtype."""
        values = np.asarray(values)
        array = self.empty(values.shape, dtype)
        array[...] = values.astype(dtype)
        return array

    def models(self, models: int, n: int, dtype: Any, values: Any = None, gap: int = 0) -> Array:
        """(models, n) with a gap behind each model."""
        array = self.empty((models, n + gap * self.width), dtype)[:, :n]
        if values is not None:
            array[...] = np.asarray(values).astype(dtype)
        return array

    def place(self, address: int) -> tuple[int, int]:
        """Which buffer an address lies in, and where in it."""
        for number, buffer in enumerate(self.buffers):
            if 0 <= (offset := address - buffer.__array_interface__["data"][0]) < buffer.size:
                return number, offset
        raise AssertionError("an argument points into no buffer")


def precision(dtype: Any) -> float:
    """The distance of 1 from the next number."""
    return {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}[np.dtype(dtype).name]


@dataclass(frozen=True)
class Near:
    """Values within a tolerance, to which the rounding of the array that holds them is added."""

    values: Array
    tolerance: Any

    def check(self, name: str, array: Array) -> None:
        got, wanted = np.asarray(array).astype("f8"), np.broadcast_to(self.values, array.shape)
        rounding = precision(array.dtype) / 2 * np.abs(wanted) + (2.0**-24 if array.dtype == "f2" else 0)
        with np.errstate(invalid="ignore"):
            near = np.abs(got - wanted) <= self.tolerance + rounding
        off = ~(near | (got == wanted) | (np.isnan(got) & np.isnan(wanted)))
        if off.any():
            at = tuple(map(int, np.argwhere(off)[0]))
            raise AssertionError(
                f"{name}[{at}] is {got[at]!r} and should be {wanted[at]!r}; {off.sum()} of {off.size} are wrong"
            )


@dataclass(frozen=True)
class Exactly:
    """Values bit by bit."""

    values: Array

    def check(self, name: str, array: Array) -> None:
        wanted = np.broadcast_to(self.values, array.shape).astype(array.dtype)
        assert array.tobytes() == wanted.tobytes(), f"{name} is {array} and should be {wanted}"


@dataclass
class Case:
    """One launch and what has to come out of it.

    Attributes:
        parameters: of the kernel, by name.
        expected: of the arrays that it changes; all others have to stay as they are, and each byte between their rows.
        scratch: names of arrays that may hold anything.
        shared: bytes that each block has for itself.
    """

    made: Instance
    memory: Memory
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    parameters: Mapping[str, Any]
    expected: Mapping[str, Near | Exactly]
    scratch: Iterable[str] = ("partial",)
    orders: Sequence[tuple[int, int]] = field(default=((FORWARD, FORWARD),))
    shared: int = 0

    @property
    def story(self) -> str:
        told = {k: (v.shape if isinstance(v, np.ndarray) else v) for k, v in self.parameters.items()}
        return f"{self.made.name}, grid {self.grid}, block {self.block}, {told}"

    def launches(self, kernel: int) -> list[Launch]:
        packed = Arguments(self.made, self.grid, self.parameters, HostArray, 0)
        arguments = []
        for parameter, slot in zip(self.made.kernel.parameters, packed.slots, strict=True):
            if not parameter.pointer:
                arguments.append((-1, slot.tobytes()))
            elif self.parameters[parameter.name] is None:
                arguments.append((-1, bytes(8)))
            else:
                buffer, offset = self.memory.place(int(slot.view(np.uint64)[0]))
                arguments.append((buffer, offset.to_bytes(8, "little")))
        buffers = [(b.__array_interface__["data"][0] % 256, b.tobytes()) for b in self.memory.buffers]
        seed = zlib.crc32(self.story.encode())
        orders = [(threads, blocks, seed + place) for place, (threads, blocks) in enumerate(self.orders)]
        return [Launch(kernel, self.grid, self.block, order, buffers, arguments, self.shared) for order in orders]

    def check(self, contents: Sequence[bytes]) -> None:
        """Compares what the buffers hold with what is expected."""
        after = [np.frombuffer(c, np.uint8) for c in contents]
        untouched = [b.copy() for b in self.memory.buffers]
        for name, array in self.parameters.items():
            if isinstance(array, np.ndarray) and (name in self.expected or name in self.scratch):
                number, offset = self.memory.place(array.data.ptr)
                view = [_view(raw, offset, array) for raw in (after[number], untouched[number])]
                if name in self.expected:
                    self.expected[name].check(name, view[0])
                view[1][...] = view[0]
        names = {self.memory.place(a.data.ptr)[0]: n for n, a in self.parameters.items() if isinstance(a, np.ndarray)}
        for number, (left, right) in enumerate(zip(untouched, after, strict=True)):
            assert np.array_equal(left, right), f"{names.get(number)} was written to where it should not be"


def _view(raw: Array, offset: int, like: Array) -> Array:
    return np.ndarray(like.shape, like.dtype, raw, offset, like.strides)


def reference(binder: Callable[..., Iterable[Callable[[], object]]], *arguments: Any) -> None:
    """Runs one of numpy_ops's operations, in float64."""
    with CPU.computing():
        for call in binder(CPU, *arguments):
            call()


def run(program: Program, cases: Sequence[Case]) -> int:
    """Launches all cases and checks what comes out; returns the number of launches."""
    kernels = {made.name: number for number, made in enumerate(program.instances)}
    launches = [(case, launch) for case in cases for launch in case.launches(kernels[case.made.name])]
    answers = program.run([launch for _, launch in launches])
    for (case, launch), contents in zip(launches, answers, strict=True):
        try:
            case.check(contents)
        except AssertionError as error:
            raise AssertionError(f"{case.story}, order {launch.order}: {error}") from None
    return len(launches)


ORDERS = [(threads, blocks) for threads in (FORWARD, REVERSE, RANDOM) for blocks in (FORWARD, REVERSE, MIXED)]
