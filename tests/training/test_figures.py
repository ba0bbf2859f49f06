"""Figures of many candidates: parallel coordinates, and those of a population."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.display.parallel import MOST_LINES
from gpu_backprop.training.figures import draw_parallel

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
LAYERS = [gb.Dense(4, "tanh"), gb.Dense(2, "softmax")]


def drawn(*given, **how):
    """A panel of parallel coordinates."""
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    draw_parallel(axes, *given, **how)
    return axes


def lines(axes):
    """The lines of the candidates."""
    return [line for line in axes.lines if line.get_color() != "black"]


def test_a_line_a_candidate_the_best_last_and_thick():
    settings = {"learning_rate": [0.1, 0.01, 0.001], "layers": ["8", "8:8", "8"]}
    axes = drawn(settings, np.array([0.3, math.nan, 0.2]), "val_loss")
    failed, bad, best = lines(axes)
    assert (failed.get_linestyle(), bad.get_linestyle(), best.get_linestyle()) == (":", "-", "-")
    assert best.get_linewidth() > 2 > bad.get_linewidth()
    assert best.get_ydata().tolist() == pytest.approx([1 / 6, 0.25, 0])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["learning rate", "layers", "val loss"]
    assert {text.get_text() for text in axes.texts} >= {"0.001", "0.01", "0.1", "8", "8:8"}


def test_a_large_score_may_be_a_good_one():
    axes = drawn({"a": [1, 2]}, np.array([0.9, 0.5]), "accuracy", larger_is_better=True)
    assert lines(axes)[-1].get_ydata()[0] == 0.25


def test_of_many_candidates_some_are_drawn():
    scores = np.random.default_rng(0).random(2000)
    assert len(lines(drawn({"a": scores.tolist()}, scores, "loss"))) <= MOST_LINES


def test_a_population(tmp_path):
    settings = [{"seed": k, "learning_rate": 10.0**-k, "dropout": 0.1} for k in range(1, 4)]
    population = gb.Population(3, [LAYERS[0], gb.Dropout(0.1), LAYERS[1]], settings)
    with pytest.raises(gb.StateError, match="before it was trained"):
        population.plot(tmp_path / "population.png")
    population.fit(X, X[:, 0] > 0, 3, validation_split=0.25, progress=False)
    left, right = population.plot(tmp_path / "population.png").axes
    assert [text.get_text() for text in left.get_xticklabels()] == ["learning rate", "val loss"]  # all else is the same
    assert len(lines(left)) == 3 and right.get_ylabel() == "loss"
    assert (tmp_path / "population.png").stat().st_size
    with pytest.raises(gb.InputError, match="cannot write"):
        population.plot(tmp_path / "nowhere" / "population.png")
