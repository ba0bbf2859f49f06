"""Every loss: value, gradient, weights, reduction and right answers against plain Python; fused against unfused."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.formula import CORRECT, LOSS, WEIGHT, LossFormula, call, row_sum

LOSSES = {  # a loss of each kind, and the output activation to try it on
    "half_squared_error": (gb.HalfSquaredError, {}, "identity"),
    "squared_error": (gb.SquaredError, {}, "identity"),
    "mean_squared_error": (gb.MeanSquaredError, {}, "identity"),
    "absolute_error": (gb.AbsoluteError, {}, "identity"),
    "huber": (gb.Huber, {}, "identity"),
    "huber 0.3": (gb.Huber, {"delta": 0.3}, "identity"),
    "quantile": (gb.Quantile, {}, "identity"),
    "quantile 0.9": (gb.Quantile, {"q": 0.9}, "identity"),
    "poisson": (gb.Poisson, {}, "exp"),
    "poisson of softplus": (gb.Poisson, {}, "softplus"),
    "binary_cross_entropy": (gb.BinaryCrossEntropy, {}, "sigmoid"),
    "binary_cross_entropy of softmax": (gb.BinaryCrossEntropy, {}, "softmax"),
    "cross_entropy": (gb.CrossEntropy, {}, "softmax"),
    "cross_entropy smoothed": (gb.CrossEntropy, {"label_smoothing": 0.1}, "softmax"),
    "focal": (gb.Focal, {}, "softmax"),
    "focal 0.5": (gb.Focal, {"gamma": 0.5}, "softmax"),
    "focal of sigmoid": (gb.Focal, {"alpha": 0.25}, "sigmoid"),
}
FUSED = {key: row for key, row in LOSSES.items() if row[2] in ("sigmoid", "softmax") and "of softmax" not in key}
ROWS, OUTPUTS = 7, 4
WEIGHTS = [0.5, 2.0, 0.0, 1.0, 3.25, 1e-3, 7.0]


def sign(d):
    return (d > 0) - (d < 0)


def plain(loss, y, t):
    """e and [∂e/∂y_j] of one sample, as the formulas stand in the docstrings."""
    n = len(y)
    if isinstance(loss, gb.CrossEntropy):
        t = [(1 - loss.label_smoothing) * v + loss.label_smoothing / n for v in t]
    pairs = list(zip(y, t, strict=True))
    match loss.name:
        case "half_squared_error":
            terms, slopes = [(a - b) ** 2 / 2 for a, b in pairs], [a - b for a, b in pairs]
        case "squared_error":
            terms, slopes = [(a - b) ** 2 for a, b in pairs], [2 * (a - b) for a, b in pairs]
        case "mean_squared_error":
            terms, slopes = [(a - b) ** 2 / n for a, b in pairs], [2 * (a - b) / n for a, b in pairs]
        case "absolute_error":
            terms, slopes = [abs(a - b) for a, b in pairs], [sign(a - b) for a, b in pairs]
        case "huber":
            c = loss.delta
            terms = [(a - b) ** 2 / 2 if abs(a - b) <= c else c * (abs(a - b) - c / 2) for a, b in pairs]
            slopes = [a - b if abs(a - b) <= c else c * sign(a - b) for a, b in pairs]
        case "quantile":
            q = loss.q
            terms = [max(q * (b - a), (q - 1) * (b - a)) for a, b in pairs]
            slopes = [1 - q if a > b else -q if a < b else 0.5 - q for a, b in pairs]
        case "poisson":
            terms, slopes = [a - b * math.log(a) for a, b in pairs], [1 - b / a for a, b in pairs]
        case "cross_entropy":
            terms, slopes = [-b * math.log(a) for a, b in pairs], [-b / a for a, b in pairs]
        case "binary_cross_entropy":
            terms = [-b * math.log(a) - (1 - b) * math.log(1 - a) for a, b in pairs]
            slopes = [(1 - b) / (1 - a) - b / a for a, b in pairs]
        case "focal":
            yes, no = (1, 0) if loss.alpha is None else (loss.alpha, 1 - loss.alpha)  # no is 0 with softmax
            sides = [(a, yes * b, 1 - a, no * (1 - b)) for a, b in pairs]
            terms = [share * focal(p, loss.gamma)[0] + rest * focal(q, loss.gamma)[0] for p, share, q, rest in sides]
            slopes = [share * focal(p, loss.gamma)[1] - rest * focal(q, loss.gamma)[1] for p, share, q, rest in sides]
    return math.fsum(terms), slopes


def focal(p, gamma):
    """−(1 − p)^γ·log p and its derivative"""
    return -((1 - p) ** gamma) * math.log(p), gamma * (1 - p) ** (gamma - 1) * math.log(p) - (1 - p) ** gamma / p


def targets(loss, rows=ROWS, outputs=OUTPUTS, seed=1):
    rng = np.random.default_rng(seed)
    match loss.name:
        case "cross_entropy" | "focal":
            t = rng.dirichlet(np.ones(outputs), rows)
        case "binary_cross_entropy":
            t = rng.uniform(0, 1, (rows, outputs))
        case "poisson":
            t = rng.poisson(2.0, (rows, outputs)).astype(float)
        case _:
            t = rng.normal(0, 1, (rows, outputs))
    return t


def logits(rows=ROWS, outputs=OUTPUTS, seed=0, scale=1.5):
    return np.random.default_rng(seed).normal(0, scale, (rows, outputs))


def trainer_of(loss, activation, outputs=OUTPUTS, dtype="float64", layer=None):
    """A network that hands x on to f: z = x, or x@W + b for a layer of one's own."""
    net = gb.Network(outputs, [layer or gb.Bias(activation)], dtype=dtype)
    return gb.Trainer(net, loss, gb.SGD(1e-3))


