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
import socket
import sys
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cached_property, partial
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import (
    DeviceError,
    InputError,
    MissingExtraError,
    RankError,
    StateError,
    install,
    one_line,
)
from gpu_backprop.backend.formula import Array, Call, Calls
from gpu_backprop.backend.suggestions import explain_arguments

TIMEOUT = 60.0
"""Seconds that a rank waits for the others before it ends the job."""

NO_WAIT = nullcontext()
"""The context of one process, which waits for nobody: made once, since there is one around each step."""

GRACE = 2.0
"""Seconds after an error within which the other ranks have it too, if they are to have it: the longest step."""


class Communicator(ABC):
    """What a rank knows of the job, and does together with the others.

    Attributes:
        rank, ranks: its number, from 0, and how many there are.
        local_rank: its number among those of the same machine.
        machines: how many machines they are on, as far as it is known.
        timeout: the seconds after which a rank that waits for the others ends the job.
    """

    rank, ranks, local_rank, machines = 0, 1, 0, 1
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

    @property
    def device(self) -> str:
        """The device for this rank's networks: "cuda:N", where the ranks of a machine take its CUDA devices in turn, or
        "cpu" where CUDA cannot be used."""
        opening = importlib.import_module("gpu_backprop.backend.open_device")  # which imports this module
        return str(opening.nth_device(self.local_rank))

    def on(self, device: Any) -> Communicator:
        """Returns what sums up arrays of this device: on CUDA devices it is `Nccl`. Every rank calls it.

        Raises:
            InputError: some ranks have a CUDA device and others the CPU, or two have the same CUDA device.
            DeviceError: NCCL is missing, or cannot be used.
        """
        if self.ranks == 1:
            return self
        found = [tuple(one) for one in self.gather([device.name, socket.gethostname(), device.bus_id])]
        if not any(bus for _, _, bus in found):
            return self
        _check_devices(found)
        places = tuple(found)
        if places not in self._opened:
            self._opened[places] = Nccl(self, device, len({host for _, host, _ in found}))
        return self._opened[places]

    @cached_property
    def _opened(self) -> dict[Any, Nccl]:
        """What sums up arrays on CUDA devices, by all ranks' devices: one for all networks there."""
        return {}

    def waiting(self, what: str) -> AbstractContextManager[None]:
        """The context in which a rank waits for others, or for a device that does: it lasts `timeout` at most."""
        return NO_WAIT

    def abort(self, code: int) -> None:
        """Ends all ranks at once, this one with a code; where there are no others, it does nothing."""
        return

    def leaves_alone(self, seconds: float = GRACE) -> bool:
        """Tells, where this rank is about to end, whether the others do not within so many seconds, so that it has to
        end them, and can do nothing together with them any more. It waits without keeping a processor at work."""
        return False

    def part(self, tell: Callable[[], object], code: int) -> None:
        """Is called where an error ends this rank: tells it, only once if all ranks have one, and ends the others with
        a code if they have none."""
        if self.rank == 0:
            tell()
        if self.leaves_alone():
            if self.rank:
                tell()
            self.abort(code)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """The context in which the first rank alone warns."""
        if self.rank == 0:
            yield
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield

    # The rows of a minibatch ------------------------------------------------------------------------------------------

    def bounds(self, rows: Any, rank: int) -> tuple[Any, Any]:
        """Returns where the share of a rank in so many rows begins and ends: an int, or an array of such."""
        return rows * rank // self.ranks, rows * (rank + 1) // self.ranks

    def share(self, rows: int) -> range:
        """Returns which of the rows of a minibatch are this rank's: as many as another's, or one more or less."""
        return range(*self.bounds(rows, self.rank))

    def places(self, batches: Sequence[int], rank: int | None = None) -> Array | None:
        """Returns which places of an epoch, made of minibatches of so many rows, are this rank's, or another's, in
        their order; None: all are."""
        if self.ranks == 1:
            return None
        sizes = np.asarray(batches, np.int64)
        starts, ends = self.bounds(sizes, self.rank if rank is None else rank)
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

    def gather_arrays(self, array: Array) -> list[Array]:
        """Gives every rank the host array of each, all of one dtype: flat, to read."""
        return [np.frombuffer(one, array.dtype) for one in self.exchange(np.ascontiguousarray(array).tobytes())]

    def add_up(self, array: Array) -> Array:
        """Returns the sum of a host array over the ranks, added in their order: the same bits everywhere."""
        if self.ranks == 1:
            return array
        first, *others = self.gather_arrays(array)
        total = first.copy()
        for one in others:
            total += one
        return total.reshape(array.shape)

    def first_reason(self, reason: str | None) -> str | None:
        """Returns why one of the ranks cannot do something, and which; None: all can."""
        if self.ranks == 1:
            return reason
        found = self.gather(reason)
        return next((f"rank {rank}: {one}" for rank, one in enumerate(found) if one is not None), None)

    @contextmanager
    def alike(self) -> Iterator[None]:
        """The context of something that may fail on one rank, such as to read a file: it fails on all of them then."""
        failed: Exception | None = None
        try:
            yield
        except RankError:
            raise
        except Exception as error:
            failed = error
        number = failed.errno or 0 if isinstance(failed, OSError) else None
        told = [number, getattr(failed, "strerror", None) or (failed and one_line(failed))]
        found = [] if self.ranks == 1 else self.gather(told)
        if failed is not None:
            raise failed
        for rank, (number, reason) in enumerate(found):
            if reason is not None:
                said = f"rank {rank}: {reason}"
                if number is None:
                    raise InputError(said)
                raise OSError(number, said) if number else OSError(said)

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


