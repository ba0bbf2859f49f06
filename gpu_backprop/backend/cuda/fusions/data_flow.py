"""Finds out which operations hand a value on: by the arrays that they write and read, not by where they stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.operation import Operation
from gpu_backprop.backend.plan import Plan


def same(plan: Plan, a: Array | None, b: Array | None) -> bool:
    """Tells whether two arrays are one buffer: they begin at one address, as a transposed view does."""
    return a is not None and b is not None and plan.device.address(a) == plan.device.address(b)


def touches(plan: Plan, operation: Operation, array: Array) -> tuple[bool, bool]:
    """Tells whether an operation reads a buffer, and whether it writes it."""
    reads, writes = (any(same(plan, a, array) for a in b.values()) for b in (operation.reads, operation.writes))
    return reads, writes


def users(plan: Plan, operations: Sequence[Operation], place: int, array: Array) -> Iterator[int]:
    """Yields the places of the operations that read what the operation at `place` leaves in a buffer, in order; the
    last of them may overwrite it."""
    for later, operation in enumerate(islice(operations, place + 1, None), place + 1):
        reads, writes = touches(plan, operation, array)
        if reads:
            yield later
        if writes:
            return


def writer(plan: Plan, operations: Sequence[Operation], place: int, array: Array) -> int | None:
    """Returns the place of the operation that made what the one at `place` finds in a buffer; None: there is none."""
    return next((p for p in reversed(range(place)) if touches(plan, operations[p], array)[1]), None)


def independent(plan: Plan, one: Operation, other: Operation) -> bool:
    """Tells whether two operations may change places: neither writes what the other reads or writes."""
    written = [(array, other) for array in one.writes.values()] + [(array, one) for array in other.writes.values()]
    return not any(any(touches(plan, operation, array)) for array, operation in written)
