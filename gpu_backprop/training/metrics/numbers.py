"""Metrics of numbers for which every row is needed."""

from __future__ import annotations

import numpy as np

from gpu_backprop.backend.formula import Array
from gpu_backprop.training.metrics.scores import Scores

EVEN = 1e-12
"""The share of all weight by which two halves may differ and count as equal, for weights are rounded."""


def _residuals(s: Scores) -> Array:
    """y* − y, float64."""
    return s.target - s.y.astype(np.float64)


def median_absolute_error(s: Scores) -> float:
    """The mean over the outputs of the median of |y − y*|: where the weight below and above are equal, the mean of the
    two errors in the middle."""
    units, columns = s.units, abs(_residuals(s)).T
    middles = []
    for column in columns:
        errors = column[units > 0]
        order = errors.argsort()
        below = s.xp.cumsum(units[units > 0][order]) / units.sum()
        low, high = (below < 0.5 - EVEN).sum(), (below <= 0.5 + EVEN).sum()
        middles.append((errors[order[low]] + errors[order[high]]) / 2)
    return float(sum(middles) / len(middles))


def quantile_loss(s: Scores, quantile: float | None = None) -> float:
    """The mean over rows and outputs of max(q·(y* − y), (q − 1)·(y* − y)) (Koenker and Bassett 1978)."""
    q = s.quantile if quantile is None else quantile
    assert q is not None
    residuals = _residuals(s)
    return s.mean(s.xp.maximum(q * residuals, (q - 1) * residuals).mean(axis=1))
