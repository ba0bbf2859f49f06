"""How ranks find each other: torchrun's and Slurm's environment, and the sockets that join them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import ClassVar

import numpy as np
import pytest
from failing import train
from ranks import environment, free_port, run_each, run_tcp

import gpu_backprop as gb
from gpu_backprop.backend import communicator, rendezvous
from gpu_backprop.backend.communicator import ALONE
from gpu_backprop.backend.rendezvous import HEADER, VALUE, Tcp


@pytest.fixture
def launched(monkeypatch):
    """Sets what a launcher would, and nothing else."""
    for name in (*rendezvous.TORCHRUN, *rendezvous.MPI, *rendezvous.SLURM, *rendezvous.SIZES):
        monkeypatch.delenv(name, raising=False)

    def put(**settings: object) -> None:
        for name, value in settings.items():
            monkeypatch.setenv(name, str(value))

    return put


@pytest.fixture
def joined(monkeypatch):
    """What distributed() would join by sockets."""
    found = []
    monkeypatch.setattr(rendezvous, "Tcp", lambda *given: found.append(given))
    return found


class TestEnvironment:
    def test_of_torchrun_which_listens_at_its_port_itself(self, launched, joined):
        launched(RANK=3, WORLD_SIZE=4, LOCAL_RANK=1, MASTER_ADDR="node7", MASTER_PORT=29500)
        gb.distributed(timeout=7)
        launched(TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RUN_ID="run")
        gb.distributed()
        (first, second) = joined
        assert first[:3] == second[:3] == (3, 4, "node7")
        assert [first[3][0], second[3][0]] == [29500, 29501]
        assert first[5:] == (1, 7) and "run" in second[4]

    def test_of_srun(self, launched, joined):
        launched(
            SLURM_PROCID=5, SLURM_NTASKS=6, SLURM_LOCALID=2, SLURM_JOB_ID=123456, SLURM_STEP_ID=1,
            SLURM_JOB_NODELIST="gpu[08-09]", SLURM_STEP_NODELIST="gpu[09,12]",
        )  # fmt: skip
        gb.distributed()
        launched(SLURM_STEP_ID=2)
        gb.distributed()
        assert joined[0][:3] == (5, 6, "gpu09") and joined[0][5] == 2
        assert joined[0][4] != joined[1][4] and not {*joined[0][3]} & {*joined[1][3]}
        assert all(20_000 <= port < 32_768 for given in joined for port in given[3])

    def test_srun_without_mpi4py_or_with_another_mpi_needs_none(self, launched, joined, monkeypatch):
        launched(SLURM_PROCID=0, SLURM_NTASKS=2, SLURM_JOB_ID=1, SLURM_STEP_NODELIST="a", PMIX_RANK=0)
        monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)
        gb.distributed()
        monkeypatch.setattr(rendezvous, "mpi", lambda timeout: ALONE)
        gb.distributed()
        assert len(joined) == 2

    def test_mpi_comes_before_slurm_and_after_torchrun(self, launched, joined, monkeypatch):
        class Two(communicator.Alone):
            ranks = 2

        monkeypatch.setattr(rendezvous, "mpi", lambda timeout: Two())
        launched(SLURM_PROCID=0, SLURM_NTASKS=2, PMI_RANK=0, PMI_SIZE=2)
        assert isinstance(gb.distributed(), Two)
        launched(RANK=0, WORLD_SIZE=2, MASTER_ADDR="a", MASTER_PORT=1)
        gb.distributed()
        assert len(joined) == 1

    @pytest.mark.parametrize("one", [
        {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "nowhere", "MASTER_PORT": 1},
        {"SLURM_PROCID": 0, "SLURM_NTASKS": 1},
    ])  # fmt: skip
    def test_one_process_is_alone(self, launched, one):
        launched(**one)
        assert gb.distributed() is ALONE

    def test_what_cannot_be_is_refused(self, launched, monkeypatch):
        with pytest.raises(gb.InputError, match="torchrun --nproc-per-node 4 or srun -n 4"):
            gb.distributed()
        launched(RANK=2, WORLD_SIZE=2, MASTER_ADDR="a", MASTER_PORT=1)
        with pytest.raises(gb.InputError, match="calls this process rank 2 of 2"):
            gb.distributed()
        launched(RANK="x")
        with pytest.raises(gb.InputError, match="RANK in the environment, which a launcher sets, is 'x'"):
            gb.distributed()
        monkeypatch.delenv("RANK")
        monkeypatch.setattr(rendezvous, "mpi", lambda timeout: ALONE)
        launched(PMI_RANK=1, PMI_SIZE=2)
        with pytest.raises(gb.InputError, match="started 2 ranks, and the MPI library of mpi4py knows of one"):
            gb.distributed()

    @pytest.mark.parametrize(("nodes", "first"), [
        ("node1", "node1"), ("node[01-03,7]", "node01"), ("node[7,01-03],other", "node7"), ("a,b[1-2]", "a"),
        ("rack[2-3]-n[005-010]", "rack2-n005"), ("n[1-2].cluster.org,m3", "n1.cluster.org"),
        ("gpu-a-1,gpu-a-2", "gpu-a-1"),
    ])  # fmt: skip
    def test_the_first_of_slurms_nodes(self, nodes, first):
        assert rendezvous.first_node(nodes) == first


TOGETHER = """
import json
import numpy as np
import gpu_backprop as gb
ranks = gb.distributed(timeout=20)
array = np.arange(4, dtype=np.float32) * np.float32(10.0**-ranks.rank)
(add,) = ranks.all_reduce(None, array)
add()
found = {"rank": ranks.rank, "local": ranks.local_rank, "sum": array.tolist(), "any": ranks.any(ranks.rank == 1)}
found["bytes"] = [len(one) for one in ranks.exchange(bytes(ranks.rank << 20))]
found["first"], found["alone"], found["error"] = ranks.agree(ranks.rank + 7), ranks.leaves_alone(), ""
try:
    with ranks.alike():
        open("missing" if ranks.rank == 1 else "/dev/null").close()
