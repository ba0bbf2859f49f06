"""How ranks find each other: by what a launcher tells each of them in its environment; and, where that is not MPI, by
sockets."""

from __future__ import annotations

import atexit
import json
import math
import os
import re
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from gpu_backprop.backend.communicator import ALONE, TIMEOUT, Communicator, Peer, mpi
from gpu_backprop.backend.errors import InputError, MissingExtraError, RankError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.suggestions import explain_arguments

TORCHRUN = "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"
MPI = "PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK"
SLURM = "SLURM_PROCID", "SLURM_NTASKS"
"""What launchers set: torchrun all of its own; one of MPI's is set by mpiexec of MPICH, Intel and Microsoft, by Open
MPI, and by srun --mpi=pmix."""

SIZES = "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"
"""Where they say how many ranks there are."""

PORTS = 8
"""So many ports in a row are tried: another job of the machine may have the first."""

GREETING, GREETED_WITHIN = 1 << 10, 2.0
"""The most bytes and seconds that the greeting of a rank takes; who connects with anything else is no rank."""

LARGEST = 1 << 36
"""Bytes of a message, 64 GiB: of a larger one the length is damaged."""

VALUE, FAREWELL = b"v", b"f"
"""Kinds of messages."""

PEEK = socket.MSG_PEEK | socket.MSG_DONTWAIT if hasattr(socket, "MSG_DONTWAIT") else None
"""How to see whether a connection is closed while another thread may wait for it; on Windows there is no way."""

HEADER = struct.Struct("!cQ")


@explain_arguments
def distributed(timeout: float = TIMEOUT) -> Communicator:
    """Returns the communicator of the processes that a launcher has started, by what it has put into the environment:
    torchrun, an MPI launcher such as mpiexec, or Slurm's srun, with MPI or without. With
    gb.Trainer(..., communicator=gb.distributed()) they train one network together. On CUDA devices their gradients are
    summed up by NCCL. A launcher may have started one process only.

    Args:
        timeout: how many seconds a rank waits for the others before it ends the job.

    Raises:
        InputError: no launcher has started this process, or not all of the others have come in time.
        MissingExtraError: it was MPI, and mpi4py is not installed.
    """
    if all(name in os.environ for name in TORCHRUN):
        return _of_torchrun(timeout)
    slurm = all(name in os.environ for name in SLURM)
    if any(name in os.environ for name in MPI):
        try:
            found, size = mpi(timeout), next((_number(name) for name in SIZES if name in os.environ), 1)
        except MissingExtraError:
            if not slurm:
                raise
        else:
            if found.ranks > 1 or size == 1:
                return found
            if not slurm:
                raise InputError(
                    f"the launcher has started {size} ranks, and the MPI library of mpi4py knows of one: they are not "
                    "of the same MPI. Use the mpiexec of mpi4py's (pip install mpich), or build mpi4py with the other."
                )
    if slurm:
        return _of_slurm(timeout)
    raise InputError(
        "no launcher has started this process, so that it knows of no others. Begin the command line with "
        "mpiexec -n 4, torchrun --nproc-per-node 4 or srun -n 4; for one process, leave the ranks out."
    )


def _of_torchrun(timeout: float) -> Communicator:
    """Joins the ranks of torchrun, which itself may listen at its port, and of whatever sets the same variables."""
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    port = _number("MASTER_PORT") + served
    job = [os.environ.get(f"TORCHELASTIC_{name}", "") for name in ("RUN_ID", "RESTART_COUNT")]
    return _joined(
        _number("RANK"), _number("WORLD_SIZE"), os.environ["MASTER_ADDR"], port, f"{port} {job}",
        _number("LOCAL_RANK", 0), timeout,
    )  # fmt: skip


def _of_slurm(timeout: float) -> Communicator:
    """Joins the tasks of a step of Slurm, at the first of its nodes and a port that is made of its number."""
    job, step = _number("SLURM_JOB_ID", 0), _number("SLURM_STEP_ID", 0)
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST") or "localhost"
    return _joined(
        _number("SLURM_PROCID"), _number("SLURM_STEP_NUM_TASKS", _number("SLURM_NTASKS")), first_node(nodes),
        20_000 + (job + step) * PORTS % 12_000, f"Slurm {job}.{step}", _number("SLURM_LOCALID", 0), timeout,
    )  # fmt: skip


def _joined(
    rank: int, ranks: int, address: str, port: int, job: str, local_rank: int, timeout: float
) -> Communicator:  # fmt: skip
    if not 0 <= rank < ranks:
        raise InputError(f"the launcher calls this process rank {rank} of {ranks}: ranks are from 0 to {ranks - 1}.")
    return ALONE if ranks == 1 else Tcp(rank, ranks, address, range(port, port + PORTS), job, local_rank, timeout)


