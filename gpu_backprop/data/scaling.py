"""Numbers brought to one size, in one of three ways, and missing ones filled in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any, ClassVar, Self

import numpy as np

from gpu_backprop.data import stored
from gpu_backprop.data.encoding import NUMBERS, PLAIN, Encoding
from gpu_backprop.data.errors import DataError
from gpu_backprop.data.files import Array
from gpu_backprop.data.table import Arrays, Table

IMPUTE = ("mean", "median", "constant")
"""What takes a missing number's place: the mean or median of the training rows that have one, or 0."""

BOUND = 3.0
"""Smooth clipping keeps everything within ± this."""

QUANTILES, MOST_COLUMNS = 256, 1500
"""Points that are kept of a column's distribution, and of how many columns: a model file has room for these."""

NORMAL = NormalDist()


def smooth_clip(x: Array) -> Array:
    """Returns x/√(1 + (x/3)²), float64: nearly x about 0, and never beyond ±3; NaN stays (RealMLP: Holzmüller et al.,
    "Better by default", 2024)."""
    x = np.clip(x, -stored.LARGEST, stored.LARGEST)
    clipped: Array = x / np.hypot(1, x / BOUND)
    return clipped


@dataclass(frozen=True, eq=False)
class Scaling(ABC):
    """What is done to k columns of numbers, each by itself.

    Attributes:
        fill: (k,), what takes a missing value's place before anything else; None where none was provided for.
        clip: whether `smooth_clip` follows.
        sample: of how many rows, drawn from all, the quantiles are; 0: of all, or there are none.
    """

    fill: Array | None = field(default=None, kw_only=True)
    clip: bool = field(default=False, kw_only=True)
    sample: int = field(default=0, kw_only=True)

    numbers: ClassVar[str]
    """What `Encoding.numbers` calls it."""

    @classmethod
    @abstractmethod
    def fit(cls, values: Array, fill: Array | None = None, clip: bool = False) -> Self:
        """Fits the scaling to float64 values (rows, k), in which NaN is a missing one. Nothing is checked: `sound`
        tells whether the values are not too large, and some are there."""

    @classmethod
    @abstractmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Joins the scalings of columns that stand side by side."""

    @abstractmethod
    def columns(self, at: Sequence[int]) -> Self:
        """Returns the scaling of some of the columns."""

    @abstractmethod
    def _scale(self, values: Array) -> Array:
        """Returns the scaled numbers, float64 (rows, k), before any clipping."""

    @abstractmethod
    def _formula(self, k: int) -> str:
        """Writes what becomes of v in a column."""

    @abstractmethod
    def middle(self, k: int) -> str:
        """Says about where the training rows of a column are: mean is 3."""

    @property
    @abstractmethod
    def sound(self) -> Array:
        """Whether each column can be scaled at all, bool (k,)."""

    @property
    @abstractmethod
    def constant(self) -> Array:
        """Whether each column had one value in all training rows, and becomes 0, bool (k,)."""

    @abstractmethod
    def _to_dict(self) -> dict[str, Any]:
        """Returns what was fitted as plain data for JSON."""

    @classmethod
    @abstractmethod
    def _from_dict(cls, given: object) -> Self:
        """Reads what _to_dict gave."""

    def __len__(self) -> int:
        return len(self.constant)

    def apply(self, values: Array) -> Array:
        """Returns the scaled numbers, float64 (rows, k)."""
        if self.fill is not None:
            values = np.where(np.isnan(values), self.fill, values)
        with np.errstate(all="ignore"):
            scaled = self._scale(values)
        return smooth_clip(scaled) if self.clip else scaled

    def describe(self) -> list[str]:
        """Writes the formula of each column."""
        formulas = []
        for k, constant in enumerate(self.constant.tolist()):
            clipped = f", then x/√(1 + (x/{BOUND:g})²)" if self.clip and not constant else ""
            filled = "" if self.fill is None else f"; where it is missing, v = {self.fill[k]:.4g}"
            sample = f", by a sample of {self.sample:,} rows" if self.sample else ""
            formulas.append(self._formula(k) + clipped + filled + sample)
        return formulas

    def to_dict(self) -> dict[str, Any]:
        numbers = {} if self.numbers == "standard" else {"numbers": self.numbers}
        fill = {} if self.fill is None else {"fill": self.fill.tolist()}
        given = {"clip": self.clip, "sample": self.sample}
        return {**numbers, **self._to_dict(), **fill, **{name: value for name, value in given.items() if value}}


@dataclass(frozen=True, eq=False)
class _LinearScaling(Scaling):
    """(v − center)/spread, where the spread is 0 simply 0; float64 each (k,)."""

    center: Array
    spread: Array

    names: ClassVar[tuple[str, str]]
    """What the two are called."""

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        center, spread = (np.concatenate(arrays) for arrays in zip(*((p.center, p.spread) for p in parts), strict=True))
        return cls(center, spread, fill=_joined(parts), clip=parts[0].clip)

    def columns(self, at: Sequence[int]) -> Self:
        return replace(self, center=self.center[at], spread=self.spread[at], fill=_part(self.fill, at))

    def _scale(self, values: Array) -> Array:
        scaled = np.zeros(values.shape)
        np.divide(values - self.center, self.spread, out=scaled, where=self.spread > 0)
        return scaled

    def _formula(self, k: int) -> str:
        center, spread = float(self.center[k]), float(self.spread[k])
        if not spread:
            return f"0, since all rows had {center:.4g}"
        difference = f"v − {center:.4g}" if center > 0 else f"v + {-center:.4g}" if center < 0 else "v"
        return difference if spread == 1 else f"({difference})/{spread:.4g}" if center else f"v/{spread:.4g}"

    def middle(self, k: int) -> str:
        return f"{self.names[0]} is {self.center[k]:g}"

    @property
    def sound(self) -> Array:
        return np.isfinite(self.center) & np.isfinite(self.spread) & _filled(self.fill)

    @property
    def constant(self) -> Array:
        constant: Array = self.spread == 0
        return constant

    def _to_dict(self) -> dict[str, Any]:
        return dict(zip(self.names, (self.center.tolist(), self.spread.tolist()), strict=True))

    @classmethod
    def _from_dict(cls, given: object) -> Self:
        center, spread = (stored.numbers(given, name) for name in cls.names)
        stored.require(len(center) == len(spread), f"{cls.names[0]} and {cls.names[1]} have other lengths")
        stored.require(bool((spread >= 0).all()), f"a {cls.names[1]} is below 0")
        return cls(center, spread)


@dataclass(frozen=True, eq=False)
class StandardScaling(_LinearScaling):
    """(v − mean)/std, of the training rows after missing values were filled in."""

    numbers: ClassVar[str] = "standard"
    names: ClassVar[tuple[str, str]] = "mean", "std"

    @classmethod
    def fit(cls, values: Array, fill: Array | None = None, clip: bool = False) -> Self:
        with np.errstate(all="ignore"):
            if fill is not None:
                values = np.where(np.isnan(values), fill, values)
            same = values.min(axis=0) == values.max(axis=0)
            mean = np.where(same, values[0], values.mean(axis=0))  # the mean of equal numbers may be off by a rounding
            std = np.where(same, 0, values.std(axis=0))
        return cls(mean, std, fill=fill, clip=clip)


@dataclass(frozen=True, eq=False)
class RobustScaling(_LinearScaling):
    """(v − median)/spread, where the spread is the distance of the quartiles, or where they are equal half of the range
    (RealMLP). They are those of the values that are there, so that filling in many does not make it 0."""

    numbers: ClassVar[str] = "robust"
    names: ClassVar[tuple[str, str]] = "median", "spread"

    @classmethod
    def fit(cls, values: Array, fill: Array | None = None, clip: bool = False) -> Self:
        with np.errstate(all="ignore"):
            points = [
                np.quantile(there, [0, 0.25, 0.5, 0.75, 1]) if len(there) else np.full(5, np.nan)
                for there in _columns(values)
            ]
            low, lower, median, upper, high = np.reshape(points, (-1, 5)).T
            spread = np.where(upper > lower, upper - lower, high / 2 - low / 2)
        return cls(median, spread, fill=fill, clip=clip)


@dataclass(frozen=True, eq=False)
class QuantileScaling(Scaling):
    """The normal score of v's rank among the training rows: Φ⁻¹((r − ½)/n) for rank r of n, for equal values that of
    the middle of their ranks. So the least and largest of n rows are at ∓Φ⁻¹(½/n), as of so many normal numbers, and
    what is beyond them is taken for them. (scikit-learn's QuantileTransformer puts them at ±5.2, far from all others.)

    Of each column up to `QUANTILES` values are kept, equally far from each other in their scores, and between them
    the scores are interpolated. A constant column is 0, the score of its middle rank.

    Attributes:
        values, scores: of each column, ascending, float64 (points,).
    """

    values: tuple[Array, ...]
    scores: tuple[Array, ...]

    numbers: ClassVar[str] = "quantile"

    @classmethod
    def fit(cls, values: Array, fill: Array | None = None, clip: bool = False) -> Self:
        points = [_normal_scores(there) for there in _columns(values)]
        return cls(tuple(p[0] for p in points), tuple(p[1] for p in points), fill=fill, clip=clip)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        values, scores = (sum(tuples, ()) for tuples in zip(*((p.values, p.scores) for p in parts), strict=True))
        return cls(values, scores, fill=_joined(parts), clip=parts[0].clip)

    def columns(self, at: Sequence[int]) -> Self:
        values, scores = (tuple(points[k] for k in at) for points in (self.values, self.scores))
        return replace(self, values=values, scores=scores, fill=_part(self.fill, at))

    def _scale(self, values: Array) -> Array:
        scaled = np.empty(values.shape)
        for k, (points, scores) in enumerate(zip(self.values, self.scores, strict=True)):
            scaled[:, k] = np.interp(values[:, k], points, scores).clip(scores[0], scores[-1])
        return scaled

    def _formula(self, k: int) -> str:
        (low, *_), (*_, high) = self.values[k].tolist(), self.values[k].tolist()
        if low == high:
            return f"0, since all rows had {low:.4g}"
        first, last = self.scores[k][0], self.scores[k][-1]
        return f"the normal score of its rank, from {first:.4g} for v ≤ {low:.4g} to {last:.4g} for v ≥ {high:.4g}"

    def middle(self, k: int) -> str:
        return f"median is {np.interp(0, self.scores[k], self.values[k]):g}"

    @property
    def sound(self) -> Array:
        with np.errstate(over="ignore"):
            spans = [float(points[-1] - points[0]) if len(points) else np.nan for points in self.values]
        return np.isfinite(spans) & _filled(self.fill)

    @property
    def constant(self) -> Array:
        return np.array([len(points) == 1 for points in self.values], bool)

    def _to_dict(self) -> dict[str, Any]:
        return {"values": [v.tolist() for v in self.values], "scores": [s.tolist() for s in self.scores]}

    @classmethod
    def _from_dict(cls, given: object) -> Self:
        values, scores = (
            tuple(stored.numbers({name: part}, name) for part in stored.entries(given, name))
            for name in ("values", "scores")
        )
        stored.require(list(map(len, values)) == list(map(len, scores)), "values and scores have other lengths")
        stored.require(all(bool((p[1:] > p[:-1]).all()) for p in values), "values are not in their order")
        stored.require(all(bool((p[1:] >= p[:-1]).all()) for p in scores), "scores are not in their order")
        found = cls(values, scores)
        stored.require(bool(found.sound.all()), "values are too far apart")
        return found


SCALINGS: dict[str, type[Scaling]] = {kind.numbers: kind for kind in (StandardScaling, RobustScaling, QuantileScaling)}


def refuse_too_wide(data: Table | Arrays, encoding: Encoding) -> None:
    """Raises DataError where a model file has no room for the quantiles of so many columns."""
    columns = len(data.columns) if isinstance(data, Table) else 0 if data.images else data.x.shape[1]
    if encoding.numbers == "quantile" and columns > MOST_COLUMNS:
        raise DataError(
            f"{data.source}: numbers='quantile' stores up to {QUANTILES} values of each column, and {columns:,} columns"
            f" are more than the {MOST_COLUMNS:,} that a model file has room for; choose 'robust', or leave some out"
        )


def fit_scaling(values: Array, impute: str | None = None, encoding: Encoding = PLAIN) -> Scaling:
    """Fits the scaling that was chosen to float64 values (rows, k), NaN where one is missing; see `Scaling.fit`."""
    fill = None if impute is None else fill_of(values, impute)
    return SCALINGS[encoding.numbers].fit(values, fill, encoding.clip)


def stored_scaling(given: object, columns: int | None, filled: bool = False) -> Scaling:
    """Reads what `Scaling.to_dict` gave: of so many columns, None: of any number; `filled`: with a fill."""
    stored.require(isinstance(given, Mapping), "a scaling is none")
    assert isinstance(given, Mapping)
    numbers = stored.choice(given, "numbers", NUMBERS) if "numbers" in given else "standard"
    found = SCALINGS[numbers]._from_dict(given)
    fill = stored.numbers(given, "fill") if filled else None
    lengths = {len(found) if columns is None else columns, len(found), len(found) if fill is None else len(fill)}
    stored.require(len(lengths) == 1, "a scaling is of another number of columns than belongs there")
    sample = stored.count(given, "sample") if "sample" in given else 0
    return replace(found, fill=fill, clip=stored.flag(given, "clip"), sample=sample)


def _columns(values: Array) -> list[Array]:
    """Returns of each column the values that are there."""
    return [column[~np.isnan(column)] for column in values.T]


def fill_of(values: Array, impute: str) -> Array:
    """Computes what takes the place of a missing value in each column; NaN where the whole column is missing."""
    if impute == "constant":
        return np.zeros(values.shape[1])
    average = np.median if impute == "median" else np.mean
    with np.errstate(all="ignore"):
        averages = (  # that of equal numbers may be off by a rounding
            np.clip(average(there), there.min(), there.max()) if len(there) else np.nan for there in _columns(values)
        )
        return np.array(list(averages))


def _normal_scores(there: Array) -> tuple[Array, Array]:
    """Returns some of the values, ascending and different, and the normal score of each one's middle rank."""
    values, counts = np.unique(there, return_counts=True)
    levels = (np.cumsum(counts) - counts / 2) / max(1, len(there))
    if len(values) > QUANTILES:
        ends = NORMAL.inv_cdf(levels[0]), NORMAL.inv_cdf(levels[-1])
        wanted = [NORMAL.cdf(score) for score in np.linspace(*ends, QUANTILES)[1:-1].tolist()]
        kept = np.unique([0, *np.searchsorted(levels, wanted).tolist(), len(values) - 1])
        values, levels = values[kept], levels[kept]
    return values, np.array([round(NORMAL.inv_cdf(level), 4) for level in levels.tolist()])


def _part(fill: Array | None, at: Sequence[int]) -> Array | None:
    return None if fill is None else fill[at]


def _joined(parts: Sequence[Scaling]) -> Array | None:
    fills = [part.fill for part in parts if part.fill is not None]
    return np.concatenate(fills) if fills else None


def _filled(fill: Array | None) -> Array | bool:
    """Whether there is something finite to be filled in, bool (k,)."""
    return True if fill is None else np.isfinite(fill)
