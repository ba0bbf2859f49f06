"""Programs that MPI starts several times: `run_ranks` runs one, and `results` calls a function on each rank.

A start takes about a second, so that one does for all the cases of a test.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TIMEOUT = 100
"""Seconds after which a job has failed."""

MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
MISSING = "mpi4py" if importlib.util.find_spec("mpi4py") is None else "" if MPIEXEC else "mpiexec"

needs_mpi = pytest.mark.skipif(bool(MISSING), reason=f"there is no {MISSING}: pip install mpi4py mpich")


def environment(**settings: str) -> dict[str, str]:
    """The environment of a job: one thread a rank, and the modules of the tests."""
    named = {} if _resolves() else {"MPICH_INTERFACE_HOSTNAME": "localhost"}
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    threads["MPIR_CVAR_ENABLE_HEAVY_YIELD"] = "1"  # MPICH: who waits lets others work
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests), str(tests / "distributed"), os.environ.get("PYTHONPATH", "")])
    return os.environ | named | threads | {"PYTHONPATH": path} | settings


def _resolves() -> bool:
    """Tells whether this machine has an address by its name, which MPICH looks for."""
    try:
        socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        return False
    return True


def start_ranks(ranks: int, *words: str, **settings: str) -> subprocess.Popen[str]:
    """Starts `mpiexec -n RANKS python WORDS`; settings: of the environment."""
    assert MPIEXEC is not None
    return subprocess.Popen(
        [MPIEXEC, "-n", str(ranks), sys.executable, *words], env=environment(**settings), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace",
    )  # fmt: skip


def run_ranks(
    ranks: int, *words: str, timeout: float = TIMEOUT, check: bool = True, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Runs it to its end; the test fails, with all that the ranks wrote, where that takes longer or, with check, where
    the exit code is not 0."""
    with start_ranks(ranks, *words, **settings) as job:
        try:
            out, err = job.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            job.terminate()  # mpiexec ends its ranks then, but for one that is suspended
            try:
                out, err = job.communicate(timeout=10)
            except subprocess.TimeoutExpired as late:
                out, err = late.stdout, late.stderr
                job.kill()
            pytest.fail(f"{ranks} ranks were not done within {timeout} s:\n{out}\n{err}")
    if check and job.returncode:
        pytest.fail(f"{ranks} ranks ended with exit code {job.returncode}:\n{out}\n{err}")
    return subprocess.CompletedProcess(job.args, job.returncode, out, err)


def run_each(
    settings: Sequence[Mapping[str, object]], *words: str, timeout: float = TIMEOUT
) -> list[subprocess.CompletedProcess[str]]:  # fmt: skip
    """Runs `python WORDS` once in each of some environments, the first one last, and returns how they ended."""
    started = [
        subprocess.Popen(
            [sys.executable, *words], env=environment(**{name: str(value) for name, value in one.items()}),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for one in reversed(settings)
    ]  # fmt: skip
    ended = []
    for job in reversed(started):
        try:
            ended.append(subprocess.CompletedProcess(job.args, job.wait(timeout), *job.communicate()))
        except subprocess.TimeoutExpired:
            for one in started:
                one.kill()
            pytest.fail(f"not done within {timeout} s: {' '.join(words)}")
    return ended


def run_tcp(
    ranks: int, *words: str, timeout: float = TIMEOUT, **settings: str
) -> list[subprocess.CompletedProcess[str]]:  # fmt: skip
    """Runs so many processes as torchrun would start them."""
    at = {"MASTER_ADDR": "localhost", "MASTER_PORT": free_port(), "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    each = [settings | at | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(ranks)]
    return run_each(each, *words, timeout=timeout)


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return int(server.getsockname()[1])


def results(
    ranks: int, worker: str, folder: Path, *arguments: Any, timeout: float = TIMEOUT, sockets: bool = False,
    **settings: str,
) -> list[dict[str, Any]]:  # fmt: skip
    """Calls a function on so many ranks, and returns what each of them gave: arrays by name.

    Args:
        worker: "module:function", of a module in tests/ or tests/distributed/. The function is given the arguments,
            plain data, and returns arrays, or what np.asarray makes one, by name.
        folder: a new one for each call.
        sockets: whether they are started as torchrun would, and not by MPI.
        settings: of the environment.
    """
    folder.mkdir(parents=True)
    words = "-m", "ranks", worker, str(folder), json.dumps(arguments)
    if sockets:
        for one in run_tcp(ranks, *words, timeout=timeout, **settings):
            if one.returncode:
                pytest.fail(f"a rank ended with exit code {one.returncode}:\n{one.stdout}\n{one.stderr}")
    else:
        run_ranks(ranks, *words, timeout=timeout, **settings)
    found = []
    for rank in range(ranks):
        with np.load(folder / f"{rank}.npz", allow_pickle=False) as arrays:
            found.append(dict(arrays))
    return found


def main(worker: str, folder: str, arguments: str) -> None:
    """Calls the worker on this rank, and writes what it returned."""
    module, function = worker.split(":")
    given = getattr(importlib.import_module(module), function)(*json.loads(arguments))
    rank = next(os.environ[name] for name in ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK") if name in os.environ)
    np.savez(Path(folder) / f"{rank}.npz", **{name: np.asarray(a) for name, a in given.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
