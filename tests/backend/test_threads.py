"""How many threads the products take is found as OpenBLAS finds it."""

from __future__ import annotations

import os

import pytest

from gpu_backprop.backend import threads as module
from gpu_backprop.backend.threads import LIMITS, threads


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 8)
    for name in LIMITS:
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


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.undo()
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7})
        assert module.cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert module.cores() == 1