def fused(trainer, x, y, weights=None):
    """(∇z, total) of a step with everything fused that can be."""
    loss = trainer.step(x, y, weights)
    plan = trainer.manual_steps.replay(len(x), np.ndim(y) == 1, weights is not None).plan
    return plan.buffers["∇z1"].copy(), plan.buffers["E"].copy(), float(loss)


def traced(trainer, x, y, weights=None):
    """Every buffer of the same step with nothing fused, by name; where f is the identity, y is z and ∇z is ∇y."""
    seen = {}
    for _, written in trainer.trace(x, y, weights):
        seen |= written
    return {"y1": seen["z1"], "∇z1": seen["∇y1"]} | seen


# Value and gradient ---------------------------------------------------------------------------------------------------


def test_the_table_has_every_name():
    assert set(gb.LOSSES) == {row[0].name for row in LOSSES.values()}
    assert all(gb.LOSSES[name] == type(loss)() and loss.name == name for name, loss in gb.LOSSES.items())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "weights"])
@pytest.mark.parametrize("key", LOSSES)
def test_value_and_gradient(key, weights, reduction, dtype):
    """A batch is Σ w·e/Σ w or Σ w·e, and its factor stands in ∂E/∂y once (rule 13)."""
    kind, settings, activation = LOSSES[key]
    loss = kind(**settings, reduction=reduction)
    target = targets(loss)
    seen = traced(trainer_of(loss, activation, dtype=dtype), logits(), target, weights)
    if dtype == "float32":  # what the engine saw, rounded as it saw it
        target = target.astype(np.float32)
    samples = [plain(loss, y, t) for y, t in zip(seen["y1"].tolist(), target.tolist(), strict=True)]
    w = weights or [1.0] * ROWS
    factor = 1 / math.fsum(w) if reduction == "mean" else 1.0
    tolerance = {"rtol": 1e-12, "atol": 1e-14} if dtype == "float64" else {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(
        seen["E"][LOSS], math.fsum(a * e for a, (e, _) in zip(w, samples, strict=True)), **tolerance
    )
    np.testing.assert_allclose(seen["E"][WEIGHT], math.fsum(w) if weights else 0, **tolerance)
    want = [[a * factor * g for g in slopes] for a, (_, slopes) in zip(w, samples, strict=True)]
    np.testing.assert_allclose(seen["∇y1"], want, **tolerance)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "weights"])
