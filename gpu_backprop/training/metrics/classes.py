"""Metrics of classes, and of labels of which several may be right; of these, what is said of a class is the mean over
the labels."""

from __future__ import annotations

from collections.abc import Callable
from math import nan

import numpy as np

from gpu_backprop.backend.formula import Array
from gpu_backprop.training import temperature
from gpu_backprop.training.metrics.scores import Scores

BINS = 15
"""Of calibration_error, as in Guo et al. 2017."""


def mean_over_labels(metric: Callable[[Scores], float]) -> Callable[[Scores], float]:
    """Makes of a metric of classes one of labels too."""

    def over_labels(s: Scores) -> float:
        return float(np.mean([metric(label) for label in s.each_label()])) if s.multi_label else metric(s)

    over_labels.__doc__ = metric.__doc__
    return over_labels


# What was taken for what ----------------------------------------------------------------------------------------------


def accuracy(s: Scores) -> float:
    """The share of the rows that are answered rightly, whatever their weights; of labels, in all of them."""
    right = s.every_right if s.multi_label else s.labels == s.answers
    return float(right.mean())


def exact_match(s: Scores) -> float:
    """The weighted share of the rows whose labels are all answered rightly."""
    return s.mean(s.every_right)


def label_accuracy(s: Scores) -> float:
    """The share of the labels that are answered rightly: 1 − Hamming loss."""
    return s.mean(s.right.mean(axis=1))


def top_k_accuracy(s: Scores, k: float) -> float:
    """The share of the rows whose class is among the k likeliest. Of equal probabilities the last class is before the
    others, as in scikit-learn."""
    p, mine = s.p, s.p_of_label[:, None]
    after = s.xp.arange(p.shape[1]) > s.labels[:, None]
    return s.mean(((p > mine) | ((p == mine) & after)).sum(axis=1) < k)


def balanced_accuracy(s: Scores) -> float:
    """The mean over the classes of the share of their rows that are answered rightly; a class without rows is left
    out."""
    hit, true, _ = s.counts
    there = true > 0
    return float((hit[there] / true[there]).mean())


def _f1(s: Scores) -> Array:
    """F₁ of each class, 2·hit/(true + taken); 0 where it has no rows and was not given to any."""
    hit, true, taken = s.counts
    both = true + taken
    f1: Array = 2 * hit / s.xp.where(both > 0, both, 1)
    return f1


def f1(s: Scores) -> float:
    """F₁ of the second of two classes: the harmonic mean of its precision and its recall."""
    return float(_f1(s)[1])


def f1_macro(s: Scores) -> float:
    """The mean of F₁ over the labels, or over the classes; one without rows that was not given to any is left out."""
    _, true, taken = s.counts
    return float(_f1(s)[(true + taken > 0) | s.multi_label].mean())


def f1_weighted(s: Scores) -> float:
    """The mean of F₁ over classes or labels, each as often as its rows."""
    _, true, _ = s.counts
    return float((_f1(s) * true).sum() / true.sum())


# Whom to rank above whom ----------------------------------------------------------------------------------------------


def _above(s: Scores, truth: Array, score: Array) -> tuple[Array, Array]:
    """For each score that occurs, from the largest on: how many rows have at least that and are of the class (true
    positives), or are not (false positives); in float64."""
    order = s.xp.argsort(-score)
    score, truth, units = score[order], truth[order], s.units[order]
    last = s.xp.concatenate([score[1:] != score[:-1], s.xp.ones(1, bool)])  # equal ones count together
    counts = (s.xp.cumsum(s.xp.where(of, units, 0))[last] for of in (truth, ~truth))
    hits, misses = (count.astype(np.float64) for count in counts)
    return hits, misses


def _roc_auc(hits: Array, misses: Array) -> float:
    widths, heights = misses.copy(), hits.copy()
    widths[1:] -= misses[:-1]
    heights[1:] += hits[:-1]
    return float((widths * heights).sum() / (2 * hits[-1] * misses[-1]))


def _average_precision(hits: Array, misses: Array) -> float:
    steps = hits.copy()
    steps[1:] -= hits[:-1]
    rows = hits + misses
    rows[rows == 0] = 1.0  # the first ones may have no weight
    return float((steps * hits / rows).sum() / hits[-1])


def _mean_over_classes(s: Scores, area: Callable[[Array, Array], float], both: bool) -> float:
    """The mean over the classes with rows of theirs and, if `both`, others; NaN where there is none."""
    areas = []
    for truth, score in s.one_against_rest():
        hits, misses = _above(s, truth, score)
        if hits[-1] > 0 and (misses[-1] > 0 or not both):
            areas.append(area(hits, misses))
    return float(np.mean(areas)) if areas else nan


def roc_auc(s: Scores) -> float:
    """The area under the receiver operating characteristic: how probable it is that a row of a class gets more than one
    of another; equal counts half. Of more than two classes the mean of each against the rest."""
    return _mean_over_classes(s, _roc_auc, both=True)


def average_precision(s: Scores) -> float:
    """Σ (Rₙ − Rₙ₋₁)·Pₙ over the thresholds, from the largest on, with recall R and precision P. Of more than two
    classes the mean of each against the rest."""
    return _mean_over_classes(s, _average_precision, both=False)


# Probabilities --------------------------------------------------------------------------------------------------------


@mean_over_labels
def log_loss(s: Scores) -> float:
    """The mean of −log p of the right class, p at least the epsilon of its dtype and at most 1 less that."""
    eps = float(np.finfo(s.p.dtype).eps)
    return s.mean(-s.xp.log(s.p_of_label.astype(np.float64).clip(eps, 1 - eps)))


def calibrated_log_loss(s: Scores) -> float:
    """The log loss after the temperature that is best for these rows, one for all labels; see
    `gpu_backprop.fit_temperature`. It tells what a network knows, whatever it thinks of how sure it is."""
    logits = temperature.Logits.of(s.xp, s.y, s.target, s.weights, multi_label=s.multi_label)
    return float(temperature.fit(s.xp, logits)[1])


@mean_over_labels
def brier_score(s: Scores) -> float:
    """The mean of Σ(p − y*)² over the classes (Brier 1950); of two classes half of it."""
    squares = s.xp.square(s.p).sum(axis=1, dtype=np.float64)
    return s.mean(squares - 2 * s.p_of_label + 1) / (2 if s.p.shape[1] == 2 else 1)


@mean_over_labels
def calibration_error(s: Scores) -> float:
    """The expected calibration error, Σ share of the bin · |accuracy − mean p| of the bin, where p, of the class that
    is given, falls into 15 bins of equal width, (0, 1/15] to (14/15, 1] (Guo et al. 2017)."""
    p = s.p.max(axis=1).astype(np.float64)
    bins = s.xp.ceil(p * BINS).astype(np.int64).clip(1, BINS) - 1
    excess = (s.labels == s.answers) - p
    excess = excess / len(p) if s.weights is None else excess * s.weights / s.weights.sum()
    return float(abs(s.sums_by(bins, excess, BINS)).sum())
