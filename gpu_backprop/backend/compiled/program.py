"""A plan's operations as one call: what a CUDA graph is on a GPU.

A KernelCall is one operation of kernels/cpu with all its arguments. Neighbours become a Program, which is one call from
Python. kernels/cpu/program.cpp runs it.

All threads go through the list, and split each operation. They wait for each other, between two segments of it, only
before an operation that accesses memory which another thread may be using: where it and one in the segment overlap and
one of them writes. None is needed where one thread does both, or where both access it by rows and in the same parts.

With at least as many members as threads, each thread takes one member at a time through the whole list, see `Members`.
What a member learns then has the same bits as what it learns alone on one thread, but for what NumPy rounds otherwise
where it does a part of a plan.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from itertools import groupby, pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from gpu_backprop.backend.compiled.library import CpuLibrary
from gpu_backprop.backend.formula import Array, Call
from gpu_backprop.backend.kernel_text import Row
from gpu_backprop.backend.signatures import Parameter

HEAD = 2
"""The 8-byte numbers before the slots of struct KernelCall in program.cpp."""

LEARNED = "level", "trials", "due", "rest", "usual", "fewer", "lost", "late"
"""The fields of struct Program there in which a program finds out how many threads are worth it."""

FIELDS = (
    "calls", "count", "segments", "segment_count", "threads", *LEARNED, "repeats", "members", "next", "own", "pointers",
    "pointer_count", "counters", "counter_count", "counts", "room", "row_slots", "row_slot_count", "rows", "block",
)  # fmt: skip
"""All its fields, 8 bytes each."""

PLACES = {name: place for place, name in enumerate(FIELDS)}

COUNTER = 8
"""The bytes of a number that all members count alike."""

DTYPES = {"double": "float64", "i64": "int64"}
"""By the type of a pointer; `real` is the dtype of the library."""

SPLIT_NS = 200
"""The work, in nanoseconds, from which an operation is split among the threads."""

PARALLEL_NS = 12_000
"""The work of a program, in nanoseconds, from which it may run on the threads."""

SURELY_PARALLEL_NS = 500_000
"""The work, in nanoseconds, from which all threads are worth it where the cores are free: a program of less begins with
a trial of half of them; one of more runs TRIED_AFTER times before."""

TRIED_AFTER = 10
"""So many runs."""

AT_ONCE_NS = 1e8
"""The work, in nanoseconds, of a call that runs a program several times: Ctrl-C waits for its end."""

FEW_AT_ONCE, MOST_AT_ONCE = 4, 64
"""How many times such a call runs a program for one member after the other, whose weights come into the cache once in
so many times: at least, and at most, for more do not make it faster."""

ROWS_AT_ONCE = 8
"""The most times where threads share the rows: what is measured to be faster is to be found out soon."""

ROWS = "rows", "m"
"""The parameters that say how many rows an operation has; of a product in a backward pass, m may be something else."""

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
    """Memory that a call reads or writes: `size` bytes of each model, `stride` bytes from one to the next. What has an
    axis before that of the models is as many models more."""

    begin: int
    size: int
    stride: int
    models: int
    written: bool
    rows: int  # of each model, where each part accesses its own rows; else 0
    parts: int
    slot: int  # of the pointer
    member: int  # the bytes from one member's to the next one's; 0: it is one for all
    thread: int  # and from one thread's to the next one's

    @property
    def end(self) -> int:
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
        self.models = int(arguments.get("models", 1))  # type: ignore[arg-type]
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
                integers[k], found[f"{p.name}_step"] = self._pointer(k, p, arguments, p.name in steps)
        for k, p in enumerate(head.parameters):
            if not p.pointer:
                (integers if p.type == "i64" else numbers)[k] = found[p.name]
        self.row_slots = [HEAD + k for k, p in enumerate(head.parameters) if p.name in ROWS]
        self.of_member = self.record.copy()
        self.of_member[HEAD:][[k for k, p in enumerate(head.parameters) if p.name == "models"]] = 1

    def __call__(self) -> None:
        self._alone()

    def reset(self) -> None:
        """Sets its counters to 0, as each whole run leaves them."""
        for counter in self._counters:
            counter[...] = 0

    @cached_property
    def _alone(self) -> Call:
        return program([self])

    def _pointer(self, slot: int, p: Parameter, arguments: Mapping[str, Any], has_step: bool) -> tuple[int, int]:
        """Returns an array's address and the elements between its models, and notes the access."""
        array = arguments[p.name]
        if array is None and p.nullable:
            return 0, 0
        dtype = self.device.library.dtype if p.type == "real" else DTYPES.get(p.type)
        if not isinstance(array, np.ndarray) or array.dtype != (dtype or array.dtype):
            raise UnsupportedArguments(f"{self.name}: {p.name} is no array of {p.type}")
        if not array.flags.aligned or not (p.constant or array.flags.writeable):
            raise UnsupportedArguments(f"{self.name}: {p.name} cannot be read or written as it is")
        shape = p.shape or ()
        sizes = [int(entry) if entry.isdecimal() else int(arguments[entry]) for entry in shape]
        each = "models" in shape
        axis = shape.index("models") if each else 0
        before, models, sizes = math.prod(sizes[:axis]), sizes[axis] if each else 1, sizes[axis + each :]
        item = 1 if p.type == "u8" else array.itemsize
        size = math.prod(sizes) * item
        stride = _stride(array, before, models, size, has_step)
        if stride is None:
            raise UnsupportedArguments(f"{self.name}: {p.name} has the shape {array.shape}, strides {array.strides}")
        begin = int(array.__array_interface__["data"][0])
        thread = array.nbytes // self.device.threads if shape[:1] == ("threads",) else 0
        member = stride if models > 1 and not thread else 0
        pieces = (size, stride, before * models) if stride else (before * size, 0, 1)
        rows = sizes[0] if p.by_rows else 0
        self.arrays.append(array)
        self.accesses.append(MemoryAccess(begin, *pieces, not p.constant, rows, self.parts, slot, member, thread))
        return begin, stride // item


