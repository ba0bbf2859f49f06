"""Each metric against scikit-learn's value for the same numbers, and by hand what scikit-learn does not have."""

import math

import numpy as np
import pytest
from metric_cases import CASES, values

from gpu_backprop.training.metrics import METRICS, Residuals, Scores
from gpu_backprop.training.metrics.table import metric_named

EXPECTED = values()
EACH = pytest.mark.parametrize("name", CASES)


def scores_of(name):
    task, y, target, weights = CASES[name]
    return Scores(np, y, target, weights, multi_label=task == "several labels")


@EACH
def test_as_scikit_learn(name):
    _, y, target, weights = CASES[name]
    scores = scores_of(name)
    for metric in map(metric_named, EXPECTED[name]):
        found = metric.of_sums(Residuals.of(y, target, weights)) if metric.of_sums else metric.value(scores)
        assert found == pytest.approx(EXPECTED[name][metric.name], rel=1e-12, abs=1e-15), metric.name


def test_every_metric_that_scikit_learn_has_is_compared():
    compared = {name for found in EXPECTED.values() for name in found}
    assert set(METRICS) - compared == {"top_5_accuracy", "calibration_error", "calibrated_log_loss", "quantile_loss"}


@EACH
def test_calibration_error(name):
    """The formula, bin by bin: Guo et al. 2017, equation 3."""
    task, y, target, weights = CASES[name]
    if task == "numbers":
        return
    w, errors = np.ones(len(y)) if weights is None else weights, []
    several = task == "several labels"
    for k in range(y.shape[1] if several else 1):
        p = y[:, [k]] if several else y
        p = np.hstack([1 - p, p]) if p.shape[1] == 1 else p
        truth = target[:, k] if several else target.ravel()
        confidence, right = p.max(axis=1), p.argmax(axis=1) == truth
        error = 0.0
        for m in range(15):
            here = (confidence > m / 15) & (confidence <= (m + 1) / 15)
            if w[here].sum():
                gap = np.average(right[here], weights=w[here]) - np.average(confidence[here], weights=w[here])
                error += w[here].sum() / w.sum() * abs(gap)
        errors.append(error)
    assert METRICS["calibration_error"].value(scores_of(name)) == pytest.approx(np.mean(errors), rel=1e-12)


@EACH
def test_calibrated_log_loss(name):
    """The log loss of probabilities that are worked out again with every temperature of a fine grid, at the best."""
    task, y, target, weights = CASES[name]
    if task == "numbers":
        return
    several = task == "several labels"
    p = np.stack([(1 - y).clip(2.0**-54), y], axis=-1) if several or y.shape[1] == 1 else y[:, None, :]
    labels, w = target.reshape(len(y), -1).astype(int), np.ones(len(y)) if weights is None else weights
    rows, n = np.repeat(w, p.shape[1]), w.sum() ** 2 / (w**2).sum() * p.shape[1]
    z = np.log(p.clip(2.0**-1022, None)).reshape(-1, p.shape[-1])

    def losses(temperature):
        logs = z / temperature - np.log(np.exp(z / temperature).sum(axis=1, keepdims=True))
        right = np.average(-np.take_along_axis(logs, labels.reshape(-1, 1), 1)[:, 0], weights=rows)
        return right, (n * right - np.average(logs.mean(axis=1), weights=rows)) / (n + 1)  # and with one row more

    best = min(np.geomspace(0.1, 10, 1_001), key=lambda t: losses(t)[1])
    expected = min(losses(best)[0], losses(1.0)[0])
    assert METRICS["calibrated_log_loss"].value(scores_of(name)) == pytest.approx(expected, rel=1e-4, abs=1e-12)


def test_quantile_loss_takes_the_quantile_of_the_loss():
    _, y, target, _ = CASES["numbers"]
    scores = Scores(np, y, target, quantile=0.25)
    assert METRICS["quantile_loss"].value(scores) == pytest.approx(EXPECTED["numbers"]["quantile_0.25_loss"])


def test_what_is_undefined_is_nan():
    for name in ("one class", "one class, weighted"):
        for metric in ("roc_auc", "average_precision"):
            assert math.isnan(METRICS[metric].value(scores_of(name))), metric
    assert METRICS["f1"].value(scores_of("one class")) == 0.0
    y = np.array([[0.5], [math.nan]])
    assert all(math.isnan(METRICS[name].value(Scores(np, y, np.array([[0], [1]])))) for name in ("f1", "log_loss"))


def test_probabilities_as_targets_count_as_the_likeliest_class():
    _, y, target, _ = CASES["classes"]
    rows = np.eye(4)[target] * 0.6 + 0.1
    for metric, value in EXPECTED["classes"].items():
        assert metric_named(metric).value(Scores(np, y, rows)) == pytest.approx(value, rel=1e-12), metric


def test_float32_outputs():
    """Sums are in float64 whatever the outputs are in."""
    for name in ("classes", "labels, weighted"):
        task, y, target, weights = CASES[name]
        scores = Scores(np, y.astype(np.float32), target, weights, multi_label=task == "several labels")
        for metric in ("brier_score", "calibration_error", "roc_auc"):
            exact = METRICS[metric].value(scores_of(name))
            assert METRICS[metric].value(scores) == pytest.approx(exact, rel=1e-5), metric