def _check_devices(found: Sequence[tuple[str, str, str]]) -> None:
    """Raises InputError unless each rank has a CUDA device of its own, of (its name, the machine, its PCI bus id)."""
    choose = "Give each rank its own with device=communicator.device, which is cuda:N by its number in the machine"
    for rank, (name, host, bus) in enumerate(found):
        if not bus:
            raise InputError(
                f"the networks of some ranks are on CUDA devices, and that of rank {rank} on {name}. {choose}."
            )
        first = found.index(next(one for one in found if one[1:] == (host, bus)))
        if first != rank:
            raise InputError(
                f"the networks of ranks {first} and {rank} are both on {name} of {host}, and NCCL takes one rank a "
                f"device. {choose}; start as many ranks as the machine has devices."
            )


class Alone(Communicator):
    """One process, and no others."""

    def exchange(self, value: bytes) -> list[bytes]:
        return [value]

    def all_reduce(self, device: Any, array: Array) -> Calls:
        yield from ()


ALONE = Alone()


def communicator_of(given: Communicator | None) -> Communicator:
    """Returns the communicator that was given, or that of one process; raises InputError for anything else."""
    if given is not None and not isinstance(given, Communicator):
        raise InputError(f"communicator must be gb.mpi(), gb.distributed() or None, got {given!r}.")
    return ALONE if given is None else given


class Watch(threading.Thread):
    """Ends a process one of whose threads has waited too long for others: a thread of its own, since what waits hangs
    in a library. It counts its looks, not seconds: there are none while a whole job is suspended."""

    def __init__(self, communicator: Peer) -> None:
        super().__init__(name="gpu_backprop ranks", daemon=True)
        self._communicator = communicator
        self._waits: dict[int, tuple[str, int] | None] = {}  # by thread: for what, and at which look it began
        self._looks = 0

    def begin(self, what: str) -> tuple[str, int] | None:
        """Counts from here on for this thread; returns what was counted before."""
        thread = threading.get_ident()
        before = self._waits.get(thread)
        self._waits[thread] = what, self._looks
        return before

    def end(self, before: tuple[str, int] | None = None) -> None:
        """Counts no more, or again what was counted before."""
        self._waits[threading.get_ident()] = before

    def run(self) -> None:
        me, timeout = self._communicator, self._communicator.timeout
        pause = min(1.0, timeout / 10)
        while True:
            time.sleep(pause)
            self._looks += 1
            lost = me.lost()
            if lost:
                time.sleep(GRACE)  # it may come to know by itself, and have something to save
                lost = me.lost()
            for what, begun in [waits for waits in list(self._waits.values()) if waits]:
                if (self._looks - begun) * pause > timeout:
                    lost = (
                        f"has waited {timeout:g} s for {what}: another rank has ended, or hangs. The job ends here; "
                        "where a rank may need longer, give a longer timeout"
                    )
            if lost:
                os.write(2, f"gpu_backprop: rank {me.rank} of {me.ranks} {lost}.\n".encode())
                me.abort(1)


