"""Communicator: the ranks of a job, processes that train one network together, and the few things that they do in
common.

Every rank makes the same calls in the same order, and has the same parameters at the same step. What differs is which
rows of a minibatch it works through: see `share`. Data on the device are summed up by an operation of the plan
(`all_reduce`), what lies on the host by `exchange` and what is built on it.

This module alone imports mpi4py and CuPy's nccl, when they are asked for.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import InputError, MissingExtraError, install
from gpu_backprop.backend.formula import Array, Calls
from gpu_backprop.backend.suggestions import explain_arguments

TIMEOUT = 60.0
"""Seconds that a rank waits for the others before it ends the job."""


class Communicator(ABC):
    """What a rank knows of the job, and does together with the others.

    Attributes:
        rank, ranks: its number, from 0, and how many there are.
        local_rank: its number among those of the same machine.
        timeout: the seconds after which a rank that waits for the others ends the job.
    """

    rank, ranks, local_rank = 0, 1, 0
    timeout = TIMEOUT

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rank {self.rank} of {self.ranks})"

    # What each kind has of its own ------------------------------------------------------------------------------------

    @abstractmethod
    def exchange(self, value: bytes) -> list[bytes]:
        """Gives every rank the value of each, in their order; waits for all of them."""

    @abstractmethod
    def all_reduce(self, device: Any, array: Array) -> Calls:
        """Yields the bound calls that make of an array of the device the sum of those of all ranks, in place: the same
        bits on every rank, and whenever so many ranks do it."""

    def on(self, device: Any) -> Communicator:
        """Returns what sums up arrays of this device; every rank calls it."""
        return self

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """The context in which a rank waits for others, or for a device that does: it lasts `timeout` at most."""
        yield

    def abort(self, code: int) -> None:
        """Ends all ranks at once, where it can; there may be no others."""
        return

    def leaves_alone(self) -> bool:
        """Tells, where this rank is about to end by an error, whether the others do not, so that it has to end them."""
        return False

    # The rows of a minibatch ------------------------------------------------------------------------------------------

    def share(self, rows: int) -> range:
        """Returns which of the rows of a minibatch are this rank's: as many as another's, or one more or less."""
        return range(rows * self.rank // self.ranks, rows * (self.rank + 1) // self.ranks)

    def places(self, batches: Sequence[int], rank: int | None = None) -> Array | None:
        """Returns which places of an epoch, made of minibatches of so many rows, are this rank's, or another's, in
        their order; None: all are."""
        if self.ranks == 1:
            return None
        sizes, rank = np.asarray(batches, np.int64), self.rank if rank is None else rank
        starts, ends = sizes * rank // self.ranks, sizes * (rank + 1) // self.ranks
        first = np.cumsum(sizes) - sizes + starts
        counts = ends - starts
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.asarray(np.repeat(first, counts) + within)

    # What is built on exchange ----------------------------------------------------------------------------------------

    def gather(self, value: Any) -> list[Any]:
        """Gives every rank the value of each: plain data, as JSON has them."""
        return [json.loads(one) for one in self.exchange(json.dumps(value).encode())]

    def agree(self, value: Any) -> Any:
        """Gives every rank the value of the first."""
        return value if self.ranks == 1 else self.gather(value if self.rank == 0 else None)[0]

    def any(self, flag: bool) -> bool:
        """Tells whether it is so on any rank."""
        return bool(flag) if self.ranks == 1 else b"\1" in self.exchange(bytes([flag]))

    def add_up(self, array: Array) -> Array:
        """Returns the sum of a host array over the ranks, added in their order: the same bits everywhere."""
        if self.ranks == 1:
            return array
        found = [np.frombuffer(one, array.dtype) for one in self.exchange(np.ascontiguousarray(array).tobytes())]
        total = found[0].copy()
        for one in found[1:]:
            total += one
        return total.reshape(array.shape)

    def first_reason(self, reason: str | None) -> str | None:
        """Returns why one of the ranks cannot do something, and which; None: all can."""
        if self.ranks == 1:
            return reason
        found = self.gather(reason)
        return next((f"rank {rank}: {one}" for rank, one in enumerate(found) if one is not None), None)

    def check_same(self, facts: Mapping[str, Any], error: Exception | None = None) -> None:
        """Raises InputError, on every rank, where what decides what they learn is not the same on all.

        Args:
            facts: plain data, by the name that a message has for each.
            error: what this rank has failed by already; the others are told.
        """
        if self.ranks == 1:
            return
        found = self.gather({"error": None if error is None else f"{error}", "facts": dict(_flat(facts))})
        if failed := [f"rank {rank}: {one['error']}" for rank, one in enumerate(found) if one["error"] is not None]:
            if error is None:
                raise InputError(f"another rank cannot begin: {'; '.join(failed)}")
            return
        first = found[0]["facts"]
        told = [
            f"{name} is {_shown(one['facts'].get(name))} on rank {rank} and {_shown(first.get(name))} on rank 0"
            for rank, one in enumerate(found)
            for name in {**first, **one["facts"]}
            if one["facts"].get(name) != first.get(name)
        ]
        if told:
            more = f"; and {len(told) - 6} more" if len(told) > 6 else ""
            raise InputError(
                f"the ranks do not train the same: {'; '.join(told[:6])}{more}. Every rank has to be given the same."
            )


def _flat(facts: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """Yields all that is in mappings within each other, by names such as "trainer loss name"."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{within}{name} ")
        else:
            yield f"{within}{name}", value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


