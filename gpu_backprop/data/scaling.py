"""Numbers brought to mean 0 and standard deviation 1, and missing ones filled in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_backprop.data import stored
from gpu_backprop.data.files import Array

IMPUTE = ("mean", "median", "constant")
"""What takes a missing number's place: the mean or median of the training rows that have one, or 0."""


@dataclass(frozen=True, eq=False)
class Scaling:
    """Of k columns of numbers, float64 each (k,): (v − mean)/std, where std is 0 simply 0.

    Attributes:
        fill: what takes a missing value's place before that; None where none was provided for.
    """

    mean: Array
    std: Array
    fill: Array | None = None

    @classmethod
    def fit(cls, values: Array, impute: str | None = None) -> Scaling:
        """Fits the scaling of float64 values (rows, k), in which NaN is a missing one.

        Nothing is checked: mean or std are not finite where the values are too large, or none can be filled in.
        """
        fill = None
        missing = np.isnan(values)
        with np.errstate(all="ignore"):
            if impute is not None:
                fill = _fill(values, missing, impute)
                values = np.where(missing, fill, values)
            same = values.min(axis=0) == values.max(axis=0)
            mean = np.where(same, values[0], values.mean(axis=0))  # the mean of equal numbers may be off by a rounding
            std = np.where(same, 0, values.std(axis=0))
        return cls(mean, std, fill)

    @classmethod
    def concatenate(cls, parts: Sequence[Scaling]) -> Scaling:
        """Joins the scalings of columns that stand side by side."""
        fills = [part.fill for part in parts if part.fill is not None]
        return cls(
            np.concatenate([part.mean for part in parts]),
            np.concatenate([part.std for part in parts]),
            np.concatenate(fills) if fills else None,
        )

    def apply(self, values: Array) -> Array:
        """Returns the scaled numbers, float64 (rows, k)."""
        if self.fill is not None:
            values = np.where(np.isnan(values), self.fill, values)
        scaled = np.zeros(values.shape)
        with np.errstate(all="ignore"):
            np.divide(values - self.mean, self.std, out=scaled, where=self.std > 0)
        return scaled

    def describe(self) -> list[str]:
        """Writes the formula of each column."""
        formulas = []
        for k, (mean, std) in enumerate(zip(self.mean.tolist(), self.std.tolist(), strict=True)):
            difference = f"v − {mean:.4g}" if mean > 0 else f"v + {-mean:.4g}" if mean < 0 else "v"
            divided = difference if std == 1 else f"({difference})/{std:.4g}" if mean else f"v/{std:.4g}"
            filled = "" if self.fill is None else f"; where it is missing, v = {self.fill[k]:.4g}"
            formulas.append((divided if std else f"0, since all rows had {mean:.4g}") + filled)
        return formulas

    @property
    def sound(self) -> Array:
        """Whether each column can be scaled at all, bool (k,)."""
        return np.isfinite(self.mean) & np.isfinite(self.std) & (True if self.fill is None else np.isfinite(self.fill))

    def to_dict(self) -> dict[str, Any]:
        fill = {} if self.fill is None else {"fill": self.fill.tolist()}
        return {"mean": self.mean.tolist(), "std": self.std.tolist(), **fill}

    @classmethod
    def from_dict(cls, given: object, columns: int | None, filled: bool = False) -> Scaling:
        """Reads what to_dict gave: of so many columns, None: of any number; `filled`: with a fill."""
        mean, std = stored.numbers(given, "mean"), stored.numbers(given, "std")
        fill = stored.numbers(given, "fill") if filled else None
        wanted = len(mean) if columns is None else columns
        lengths = {len(mean), len(std), wanted if fill is None else len(fill), wanted}
        stored.require(len(lengths) == 1, "mean, std and fill have other lengths than belong there")
        stored.require(bool((std >= 0).all()), "a standard deviation is below 0")
        return cls(mean, std, fill)


def _fill(values: Array, missing: Array, impute: str) -> Array:
    """Computes what takes the place of a missing value in each column; NaN where the whole column is missing."""
    if impute == "constant":
        return np.zeros(values.shape[1])
    average = np.median if impute == "median" else np.mean
    return np.array(
        [average(column[~gone]) if not gone.all() else np.nan for column, gone in zip(values.T, missing.T, strict=True)]
    )
