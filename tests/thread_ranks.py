"""Ranks that are threads of one process: for tests of what ranks tell each other, not of MPI or NCCL."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from gpu_backprop.backend.communicator import Communicator
from gpu_backprop.backend.formula import Array, Calls


class ThreadRank(Communicator):
    """A rank among threads, of which so many share a machine; None: all."""

    def __init__(self, rank: int, values: list[bytes], barrier: threading.Barrier, on_each: int | None) -> None:
        self.rank, self.ranks = rank, len(values)
        self.local_rank = rank if on_each is None else rank % on_each
        self._values, self._barrier = values, barrier

    def exchange(self, value: bytes) -> list[bytes]:
        self._values[self.rank] = value
        self._barrier.wait(30)
        found = list(self._values)
        self._barrier.wait(30)
        return found

    def all_reduce(self, device: Any, array: Array) -> Calls:
        def run() -> None:
            np.copyto(array, self.add_up(array))

        yield run


def run_ranks(ranks: int, work: Callable[[Communicator], Any], on_each: int | None = None) -> list[Any]:
    """Returns what the work of each rank returns; where one raises an error, so does this."""
    values, barrier = [b""] * ranks, threading.Barrier(ranks)

    def run(rank: int) -> Any:
        try:
            return work(ThreadRank(rank, values, barrier, on_each))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(ranks) as pool:
        futures = [pool.submit(run, rank) for rank in range(ranks)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]