@pytest.mark.parametrize("key", LOSSES)
def test_step_and_evaluate_report_the_same_loss(key, weights, reduction):
    kind, settings, activation = LOSSES[key]
    loss = kind(**settings, reduction=reduction)
    trainer, target = trainer_of(loss, activation), targets(loss)
    measured = trainer.evaluate(logits(), target, weights)["loss"]
    assert measured == pytest.approx(float(trainer.step(logits(), target, weights)), rel=1e-13)


@pytest.mark.parametrize("key", ["absolute_error", "huber", "quantile 0.9"])
def test_where_target_and_output_meet(key):
    kind, settings, activation = LOSSES[key]
    x = logits()
    seen = traced(trainer_of(kind(**settings), activation), x, x)
    assert seen["E"][LOSS] == 0
    np.testing.assert_allclose(seen["∇y1"], (0.5 - 0.9) / ROWS if "quantile" in key else 0.0, rtol=1e-14)


def test_huber_on_both_sides_of_delta():
    x, target = np.array([[0.5, 2.0, 2.5, -3.0]]), np.zeros((1, 4))
    seen = traced(trainer_of(gb.Huber(delta=2.0), "identity"), x, target)
    assert seen["E"][LOSS] == 0.5 * 0.25 + 0.5 * 4 + 2 * 1.5 + 2 * 2
    np.testing.assert_array_equal(seen["∇y1"], [[0.5, 2, 2, -2]])


def test_quantile_is_least_at_the_quantile():
    target = np.arange(100.0)[:, None]
    trainer = trainer_of(gb.Quantile(0.9), "identity", outputs=1)
    losses = [trainer.evaluate(np.full((100, 1), float(y)), target)["loss"] for y in range(100)]
    assert abs(int(np.argmin(losses)) - 90) <= 1


# Three forms of a class target ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "weights"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("keep", [False, True], ids=["fused", "kept"])
def test_labels_are_one_hot_rows(keep, smoothing, weights):
    labels = np.array([0, 3, 1, 1, 2, 0, 3])
    loss = gb.CrossEntropy(label_smoothing=smoothing)
    results = []
    for y in (labels, gb.one_hot(labels, OUTPUTS)):
        trainer = trainer_of(loss, "softmax")
        if keep:
            seen = traced(trainer, logits(), y, weights)
            results.append((seen["∇z1"], seen["E"]))
        else:
            results.append(fused(trainer, logits(), y, weights)[:2])
    for of_labels, of_rows in zip(*results, strict=True):
        np.testing.assert_allclose(of_labels, of_rows, rtol=1e-13, atol=1e-16)


def test_smoothing_moves_the_target():
    """s: y* ← (1 − s)·y* + s/n, so that 0.1 over 4 classes is 0.925 for the right one and 0.025 for others."""
    labels = np.array([2, 0, 1, 3, 3, 2, 0])
    moved = np.full((ROWS, OUTPUTS), 0.025)
    moved[np.arange(ROWS), labels] = 0.925
    for keep in (False, True):
        by_setting = trainer_of(gb.CrossEntropy(label_smoothing=0.1), "softmax")
        by_target = trainer_of(gb.CrossEntropy(), "softmax")
        run = traced if keep else lambda *a: dict(zip(("∇z1", "E"), fused(*a)[:2], strict=True))
        seen, want = run(by_setting, logits(), labels), run(by_target, logits(), moved)
        np.testing.assert_allclose(seen["∇z1"], want["∇z1"], rtol=1e-12, atol=1e-16)
        np.testing.assert_allclose(seen["E"][LOSS], want["E"][LOSS], rtol=1e-13)