class Peer(Communicator):
    """A process among others: what kinds of them have in common. Where an exception that nobody catches ends it, it
    ends the others too, which would wait for it."""

    def __init__(self, timeout: float) -> None:
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
            raise InputError(f"timeout must be a number of seconds above 0, got {timeout!r}.")
        self.timeout = float(timeout)
        self._watch, self._parted = Watch(self), False

    def _begin(self) -> None:
        """Begins to watch for ranks that end or hang."""
        if self.ranks == 1:
            return
        if math.isfinite(self.timeout):
            self._watch.start()
        before = sys.excepthook

        def end(kind: type[BaseException], error: BaseException, trace: Any) -> None:
            self.part(lambda: before(kind, error, trace), 130 if isinstance(error, KeyboardInterrupt) else 1)

        sys.excepthook = end

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        before = self._watch.begin(what)
        try:
            yield
        finally:
            self._watch.end(before)

    def exchange(self, value: bytes) -> list[bytes]:
        if self._parted:
            raise StateError("this rank has ended by an error, and can do nothing together with the others.")
        with self.waiting("the other ranks"):
            return self._exchange(value)

    def all_reduce(self, device: Any, array: Array) -> Calls:
        add, watch = self._adding(array), self._watch

        def run() -> None:
            before = watch.begin("the sum over the ranks")
            try:
                add()
            finally:
                watch.end(before)

        yield run

    def leaves_alone(self, seconds: float = GRACE) -> bool:
        self._parted = self._parted or (self.ranks > 1 and not self._meet(seconds))
        return self._parted

    def abort(self, code: int) -> None:
        if self.ranks == 1:
            return
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        last = threading.Timer(GRACE, os._exit, [code])  # should what ends the others hang
        last.daemon = True
        last.start()
        self._end_all(code)
        os._exit(code)

    def lost(self) -> str:
        """Tells that a rank is known to be gone, of which this one knows nothing yet; or nothing."""
        return ""

    @abstractmethod
    def _exchange(self, value: bytes) -> list[bytes]:
        """Does it."""

    @abstractmethod
    def _adding(self, array: Array) -> Callable[[], object]:
        """Returns what adds up an array over the ranks, in place."""

    @abstractmethod
    def _meet(self, seconds: float) -> bool:
        """Tells whether all ranks come here within so many seconds."""

    @abstractmethod
    def _end_all(self, code: int) -> None:
        """Ends the other ranks."""


