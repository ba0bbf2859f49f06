"""bench/estimators.py: who does other work is found, the tables say what was measured, and a small part of it runs.

Nothing here depends on how long anything takes.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))
try:
    estimators, tasks, report, worker, processes = (
        importlib.import_module(name)
        for name in (
            "estimators", "comparison.estimator_tasks", "comparison.estimator_report", "comparison.estimator_worker",
            "comparison.processes",
        )
    )  # fmt: skip
finally:
    sys.path.remove(str(BENCH))

OURS, THEIRS = tasks.OURS, tasks.THEIRS


# The tasks ------------------------------------------------------------------------------------------------------------


def test_no_command_of_the_bench_hides_scikit_learn():
    assert not (BENCH / "sklearn.py").exists()  # each command's own folder comes first in its sys.path


def test_the_tasks_are_those_of_the_goals():
    names = [str(task) for task in tasks.tasks(quick=False, with_mnist=True)]
    assert len(names) == len(set(names))
    assert {f"{table}, {dtype}, fit" for table in tasks.GOAL for dtype in tasks.DTYPES} <= set(names)
    assert np.prod([len(values) for values in tasks.GRID.values()]) == 24 and tasks.FOLDS == 5
    assert not any("MNIST" in str(task) for task in tasks.tasks(quick=False, with_mnist=False))


@pytest.mark.parametrize("table", [name for name, one in tasks.TABLES.items() if one.load is not tasks.mnist])
@pytest.mark.parametrize("dtype", tasks.DTYPES)
def test_rows_are_scaled_and_of_their_dtype(table, dtype):
    x, y = tasks.rows(tasks.Task(table, dtype, tasks.FIT, quick=True), None)
    assert x.dtype == dtype and x.shape[0] == len(y) == 500
    if isinstance(x, np.ndarray):
        np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-6)
    else:
        assert x.nnz < 0.01 * np.prod(x.shape)


# Equal work -----------------------------------------------------------------------------------------------------------

FACTS = {"equal": {"t_": 100, "n_iter_": 2, "parameters": 9, "dtype": "float32"}, "loss": 0.1, "first loss": 1.0}


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        ({}, ""),
        ({"loss": 0.114}, ""),
        ({"loss": 0.116}, "the loss is 0.116, of scikit-learn 0.1"),
        ({"loss": float("nan")}, "the loss is nan"),
        ({"equal": FACTS["equal"] | {"n_iter_": 1}}, "n_iter_ is 1, of scikit-learn 2"),
        ({"equal": FACTS["equal"] | {"dtype": "float64"}}, "dtype is float64, of scikit-learn float32"),
    ],
)
def test_other_work_is_refused(ours, said):
    wrong = tasks.fault(FACTS | ours, FACTS)
    assert said in wrong and bool(wrong) == bool(said)


def test_a_search_that_comes_to_other_scores_is_refused():
    search = {"equal": {"candidates": 2}, "scores": [0.8, 0.9]}
    assert tasks.fault(search | {"scores": [0.81, 0.9]}, search) == ""
    assert "apart" in tasks.fault(search | {"scores": [0.7, 0.9]}, search)
    assert "candidates" in tasks.fault({"equal": {"candidates": 3}, "scores": [0.8] * 3}, search)


def commands():
    return [worker.Commands(name) for name in tasks.MODULES]


@pytest.mark.parametrize("way", [tasks.FIT, tasks.EARLY, tasks.FULL_BATCH, tasks.PREDICT, tasks.PARTIAL_FIT])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_both_do_the_same(way):
    task = {"table": "1,000 × 10", "dtype": "float64", "way": way, "quick": True}
    facts = []
    for one in commands():
        facts.append(one.load(None, **task))
        assert one.time(0.0)["call"]["calls"] == 1
    assert tasks.fault(*facts) == ""


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_both_search_the_same():
    task = {"table": "1,000 × 10", "dtype": "float64", "way": tasks.SEARCH, "quick": True}
    ours, theirs = (one.load(None, **task) for one in commands())
    assert tasks.fault(ours, theirs) == "" and ours["equal"] == {"candidates": 1}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_fit_is_scored():
    found = commands()[0].score(None, "1,000 × 10", "float32", 0, quick=True)
    assert 0 <= found["score"] <= 1 and found["iterations"] == 2


# The command ----------------------------------------------------------------------------------------------------------


class Fake:
    """Answers as a worker does; ours is twice as fast."""

    def __init__(self, name, *args, **options):
        self.name = name

    def ask(self, do, **what):
        if do == "load":
            if what["way"] == tasks.PREDICT and self.name == OURS:
                raise processes.WorkerError("it failed: InputError: no")
            return {**FACTS, "scores": [0.8]} if what["way"] in tasks.SEARCHES else FACTS
        if do == "score":
            return {"score": 0.9 + 0.01 * what["seed"], "iterations": 5, "seconds": 1.0}
        ms = 10.0 if self.name == OURS else 20.0
        return {"call": {"ms": ms, "calls": 1, "seconds": 1.0, "others": 0.0, "stolen": 0.0}}

    def pause(self):
        pass

    def close(self):
        pass


def test_it_runs_to_its_end_and_keeps_what_it_is_told_to_keep(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(estimators, "Worker", Fake)
    monkeypatch.setattr(estimators, "RESULTS", tmp_path / "results.json")
    kept = tmp_path / "kept.json"
    assert estimators.main(["--quick", "--json", str(kept)]) == 0
    out = capsys.readouterr().out
    assert "| fit, times as fast in the geometric mean | ≥ 2 | 2.00 | met |" in out
    assert "| grid search, n_jobs=2, times as fast | ≥ 3 | 2.00 to 2.00 | missed |" in out
    assert "digits, float32, predict: not timed: gpu_backprop: it failed: InputError: no" in out
    assert not estimators.RESULTS.exists()
    found = json.loads(kept.read_text(encoding="utf-8"))
    assert found["command"] == "python bench/estimators.py --quick" and found["date"] and found["commit"] is not None
    assert found["contenders"].keys() == {OURS, THEIRS}
    page = report.page(found)
    assert "| digits: fit | 10.0 | 20.0 | 2.00 (2.00 to 2.00) | 10.0 | 20.0 | 2.00 (2.00 to 2.00) |" in page
    assert "| digits: predict | - | - | - | - | - | - |" in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--data FOLDER is needed"),
        (["--only", "nothing"], "there are\n  digits, float32, fit\n"),
        (["--quick", "--threads", "0"], "at least 1"),
        (["--quick", "--json", "no/such/folder/file.json"], "is not a file in a folder that is there"),
        (["--data", "no/such/folder"], "--data: "),
    ],
)
def test_options_that_make_no_sense(words, said, capsys):
    with pytest.raises(SystemExit):
        estimators.main(words)
    assert said in capsys.readouterr().err


def test_only_chooses():
    timed, scored = estimators.chosen(estimators.arguments_of(["--only", "digits, float32, fit"]))
    assert [task.way for task in timed] == [tasks.FIT, tasks.EARLY, tasks.FULL_BATCH] and scored == []
    timed, scored = estimators.chosen(estimators.arguments_of(["--only", "accuracy"]))
    assert timed == [] and ("digits", "float64") in scored and not any("sparse" in table for table, _ in scored)


# Scores ---------------------------------------------------------------------------------------------------------------


def test_scores_are_compared_by_seed():
    found = report.compared([0.91, 0.92, 0.96], [0.90, 0.92, 0.94])
    assert found["difference"] == pytest.approx(0.01)
    assert found["standard error"] == pytest.approx(0.01 / 3**0.5)
    assert 0.2 < found["p"] < 0.25
    assert report.compared([0.9, 0.9], [0.9, 0.9])["p"] == 1


def test_a_difference_beyond_noise_misses_the_goal():
    seeds = np.linspace(0, 0.01, 10)
    worse = report.compared((0.9 + seeds + 1e-4 * np.sin(7 * seeds * 100)).tolist(), (0.92 + seeds).tolist())
    results = {"tasks": [], "accuracy": [{"table": "digits", "dtype": "float32", **worse}]}
    assert "(digits, float32) | missed |" in report.goals(results)


def test_more_is_put_among_what_the_file_has(tmp_path, monkeypatch):
    monkeypatch.setattr(estimators, "RESULTS", tmp_path / "results.json")
    for words in ("digits, float32, partial_fit", "digits, float64, partial_fit"):
        assert estimators.main(["--quick", "--more", "--only", words]) == 0
    found = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert [row["dtype"] for row in found["tasks"]] == ["float32", "float64"]
    assert found["command"].count("--more") == 2
