"""Prediction intervals: how far predictions have been from what they should have been, on rows that a network has not
learned from (split conformal prediction: Papadopoulos et al. 2002; Lei et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.network.arrays import check_finite, check_real, host_array
from gpu_backprop.network.numbers import number

KEPT, ALTOGETHER = 1000, 100_000
"""How many of the residuals are kept of an output, and of all outputs together, of which each keeps LEAST though."""

LEAST = 20


@dataclass(frozen=True, eq=False, repr=False)
class Intervals:
    """What prediction intervals are made of: `Intervals.fit(residuals)` makes it, `network.intervals` keeps it.

    Attributes:
        rows: how many rows were measured.
        residuals: of each output, |y* − y| of these rows from the smallest to the largest, or of many rows some of them
            at equal distances; float64 (outputs, kept).
    """

    rows: int
    residuals: Array

    @classmethod
    def fit(cls, residuals: Any) -> Self:
        """Takes the differences between targets and predictions, in the units in which intervals are to be.

        Args:
            residuals: y* − y, or its size, (rows, outputs), or (rows,) of one output: of rows that the network has not
                learned from, such as `trainer.out_of_fold()` predicts.

        Raises:
            InputError: they are not finite, or there are none.
        """
        values = check_real(host_array(residuals, "residuals"), "residuals")
        if values.ndim not in (1, 2) or not values.size:
            raise InputError(
                f"residuals must have the axes (rows, outputs) or (rows,), with one row at least, got the shape "
                f"{values.shape}."
            )
        check_finite(values, "residuals")
        sizes = np.sort(abs(values.reshape(len(values), -1).astype(np.float64)), axis=0).T
        return cls(len(values), np.ascontiguousarray(sizes[:, _ranks(len(values), len(sizes)) - 1]))

    @property
    def outputs(self) -> int:
        """How many outputs the network has."""
        return len(self.residuals)

    @property
    def most(self) -> float:
        """The largest coverage that so many rows can promise, n/(n + 1)."""
        return self.rows / (self.rows + 1)

    def half_widths(self, coverage: float = 0.9) -> Array:
        """Returns how far an interval goes to both sides of a prediction, (outputs,): the residual that is the
        ⌈(n + 1)·coverage⌉-th of n. Where a new row is like these, in whatever way, each of n + 1 places among them is
        as likely for its residual, which therefore is no larger with at least that probability.

        Raises:
            InputError: the coverage is not a number between 0 and 1, or more than so many rows can promise.
        """
        coverage = number("coverage", coverage, "a number between 0 and 1, such as 0.9", lambda value: 0 < value < 1)
        rank = math.ceil(round((self.rows + 1) * coverage, 9))
        if rank > self.rows:
            needed = math.ceil(round(coverage / (1 - coverage), 6))
            raise InputError(
                f"a coverage of {coverage:g} takes {needed:,} rows that were not learned from, and there were "
                f"{self.rows:,}, which are enough for {math.floor(self.most * 1000) / 1000:g}. Give less, or more rows."
            )
        place = int(np.searchsorted(_ranks(self.rows, self.outputs), rank))
        widths: Array = self.residuals[:, place]
        return widths

    def __repr__(self) -> str:
        coverage = 0.9 if self.most >= 0.9 else 0.5
        widths = ", ".join(f"±{width:.4g}" for width in self.half_widths(coverage)[:3])
        more = ", …" if self.outputs > 3 else ""
        return f"<Intervals of {self.rows:,} rows: {widths}{more} at coverage {coverage:g}>"

    def to_dict(self) -> dict[str, Any]:
        """Returns it as plain data for JSON."""
        return {"rows": self.rows, "residuals": self.residuals.tolist()}

    @classmethod
    def from_dict(cls, given: Any) -> Self:
        """Reads what `to_dict` gave; raises ValueError where it is damaged."""
        rows = given.get("rows") if isinstance(given, Mapping) else None
        if type(rows) is not int or not 1 <= rows < 2**53:
            raise ValueError("the intervals are damaged: there is no number of rows")
        try:
            residuals = np.array(given.get("residuals"), np.float64)
        except (TypeError, ValueError, OverflowError):
            residuals = np.empty(0)
        if residuals.ndim != 2 or not len(residuals) or residuals.shape[1] != len(_ranks(rows, len(residuals))):
            raise ValueError("the intervals are damaged: they have not the residuals of so many rows")
        if not np.isfinite(residuals).all() or (residuals < 0).any() or (np.diff(residuals) < 0).any():
            raise ValueError("the intervals are damaged: their residuals are not sorted numbers ≥ 0")
        return cls(rows, residuals)


def _ranks(rows: int, outputs: int) -> Array:
    """Returns which of so many sorted residuals are kept, counted from 1; the largest always is."""
    kept = min(rows, KEPT, max(LEAST, ALTOGETHER // outputs))
    return -(-rows * np.arange(1, kept + 1) // kept)