def _stride(array: Array, before: int, models: int, size: int, has_step: bool) -> int | None:
    """Returns the bytes between the models of an array, `size` bytes each, so many times; other than `size` only where
    the operation takes a step. None: the array has another size, or gaps elsewhere."""
    if array.flags.c_contiguous and array.nbytes == before * models * size:
        return size
    if has_step and array.flags.c_contiguous and array.nbytes == before * size:
        return 0
    if has_step and array.nbytes == models * size and len(array) == models and array[0].flags.c_contiguous:
        return array.strides[0]
    return None


def sequence(calls: Iterable[Call], repeats: int = 1) -> tuple[Call, ...]:
    """Joins neighbouring KernelCalls into one call each; the others stay. All of it so many times: where it is a single
    program, that is still one call."""
    groups: list[tuple[bool, list[Any]]] = [
        (ours, list(group)) for ours, group in groupby(calls, lambda call: isinstance(call, KernelCall))
    ]
    inside = repeats if [ours for ours, _ in groups] == [True] else 1
    joined: list[Call] = []
    for ours, neighbours in groups:
        joined += [program(neighbours, inside)] if ours else neighbours
    return tuple(joined) * (repeats // inside)


def at_once(calls: Sequence[Call]) -> int:
    """Returns how many times `sequence` may do calls in one call: 1 where they are not a single program."""
    if not calls or not all(isinstance(call, KernelCall) for call in calls):
        return 1
    ours: list[Any] = list(calls)
    threads, models = ours[0].device.threads, max(call.models for call in ours)
    some = int(AT_ONCE_NS * threads / max(1, sum(call.work for call in ours)))
    few, most = (FEW_AT_ONCE, MOST_AT_ONCE) if models > 1 and models >= threads else (1, ROWS_AT_ONCE)
    return min(most, max(few, some))


def program(calls: Sequence[KernelCall], repeats: int = 1) -> Call:
    """Binds some calls, one after the other, as one, which holds on to their arrays; all of them so many times."""
    device = calls[0].device
    members = Members.of(calls)
    work = sum(call.work for call in calls) * (repeats if members else 1)  # else threads wait for each other every time
    threads = device.threads if work >= PARALLEL_NS else 1
    numbers = segments(calls) if threads > 1 and not members else [0] * len(calls)
    calls = [calls[k] for k in sorted(range(len(calls)), key=numbers.__getitem__)]
    ends = np.cumsum(np.bincount(numbers)).tolist()
    cuts = np.array(
        [(begin, end, max(call.parts for call in calls[begin:end])) for begin, end in pairwise([0, *ends])], np.int64
    )
    records = np.stack([call.record for call in calls])
    fields = np.zeros(len(FIELDS), np.int64)
    put(
        fields, calls=records.ctypes.data, count=len(calls), segments=cuts.ctypes.data, segment_count=len(cuts),
        repeats=repeats, **threads_of(work, threads), **(members.fields if members else {}),
    )  # fmt: skip
    run = partial(device.library.run, ctypes.c_void_p(fields.ctypes.data))
    vars(run)["holds"] = (fields, (records, cuts), [call.arrays for call in calls], members)
    return run


def put(fields: Array, **values: int) -> None:
    """Writes some fields of a struct Program."""
    for name, value in values.items():
        fields[PLACES[name]] = value


def threads_of(work: float, threads: int) -> dict[str, int]:
    """Returns the fields of a program that begins on so many threads, of which it has learned nothing yet."""
    due = 0 if work < SURELY_PARALLEL_NS else int(TRIED_AFTER * work / threads)  # nanoseconds of runs
    return dict.fromkeys(LEARNED, 0) | {"threads": threads, "level": threads, "due": due}


def segments(calls: Sequence[KernelCall]) -> list[int]:
    """Returns, for each call, the number of its segment: between two of them all threads wait for each other.

    A call goes ahead of others where it does not depend on them: by rows all layers go forward and back, and then what
    adds up over the rows has waited once."""
    depends, conflicts = _relations(calls)
    found, left, number = [0] * len(calls), [*range(len(calls))], 0
    while left:
        inside, later = list[int](), list[int]()
        for k in left:
            waits = depends[k, later].any() or conflicts[k, inside].any()
            (later if waits else inside).append(k)
        for k in inside:
            found[k] = number
        left, number = later, number + 1
    return found


def _relations(calls: Sequence[KernelCall]) -> tuple[Array, Array]:
    """Returns, for each two calls, whether they access the same memory, one of them writing, and whether it may be
    that of two threads."""
    listed = [(*a[:7], a.end) for call in calls for a in call.accesses]
    begin, size, stride, _, written, rows, parts, end = columns = np.array(listed).T
    other = columns[..., None]
    shift = (begin - other[0]) % np.maximum(stride, 1)  # views of one flat buffer: the models of one lie between the
    between = (stride > 0) & (stride == other[2]) & (shift >= other[1]) & (shift + size <= stride)  # other's
    depends = (begin < other[7]) & (other[0] < end) & ((written | other[4]) > 0) & ~between
    alike = np.delete(columns, [4, 7], 0)
    same = (rows > 0) & (alike[:, None] == alike[..., None]).all(0)
    conflicts = depends & ~same & ((parts > 1) | (other[6] > 1))
    first = np.cumsum([0, *(len(call.accesses) for call in calls[:-1])])
    of_calls = (np.logical_or.reduceat(np.logical_or.reduceat(a, first), first, axis=1) for a in (depends, conflicts))
    return next(of_calls), next(of_calls)


class Members:
    """How a program goes through its calls for one member after the other, each on one thread: the fields of struct
    Program for that.

    The arrays of calls differ by a member's step. Scratch memory is a thread's own, and so are the numbers that all
    members count alike, such as the cursor: each member begins at what they are before the run.
    """

    def __init__(self, calls: Sequence[KernelCall], count: int, counters: Sequence[int]) -> None:
        device, words, room = calls[0].device, len(calls[0].record), -(-len(counters) // 32) * 32  # on cache lines
        self.own = np.stack([[call.of_member for call in calls]] * device.threads)
        self.counters, self.counts = np.array(counters, np.int64), np.zeros((1 + device.threads, room), np.int64)
        self.pointers = np.array(
            [(k * words + HEAD + a.slot, a.member) for k, call in enumerate(calls) for a in call.accesses if a.member]
        )
        for thread, own in enumerate(self.own):
            place = {counter: self.counts[1 + thread, k:].ctypes.data for k, counter in enumerate(counters)}
            for record, call in zip(own, calls, strict=True):
                for a in call.accesses:
                    record[HEAD + a.slot] = place.get(a.begin, a.begin + thread * a.thread)
        arrays = {"own": self.own, "pointers": self.pointers, "counters": self.counters, "counts": self.counts}
        sizes = {"pointer_count": len(self.pointers), "counter_count": len(counters), "members": count, "room": room}
        self.fields = {name: array.ctypes.data for name, array in arrays.items()} | sizes

    @classmethod
    def of(cls, calls: Sequence[KernelCall]) -> Members | None:
        """Returns None where there are fewer members than threads, or where a call needs what another member's writes,
        as far as can be seen."""
        count = max(call.models for call in calls)
        if count == 1 or count < calls[0].device.threads or any(call.models not in (1, count) for call in calls):
            return None
        accesses = [access for call in calls for access in call.accesses]
        found = [(a.begin, a.size, a.end, a.member, a.thread, a.written) for a in accesses]
        begin, size, end, member, thread, written = np.array(found).T
        counted = (written > 0) & (member == 0) & (thread == 0)
        counters = np.unique(begin[counted])
        if (size[counted] != COUNTER).any():
            return None
        of_thread = (np.isin(begin, counters) | (thread > 0)) & (begin == begin[:, None]) & (size == size[:, None])
        shift = begin - begin[:, None]
        of_member = (member == member[:, None]) & (size + shift <= member) & (size[:, None] - shift <= member)
        overlap = (begin < end[:, None]) & (begin[:, None] < end) & (written > 0)
        return None if (overlap & ~of_member & ~of_thread).any() else cls(calls, count, counters.tolist())
