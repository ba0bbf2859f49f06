"""bench/scaling.py: what ranks learn is compared, the parts of a step are timed, and the model says what it should.

Nothing here depends on how long anything takes, and no rank is started.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from gpu_backprop.backend.communicator import Communicator

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))
try:
    scaling, rank, model, report, plot, workload, processes = (
        importlib.import_module(name)
        for name in (
            "scaling", "lib.rank", "lib.scaling_model", "lib.scaling_report", "plot", "lib.workload",
            "comparison.processes",
        )
    )  # fmt: skip
finally:
    sys.path.remove(str(BENCH))


class Fake:
    """Ranks that take 10 µs a row, or half of it where there are two, and 5 more to sum up; of 2B rows two ranks learn
    something else."""

    def __init__(self, wrong=0.0):
        self.wrong, self.started = wrong, []

    def __call__(self, ranks, task, file):
        given = json.loads(task)
        self.started.append((ranks, given["batch"]))
        other = self.wrong if ranks == 2 and given["batch"] == 2 * scaling.CASES[0].batch else 0.0
        np.savez(file, before=np.zeros(4), after=np.ones(4) + other)
        us = given["batch"] * 10 / ranks
        parts = {"compute": us, "reduce": 5.0 * (ranks - 1), "waiting": 1.0 * (ranks - 1)}
        described = {"network": "-".join(map(str, given["widths"])), "dtype": "float32"}
        return {"us": us + parts["reduce"], "parts": parts, "mpi": "MPICH 5.0.2", "described": described}


@pytest.fixture
def fake(monkeypatch, tmp_path):
    fake = Fake()
    monkeypatch.setattr(scaling, "launch", fake)
    monkeypatch.setattr(scaling, "RESULTS", tmp_path / "scaling.json")
    monkeypatch.setattr(model, "predict", lambda: {"networks": []})
    monkeypatch.setattr(report, "strong", lambda model: "strong")
    monkeypatch.setattr(report, "weak", lambda model: "weak")
    return fake


# Measuring ------------------------------------------------------------------------------------------------------------


def test_one_and_two_ranks_take_turns(fake, capsys):
    assert scaling.main(["--only", "30-64-64-1", "--more"]) == 0
    assert fake.started[:4] == [(1, 64), (2, 64), (1, 128), (2, 128)]
    assert sorted(fake.started[4:8]) == sorted(fake.started[:4]) and len(fake.started) % 4 == 0
    (task,) = json.loads(scaling.RESULTS.read_text("utf-8"))["tasks"]
    assert task["us"]["2 ranks, B 128"]["median"] == 645 and task["rounds"]["measured"] == 5
    assert task["one / two"]["strong, B 64"]["median"] == pytest.approx(640 / 325, abs=1e-3)
    assert task["one / two"]["weak, B 128"]["median"] == pytest.approx(640 / 645, abs=1e-3)
    assert task["parts"]["2 ranks, B 64"]["waiting"]["median"] == 1
    assert task["apart"] == {"B 64": 0, "B 128": 0}
    assert (
        "| 30-64-64-1, 2 ranks, B 128 | 645 | 640 | 5 | 1 | 1.98 (1.98 to 1.98) | 0.99 (0.99 to 0.99) |"
        in capsys.readouterr().out
    )


def test_ranks_that_learn_something_else_are_not_timed(fake, capsys):
    fake.wrong = 2 * scaling.TOLERANCE
    assert scaling.main(["--quick"]) == 0
    assert not scaling.RESULTS.exists()
    out = capsys.readouterr().out
    assert "- 30-64-64-1: 2 ranks, B 128: it learns something else, by 2.0e-03" in out
    assert "| 30-64-64-1, 1 rank, B 128 |" in out and "| 30-64-64-1, 2 ranks, B 128 |" not in out


def test_ranks_that_fail_are_told(fake, monkeypatch, capsys):
    def fails(*_):
        raise processes.WorkerError("there is no mpiexec: pip install mpi4py mpich")

    monkeypatch.setattr(scaling, "launch", fails)
    assert scaling.main(["--quick"]) == 0
    assert "- 30-64-64-1: 1 rank, B 64: there is no mpiexec: pip install mpi4py mpich" in capsys.readouterr().out


def test_the_model_is_put_beside_what_was_measured(fake):
    for words in ("30-64-64-1", "model"):
        assert scaling.main(["--quick", "--more", "--only", words]) == 0
    found = json.loads(scaling.RESULTS.read_text("utf-8"))
    assert len(found["tasks"]) == 1 and found["model"] == {"networks": []} and found["command"].count("--more") == 2


def test_options_that_make_no_sense(capsys):
    with pytest.raises(SystemExit):
        scaling.main(["--only", "nothing"])
    assert "there are\n  30-64-64-1, B 64\n" in capsys.readouterr().err


class Twin(Communicator):
    """One of two ranks, of which the other one does the same."""

    ranks = 2

    def exchange(self, value):
        return [value, value]

    def all_reduce(self, device, array):
        yield lambda: None


@pytest.mark.parametrize("communicator", [None, Twin()], ids=["alone", "of two"])
def test_a_barrier_stands_before_each_sum(communicator):
    task = workload.Workload((5, 4, 3), 8, device="cpu")
    trainer, waited = task.trainer(communicator), []
    us = rank.parts(trainer, *task.data(24), 2, lambda: waited.append(1))
    steps = 3 * (2 + rank.WARMUP)
    assert len(waited) == (steps if communicator else 0)
    assert us["compute"] > 0 and (us["reduce"] > 0) == (us["waiting"] > 0) == bool(communicator)


# The model ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    return model.Predictions(model.NETWORKS[0])


def test_a_step_is_its_computation_and_the_faster_sum(small):
    bytes_ = small.size
    one = small.step(8, 8)
    assert one.ring == pytest.approx(5 + 14 * (1.9 + bytes_ / 8 / 450e3))
    assert one.tree == pytest.approx(5 + 2 * (3 * 1.9 + bytes_ / 450e3))
    assert one.after == one.compute + min(one.ring, one.tree) > one.during >= one.compute
    far = small.step(1024, 1)
    within = 14 * (1.9 + bytes_ / 8 / 450e3)
    assert far.ring == pytest.approx(5 + within + 254 * (4 + bytes_ / 8 / 128 / 50e3))
    assert far.tree == pytest.approx(5 + within + 2 * (7 * 4 + bytes_ / 8 / 50e3))
    alone = small.step(1, 8)
    assert alone.after == alone.during == alone.compute == one.compute


def test_it_says_where_it_begins_to_pay(small):
    rows = small.enough(8)
    assert small.efficiency(8, rows) >= model.WORTH > small.efficiency(8, rows // 2)
    assert small.enough(1024) is None
    speeds = [row["times as fast"]["after"] for row in small.strong()]
    assert speeds[0] == 1 and speeds[1:] == sorted(speeds[1:], reverse=True) and speeds[1] < 1


RECORD = plot.read(plot.SCALING)


@pytest.mark.parametrize("number", [0, 1])  # the third takes a second and 700 MB
def test_the_results_are_those_of_the_model_of_today(number):
    assert RECORD["model"]["networks"][number] == model.Predictions(model.NETWORKS[number]).all()
    assert len(RECORD["model"]["networks"]) == len(model.NETWORKS)


def test_the_results_on_record_were_taken_from_equal_work():
    assert [task["name"] for task in RECORD["tasks"]] == [str(case) for case in scaling.CASES]
    for task in RECORD["tasks"]:
        assert max(task["apart"].values()) < scaling.TOLERANCE and task["not timed"] == {}
        assert len(task["us"]) == 4 and task["rounds"]["measured"] >= 5