class Alone(Communicator):
    """One process, and no others."""

    def exchange(self, value: bytes) -> list[bytes]:
        return [value]

    def all_reduce(self, device: Any, array: Array) -> Calls:
        yield from ()


ALONE = Alone()


class Watch(threading.Thread):
    """Ends a process that has waited too long for others: a thread, since what waits hangs in a library."""

    def __init__(self, communicator: Communicator) -> None:
        super().__init__(name="gpu_backprop ranks", daemon=True)
        self._communicator = communicator
        self._waits: tuple[float, str] | None = None

    def begin(self, what: str) -> tuple[float, str] | None:
        """Counts from here on; returns what was counted before."""
        before = self._waits
        self._waits = time.monotonic(), what
        return before

    def end(self, before: tuple[float, str] | None = None) -> None:
        """Counts no more, or what was counted before."""
        self._waits = before

    def run(self) -> None:
        timeout, me = self._communicator.timeout, self._communicator
        while True:
            time.sleep(min(1.0, timeout / 10))
            waits = self._waits
            if waits is None or time.monotonic() - waits[0] < timeout:
                continue
            told = (
                f"gpu_backprop: rank {me.rank} of {me.ranks} has waited {timeout:g} s for {waits[1]}: another rank has "
                "ended, or hangs. The job ends here; where a rank may need longer, give a longer timeout.\n"
            )
            os.write(2, told.encode())
            me.abort(1)
            os._exit(1)


class Mpi(Communicator):
    """The processes that an MPI launcher has started, such as mpiexec; by mpi4py.

    Where an exception ends a rank, it ends the others too.

    Args:
        timeout: see Communicator.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        try:
            mpi = importlib.import_module("mpi4py.MPI")
        except ImportError as error:
            raise MissingExtraError(f"MPI needs mpi4py ({error}): {install('mpi')}.") from None
        self._mpi, self._comm = mpi, mpi.COMM_WORLD.Dup()  # of our own: nobody else's messages are among ours
        self._farewell = self._comm.Dup()
        self.rank, self.ranks, self.timeout = self._comm.Get_rank(), self._comm.Get_size(), timeout
        local = self._comm.Split_type(mpi.COMM_TYPE_SHARED)
        self.local_rank = local.Get_rank()
        local.Free()
        self._watch = Watch(self)
        if self.ranks > 1:
            if math.isfinite(timeout):
                self._watch.start()
            self._hook()

    def _hook(self) -> None:
        """Lets an exception that nobody catches end all ranks: else the others would wait, and this one for them."""
        before = sys.excepthook

        def end(kind: Any, error: Any, trace: Any) -> None:
            before(kind, error, trace)
            sys.stderr.flush()
            self.abort(1)

        sys.excepthook = end

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        before = self._watch.begin(what)
        try:
            yield
        finally:
            self._watch.end(before)

    def exchange(self, value: bytes) -> list[bytes]:
        comm, ranks, watch = self._comm, self.ranks, self._watch
        before = watch.begin("the other ranks")
        sizes = np.empty(ranks, np.int64)
        comm.Allgather(np.array([len(value)]), sizes)
        found = bytearray(int(sizes.sum()))
        ends = np.cumsum(sizes)
        comm.Allgatherv(value, [found, sizes, ends - sizes, self._mpi.BYTE])
        watch.end(before)
        return [bytes(found[end - size : end]) for size, end in zip(sizes.tolist(), ends.tolist(), strict=True)]

    def all_reduce(self, device: Any, array: Array) -> Calls:
        reduce, watch = self._comm.Allreduce, self._watch
        here = self._mpi.IN_PLACE

        def run() -> None:
            watch.begin("the sum over the ranks")
            reduce(here, array)
            watch.end()

        yield run

    def abort(self, code: int) -> None:
        self._comm.Abort(code)

    def leaves_alone(self) -> bool:
        request, until = self._farewell.Ibarrier(), time.monotonic() + 1
        while not request.Test():
            if time.monotonic() > until:
                return True
            time.sleep(0.01)
        return False


@explain_arguments
def mpi(timeout: float = TIMEOUT) -> Communicator:
    """Returns the communicator of the processes that an MPI launcher has started: `mpiexec -n 4 python train.py`, with
    gb.Trainer(..., communicator=gb.mpi()). On CUDA devices their gradients are summed up by NCCL.

    Args:
        timeout: how many seconds a rank waits for the others before it ends the job.

    Raises:
        MissingExtraError: mpi4py, or an MPI library, is not installed.
    """
    return Mpi(timeout)