def test_a_wrong_label_spoils_the_loss_and_nothing_else():
    x, labels = logits(), np.array([0, 1, -1, 2, 4, 3, 2**62])
    good = np.array([True, True, False, True, False, True, False])
    for weights in (None, np.array(WEIGHTS)):
        for kept in (False, True):
            trainer = trainer_of(gb.CrossEntropy(reduction="sum"), "softmax")
            before = trainer.network.parameters.copy()
            if kept:
                seen = traced(trainer, x, labels, weights)
                grad_z, total = seen["∇z1"], seen["E"]
            else:
                grad_z, total, loss = fused(trainer, x, labels, weights)
                assert math.isnan(loss)
            assert math.isnan(total[LOSS]) and (grad_z[~good] == 0).all()
            others = trainer_of(gb.CrossEntropy(reduction="sum"), "softmax")
            want = traced(others, x[good], labels[good], None if weights is None else weights[good])["∇z1"]
            np.testing.assert_allclose(grad_z[good], want, rtol=1e-13, atol=1e-16)
            assert np.isfinite(trainer.network.parameters).all() and (trainer.network.parameters != before).any()


# Fused = unfused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "weights"])
@pytest.mark.parametrize("form", ["no bias", "bias", "bias layer"])
@pytest.mark.parametrize("key", FUSED)
def test_fused_is_unfused(key, form, weights, reduction, dtype):
    kind, settings, activation = FUSED[key]
    loss = kind(**settings, reduction=reduction)
    x, target = logits(), targets(loss)

    def trainer():
        layer = None if form == "bias layer" else gb.Dense(OUTPUTS, activation, bias=form == "bias")
        made = trainer_of(loss, activation, dtype=dtype, layer=layer)
        if made.network.last.bias is not None:
            made.network.last.bias[...] = [0.5, -1.0, 0.25, 2.0]
        return made

    one, other = trainer(), trainer()
    grad_z, total, _ = fused(one, x, target, weights)
    seen = traced(other, x, target, weights)
    names = [operation.name for operation in one.plan(ROWS, labels=False, weights=weights is not None).operations]
    operation = {"focal": "softmax_focal", "focal 0.5": "softmax_focal", "focal of sigmoid": "loss_gradient"}
    assert operation.get(key, f"{activation}_cross_entropy") in names
    tolerance = {"rtol": 1e-11, "atol": 1e-14} if dtype == "float64" else {"rtol": 2e-4, "atol": 2e-6}
    np.testing.assert_allclose(grad_z, seen["∇z1"], **tolerance)
    np.testing.assert_allclose(total, seen["E"], **tolerance)
    np.testing.assert_allclose(one.network.gradients, other.network.gradients, **tolerance)
    np.testing.assert_allclose(one.network.parameters, other.network.parameters, **tolerance)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_fused_softmax_at_ten_thousand(dtype):
    x = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [0, 1e4, 1e4]])
    for y in (np.array([1, 0, 2]), gb.one_hot(np.array([1, 0, 2]), 3)):
        grad_z, total, loss = fused(trainer_of("cross_entropy", "softmax", 3, dtype), x, y)
        np.testing.assert_allclose(total[LOSS], 2e4 + math.log(3) + math.log(2), rtol=1e-6)
        np.testing.assert_allclose(3 * grad_z, [[1, -1, 0], [-2 / 3, 1 / 3, 1 / 3], [0, 0.5, -0.5]], rtol=1e-6)
        assert loss == pytest.approx(total[LOSS] / 3)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_fused_sigmoid_at_ten_thousand(dtype):
    x, y = np.array([[1e4, 1e4, -1e4, -1e4, 1e4]]), np.array([[1, 0, 1, 0, 0.5]])
    grad_z, total, _ = fused(trainer_of("binary_cross_entropy", "sigmoid", 5, dtype), x, y)
    np.testing.assert_allclose(total[LOSS], 0 + 1e4 + 1e4 + 0 + 5e3, rtol=1e-6)
    np.testing.assert_allclose(grad_z, [[0, 1, -1, 0, 0.5]], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("key", LOSSES)
def test_finite_at_ten_thousand(key, dtype):
    """Unfused, a probability of 0 counts as the least one: loss and gradients stay finite."""
    kind, settings, activation = LOSSES[key]
    loss = kind(**settings)
    x = np.array([[-1e4, 1e4], [1e4, -1e4], [1e4, 1e4], [-1e4, -1e4]])
    if activation == "exp":
        x = np.minimum(x, 80.0)  # e^1e4 is infinite, and so is the loss
    for target in (np.array([[0.0, 1.0]] * 4), np.array([[1.0, 0.0]] * 4)):
        seen = traced(trainer_of(loss, activation, 2, dtype), x, target)
        assert np.isfinite(seen["E"]).all() and np.isfinite(seen["∇y1"]).all() and np.isfinite(seen["∇z1"]).all()
        grad_z, total, _ = fused(trainer_of(loss, activation, 2, dtype), x, target)
        assert np.isfinite(total).all() and np.isfinite(grad_z).all()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("activation", ["exp", "sigmoid", "softplus"])
@pytest.mark.parametrize(("z", "count"), [(-44.0, 1.0), (-80.0, 7.0), (-1000.0, 3.0), (-1e30, 1e6)])
def test_poisson_pulls_however_small_the_rate_is(activation, dtype, z, count):
    """∂e/∂z is −y* where y is next to nothing, also where it is 0; and e, of training and of measuring, is −y*·z."""
    trainer = trainer_of("poisson", activation, 1, dtype)
    x, y = np.array([[z]]), np.array([[count]])
    measured = trainer.evaluate(x, y)["loss"]
    grad_z, total, _ = fused(trainer, x, y)
    np.testing.assert_allclose(grad_z, -y, rtol=1e-6)
    np.testing.assert_allclose([total[LOSS], measured], -count * z, rtol=1e-6)


# Right answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [False, True], ids=["fused", "kept"])
def test_hits_of_classes(keep):
    x = np.array([[3.0, 1, 2], [0, 5, 1], [1, 2, 9], [7, 8, 1]])
    labels = np.array([0, 1, 2, 0])  # the last one is wrong
    probabilities = np.array([[0.6, 0.2, 0.2], [0.1, 0.8, 0.1], [0.0, 0.3, 0.7], [0.5, 0.4, 0.1]])
    for y in (labels, gb.one_hot(labels, 3), probabilities):
        trainer = trainer_of("cross_entropy", "softmax", 3)
        total = traced(trainer, x, y)["E"] if keep else fused(trainer, x, y)[1]
        assert total[CORRECT] == 3
        assert trainer.evaluate(x, y)["accuracy"] == 0.75


@pytest.mark.parametrize("keep", [False, True], ids=["fused", "kept"])
def test_hits_of_several_labels(keep):
    """A row is right where every output is on its side of ½."""
    x = np.array([[2.0, -1, 3], [-1, -1, 0.5], [1, 1, -1], [-3, 2, 1]])
    y = np.array([[1, 0.2, 1], [0, 0, 0.7], [1, 1, 0.6], [0.4, 1, 1]])  # the third row has one output wrong
    trainer = trainer_of("binary_cross_entropy", "sigmoid", 3)
    total = traced(trainer, x, y)["E"] if keep else fused(trainer, x, y)[1]
    assert total[CORRECT] == 3
    assert trainer.evaluate(x, y)["accuracy"] == 0.75


def test_regression_counts_none():
    assert fused(trainer_of("half_squared_error", "identity"), logits(), logits())[1][CORRECT] == 0


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gb.Huber(delta=0), "delta must be a finite number > 0, got 0"),
        (lambda: gb.Huber(delta=math.inf), "delta must be a finite number > 0, got inf"),
        (lambda: gb.Huber(delta=math.nan), "delta must be a finite number > 0, got nan"),
        (lambda: gb.Quantile(q=1), r"q must be a number in \(0, 1\), got 1"),
        (lambda: gb.Quantile(q="0.5"), r"q must be a number in \(0, 1\), got '0.5'"),
        (lambda: gb.CrossEntropy(label_smoothing=1.0), r"label_smoothing must be a number in \[0, 1\), got 1.0"),
        (lambda: gb.CrossEntropy(label_smoothing=-0.1), "got -0.1"),
        (lambda: gb.Huber([1.0, 0.0]), r"Huber's delta must be a finite number > 0, got \[1.0, 0.0\]"),
        (lambda: gb.Quantile(np.ones((2, 2))), "Quantile's q must be a number in"),
        (lambda: trainer_of(gb.Huber([1, 2]), "identity"), r"Huber's delta must be one number, got \(1.0, 2.0\)"),
        (lambda: gb.AbsoluteError(reduction="none"), "reduction must be 'mean' or 'sum', got 'none'"),
        (lambda: gb.Focal(-1), "Focal's gamma must be a finite number ≥ 0, got -1"),
        (lambda: gb.Focal(None), "Focal's gamma must be a finite number ≥ 0, got None"),
        (lambda: gb.Focal(alpha=1), r"Focal's alpha must be a number in \(0, 1\), got 1"),
        (lambda: trainer_of("focal", "tanh"), "focal needs an output activation out of softmax, sigmoid"),
        (lambda: trainer_of(gb.Focal(alpha=0.3), "softmax"), "alpha is for outputs with sigmoid, .* class_weight="),
        (lambda: trainer_of("cross_entropy", "identity"), "cross_entropy needs an output activation out of softmax"),
        (lambda: trainer_of("binary_cross_entropy", "tanh"), "needs an output activation out of sigmoid, softmax"),
        (lambda: trainer_of("poisson", "relu"), "needs an output activation out of exp, softplus"),
        (lambda: trainer_of("hubert", "identity"), "unknown loss 'hubert'. Did you mean 'huber'"),
        (lambda: trainer_of(gb.Huber, "identity"), r"must be an object, got the class Huber: write Huber\(\)"),
        (lambda: trainer_of(3, "identity"), "must be a name or a Loss, got int 3"),
        (lambda: trainer_of("squared_error", "softmax").step(logits(), [0] * ROWS), r"one_hot\(y, 4\)"),
    ],
)
def test_settings_are_checked(make, message):
    with pytest.raises(gb.InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("activation", "name"),
    [("softmax", "cross_entropy"), ("sigmoid", "binary_cross_entropy"), ("tanh", "half_squared_error")],
)
def test_the_output_activation_chooses(activation, name):
    assert trainer_of(None, activation).loss == gb.LOSSES[name]


