"""Ranks that are threads of this process: for tests of what ranks do together on the host."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from gpu_backprop.backend.communicator import Communicator
from gpu_backprop.backend.formula import Array, Calls

T = TypeVar("T")

SECONDS = 20
"""After which a rank no longer waits for one that makes no such call."""


class ThreadRank(Communicator):
    """A rank that is a thread, of which so many share a machine. All of a job have one list, and one barrier."""

    def __init__(self, rank: int, values: list[Any], barrier: threading.Barrier, on_each: int) -> None:
        self.rank, self.ranks, self.local_rank = rank, len(values), rank % on_each
        self._values, self._barrier = values, barrier

    def exchange(self, value: bytes) -> list[bytes]:
        return self._exchange(bytes(value))

    def _exchange(self, value: Any) -> list[Any]:
        self._values[self.rank] = value
        self._barrier.wait(SECONDS)
        found = list(self._values)
        self._barrier.wait(SECONDS)
        return found

    def all_reduce(self, device: Any, array: Array) -> Calls:
        def add() -> None:
            array[...] = sum(self._exchange(array.copy()))

        yield add


def on_threads(ranks: int, work: Callable[[Communicator], T], on_each: int | None = None) -> list[T]:
    """Calls it on so many ranks, and returns what each of them gives; raises what the first of them has raised."""
    values, barrier = [None] * ranks, threading.Barrier(ranks)

    def run(rank: int) -> T:
        try:
            return work(ThreadRank(rank, values, barrier, on_each or ranks))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(ranks) as pool:
        calls = [pool.submit(run, rank) for rank in range(ranks)]
    errors = [error for call in calls if (error := call.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [call.result() for call in calls]
