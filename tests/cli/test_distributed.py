"""train --distributed: processes that MPI starts learn what one learns, and one of them prints and writes."""

from __future__ import annotations

import csv
import os
import signal
import sys
import time
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ranks import needs_mpi, run_ranks, start_ranks

import gpu_backprop as gb
from gpu_backprop.backend import rendezvous
from gpu_backprop.cli import main
from gpu_backprop.commands.ranks import choose_device

TRAIN = "-m", "gpu_backprop", "train", "--distributed", "--layers", "8", "--no-early-stopping"
ENDLESS = "--epochs", "1000000"
WITH_PID = (
    "import os, sys; open('pid', 'w').write(str(os.getpid())); from gpu_backprop.cli import main; sys.exit(main())"
)


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    """Every test has an empty folder of its own to write in, and no launcher's environment."""
    monkeypatch.chdir(tmp_path)
    for name in (*rendezvous.TORCHRUN, *rendezvous.MPI, *rendezvous.SLURM):
        monkeypatch.delenv(name, raising=False)


def history(run: str) -> list[dict[str, str]]:
    with open(Path(run) / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def mpi(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    """The words that start a process of each kind."""
    return *first, ":", "-n", "1", sys.executable, *second


def table(path: str, first: float) -> None:
    rows = [f"{x},{x * x}" for x in (first, *np.linspace(-1, 1, 60))]
    Path(path).write_text("\n".join(["a,y", *rows]))


def test_what_no_launcher_has_started_is_told_how_to_start(capsys):
    assert main(["train", "--distributed"]) == 1
    assert "mpiexec -n 4" in capsys.readouterr().err
    assert not os.listdir()


def test_processes_of_a_launcher_that_are_not_asked_to_share_are_noted(capsys, monkeypatch):
    monkeypatch.setenv("MPI_LOCALNRANKS", "2")
    assert main(["train", "--epochs", "1", "--layers", "4", "--quiet"]) == 0
    assert "one of 2 processes" in capsys.readouterr().err


def test_a_timeout_of_one_process_is_refused(capsys):
    assert main(["train", "--timeout", "5"]) == 2
    assert "add that, or leave it out" in capsys.readouterr().err


@needs_mpi
def test_two_ranks_learn_the_digits_as_one_does(capsys):
    words = "--epochs", "3", "--layers", "16", "--out"
    job = run_ranks(2, "-m", "gpu_backprop", "train", "--distributed", *words, "two")
    assert main(["train", *words, "one"]) == 0
    alone = capsys.readouterr().out
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        two, one = ([float(row[name]) for row in history(run)] for run in ("two", "one"))
        np.testing.assert_allclose(two, one, rtol=1e-5)
    tested = [line for line in alone.splitlines() if line.startswith("test accuracy")]
    assert tested == [line for line in job.stdout.splitlines() if "test accuracy" in line]
    assert sorted(os.listdir("two")) == sorted(os.listdir("one"))
    assert not job.stderr


@needs_mpi
def test_ranks_that_are_given_other_data_are_refused_once():
    table("a.csv", 0.5)
    table("b.csv", 0.75)
    words = "--target", "y", "--out", "run"
    job = run_ranks(1, *mpi((*TRAIN, "a.csv", *words), (*TRAIN, "b.csv", *words)), check=False)
    assert job.returncode == 1
    assert job.stderr.count("the ranks do not train the same") == 1
    assert "training x" in job.stderr and "on rank 1" in job.stderr
    assert not os.path.exists("run")


@needs_mpi
def test_a_file_that_one_rank_cannot_read_is_told_once():
    table("a.csv", 0.5)
    words = "--target", "y", "--out", "run"
    job = run_ranks(1, *mpi((*TRAIN, "a.csv", *words), (*TRAIN, "b.csv", *words)), check=False)
    assert job.returncode == 1
    assert job.stderr.count("b.csv") == 1 and "rank 1: " in job.stderr
    assert not os.path.exists("run")


@needs_mpi
@pytest.mark.skipif(sys.platform == "win32", reason="a signal can't be sent to one process on Windows")
@pytest.mark.parametrize(("number", "to"), [(signal.SIGINT, "all"), (signal.SIGTERM, "one")])
def test_a_signal_ends_all_after_the_same_step(capsys, number, to):
    words = TRAIN + ENDLESS + ("--out", "run")
    with start_ranks(1, *mpi(words, ("-c", WITH_PID, *words[2:]))) as job:
        while job.poll() is None and not (os.path.exists("run/history.csv") and len(history("run")) > 2):
            time.sleep(0.05)
        os.kill(job.pid if to == "all" else int(Path("pid").read_text()), number)
        out, err = job.communicate(timeout=60)
    assert job.returncode == 128 + number, err
    assert out.count("stopped ") == out.count("to go on: ") == 1
    assert err.count("finishing this step") == (to == "all")
    assert gb.load("run/model.safetensors").outputs == 10
    done = len(history("run"))
    assert main(["train", "--resume", "run", "--epochs", str(done + 1)]) == 0
    assert len(history("run")) == done + 1


@pytest.mark.parametrize(
    ("asked", "ranks", "own", "taken"),
    [
        ("auto", 2, "cuda:1", "cuda:1"), ("cuda", 2, "cuda:1", "cuda:1"), ("cuda:0", 2, "cuda:1", "cuda:0"),
        ("cpu", 2, "cuda:1", "cpu"), ("auto", 2, "cpu", "auto"), ("cuda", 2, "cpu", "cuda"),
        ("cuda", 1, "cuda:0", "cuda"),
    ],
)  # fmt: skip
def test_each_rank_has_a_device_of_its_own(asked, ranks, own, taken):
    assert choose_device(Namespace(device=asked, ranks=SimpleNamespace(ranks=ranks, device=own))) == taken