class Mpi(Peer):
    """The processes that an MPI launcher has started, such as mpiexec; by mpi4py.

    Args:
        timeout: see Communicator.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        super().__init__(timeout)
        try:
            mpi = importlib.import_module("mpi4py.MPI")
        except ImportError as error:
            raise MissingExtraError(f"MPI needs mpi4py ({error}): {install('mpi')}.") from None
        self._mpi, self._comm = mpi, mpi.COMM_WORLD.Dup()  # of our own: nobody else's messages are among ours
        self._farewell = self._comm.Dup()
        self.rank, self.ranks = self._comm.Get_rank(), self._comm.Get_size()
        local = self._comm.Split_type(mpi.COMM_TYPE_SHARED)
        self.local_rank = local.Get_rank()
        local.Free()
        self._begin()

    def _exchange(self, value: bytes) -> list[bytes]:
        sizes = np.empty(self.ranks, np.int64)
        self._comm.Allgather(np.array([len(value)]), sizes)
        found = bytearray(int(sizes.sum()))
        ends = np.cumsum(sizes)
        self._comm.Allgatherv(value, [found, sizes, ends - sizes, self._mpi.BYTE])
        return [bytes(found[end - size : end]) for size, end in zip(sizes.tolist(), ends.tolist(), strict=True)]

    def _adding(self, array: Array) -> Callable[[], object]:
        return partial(self._comm.Allreduce, self._mpi.IN_PLACE, array)

    def _meet(self, seconds: float) -> bool:
        request, until = self._farewell.Ibarrier(), time.monotonic() + seconds
        while not request.Test():
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
        return True

    def _end_all(self, code: int) -> None:
        self._comm.Abort(code)


class Nccl(Communicator):
    """The ranks of another communicator, each with a CUDA device of its own, whose arrays NCCL sums up there.

    Args:
        host: what they do in common on their hosts.
        device: this rank's.
        machines: see Communicator.

    Raises:
        DeviceError: NCCL is missing on one of them, or cannot be used.
    """

    def __init__(self, host: Communicator, device: Any, machines: int) -> None:
        self._host, self.machines = host, machines
        self.rank, self.ranks, self.local_rank, self.timeout = host.rank, host.ranks, host.local_rank, host.timeout
        self._nccl, unique, reason = _load_nccl(self.rank == 0)
        if (why := host.first_reason(reason)) is not None:
            raise DeviceError(f"gradients on CUDA devices are summed up by NCCL, which cannot be used: {why}.")
        (unique, *_) = host.exchange(unique)
        try:
            with self.waiting("the other ranks, to open NCCL"), device.computing():
                self._communicator = self._nccl.NcclCommunicator(self.ranks, unique, self.rank)
        except Exception as error:  # of NCCL; NcclError itself fails at a status that it does not know
            raise DeviceError(f"{device.name}: NCCL cannot connect the {self.ranks} ranks: {_told(error)}") from error
        self._types = {"float32": self._nccl.NCCL_FLOAT32, "float64": self._nccl.NCCL_FLOAT64}
        device.watch_waits(self.waiting)

    def on(self, device: Any) -> Communicator:
        return self._host.on(device)

    def exchange(self, value: bytes) -> list[bytes]:
        return self._host.exchange(value)

    def leaves_alone(self, seconds: float = GRACE) -> bool:
        return self._host.leaves_alone(seconds)

    def abort(self, code: int) -> None:
        self._host.abort(code)  # the process ends, and with it what NCCL does on the device: its own abort may hang

    def all_reduce(self, device: Any, array: Array) -> Calls:
        place, kind = device.address(array), self._types[array.dtype.name]
        reduce, add = self._communicator.allReduce, self._nccl.NCCL_SUM

        def on(stream: Any) -> Call:
            call: Call = partial(reduce, place, place, array.size, kind, add, stream.ptr)
            vars(call)["holds"] = array, stream
            return call

        call = on(device.stream)
        vars(call)["on"] = on
        yield call

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        with self._host.waiting(what):
            try:
                yield
            except DeviceError:
                raise
            except RuntimeError as error:  # of CUDA, which says no more than that a launch has failed, or of NCCL
                self._explain(error)
                raise

    def _explain(self, error: Exception) -> None:
        """Raises DeviceError where NCCL knows why the device has failed."""
        try:
            self._communicator.check_async_error()
        except Exception as known:
            raise DeviceError(
                f"rank {self.rank} of {self.ranks}: the sum over the ranks has failed, since another rank has ended, "
                f"does not answer, or sums up something else ({_told(known)})."
            ) from error


def _load_nccl(makes_id: bool) -> tuple[Any, bytes, str | None]:
    """Returns CuPy's nccl; the id of a new communicator, where that is asked for; and why that cannot be, or None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy warns where the library is missing
        nccl = importlib.import_module("cupy.cuda.nccl")
    if not nccl.available:
        return nccl, b"", "it is not installed; `pip install nvidia-nccl-cu13` (-cu12 beside cupy-cuda12x) brings it"
    try:
        return nccl, nccl.get_unique_id() if makes_id else b"", None
    except Exception as error:
        return nccl, b"", _told(error)


def _told(error: Exception) -> str:
    return f"{one_line(error)}; with NCCL_DEBUG=WARN in the environment it says more"


@explain_arguments
def mpi(timeout: float = TIMEOUT) -> Communicator:
    """Returns the communicator of the processes that an MPI launcher has started: `mpiexec -n 4 python train.py`, with
    gb.Trainer(..., communicator=gb.mpi()). On CUDA devices their gradients are summed up by NCCL.

    Args:
        timeout: how many seconds a rank waits for the others before it ends the job.

    Raises:
        InputError: the timeout is no number above 0.
        MissingExtraError: mpi4py, or an MPI library, is not installed.
    """
    return Mpi(timeout)
