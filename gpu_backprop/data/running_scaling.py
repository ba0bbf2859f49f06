"""The scaling of numbers that come a part at a time, of which no more than a sample is held."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gpu_backprop.data.encoding import PLAIN, Encoding
from gpu_backprop.data.files import Array
from gpu_backprop.data.scaling import SCALINGS, Scaling, StandardScaling, fill_of

SAMPLE_ROWS, SAMPLE_VALUES = 100_000, 1 << 24
"""Rows, and values in them, that quantiles are taken of where not all rows can be held at once."""


class RunningScaling:
    """What `fit_scaling` finds, of values that come a part at a time: counts, means and sums of squared deviations of
    the numbers there, merged as in Chan, Golub and LeVeque (1979), and the least and largest of them.

    Quantiles cannot be merged. Where they are needed, they are those of a sample, which is all rows if they are no more
    than `SAMPLE_ROWS`, and else so many, each as likely as any other: those that drew the least random numbers.
    """

    def __init__(self, columns: int, impute: str | None = None, encoding: Encoding = PLAIN) -> None:
        self.impute, self.encoding = impute, encoding
        self.count, self.gone = np.zeros(columns), np.zeros(columns)
        self.mean, self.squares = np.zeros(columns), np.zeros(columns)
        self.low, self.high = np.full(columns, np.inf), np.full(columns, -np.inf)
        sampled = impute == "median" or encoding.numbers != "standard"
        most = min(SAMPLE_ROWS, max(1, SAMPLE_VALUES // max(1, columns)))
        self._sample = _Sample(columns, most) if sampled else None

    def add(self, values: Array) -> None:
        """Adds values, float64 (rows, columns), in which NaN is a missing one."""
        if not len(values):
            return
        there = ~np.isnan(values)
        count = there.sum(axis=0)
        with np.errstate(all="ignore"):
            known = np.where(there, values, 0)
            mean = known.sum(axis=0) / np.maximum(count, 1)
            self.gone += len(values) - count
            self._merge(count, mean, (np.where(there, values - mean, 0) ** 2).sum(axis=0))
        self.low = np.fmin(self.low, np.where(there, values, np.inf).min(axis=0))
        self.high = np.fmax(self.high, np.where(there, values, -np.inf).max(axis=0))
        if self._sample is not None:
            self._sample.add(values)

    def _merge(self, count: Array, mean: Array, squares: Array) -> None:
        both, apart = self.count + count, mean - self.mean
        share = count / np.maximum(both, 1)
        self.squares += squares + apart**2 * self.count * share
        self.mean, self.count = self.mean + apart * share, both

    def _sampled_values(self) -> Array:
        """Returns the sample; where rows were left out, with the least and largest value of each column below it."""
        assert self._sample is not None
        if not self._sample.left_out:
            return self._sample.values
        ends = np.where(self.count > 0, np.stack([self.low, self.high]), np.nan)
        return np.concatenate([self._sample.values, ends])

    def scaling(self) -> Scaling:
        """Returns the scaling of what was added, which stays."""
        fill, sample = None, 0
        if self._sample is not None and self._sample.left_out:
            sample = len(self._sample.values)
        with np.errstate(all="ignore"):
            if self.impute == "median":
                fill = fill_of(self._sampled_values(), "median")
            elif self.impute is not None:
                mean = np.clip(self.mean, self.low, self.high)  # that of equal numbers may be off by a rounding
                fill = np.zeros_like(self.mean) if self.impute == "constant" else mean
                fill = np.where(self.count > 0, fill, np.nan) if self.impute == "mean" else fill
            if self.encoding.numbers != "standard":
                scaling = SCALINGS[self.encoding.numbers].fit(self._sampled_values(), fill, self.encoding.clip)
                return replace(scaling, sample=sample)
            if fill is not None:
                gone = np.where(self.gone > 0, fill, np.nan)
                self._merge(self.gone, fill, np.zeros_like(fill))
                self.low, self.high = np.fmin(self.low, gone), np.fmax(self.high, gone)
                self.gone = np.zeros_like(self.gone)
            same = self.low == self.high
            std = np.where(same, 0, np.sqrt(self.squares / self.count))
            mean = np.where(same, self.low, np.where(self.count, self.mean, np.nan))
        return StandardScaling(mean, std, fill=fill, clip=self.encoding.clip, sample=sample)


class _Sample:
    """So many rows, or all if they are fewer: those with the least of random numbers that each draws."""

    def __init__(self, columns: int, most: int) -> None:
        self.values, self._drawn = np.empty((0, columns)), np.empty(0)
        self.left_out = False
        self._most, self._random = most, np.random.default_rng(0)

    def add(self, values: Array) -> None:
        drawn = self._random.random(len(values))
        free = self._most - len(self.values)
        self.values = np.concatenate([self.values, values[:free]]) if free else self.values
        self._drawn = np.concatenate([self._drawn, drawn[:free]])
        if free >= len(values):
            return
        self.left_out = True
        least = np.argpartition(np.concatenate([self._drawn, drawn[free:]]), self._most - 1)
        come, go = least[: self._most], least[self._most :]
        come, go = come[come >= self._most] - self._most, go[go < self._most]
        self.values[go], self._drawn[go] = values[free:][come], drawn[free:][come]