def first_node(nodes: str) -> str:
    """Returns the first of a list of nodes as Slurm writes it: node01 of node[01-03,7],other."""
    return re.sub(r"\[([^],-]*)[^]]*\]", r"\1", nodes).partition(",")[0]


def _number(name: str, otherwise: int | None = None) -> int:
    text = os.environ.get(name, "")
    if not text and otherwise is not None:
        return otherwise
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise InputError(f"{name} in the environment, which a launcher sets, is {text!r}, and must be a whole number.")
    return int(text)


class Tcp(Peer):
    """Ranks joined by sockets: each is connected to the first, which gathers what they have and gives it to all. It is
    for where there is no MPI, and to open NCCL; large arrays take long.

    Args:
        address, ports: where the first rank listens: at the first port that is free.
        job: what tells its ranks from others that may listen there.
        rank, ranks, local_rank, timeout: see Communicator. The others may come as late as that.
    """

    def __init__(
        self, rank: int, ranks: int, address: str, ports: Sequence[int], job: str, local_rank: int = 0,
        timeout: float = TIMEOUT,
    ) -> None:  # fmt: skip
        super().__init__(timeout)
        self.rank, self.ranks, self.local_rank = rank, ranks, local_rank
        self._wires: dict[int, socket.socket] = {}
        self._greeting = {"gpu_backprop ranks": 1, "job": job, "ranks": ranks}
        self._until = time.monotonic() + timeout
        if rank:
            self._wires[0] = self._call(address, ports)
        else:
            self._listen(address, ports)
        for wire in self._wires.values():
            wire.settimeout(None)
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._begin()
        atexit.register(self._leave)

    # How they find each other -----------------------------------------------------------------------------------------

    def _listen(self, address: str, ports: Sequence[int]) -> None:
        """Waits until all others have come."""
        with _open_server(address, ports) as server:
            while missing := sorted({*range(1, self.ranks)} - self._wires.keys()):
                try:
                    server.settimeout(max(0.01, self._until - time.monotonic()))
                    self._admit(server.accept()[0])
                except TimeoutError:
                    more = f" and {len(missing) - 1} more" if missing[1:] else ""
                    raise InputError(
                        f"rank {missing[0]}{more} of {self.ranks} {'have' if more else 'has'} not come to {address}, "
                        f"port {server.getsockname()[1]}, within {self.timeout:g} s: not started, cannot reach that "
                        "address, or needs a longer timeout."
                    ) from None

    def _admit(self, wire: socket.socket) -> None:
        """Takes a rank that has connected, or tells it why not."""
        try:
            wire.settimeout(GREETED_WITHIN)
            given = json.loads(_receive(wire, GREETING)[1])
            rank = given.pop("rank")
            refused = None
            if given != self._greeting:
                mine, other = dict(self._greeting), {name: given.get(name) for name in self._greeting}
                refused = "another job" if other.pop("job") != mine.pop("job") else f"{other}, and here {mine}"
            elif type(rank) is not int or rank in self._wires or not 0 < rank < self.ranks:
                refused = f"two processes say that they are rank {rank}"
            _send(wire, VALUE, json.dumps(refused).encode())
            if refused is None:
                self._wires[rank] = wire
                return
        except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RecursionError, RankError):
            pass  # no rank
        wire.close()

    def _call(self, address: str, ports: Sequence[int]) -> socket.socket:
        """Connects to the first rank, which may not listen yet."""
        greeting = json.dumps(self._greeting | {"rank": self.rank}).encode()
        last = "nobody listens there"
        while time.monotonic() < self._until:
            for port in ports:
                wire = None
                try:
                    wire = socket.create_connection((address, port), timeout=GREETED_WITHIN)
                    _send(wire, VALUE, greeting)
                    refused = json.loads(_receive(wire, GREETING)[1])
                except (OSError, EOFError, ValueError, RankError) as error:
                    last, refused = last if wire is None else f"port {port}: {error!r}", "another job"
                if wire is not None and refused is None:
                    return wire
                if wire is not None:
                    wire.close()
                if refused != "another job":
                    raise InputError(f"rank {self.rank} was refused by rank 0 at {address}: {refused}.")
            time.sleep(0.1)
        raise InputError(
            f"rank {self.rank} found no rank 0 at {address}, ports {ports[0]} to {ports[-1]}, within "
            f"{self.timeout:g} s ({last}): it was not started, cannot be reached at that address, or needs longer."
        )

    # What they do in common -------------------------------------------------------------------------------------------

    def _exchange(self, value: bytes) -> list[bytes]:
        return self._through_first(value, self.ranks, lambda found: found)

    def _adding(self, array: Array) -> Callable[[], object]:
        def add(found: list[bytes]) -> list[bytes]:
            total = np.frombuffer(found[0], array.dtype).copy()
            for one in found[1:]:
                total += np.frombuffer(one, array.dtype)
            return [total.tobytes()]

        def run() -> None:
            (total,) = self._through_first(array.tobytes(), 1, add)
            array[...] = np.frombuffer(total, array.dtype).reshape(array.shape)

        return run

    def _through_first(self, value: bytes, number: int, join: Callable[[list[bytes]], list[bytes]]) -> list[bytes]:
        """Gives every rank what the first one joins of the values of all, so many messages."""
        try:
            if self.rank:
                self._send(0, VALUE, value)
                return [self._receive(0) for _ in range(number)]
            joined = join([value, *self._gathered(self._receive)])
            for rank in self._wires:
                for one in joined:
                    self._send(rank, VALUE, one)
            return joined
        except RankError:
            self._parted = True
            raise

    def _gathered(self, receive: Callable[[int], Any], seconds: float = math.inf) -> list[Any]:
        """Returns what comes from each rank, in their order; that one has ended is noticed whoever is waited for."""
        found, until = dict[int, Any](), time.monotonic() + seconds
        with selectors.DefaultSelector() as ready:
            for rank, wire in self._wires.items():
                ready.register(wire, selectors.EVENT_READ, rank)
            while len(found) < len(self._wires):
                if not (now := ready.select(None if seconds == math.inf else max(0.0, until - time.monotonic()))):
                    raise RankError("a rank has not come.")
                for key, _ in now:
                    ready.unregister(key.fileobj)
                    found[key.data] = receive(key.data)
        return [found[rank] for rank in sorted(found)]

    def _receive(self, rank: int, kind: bytes = VALUE) -> bytes:
        with _connected(rank):
            given, value = _receive(self._wires[rank])
        if given != kind:
            raise RankError(f"rank {rank} ends, by an error of its own or before it has done what the others do.")
        return value

    def _send(self, rank: int, kind: bytes, value: bytes = b"") -> None:
        with _connected(rank):
            _send(self._wires[rank], kind, value)

    # How they end -----------------------------------------------------------------------------------------------------

    def _meet(self, seconds: float) -> bool:
        try:
            if self.rank == 0:
                self._gathered(lambda rank: self._receive(rank, FAREWELL), seconds)
            for rank in self._wires:
                self._send(rank, FAREWELL)
            if self.rank:
                self._wires[0].settimeout(None if seconds == math.inf else seconds)
                self._receive(0, FAREWELL)
                self._wires[0].settimeout(None)
        except RankError:
            return False
        return True

    def _leave(self) -> None:
        """Waits at the end of the process until all others come there, as MPI does: who finds a connection closed takes
        that for the end of the job."""
        self.leaves_alone(math.inf)
        self._close()

    def _close(self) -> None:
        wires, self._wires = self._wires, {}
        for wire in wires.values():
            with suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
            wire.close()

    def _end_all(self, code: int) -> None:
        self._close()

    def lost(self) -> str:
        if PEEK is None or self._parted:
            return ""
        for rank, wire in list(self._wires.items()):
            with suppress(OSError):
                if wire.recv(1, PEEK) == b"":
                    return f"finds that rank {rank} has ended; the job ends here"
        return ""


