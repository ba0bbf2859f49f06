"""Ranks that are threads of this process: for tests of what ranks do together on the host."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from gpu_backprop.backend.communicator import Communicator
from gpu_backprop.backend.formula import Array, Calls

T = TypeVar("T")

SECONDS = 20
"""After which a rank no longer waits for one that makes no such call."""


class ThreadRank(Communicator):
    """A rank that is a thread. All of a job have one list, and one barrier."""

    def __init__(self, rank: int, ranks: int, values: list[Any], barrier: threading.Barrier) -> None:
        self.rank = self.local_rank = rank
        self.ranks = ranks
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


def on_threads(ranks: int, work: Callable[[Communicator], T]) -> list[T]:
    """Calls it on so many ranks, and returns what each of them gives; raises what the first of them has raised."""
    values: list[Any] = [None] * ranks
    barrier = threading.Barrier(ranks)
    with ThreadPoolExecutor(ranks) as pool:
        calls = [pool.submit(partial(work, ThreadRank(rank, ranks, values, barrier))) for rank in range(ranks)]
        for call in calls:
            if call.exception() is not None and not isinstance(call.exception(), threading.BrokenBarrierError):
                barrier.abort()
        return [call.result() for call in calls]