# Numbers --------------------------------------------------------------------------------------------------------------

CHANGES = {  # a loss, its output activation, the number, and what it becomes
    "delta": (gb.Huber(0.5), "identity", "delta", 1.5),
    "q": (gb.Quantile(0.5), "identity", "q", np.float32(0.25)),
    "smoothing": (gb.CrossEntropy(), "softmax", "label_smoothing", 0.3),
    "no smoothing": (gb.CrossEntropy(label_smoothing=0.3), "softmax", "label_smoothing", np.array(0.0)),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("loss", "activation", "name", "value"), CHANGES.values(), ids=CHANGES)
def test_a_number_may_change_on_the_way(loss, activation, name, value, dtype, monkeypatch):
    """In steps, fused or not, and in evaluations, of plans that are there already; and nothing is compiled for it."""
    changed, made = trainer_of(loss, activation, dtype=dtype), trainer_of(loss, activation, dtype=dtype)
    other = trainer_of(type(loss)(**{name: value}), activation, dtype=dtype)
    x, y = logits(), targets(loss)

    def seen(trainer):
        kept, (grad_z, total, _) = traced(trainer, x, y), fused(trainer, x, y)
        return [kept["∇z1"], kept["E"], grad_z, total, np.array(trainer.evaluate(x, y)["loss"])]

    for one, same in zip(seen(changed), seen(made), strict=True):
        np.testing.assert_array_equal(one, same)
    library = getattr(changed.device, "library", None)
    if library is not None:
        monkeypatch.setattr(library, "_load", lambda *_: pytest.fail("a kernel is compiled"))
    setattr(changed.loss, name, value)
    assert changed.loss == other.loss and type(getattr(changed.loss, name)) is float
    for trainer in (changed, other):
        trainer.network.parameters[...] = 0
    found, before = seen(changed), seen(made)
    for one, wanted in zip(found, seen(other), strict=True):
        np.testing.assert_array_equal(one, wanted)
    assert all((one != old).any() for one, old in zip(found, before, strict=True))


