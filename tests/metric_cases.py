"""Answers of networks with ties, weights and missing classes, and what scikit-learn says of them.

The values were made by `python tests/metric_cases.py`, with scikit-learn 1.9.1, which no test needs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FILE = Path(__file__).with_suffix(".json")
ROWS = 60


class Case(NamedTuple):
    """y and target as `Scores` takes them; weights, float64."""

    task: str
    y: Any
    target: Any
    weights: Any = None


def _cases() -> dict[str, Case]:
    stream = np.random.RandomState(7)  # whose numbers are the same in every version of NumPy
    labels = stream.randint(0, 4, ROWS)
    p = stream.multinomial(10, [0.1, 0.2, 0.3, 0.4], ROWS) / 10  # which gives ties, and zeros
    p[np.arange(0, ROWS, 2)] = np.eye(4)[labels[::2]] * 0.5 + p[np.arange(0, ROWS, 2)] * 0.5
    weights = stream.randint(0, 4, ROWS) / 8
    two = stream.randint(0, 11, ROWS) / 10
    rare = (stream.uniform(size=ROWS) < 0.1).astype(int)
    yes, several = stream.randint(0, 2, (ROWS, 3)), stream.randint(0, 6, (ROWS, 3)) / 5
    numbers, close = stream.randint(-9, 10, (ROWS, 2)) / 4, stream.randint(-3, 4, (ROWS, 2)) / 4
    apart = (stream.permutation(ROWS)[:, None] + 0.5) / ROWS
    weights[apart.argmax()] = 0.0
    both, column = np.stack([1 - two, two], axis=1), two[:, None]
    plain = {
        "classes": Case("classes", p, labels),
        "no row of one class": Case("classes", p, labels % 3),
        "two classes": Case("two classes", both, labels % 2),
        "one column": Case("two classes", column, labels[:, None] % 2),
        "a rare class": Case("two classes", column, rare[:, None]),
        "no ties": Case("two classes", apart, labels[:, None] % 2),
        "one class": Case("two classes", column, np.zeros((ROWS, 1), int)),
        "labels": Case("several labels", several, yes),
        "an odd row": Case("numbers", (numbers + close)[1:], numbers[1:]),
        "numbers": Case("numbers", numbers + close, numbers),
    }
    weighted = {f"{name}, weighted": case._replace(weights=weights[: len(case.y)]) for name, case in plain.items()}
    return plain | weighted


CASES = _cases()


def values() -> dict[str, dict[str, float]]:
    """Reads what scikit-learn says: by case and metric."""
    return json.loads(FILE.read_text())


def _of_classes(case: Case) -> dict[str, float]:
    import sklearn.metrics as sk

    w = {"sample_weight": case.weights}
    truth = case.target.ravel()
    p = case.y if case.y.shape[1] > 1 else np.hstack([1 - case.y, case.y])
    classes, answer = np.arange(p.shape[1]), p.argmax(axis=1)
    two = len(classes) == 2
    ranked = [(truth == k, p[:, k]) for k in (classes[1:] if two else classes) if 0 < (truth == k).sum() < len(truth)]
    found = {
        "accuracy": sk.accuracy_score(truth, answer),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, answer, **w),
        "f1_macro": sk.f1_score(truth, answer, average="macro", zero_division=0, **w),
        "f1_weighted": sk.f1_score(truth, answer, average="weighted", zero_division=0, **w),
        "log_loss": sk.log_loss(truth, p, labels=classes, **w),
        "brier_score": sk.brier_score_loss(truth, p, labels=classes, **w),
    }
    if ranked:
        found["roc_auc"] = np.mean([sk.roc_auc_score(*pair, **w) for pair in ranked])
        found["average_precision"] = np.mean([sk.average_precision_score(*pair, **w) for pair in ranked])
    if two:
        return found | {"f1": sk.f1_score(truth, answer, zero_division=0, **w)}
    tops = {f"top_{k}_accuracy": sk.top_k_accuracy_score(truth, p, k=k, labels=classes, **w) for k in (1, 2, 3)}
    return found | tops


def _of_labels(case: Case) -> dict[str, float]:
    import sklearn.metrics as sk

    w, truth, answer = {"sample_weight": case.weights}, case.target, (case.y > 0.5).astype(int)
    each = list(zip(truth.T, case.y.T, strict=True))
    return {
        "accuracy": sk.accuracy_score(truth, answer),
        "exact_match": sk.accuracy_score(truth, answer, **w),
        "label_accuracy": 1 - sk.hamming_loss(truth, answer, **w),
        "f1_macro": sk.f1_score(truth, answer, average="macro", **w),
        "f1_weighted": sk.f1_score(truth, answer, average="weighted", **w),
        "roc_auc": sk.roc_auc_score(truth, case.y, average="macro", **w),
        "average_precision": sk.average_precision_score(truth, case.y, average="macro", **w),
        "log_loss": np.mean([sk.log_loss(t, y, **w) for t, y in each]),
        "brier_score": np.mean([sk.brier_score_loss(t, y, **w) for t, y in each]),
    }


def _of_numbers(case: Case) -> dict[str, float]:
    import sklearn.metrics as sk

    w, pair = {"sample_weight": case.weights}, (case.target, case.y)
    return {
        "r2": sk.r2_score(*pair, **w),
        "mae": sk.mean_absolute_error(*pair, **w),
        "rmse": sk.root_mean_squared_error(*pair, **w),
        "median_absolute_error": sk.median_absolute_error(*pair, **w),
        "quantile_0.9_loss": sk.mean_pinball_loss(*pair, alpha=0.9, **w),
        "quantile_0.25_loss": sk.mean_pinball_loss(*pair, alpha=0.25, **w),
    }


if __name__ == "__main__":
    told = {"classes": _of_classes, "two classes": _of_classes, "several labels": _of_labels, "numbers": _of_numbers}
    made = {name: {k: float(v) for k, v in told[case.task](case).items()} for name, case in CASES.items()}
    FILE.write_text(json.dumps(made, indent=1) + "\n")