def _open_server(address: str, ports: Sequence[int]) -> socket.socket:
    """Listens at the first port that is free: from this machine alone where the address is of that kind."""
    place = "127.0.0.1" if address in ("localhost", "127.0.0.1") else ""
    dual = not place and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    for port in ports:
        try:
            return socket.create_server((place, port), family=family, dualstack_ipv6=dual)
        except OSError as error:
            last = error
    raise InputError(f"rank 0 cannot listen at any of the ports {ports[0]} to {ports[-1]}: {last.strerror}.")


@contextmanager
def _connected(rank: int) -> Iterator[None]:
    """The context of a message to a rank or from it, for which the connection may be closed."""
    try:
        yield
    except (OSError, EOFError) as error:
        why = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
        raise RankError(f"rank {rank} has ended, or was killed: its connection is closed{why}.") from error


def _send(wire: socket.socket, kind: bytes, value: bytes) -> None:
    wire.sendall(HEADER.pack(kind, len(value)))
    wire.sendall(value)


def _receive(wire: socket.socket, most: int = LARGEST) -> tuple[bytes, bytes]:
    """Returns the kind of the next message, and what it holds; EOFError where the connection ends."""
    kind, size = HEADER.unpack(_read(wire, HEADER.size))
    if size > most:
        raise RankError(f"a message of {size:,} bytes came, and {most:,} is the most.")
    return kind, _read(wire, size)


def _read(wire: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        some = wire.recv(min(size - len(found), 1 << 20))
        if not some:
            raise EOFError
        found += some
    return bytes(found)