except OSError as error:
    found["error"] = str(error)
print(json.dumps(found))
"""

DELAYED = """
import sys
from failing import train
from gpu_backprop.backend.rendezvous import Tcp
rank, port = map(int, sys.argv[1:])
print(train(Tcp(rank, 2, "localhost", [port], "job")).network.parameters.tolist())
"""


def check_together(jobs):
    assert [job.returncode for job in jobs] == [0] * len(jobs), jobs
    found = [json.loads(job.stdout) for job in jobs]
    numbers = range(len(jobs))
    assert [one["rank"] for one in found] == [one["local"] for one in found] == [*numbers]
    total = sum(np.arange(4, dtype=np.float32) * np.float32(10.0**-rank) for rank in numbers).tolist()
    for rank, one in enumerate(found):
        assert one["sum"] == total  # added in the order of the ranks
        assert one["bytes"] == [rank << 20 for rank in numbers]
        assert (one["any"], one["first"], one["alone"]) == (True, 7, False)
        assert "No such file" in one["error"] and ("rank 1: " in one["error"]) == (rank != 1)


def test_three_ranks_of_torchrun_do_things_together():
    check_together(run_tcp(3, "-c", TOGETHER))


def test_two_tasks_of_slurm_without_mpi():
    at = {"SLURM_NTASKS": 2, "SLURM_JOB_ID": os.getpid(), "SLURM_STEP_ID": 0, "SLURM_STEP_NODELIST": "localhost"}
    check_together(run_each([at | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in range(2)], "-c", TOGETHER))


def test_a_rank_that_does_not_come_is_named():
    at = {"MASTER_ADDR": "localhost", "MASTER_PORT": free_port(), "WORLD_SIZE": 3}
    program = "import gpu_backprop as gb; gb.distributed(timeout=2 - int(__import__('os').environ['RANK']))"
    first, second = run_each([at | {"RANK": 0}, at | {"RANK": 1, "MASTER_PORT": free_port()}], "-c", program)
    assert "rank 1 and 1 more of 3 have not come to localhost" in first.stderr
    assert "rank 1 found no rank 0 at localhost" in second.stderr


def test_a_slow_network(tmp_path):
    """Between two ranks, all bytes come late and in pieces."""
    port = free_port()
    with socket.create_server(("localhost", 0)) as server:
        threading.Thread(target=relay, args=(server, port), daemon=True).start()
        first = subprocess.Popen(
            [sys.executable, "-c", DELAYED, "0", str(port)], env=environment(), stdout=subprocess.PIPE, text=True
        )
        second = run_each([{}], "-c", DELAYED, "1", str(server.getsockname()[1]))[0]
        out, _ = first.communicate(timeout=60)
    found = [json.loads(one.splitlines()[-1]) for one in (out, second.stdout)]
    assert found[0] == found[1]
    np.testing.assert_allclose(found[0], train(None).network.parameters, rtol=1e-10, atol=1e-13)


def relay(server: socket.socket, port: int) -> None:
    """Passes on what comes, to a port and back, 1 ms later and 1,000 bytes at a time."""
    near, _ = server.accept()
    while True:
        try:
            far = socket.create_connection(("localhost", port))
            break
        except OSError:
            time.sleep(0.05)

    def pass_on(source: socket.socket, target: socket.socket) -> None:
        with source, target:
            while some := source.recv(1000):
                time.sleep(0.001)
                target.sendall(some)

    threading.Thread(target=pass_on, args=(far, near), daemon=True).start()
    pass_on(near, far)


class TestGreeting:
    """What the first rank answers to who connects."""

    GREETING: ClassVar[dict[str, object]] = {"gpu_backprop ranks": 1, "job": "mine", "ranks": 3}

    def admitted(self, said: bytes) -> tuple[bytes, list[int]]:
        """Returns the answer, and who is there then."""
        first = Tcp.__new__(Tcp)
        first.rank, first.ranks, first._greeting, first._wires = 0, 3, self.GREETING, {2: None}
        near, far = socket.socketpair()
        with near, far:
            far.sendall(said)
            far.shutdown(socket.SHUT_WR)
            first._admit(near)
            near.close()
            with suppress(ConnectionResetError):  # something was left unread
                return far.recv(1 << 16), [*first._wires]
            return b"", [*first._wires]

    @pytest.mark.parametrize(("other", "answer"), [
        ({}, "null"), ({"rank": 2}, '"two processes say that they are rank 2"'), ({"job": "yours"}, '"another job"'),
        ({"rank": 3}, '"two processes'), ({"rank": "1"}, '"two processes'), ({"rank": []}, '"two processes'),
        ({"ranks": 4}, "\"{'gpu_backprop ranks': 1, 'ranks': 4}, and here {'gpu_backprop ranks': 1, 'ranks': 3}"),
    ])  # fmt: skip
    def test_ranks_are_told_why_not(self, other, answer):
        greeting = json.dumps(self.GREETING | {"rank": 1} | other).encode()
        said, there = self.admitted(HEADER.pack(VALUE, len(greeting)) + greeting)
        assert said[HEADER.size :].decode().startswith(answer)
        assert there == ([2, 1] if answer == "null" else [2])

    @pytest.mark.parametrize("said", [
        b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", HEADER.pack(VALUE, 1 << 40), HEADER.pack(VALUE, 4) + b"[1]\n",
        HEADER.pack(VALUE, 2) + b"{}", HEADER.pack(VALUE, 3) + b"\xff{}", HEADER.pack(VALUE, 1020) + b"[" * 1020,
    ])  # fmt: skip
    def test_who_says_anything_else_is_no_rank(self, said):
        assert self.admitted(said) == (b"", [2])
