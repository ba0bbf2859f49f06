"""A plan's operations as one call: the CPU's like of a CUDA graph.

A KernelCall is one operation of kernels/cpu with all its arguments. Neighbours become a Program, which is one call from
Python, in which each operation is split among threads. kernels/cpu/program.cpp runs it.

All threads walk through the list. A barrier, where they wait for each other, stands only in front of an operation that
touches memory which another thread may be at work on: where it and one since the last barrier overlap and one of them
writes. It is not needed where one thread does both, or where both touch it by rows and in the same parts.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpu_backprop.backend.compiled.signatures import BY_ROWS
from gpu_backprop.backend.formula import Activation, Array, Call, LossFormula
from gpu_backprop.backend.kernel_text import Parameter

if TYPE_CHECKING:
    from gpu_backprop.backend.compiled.device import CpuDevice

HEAD = 3
"""The 8-byte numbers in front of the slots of struct KernelCall in program.cpp."""

DTYPES = {"float": "float32", "double": "float64", "i64": "int64"}

SPLIT_NS = 200
"""Nanoseconds of work from which on an operation is split among the threads."""

PARALLEL_NS = 12_000
"""Nanoseconds of work in a program from which on the threads take part."""

ALWAYS_PARALLEL_NS = 500_000
"""Nanoseconds from which on they always do; below, only as long as a run with them is the faster one."""

FIRST = 4
"""Runs of a new program that do not tell how long one takes: its threads and its memory have yet to come."""

COUNTERS = "ticket", "counts"
"""What operations call the counters that they leave at 0 and expect so: columns.hpp and rows.hpp."""

Argument = Array | int | float | None


class UnsupportedArguments(Exception):
    """An operation of kernels/cpu cannot take these arguments."""


class MemoryAccess(NamedTuple):
    """Memory that a step touches: of each model `size` bytes, `stride` from one to the next."""

    begin: int
    size: int
    stride: int
    models: int
    written: bool
    rows: int  # of each model, where the parts touch it by rows; else 0
    parts: int

    def conflicts_with(self, other: MemoryAccess) -> bool:
        """Whether two threads could be at the same memory, one of them writing."""
        if not (self.written or other.written) or self.parts == other.parts == 1 or not self._overlaps(other):
            return False
        same = (self[:4], self.rows, self.parts) == (other[:4], other.rows, other.parts)
        return not (same and self.rows)

    def _overlaps(self, other: MemoryAccess) -> bool:
        if self._end <= other.begin or other._end <= self.begin:
            return False
        if not self.stride or self.stride != other.stride:
            return True
        shift = (other.begin - self.begin) % self.stride  # views of one flat buffer: the models of one lie between the
        return shift < self.size or shift + other.size > self.stride  # other's

    @property
    def _end(self) -> int:
        return self.begin + (self.models - 1) * self.stride + self.size


class KernelCall:
    """One operation of kernels/cpu, bound: calling it runs it alone.

    Args:
        name: of the operation.
        work: about how many nanoseconds one thread takes for it.
        row: the formula that is put into it.
        arguments: all that its head lists, by name, but for part, parts and NAME_step, which is how many elements lie
            between the models of NAME, 0 where they share it.

    Raises:
        UnsupportedArguments: an array has another dtype than the head says, another size, or lies otherwise in memory.
        DeviceError: the formula cannot be compiled.
    """

    def __init__(
        self, device: CpuDevice, name: str, work: float, row: Activation | LossFormula | None = None, /,
        **arguments: Argument,
    ) -> None:  # fmt: skip
        head, address = device.library.operation(name, row)
        self.device, self.name, self.work = device, name, work
        self.parts = device.threads if work >= SPLIT_NS else 1
        self.arrays: list[Array] = []
        self.touches: list[MemoryAccess] = []
        taken = {p.name for p in head.parameters if not p.of}
        if taken != set(arguments):
            raise TypeError(f"{name} takes {sorted(taken)}, got {sorted(arguments)}.")
        self.record = np.zeros(device.library.step_size // 8, np.int64)
        self.record[:2] = address, self.parts
        integers, numbers = self.record[HEAD:], self.record[HEAD:].view(np.float64)
        self._counters = [a for k, a in arguments.items() if k in COUNTERS and isinstance(a, np.ndarray)]
        found: dict[str, Any] = dict(arguments)
        steps = {p.of for p in head.parameters}
        for k, p in enumerate(head.parameters):
            if p.pointer:
                integers[k], found[f"{p.name}_step"] = self._pointer(p, arguments, p.name in steps)
        for k, p in enumerate(head.parameters):
            if not p.pointer:
                (integers if p.type == "i64" else numbers)[k] = found[p.name]

    def __call__(self) -> None:
        self._alone()

    def reset(self) -> None:
        """Brings its counters back to 0, which each run of it leaves them at."""
        for counter in self._counters:
            counter[...] = 0

    @cached_property
    def _alone(self) -> Call:
        return program([self])

    def _pointer(self, p: Parameter, arguments: Mapping[str, Any], has_step: bool) -> tuple[int, int]:
        """Where an array begins, and how many elements lie between its models; notes that the step touches it."""
        array = arguments[p.name]
        if array is None and p.nullable:
            return 0, 0
        if not isinstance(array, np.ndarray) or array.dtype != DTYPES.get(p.type, array.dtype):
            raise UnsupportedArguments(f"{self.name}: {p.name} is no array of {p.type}")
        if not array.flags.aligned or not (p.constant or array.flags.writeable):
            raise UnsupportedArguments(f"{self.name}: {p.name} cannot be read or written as it is")
        shape = p.shape or ()
        sizes = [int(entry) if entry.isdecimal() else int(arguments[entry]) for entry in shape]
        models = sizes.pop(0) if shape[:1] == ("models",) else 1
        item = 1 if p.type == "u8" else array.itemsize
        stride = _stride(array, models, math.prod(sizes) * item, has_step)
        if stride is None:
            raise UnsupportedArguments(f"{self.name}: {p.name} has the shape {array.shape}, strides {array.strides}")
        rows = sizes[0] if p.note.startswith(BY_ROWS) else 0
        begin = int(array.__array_interface__["data"][0])
        self.arrays.append(array)
        self.touches.append(
            MemoryAccess(begin, math.prod(sizes) * item, stride, models, not p.constant, rows, self.parts)
        )
        return begin, stride // item


def _stride(array: Array, models: int, size: int, has_step: bool) -> int | None:
    """How many bytes lie between the models of an array, `size` bytes each, which may be any only where the operation
    is told. None: the array has another size or gaps elsewhere."""
    if array.flags.c_contiguous and array.nbytes == models * size:
        return size
    if has_step and array.flags.c_contiguous and array.nbytes == size:
        return 0
    if has_step and array.nbytes == models * size and len(array) == models and array[0].flags.c_contiguous:
        return array.strides[0]
    return None


def sequence(calls: Iterable[Call]) -> tuple[Call, ...]:
    """The same calls, where neighbouring steps have become one."""
    joined: list[Call] = []
    steps: list[KernelCall] = []
    for call in calls:
        if isinstance(call, KernelCall):
            steps.append(call)
        else:
            joined += [*_programs(steps), call]
            steps = []
    return (*joined, *_programs(steps))


def _programs(steps: list[KernelCall]) -> list[Call]:
    return [program(steps)] if steps else []


def program(steps: Sequence[KernelCall]) -> Call:
    """Some steps, one after the other, as one bound call. It holds on to their arrays."""
    device = steps[0].device
    records = np.stack([step.record for step in steps])
    records[:, 2] = barriers(steps)
    work = sum(step.work for step in steps)
    threads, small = device.threads if work >= PARALLEL_NS else 1, work < ALWAYS_PARALLEL_NS
    account = (1, FIRST, 0, 0)  # which program.cpp keeps: of a small program, whether the threads are worth it
    fields = np.array([records.ctypes.data, len(steps), threads, device.threads > 1, small, *account], np.int64)
    call = partial(device.library.run, ctypes.c_void_p(fields.ctypes.data))
    vars(call)["holds"] = (fields, records, [step.arrays for step in steps])
    return call


def barriers(steps: Sequence[KernelCall]) -> list[bool]:
    """Whether all threads have to wait for each other in front of each step."""
    found, since = [], list[MemoryAccess]()
    for step in steps:
        found.append(any(new.conflicts_with(old) for new in step.touches for old in since))
        since = step.touches[:] if found[-1] else since + step.touches
    return found
