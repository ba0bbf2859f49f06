"""Metrics that are worked out on a CUDA device give what they give on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from metric_cases import CASES, values

import gpu_backprop as gb
from gpu_backprop.training.metrics import METRICS, Scores
from gpu_backprop.training.metrics.table import metric_named

pytestmark = pytest.mark.gpu

ROWS = 23
STREAM = np.random.default_rng(5)
X = STREAM.normal(size=(ROWS, 3))
WEIGHTS = STREAM.integers(0, 4, ROWS) / 2
LABELS, YES, Y = STREAM.integers(0, 7, ROWS), STREAM.integers(0, 2, (ROWS, 2)), STREAM.normal(size=(ROWS, 2))
ALL = ["accuracy", "roc_auc", "f1_weighted", "log_loss", "calibration_error", "calibrated_log_loss"]
TASKS = {
    "softmax": (7, LABELS, [*ALL, "balanced_accuracy", "top_2_accuracy"]),
    "sigmoid": (2, YES, [*ALL, "label_accuracy"]),
    "identity": (2, Y, ["r2", "rmse", "median_absolute_error", "quantile_0.3_loss"]),
}


def on_device(array):
    import cupy

    return None if array is None else cupy.asarray(array)


def test_every_metric_as_scikit_learn():
    import cupy

    for name in ("classes", "no row of one class, weighted", "one column, weighted", "labels, weighted", "numbers"):
        task, y, target, weights = CASES[name]
        arrays = map(on_device, (y, target, weights))
        on_host = Scores(np, y, target, weights, multi_label=task == "several labels")
        scores = Scores(cupy, *arrays, multi_label=task == "several labels")
        known = values()[name]
        if task != "numbers":
            for own in ("calibration_error", "calibrated_log_loss"):
                known[own] = METRICS[own].value(on_host)
        for metric in map(metric_named, known):
            if metric.of_scores is not None:
                assert metric.value(scores) == pytest.approx(known[metric.name], rel=1e-12), (name, metric.name)


@pytest.mark.parametrize("activation", TASKS)
@pytest.mark.parametrize(
    ("dtype", "settings"),
    [("float64", {}), ("float32", {"graph": True}), ("float32", {"stream": True}), ("bfloat16", {}), ("float16", {})],
)
def test_evaluate_and_fit(activation, dtype, settings):
    units, target, names = TASKS[activation]

    def measured(device, dtype, **settings):
        layers = [gb.Dense(6, "tanh"), gb.Dense(units, activation)]
        net = gb.Network(3, layers, dtype=dtype, device=device, seed=[1, 2])
        trainer = gb.Trainer(net, batch_size=5, metrics=names, **settings)
        before = trainer.evaluate(X, target, WEIGHTS)
        history = trainer.fit(X, target, 2, validation=(X, target, WEIGHTS), progress=False)
        return [list(before.values()), [history[-1][f"val_{name}"] for name in names]]

    low = dtype.endswith("16")
    expected = measured("cpu", "float32" if low else dtype)
    found = measured("cuda", dtype, **settings)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0.2 if low else 1e-4, atol=0.2 if low else 1e-6)


def test_own_functions_see_host_arrays():
    def share(y_true, y_pred, weights):
        assert all(isinstance(array, np.ndarray) for array in (y_true, y_pred, weights))
        return (weights * (y_pred.argmax(axis=1) == y_true)).sum() / weights.sum()

    trainer = gb.Trainer(gb.Network(3, [gb.Dense(7, "softmax")], device="cuda", seed=1), batch_size=5)
    names = ["top_1_accuracy", share]
    measured = trainer.evaluate(X, LABELS, WEIGHTS, metrics=names)
    assert measured["share"] == pytest.approx(measured["top_1_accuracy"])