def test_a_fit_goes_on_with_the_new_number():
    trainer, twin = (trainer_of(gb.Huber(delta), "identity") for delta in (2.0, 0.125))
    for each in (trainer, twin):
        each.fit(logits(), targets(each.loss), 1, progress=False)
    trainer.loss.delta, twin.network.parameters[...] = 0.125, trainer.network.parameters
    for each in (trainer, twin):
        each.fit(logits(), targets(each.loss), 2, progress=False, shuffle=False)
    assert trainer.history["loss"][1:] == twin.history["loss"][1:]


def test_a_bound_loss_is_a_copy_and_an_unbound_one_a_record():
    loss = gb.Huber([0.5, np.float32(1)])
    assert repr(loss) == "Huber(reduction='mean', delta=(0.5, 1.0))"
    assert loss == gb.Huber((0.5, 1.0)) != gb.Huber(0.5) and {loss: 1}[gb.Huber((0.5, 1))] == 1
    assert gb.HalfSquaredError() != gb.SquaredError() and gb.MeanSquaredError() != gb.SquaredError()
    net = gb.Network(3, [gb.Dense(2)], seed=[0, 1])
    trainer, other = gb.Trainer(net, loss), gb.Trainer(net, loss)
    trainer.loss.delta = [3, 4]
    assert (loss.delta, trainer.loss.delta, other.loss.delta) == ((0.5, 1.0), (3.0, 4.0), (0.5, 1.0))
    again = pickle.loads(pickle.dumps(trainer.loss))
    assert again == trainer.loss == copy.copy(trainer.loss) and again.numbers is None and again.network is None
    np.testing.assert_array_equal(again.bind(net).numbers, [[0, 3], [0, 4]])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(trainer)).loss.numbers, trainer.loss.numbers)
    with pytest.raises(
        gb.InputError, match=r"Huber's delta must be one number, or 2, one a member, got \(1.0, 2.0, 3.0\)"
    ):
        trainer.loss.delta = [1, 2, 3]
    assert trainer.loss.delta == (3.0, 4.0)


