"""How many threads the products take is found as OpenBLAS finds it."""

from __future__ import annotations

import os

import pytest

from gpu_backprop.backend import threads as module
from gpu_backprop.backend.threads import LIMITS, LOCAL_RANKS, threads


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "cores", lambda: 8)
    monkeypatch.setattr(module, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(module, "OWN_GROUPS", tmp_path / "own")
    for name in (*LIMITS, *LOCAL_RANKS):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 8),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "3"}, 2),
        ({"OPENBLAS_NUM_THREADS": "5", "OMP_NUM_THREADS": "3"}, 5),
        ({"GOTO_NUM_THREADS": "4", "OMP_NUM_THREADS": "3"}, 4),
        ({"OPENBLAS_NUM_THREADS": "64"}, 8),
        ({"OMP_NUM_THREADS": " 4,2"}, 4),
        ({"OPENBLAS_NUM_THREADS": "0", "OMP_NUM_THREADS": "3"}, 3),
        ({"OPENBLAS_NUM_THREADS": "", "OMP_NUM_THREADS": "many"}, 8),
        ({"OPENBLAS_NUM_THREADS": "-1"}, 8),
    ],
)
def test_threads(monkeypatch, given, expected):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert threads() == expected


@pytest.mark.parametrize(
    ("given", "machine", "expected"),
    [
        ({"MPI_LOCALNRANKS": "4"}, 8, 2),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "3"}, 8, 2),
        ({"LOCAL_WORLD_SIZE": "16"}, 8, 1),
        ({"MPI_LOCALNRANKS": "4", "OMP_NUM_THREADS": "1"}, 8, 1),
        ({"MPI_LOCALNRANKS": "4", "OMP_NUM_THREADS": "5"}, 8, 2),
        ({"MPI_LOCALNRANKS": "4"}, 32, 8),  # bound to cores of its own
    ],
)
def test_ranks_share_the_cores_of_a_machine(monkeypatch, given, machine, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: machine)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert threads() == expected


def test_the_cores_are_asked_for_again(monkeypatch):
    """Whoever confines a process to some cores need not do so before the package is imported."""
    assert threads() == 8
    monkeypatch.setattr(module, "cores", lambda: 2)
    assert threads() == 2


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.undo()
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7})
        assert module.cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert module.cores() == 1


V2, V1 = "0::/a/b\n", "3:memory:/x\n2:cpu,cpuacct:/a/b\n1:name=systemd:/\n"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        (V2, {"a/b/cpu.max": "300000 100000\n"}, 3),
        (V2, {"a/b/cpu.max": "max 100000\n"}, 8),
        (V2, {"a/b/cpu.max": "500000 100000\n", "a/cpu.max": "250000 100000\n"}, 2),  # of the group around it
        (V2, {"cpu.max": "400000 100000\n"}, 4),  # a container that sees its own group as the root
        (V2, {"a/b/cpu.max": "50000 100000\n"}, 1),
        (V2, {"a/b/cpu.max": "150000 100000\n"}, 1),
        (V2, {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n"}, 2),
        (V2, {"a/b/cpu.max": "9900000 100000\n"}, 8),
        (V2, {"unified/a/b/cpu.max": "300000 100000\n"}, 3),
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "200000\n", "cpu/a/b/cpu.cfs_period_us": "100000\n"}, 2),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "200000\n", "cpu,cpuacct/cpu.cfs_period_us": "50000\n"}, 4),
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "-1\n", "cpu/a/b/cpu.cfs_period_us": "100000\n"}, 8),
        (V1, {"cpu/a/cpu.cfs_quota_us": "50000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 1),  # around it
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "200000\n"}, 8),
        ("nonsense\n", {}, 8),
        (V2, {"a/b/cpu.max": "nonsense"}, 8),
    ],
)
def test_a_container_may_use_less(tmp_path, own, files, expected):
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    assert threads() == expected


def test_what_else_runs_makes_no_difference(monkeypatch):
    """Other threads would give other bits."""
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 99.0, 99.0), raising=False)
    assert threads() == 8
