"""How good predictions are, and which learner is better over many tables: the statistics of bench/tables.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

SHIFT = 0.01
"""What is added under a logarithm, so that an error of 0 on an easy table does not decide a mean (Holzmüller 2024)."""

BINS = 15
LEAST = 1e-7
"""Probabilities below it count as this, which is what float32 tells from 0 beside 1."""

Array = npt.NDArray[Any]


def score(predicted: Array, y: Sequence[str], classes: Sequence[str] | None) -> dict[str, float]:
    """Returns error, log loss and calibration error of probabilities, or RMSE over the deviation of the target."""
    if classes is None:
        true = np.array(y, np.float64)
        return {"rmse": float(np.sqrt(np.mean((predicted - true) ** 2)) / true.std())}
    label = np.searchsorted(classes, y)
    right, sure = predicted.argmax(1) == label, predicted.max(1)
    own = predicted[np.arange(len(label)), label] / predicted.sum(1)
    return {
        "error": float(1 - right.mean()),
        "log_loss": float(-np.log(np.clip(own, LEAST, 1)).mean()),
        "calibration": calibration_error(sure, right),
    }


def calibration_error(confidence: Array, right: Array) -> float:
    """The expected calibration error of the top class, with 15 bins of equal width (Guo et al. 2017)."""
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(place, confidence - right, BINS)
    return float(np.abs(gaps).sum() / len(right))


def shifted_mean(values: Sequence[float]) -> float:
    """The geometric mean of values + 0.01, of which a ratio of two learners is told."""
    return math.exp(np.mean(np.log(np.array(values) + SHIFT)))


Name = TypeVar("Name")


def holm(p: Mapping[Name, float]) -> dict[Name, float]:
    """Corrects p-values for their number (Holm 1979): the k-th smallest of m times m − k + 1, ascending."""
    corrected: dict[Name, float] = {}
    most = 0.0
    for place, name in enumerate(sorted(p, key=p.__getitem__)):
        most = max(most, min(1.0, (len(p) - place) * p[name]))
        corrected[name] = most
    return corrected


def signed_rank(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The two-sided p-value of Wilcoxon's signed rank test over tables, of the shifted logarithms' differences."""
    from scipy.stats import wilcoxon

    differences = np.log(np.array(ours) + SHIFT) - np.log(np.array(theirs) + SHIFT)
    return 1.0 if not differences.any() else float(wilcoxon(differences).pvalue)


def ranks(values: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Each learner's place on each table, 1 for the least value; equal values share their places."""
    table = np.array(list(values.values()), np.float64)
    places = (table[:, None] > table).sum(1) + ((table[:, None] == table).sum(1) + 1) / 2
    return dict(zip(values, places.tolist(), strict=True))


def mean_ranks(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The mean over tables of each learner's place."""
    return {name: float(np.mean(places)) for name, places in ranks(values).items()}