def test_a_loss_that_is_bound_to_nothing_is_no_part_of_a_plan():
    trainer = trainer_of("huber", "identity")
    step = trainer.training_step
    step.loss = gb.Huber()
    with pytest.raises(gb.GpuBackpropError, match=r"has no numbers on a device: use loss.bind\(network\)"):
        trainer.plan(4)


def test_a_loss_of_ones_own_with_a_number():
    @dataclass(unsafe_hash=True)
    class Stiff(gb.Loss):
        """e = ½k Σ (y − y*)²"""

        k: float = 1.0
        name = "stiff"
        bounds = {"k": ("a number > 0", lambda k: k > 0)}  # noqa: RUF012

        @property
        def formula(self):
            e, slope = "A(0.5) * k * (y - t) * (y - t)", "k * (y - t)"
            return LossFormula("stiff", self._numpy, e, slope, numbers=("k",))

        @staticmethod
        def _numpy(y, target, grad_y, e, work, k):
            d, term = work.full(0), work.full(1)
            yield call(np.subtract, y, target, out=d)
            yield call(np.multiply, d, k, out=term)
            if grad_y is not None:
                yield partial(np.copyto, grad_y, term)
            yield call(np.multiply, term, d, out=term)
            yield row_sum(term, e)
            yield call(np.multiply, e, 0.5, out=e)

    x, y = logits(), targets(gb.Huber())
    for dtype in ("float64", "float32"):
        trainer = trainer_of(Stiff(3), "identity", dtype=dtype)
        half = trainer_of("half_squared_error", "identity").evaluate(x, y)["loss"]
        assert float(trainer.step(x, y)) == pytest.approx(3 * half, rel=1e-5)
        trainer.loss.k, trainer.network.parameters[...] = 2, 0
        assert trainer.evaluate(x, y)["loss"] == pytest.approx(2 * half, rel=1e-5)
    gb.check_gradients(gb.Network(OUTPUTS, [gb.Bias()]), Stiff(3.5), x, y)
    with pytest.raises(gb.InputError, match="Stiff's k must be a number > 0, got 0"):
        Stiff(0)
