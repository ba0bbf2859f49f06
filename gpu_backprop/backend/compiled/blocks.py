"""The calls of a plan for any number of rows, where each row is worked out by itself: threads take a block of them at a
time through all calls. What they work on stays in a core's cache, and the rows are read and written where they lie."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import partial
from itertools import accumulate

import numpy as np

from gpu_backprop.backend.compiled.program import AT_ONCE_NS, FIELDS, HEAD, PARALLEL_NS, KernelCall, put, threads_of
from gpu_backprop.backend.device import ALIGNMENT
from gpu_backprop.backend.formula import Array, Call

FEW = 8
"""Rows for each thread, below which the threads had better share each operation, if they are worth it."""


class Blocks:
    """Calls that make y of x, a block of rows, so that they do it for any number of rows.

    A block is a member of a Program. What the calls write besides y is each thread's own.
    """

    def __init__(self, calls: Sequence[KernelCall], x: Array, y: Array) -> None:
        device, self._x, self._y = calls[0].device, x, y
        self._threads, self._work = device.threads, sum(call.work for call in calls) / len(x)
        self._row = [array[:1].nbytes for array in (x, y)]
        self._own = [_address(array) for array in (x, y)]
        first = np.stack([call.of_member for call in calls])
        words = first.shape[1]
        places = [(k * words + HEAD + a.slot, a) for k, call in enumerate(calls) for a in call.accesses]
        written = sorted((a for _, a in places if a.written and a.begin != self._own[1]), key=lambda a: a.end)
        sizes = {a.begin: -(-(a.end - a.begin) // ALIGNMENT) * ALIGNMENT for a in written}
        *offsets, total = accumulate(sizes.values(), initial=0)
        offset = dict(zip(sizes, offsets, strict=True))
        own, memory = np.stack([first] * device.threads), np.zeros(device.threads * total + ALIGNMENT, np.uint8)
        for thread, records in enumerate(own):
            begin = _address(memory) // ALIGNMENT * ALIGNMENT + ALIGNMENT + thread * total
            for slot, a in places:
                if a.begin in offset:
                    records.reshape(-1)[slot] = begin + offset[a.begin]
        self._slots = [np.array([slot for slot, a in places if a.begin == begin]) for begin in self._own]
        self._pointers = pointers = np.array([(slot, 0) for slots in self._slots for slot in slots])
        self._bytes = np.repeat(self._row, [len(slots) for slots in self._slots])  # of a row at each pointer
        rows = np.array([k * words + slot for k, call in enumerate(calls) for slot in call.row_slots])
        self._fields = fields = np.zeros(len(FIELDS), np.int64)
        put(
            fields, calls=first.ctypes.data, count=len(calls), repeats=1, own=own.ctypes.data,
            pointers=pointers.ctypes.data, pointer_count=len(pointers), row_slots=rows.ctypes.data,
            row_slot_count=len(rows),
        )  # fmt: skip
        self._first = first.reshape(-1)
        self._call: Call = partial(device.library.run, ctypes.c_void_p(fields.ctypes.data))
        self._rows, self._lie = 0, list[int]()  # how many are shared out, and where they lie
        self._few = x, y  # as many of the block's own
        self._holds = own, rows, memory, [call.arrays for call in calls]

    @classmethod
    def of(cls, calls: Sequence[Call], x: Array, y: Array) -> Blocks | None:
        """Returns None where the calls are not ours alone, or not by rows, as far as can be seen; or where the threads
        had better share each of them."""
        ours = [call for call in calls if isinstance(call, KernelCall)]
        accesses, work = [a for call in ours for a in call.accesses], sum(call.work for call in ours)
        written = [a for a in accesses if a.written]
        if not ours or len(ours) < len(calls) or any(call.models > 1 or not call.row_slots for call in ours):
            return None
        if _address(y) not in {a.begin for a in written} or _address(x) in {a.begin for a in written}:
            return None
        if any(a.begin != w.begin and a.begin < w.end and w.begin < a.end for a in accesses for w in written):
            return None
        few = work >= PARALLEL_NS and len(x) < FEW * ours[0].device.threads
        return None if few else cls(ours, x, y)

    def takes(self, x: Array) -> bool:
        """Tells whether any number of rows of x can be read where they lie."""
        return isinstance(x, np.ndarray) and x.dtype == self._x.dtype and x.flags.c_contiguous and x.flags.aligned

    def few(self, x: Array) -> Array:
        """Returns y of x, no more rows than a block has: to copy them takes less time than to ask where they are."""
        if self._rows != len(x):
            self._share(len(x))
        own_x, own_y = self._few
        own_x[...] = x
        self._run(self._own)
        return own_y.copy()

    def __call__(self, x: Array, y: Array) -> None:
        """Makes y of x, which are read and written where they lie."""
        rows, most = len(x), len(self._x)
        x = x if self.takes(x) else np.ascontiguousarray(x, self._x.dtype)
        at, some = [_address(x), _address(y)], max(most, int(AT_ONCE_NS * self._threads / self._work))
        for begin in range(0, rows, some):
            count = min(some, rows - begin)
            if self._rows != count:
                self._share(count)
            self._run([a + begin * size for a, size in zip(at, self._row, strict=True)])

    def _run(self, lie: list[int]) -> None:
        """Does the calls for the rows that lie there."""
        if self._lie != lie:
            for slots, begin in zip(self._slots, lie, strict=True):
                self._first[slots] = begin
            self._lie = lie
        self._call()

    def _share(self, rows: int) -> None:
        """Shares so many rows out in blocks."""
        work = rows * self._work
        threads = self._threads if work >= PARALLEL_NS else 1
        block = min(len(self._x), -(-rows // threads))
        blocks = -(-rows // block)
        if blocks > threads:  # as many for each
            block = -(-rows // (-(-blocks // threads) * threads))
            blocks = -(-rows // block)
        put(self._fields, **threads_of(work, threads), members=blocks, rows=rows, block=block)
        self._pointers[:, 1] = block * self._bytes
        self._rows, self._few = rows, (self._x[:rows], self._y[:rows])


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])
