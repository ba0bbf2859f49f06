"""What the other tests here stand on: a program runs on every rank, and what it wrote is told where it fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from ranks import needs_mpi, results, run_ranks

pytestmark = needs_mpi


def who(*arguments):
    import gpu_backprop as gb

    communicator = gb.mpi()
    return {"rank": [communicator.rank, communicator.ranks], "given": arguments}


def test_every_rank_gives_what_it_has(tmp_path: Path) -> None:
    found = results(3, "test_ranks:who", tmp_path / "who", 7, 8)
    assert [one["rank"].tolist() for one in found] == [[0, 3], [1, 3], [2, 3]]
    assert all(one["given"].tolist() == [7, 8] for one in found)


def test_a_job_that_fails_tells_why(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="exit code 3[^0-9]"):
        run_ranks(2, "-c", "import sys; sys.exit(3)")
    with pytest.raises(pytest.fail.Exception, match="no module of this name"):
        run_ranks(1, "-c", "raise SystemExit('no module of this name')")
    with pytest.raises(pytest.fail.Exception, match="not done within 1 s"):
        run_ranks(2, "-c", "import time; time.sleep(30)", timeout=1)
