"""A rank that dies, raises or hangs ends the job: soon, with its error told and the last checkpoint kept."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from failing import TIMEOUT, train
from ranks import needs_mpi, run_ranks, run_tcp

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL and SIGSTOP")

WAITED = f"has waited {TIMEOUT} s for"

BY_MPI = {"killed": "", "suspended": WAITED, "raised": "ValueError: what one rank failed by"}
BY_TCP = {"killed": "rank 1 has ended", "asleep": WAITED, "exited": "rank 1 ends"}


def check_ended(told: str, expected: str, folder: Path) -> None:
    """No process is left, the error is told, and a checkpoint goes on to what one rank learns that nothing ended."""
    assert expected in told
    for rank in range(2):
        pid = int((folder / f"{rank}.pid").read_text())
        until = time.monotonic() + 10
        while running(pid):
            assert time.monotonic() < until, f"rank {rank} still runs"
            time.sleep(0.05)
    resumed, whole = train(None, resume=folder / "checkpoints"), train(None)
    assert [row["epoch"] for row in resumed.history] == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(resumed.network.parameters, whole.network.parameters, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose([row["loss"] for row in resumed.history], [row["loss"] for row in whole.history])


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@needs_mpi
@pytest.mark.parametrize("how", BY_MPI)
def test_mpi(tmp_path: Path, how: str) -> None:
    job = run_ranks(2, "-m", "failing", how, str(tmp_path), check=False)
    assert job.returncode != 0
    check_ended(job.stderr, BY_MPI[how], tmp_path)


@pytest.mark.parametrize("how", BY_TCP)
def test_sockets(tmp_path: Path, how: str) -> None:
    jobs = run_tcp(2, "-m", "failing", how, str(tmp_path))
    assert all(job.returncode for job in jobs)
    check_ended("".join(job.stderr for job in jobs), BY_TCP[how], tmp_path)


@needs_mpi
def test_what_all_ranks_fail_by_is_told_once(tmp_path: Path) -> None:
    job = run_ranks(2, "-m", "failing", "all raised", str(tmp_path), check=False)
    assert job.returncode == 1
    assert job.stderr.count("ValueError: what all ranks failed by") == 1
    assert "Abort" not in job.stderr
    assert job.stdout.count("1/5") == 1  # and the epochs are shown once
