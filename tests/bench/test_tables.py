"""bench/tables.py: its statistics are those of the literature, its lists are apart, and ours run without peers."""

from __future__ import annotations

import argparse
import importlib
import math
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def module(monkeypatch):
    """A module of bench/."""
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module


def test_holm_is_that_of_the_paper(module):
    holm = module("lib.table_scores").holm
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}
    assert holm({}) == {}


def test_a_geometric_mean_is_shifted(module):
    shifted_mean = module("lib.table_scores").shifted_mean
    assert shifted_mean([0.0, 0.0]) == pytest.approx(0.01)
    assert shifted_mean([0.03, 0.15]) == pytest.approx(math.sqrt(0.04 * 0.16))


def test_equal_values_share_their_ranks(module):
    scores = module("lib.table_scores")
    values = {"a": [0.1, 0.5, 0.2], "b": [0.2, 0.5, 0.1], "c": [0.3, 0.9, 0.2]}
    assert scores.ranks(values) == {"a": [1, 1.5, 2.5], "b": [2, 1.5, 1], "c": [3, 3, 2.5]}
    assert scores.mean_ranks(values)["a"] == pytest.approx(5 / 3)


def test_the_signed_rank_of_twelve_wins_is_the_least_that_there_is(module):
    signed_rank = module("lib.table_scores").signed_rank
    theirs = np.linspace(0.1, 1, 12)
    assert signed_rank(0.5 * theirs, theirs) == pytest.approx(2 / 2**12)
    assert signed_rank(theirs, theirs) == 1


def test_scores_of_probabilities_and_of_numbers(module):
    score = module("lib.table_scores").score
    predicted = np.array([[0.8, 0.2], [0.6, 0.4], [0.0, 1.0], [1.0, 0.0]])
    found = score(predicted, ["a", "b", "b", "b"], ["a", "b"])
    assert found["error"] == 0.5
    assert found["log_loss"] == pytest.approx(-(math.log(0.8) + math.log(0.4) + math.log(1e-7)) / 4)
    assert found["calibration"] == pytest.approx((0.2 + 0.6 + 1.0) / 4)  # of the last bin: 1.0 right, 1.0 wrong
    assert score(np.array([1.0, 3.0]), ["1", "2"], None) == {"rmse": pytest.approx(math.sqrt(0.5) / 0.5)}


def test_no_table_is_in_both_lists(module):
    tables = module("lib.real_tables")
    assert len(tables.CHOOSING) == len(tables.FINAL) == 12
    assert len({table.source for table in tables.TABLES.values()}) == 24


@pytest.mark.parametrize("name", ["made-up classes", "made-up numbers"])
def test_a_split_has_every_row_once(module, tmp_path, name):
    tables = module("lib.real_tables")
    header, rows = tables.rows_of(name)
    split = tables.split(name, 0, tmp_path)
    training, testing = (path.read_text(encoding="utf-8").splitlines() for path in (split.training, split.testing))
    assert training[0] == testing[0] == ",".join(header)
    assert sorted(training[1:] + testing[1:]) == sorted(",".join(row) for row in rows)
    assert split.y == [line.rsplit(",", 1)[1] for line in testing[1:]]
    assert len(split.y) == 24


def test_no_target_is_ignored(module):
    for name, table in module("lib.real_tables").TABLES.items():
        assert table.target not in table.ignore, name


def measured(*learners):
    """Returns figures of three tables and two splits; the first learner is the best."""
    of_classes = {
        name: {
            str(seed): {"error": 0.1 * k, "log_loss": 0.3 * k, "calibration": 0.1, "seconds": k} for seed in range(2)
        }
        for k, name in enumerate(learners, 1)
    }
    of_numbers = {
        name: {str(seed): {"rmse": 0.2 * k, "seconds": k} for seed in range(2)} for k, name in enumerate(learners, 1)
    }
    return {"credit": of_classes, "attrition": of_classes, "concrete": of_numbers}


def test_the_report_compares_ours_with_each_other(module):
    report = module("lib.table_report")
    text = report.text(measured("ours", "RealMLP-TD-S"), 2)
    assert "| credit | **0.300** (10.0 %) | 0.600 (20.0 %) |" in text
    assert "| concrete | **0.200** | 0.400 |" in text
    ratio = f"{0.11 / 0.21:.3f} | {0.31 / 0.61:.3f} | 1.000 | {0.21 / 0.41:.3f}"
    assert f"| ours / RealMLP-TD-S | {ratio}" in text
    assert "3 of 3 | 0.250" in text


def test_a_learner_without_all_splits_is_left_out_of_a_table(module):
    figures = measured("ours", "LightGBM")
    figures["credit"] = {**figures["credit"], "LightGBM": {"0": figures["credit"]["LightGBM"]["0"]}}
    text = module("lib.table_report").text(figures, 2)
    assert "| credit | **0.300** (10.0 %) | - |" in text
    assert "2 of 2" in text
    assert "credit" not in module("lib.table_report").text({"credit": {"LightGBM": {"0": {}}}}, 2)


def test_goals_are_met_or_missed(module):
    report = module("lib.table_report")
    goals = report.goals(report.means(measured("ours", "RealMLP-TD-S", "scikit-learn MLP"), 2))
    assert f"| ours / RealMLP-TD-S | log loss | 0.88 | {0.31 / 0.61:.3f} | met |" in goals
    assert f"| ours / scikit-learn MLP | loss of any | 1.05 | {0.31 / 0.91:.2f} (concrete) | met |" in goals


def test_the_ranks_are_drawn(module, tmp_path):
    module("lib.table_report").draw(measured("ours", "LightGBM"), 2, tmp_path / "ranks.svg")
    assert "LightGBM" in (tmp_path / "ranks.svg").read_text(encoding="utf-8")


def test_it_measures_ours_without_peers(module):
    script, learners = module("tables"), module("lib.table_learners")
    learner, options = learners.with_words("--epochs", "2"), argparse.Namespace(rows=100, threads=1)
    figures = script.measure("made-up classes", 0, learner, options)
    assert set(figures) == {"error", "log_loss", "calibration", "seconds"}
    assert set(script.measure("made-up numbers", 0, learner, options)) == {"rmse", "seconds"}
