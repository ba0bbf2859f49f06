"""Metrics of numbers that follow from sums over the rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu_backprop.backend.formula import Array


class Residuals(NamedTuple):
    """What the rows of a data set add up to, on the host, float64: Σw|y − y*| and Σw(y − y*)², (..., outputs), Σw, and
    Σw(y* − ȳ*)², (outputs,); where members have rows of their own, (models, 1) and (models, outputs)."""

    absolute: Array
    squared: Array
    weight: float | Array
    spread: Array

    @classmethod
    def of(cls, y: Array, target: Array, weights: Array | None = None) -> Residuals:
        """Adds up rows that lie on the host: y and target (rows, outputs), weights (rows,)."""
        target = np.asarray(target, np.float64)
        w = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)
        residual, middle = y - target, w @ target / w.sum()
        return cls(w @ np.abs(residual), w @ residual**2, float(w.sum()), w @ (target - middle) ** 2)


def r2(sums: Residuals) -> Array:
    """R², the mean over the outputs of 1 − Σw(y − y*)²/Σw(y* − ȳ*)². A constant target has no spread: it is −∞ then,
    or NaN where the target is met exactly."""
    with np.errstate(all="ignore"):
        return np.asarray((1 - sums.squared / sums.spread).mean(axis=-1))


def mae(sums: Residuals) -> Array:
    """The mean of |y − y*|."""
    return np.asarray((sums.absolute / sums.weight).mean(axis=-1))


def rmse(sums: Residuals) -> Array:
    """The mean over the outputs of √(Σw(y − y*)²/Σw)."""
    return np.asarray(np.sqrt(sums.squared / sums.weight).mean(axis=-1))
