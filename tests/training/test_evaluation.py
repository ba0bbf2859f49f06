"""Evaluation: loss, accuracy, R² and MAE against their formulas, row by row in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gpu_backprop as gb

ROWS = 17
STREAM = np.random.default_rng(8)
X = STREAM.normal(size=(ROWS, 3))
Y = STREAM.normal(size=(ROWS, 2)) * [1.0, 30.0] + [0.0, 5.0]
LABELS = STREAM.integers(0, 4, ROWS)
YES = STREAM.integers(0, 2, (ROWS, 2))
WEIGHTS = STREAM.uniform(0, 3, ROWS) * (np.arange(ROWS) != 3)


def trainer_of(units, activation, loss=None, *, batch_size=5, dtype="float64", seed=2, dropout=0.0):
    layers = [gb.Dense(6, "tanh"), *([gb.Dropout(dropout)] if dropout else []), gb.Dense(units, activation)]
    return gb.Trainer(gb.Network(3, layers, dtype=dtype, seed=seed), loss, batch_size=batch_size)


def mean(values, weights):
    return sum(w * v for v, w in zip(values, weights, strict=True)) / sum(weights)


def r2_of(y, target, weights):
    """1 − Σw(y* − y)²/Σw(y* − ȳ*)², the mean over the outputs."""
    parts = []
    for k in range(y.shape[1]):
        middle = mean(target[:, k], weights)
        residual = sum(w * (t - v) ** 2 for v, t, w in zip(y[:, k], target[:, k], weights, strict=True))
        spread = sum(w * (t - middle) ** 2 for t, w in zip(target[:, k], weights, strict=True))
        parts.append(1 - residual / spread)
    return sum(parts) / len(parts)


WEIGHTED = pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
BATCHES = pytest.mark.parametrize("batch_size", [1, 5, 17, 100])


@WEIGHTED
@BATCHES
def test_classes(batch_size, weights):
    trainer, w = trainer_of(4, "softmax", batch_size=batch_size), np.ones(ROWS) if weights is None else weights
    p = trainer.network.predict(X)
    measured = trainer.evaluate(X, LABELS, weights)
    assert list(measured) == ["loss", "accuracy"]
    e = [-math.log(p[row, label]) for row, label in enumerate(LABELS)]
    assert measured["loss"] == pytest.approx(mean(e, w), rel=1e-13)
    assert (
        measured["accuracy"] == sum(max(range(4), key=p[row].__getitem__) == LABELS[row] for row in range(ROWS)) / ROWS
    )


def test_one_hot_rows_measure_as_their_labels():
    trainer = trainer_of(4, "softmax")
    labels, rows = trainer.evaluate(X, LABELS), trainer.evaluate(X, gb.one_hot(LABELS))
    assert rows["accuracy"] == labels["accuracy"]
    assert rows["loss"] == pytest.approx(labels["loss"], rel=1e-14)


@WEIGHTED
@pytest.mark.parametrize("units", [1, 2])
def test_yes_or_no(units, weights):
    """With many outputs a row is right only if all of them are."""
    trainer, w = trainer_of(units, "sigmoid"), np.ones(ROWS) if weights is None else weights
    target, p = YES[:, :units], trainer.network.predict(X)
    measured = trainer.evaluate(X, target, weights)
    e = [-sum(math.log(q if t else 1 - q) for q, t in zip(p[r], target[r], strict=True)) for r in range(ROWS)]
    assert measured["loss"] == pytest.approx(mean(e, w), rel=1e-13)
    right = [all((q > 0.5) == bool(t) for q, t in zip(p[r], target[r], strict=True)) for r in range(ROWS)]
    assert measured["accuracy"] == sum(right) / ROWS


@WEIGHTED
@BATCHES
def test_numbers(batch_size, weights):
    trainer = trainer_of(2, "identity", batch_size=batch_size)
    w, y = np.ones(ROWS) if weights is None else weights, trainer.network.predict(X)
    measured = trainer.evaluate(X, Y, weights)
    assert list(measured) == ["loss", "r2", "mae"]
    e = [0.5 * sum((v - t) ** 2 for v, t in zip(y[r], Y[r], strict=True)) for r in range(ROWS)]
    assert measured["loss"] == pytest.approx(mean(e, w), rel=1e-13)
    off = [sum(abs(v - t) for v, t in zip(y[r], Y[r], strict=True)) / 2 for r in range(ROWS)]
    assert measured["mae"] == pytest.approx(mean(off, w), rel=1e-13)
    assert measured["r2"] == pytest.approx(r2_of(y, Y, w), rel=1e-12)


def test_what_r2_says():
    """1 for the target itself, 0 for its mean, less for worse."""
    net = gb.Network(2, [gb.Dense(2, bias=False)], dtype="float64")
    net.layers[0].weight[...] = np.eye(2)
    trainer = gb.Trainer(net)
    target = Y[:, :2]
    assert trainer.evaluate(target, target) == {"loss": 0.0, "r2": 1.0, "mae": 0.0}
    middle = np.broadcast_to(target.mean(axis=0), target.shape)
    assert trainer.evaluate(middle, target)["r2"] == pytest.approx(0, abs=1e-14)
    assert trainer.evaluate(-target, target)["r2"] < 0


@pytest.mark.parametrize("name", ["squared_error", "mean_squared_error", "absolute_error", "huber", "quantile"])
def test_losses_of_numbers_share_their_metrics(name):
    trainer, other = trainer_of(2, "identity", name), trainer_of(2, "identity")
    measured, reference = trainer.evaluate(X, Y), other.evaluate(X, Y)
    assert (measured["r2"], measured["mae"]) == (reference["r2"], reference["mae"])


@WEIGHTED
def test_reduction_is_that_of_the_loss(weights):
    total = ROWS if weights is None else weights.sum()
    one = trainer_of(2, "identity", gb.Huber()).evaluate(X, Y, weights)
    summed = trainer_of(2, "identity", gb.Huber(reduction="sum")).evaluate(X, Y, weights)
    assert summed["loss"] == pytest.approx(one["loss"] * total, rel=1e-13)
    assert (summed["r2"], summed["mae"]) == (one["r2"], one["mae"])


def test_float32_measures_what_float64_does():
    single, double = (trainer_of(2, "identity", dtype=dtype).evaluate(X, Y) for dtype in ("float32", "float64"))
    assert single == pytest.approx(double, rel=1e-5)


def test_measuring_changes_nothing_and_dropout_is_off():
    trainer, without = trainer_of(4, "softmax", dropout=0.5), trainer_of(4, "softmax")
    parameters = trainer.network.parameters
    parameters[...] = without.network.parameters
    trainer.step(X, LABELS)
    parameters[...] = without.network.parameters
    kept = (
        parameters.copy(),
        trainer.network.gradients.copy(),
        trainer.network.random.copy(),
        trainer.optimizer.hyper.copy(),
    )
    assert trainer.evaluate(X, LABELS) == trainer.evaluate(X, LABELS) == without.evaluate(X, LABELS)
    now = parameters, trainer.network.gradients, trainer.network.random, trainer.optimizer.hyper
    for before, after in zip(kept, now, strict=True):
        np.testing.assert_array_equal(before, after)


def test_one_row_and_targets_that_are_all_the_same():
    """Such targets have no spread: R² is not a number where they are met, and −∞ where they are not."""
    trainer = trainer_of(2, "identity")
    assert trainer.evaluate(X[:1], Y[:1])["r2"] == -math.inf
    met = trainer.evaluate(X[:1], trainer.network.predict(X[:1]))
    assert math.isnan(met["r2"]) and met["mae"] == met["loss"] == 0
    assert trainer_of(4, "softmax").evaluate(X[:1], LABELS[:1])["accuracy"] in (0, 1)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_targets_that_are_all_the_same_though_their_mean_is_rounded(weights):
    assert trainer_of(2, "identity").evaluate(X, np.full((ROWS, 2), 0.1), weights)["r2"] == -math.inf


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_that_overflow_make_no_warnings(dtype):
    largest = float(np.finfo(dtype).max) / 2
    measured = trainer_of(1, "identity", dtype=dtype).evaluate(X, np.where(X[:, 0] > 0, largest, -largest))
    assert measured["loss"] == math.inf


def test_each_member_is_measured_as_it_would_be_alone():
    for units, activation, y in ((4, "softmax", LABELS), (2, "identity", Y), (2, "sigmoid", YES)):
        both = trainer_of(units, activation, seed=[5, 6]).evaluate(X, y, WEIGHTS)
        for member, seed in enumerate((5, 6)):
            alone = trainer_of(units, activation, seed=seed).evaluate(X, y, WEIGHTS)
            assert {name: values[member] for name, values in both.items()} == pytest.approx(alone, rel=1e-12)
