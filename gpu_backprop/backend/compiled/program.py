"""A plan's operations as one call: what a CUDA graph is on a GPU.

A KernelCall is one operation of kernels/cpu with all its arguments. Neighbours become a Program, which is one call from
Python, in which each operation is split among threads. kernels/cpu/program.cpp runs it.

All threads go through the list. A barrier, where they wait for each other, stands only before an operation that
accesses memory which another thread may be using: where it and one since the last barrier overlap and one of them
writes. None is needed where one thread does both, or where both access it by rows and in the same parts.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import numpy as np

from gpu_backprop.backend.compiled.library import CpuLibrary
from gpu_backprop.backend.formula import Array, Call
from gpu_backprop.backend.kernel_text import Row
from gpu_backprop.backend.signatures import Parameter

HEAD = 3
"""The 8-byte numbers before the slots of struct KernelCall in program.cpp."""

DTYPES = {"float": "float32", "double": "float64", "i64": "int64"}

SPLIT_NS = 200
"""The work, in nanoseconds, from which an operation is split among the threads."""

PARALLEL_NS = 12_000
"""The work of a program, in nanoseconds, from which it may run on the threads."""

ALWAYS_PARALLEL_NS = 500_000
"""The work, in nanoseconds, from which it always does; below, only while that is measured to be faster."""

WARMUP = 4
"""Runs of a new program that are not timed: its threads do not run yet, and its memory is not in the cache."""

COUNTERS = "ticket", "counts"
"""The parameters that are counters, which an operation finds 0 and leaves 0 (columns.hpp, rows.hpp)."""

Argument = Array | int | float | None


class UnsupportedArguments(Exception):
    """An operation of kernels/cpu cannot take these arguments."""


class Host(Protocol):
    """What a program needs of its CpuDevice."""

    library: CpuLibrary
    threads: int


class MemoryAccess(NamedTuple):
    """Memory that a call reads or writes: `size` bytes of each model, `stride` bytes from one to the next."""

    begin: int
    size: int
    stride: int
    models: int
    written: bool
    rows: int  # of each model, where each part accesses its own rows; else 0
    parts: int

    def conflicts_with(self, other: MemoryAccess) -> bool:
        """Tells whether two threads could access the same memory, one of them writing."""
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
        self, device: Host, name: str, work: float, row: Row | None = None, /,
        **arguments: Argument,
    ) -> None:  # fmt: skip
        head, address = device.library.operation(name, row)
        self.device, self.name, self.work = device, name, work
        self.parts = device.threads if work >= SPLIT_NS else 1
        self.arrays: list[Array] = []
        self.accesses: list[MemoryAccess] = []
        if set(head.given) != set(arguments):
            raise TypeError(f"{name} takes {sorted(head.given)}, got {sorted(arguments)}.")
        self.record = np.zeros(device.library.call_size // 8, np.int64)
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
        """Sets its counters to 0, as each whole run leaves them."""
        for counter in self._counters:
            counter[...] = 0

    @cached_property
    def _alone(self) -> Call:
        return program([self])

    def _pointer(self, p: Parameter, arguments: Mapping[str, Any], has_step: bool) -> tuple[int, int]:
        """Returns an array's address and the elements between its models, and notes the access."""
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
        rows = sizes[0] if p.by_rows else 0
        begin = int(array.__array_interface__["data"][0])
        self.arrays.append(array)
        self.accesses.append(
            MemoryAccess(begin, math.prod(sizes) * item, stride, models, not p.constant, rows, self.parts)
        )
        return begin, stride // item


def _stride(array: Array, models: int, size: int, has_step: bool) -> int | None:
    """Returns the bytes between the models of an array, `size` bytes each; other than `size` only where the operation
    takes a step. None: the array has another size, or gaps elsewhere."""
    if array.flags.c_contiguous and array.nbytes == models * size:
        return size
    if has_step and array.flags.c_contiguous and array.nbytes == size:
        return 0
    if has_step and array.nbytes == models * size and len(array) == models and array[0].flags.c_contiguous:
        return array.strides[0]
    return None


def sequence(calls: Iterable[Call]) -> tuple[Call, ...]:
    """Joins neighbouring KernelCalls into one call each; the others stay."""
    joined: list[Call] = []
    for ours, group in groupby(calls, lambda call: isinstance(call, KernelCall)):
        neighbours: list[Any] = list(group)
        joined += [program(neighbours)] if ours else neighbours
    return tuple(joined)


def program(calls: Sequence[KernelCall]) -> Call:
    """Binds some calls, one after the other, as one, which holds on to their arrays."""
    device = calls[0].device
    records = np.stack([call.record for call in calls])
    records[:, 2] = barriers(calls)
    work = sum(call.work for call in calls)
    threads, adaptive = device.threads if work >= PARALLEL_NS else 1, work < ALWAYS_PARALLEL_NS
    timing = (1, WARMUP, 0, 0)  # the fields that an adaptive program writes itself
    fields = np.array([records.ctypes.data, len(calls), threads, device.threads > 1, adaptive, *timing], np.int64)
    run = partial(device.library.run, ctypes.c_void_p(fields.ctypes.data))
    vars(run)["holds"] = (fields, records, [call.arrays for call in calls])
    return run


def barriers(calls: Sequence[KernelCall]) -> list[bool]:
    """Returns, for each call, whether all threads have to wait for each other before it."""
    found, since = [], list[MemoryAccess]()
    for call in calls:
        found.append(any(new.conflicts_with(old) for new in call.accesses for old in since))
        since = call.accesses[:] if found[-1] else since + call.accesses
    return found
