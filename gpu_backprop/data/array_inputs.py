"""Arrays made into x, the numbers that a network reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from gpu_backprop.data import stored
from gpu_backprop.data.encoding import PLAIN, Encoding
from gpu_backprop.data.errors import DataError
from gpu_backprop.data.files import Array
from gpu_backprop.data.messages import counted
from gpu_backprop.data.number_columns import INDICATED
from gpu_backprop.data.scaling import IMPUTE, Scaling, StandardScaling, fit_scaling, stored_scaling
from gpu_backprop.data.table import Arrays, Table
from gpu_backprop.data.table_inputs import FILL_IN, one, stored_one

BLOCK = 1 << 20
"""Values that are scaled at one time."""

WHITE, DARK = 255, 128
"""The largest uint8; and of what images have only less, the largest pixel is taken for white."""


BROUGHT_TO = {
    "standard": "mean 0 and standard deviation 1",
    "robust": "median 0 and a distance of 1 between the quartiles",
    "quantile": "a normal distribution, by its ranks",
}


@dataclass(frozen=True, eq=False)
class ByteInputs:
    """Images of uint8: x = v/255."""

    inputs: int
    pixels: ClassVar[bool] = True

    @property
    def features(self) -> list[str]:
        return _features(self.inputs)

    def describe(self) -> list[tuple[str, str]]:
        """Says of the pixels what becomes of them."""
        return [(f"{self.inputs:,} pixels", f"v/{WHITE}")]

    def apply(self, data: Table | Arrays) -> tuple[Array, dict[str, int]]:
        """Returns x, float32 (rows, inputs), and no unseen texts, for arrays have none."""
        given = _fitting(data, self.inputs).x
        if given.dtype != np.uint8:
            raise DataError(
                f"{data.source}: x has the dtype {given.dtype}, and that of the training data was uint8, from 0 to "
                f"{WHITE}; give the same"
            )
        return np.divide(given, np.float32(WHITE), dtype=np.float32), {}

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "bytes", "inputs": self.inputs}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> ByteInputs:
        return cls(stored.count(given, "inputs"))


@dataclass(frozen=True, eq=False)
class ArrayInputs:
    """Arrays of numbers, each feature scaled by itself.

    Attributes:
        indicated: the features that are followed by another input, which is `one` where they are missing, int64.
        indicator: whether the others had no gap in training, so that those they have now are told of.
    """

    scaling: Scaling
    impute: str | None
    indicated: Array = field(default_factory=lambda: np.arange(0))
    one: float = 1.0
    indicator: bool = False

    @property
    def pixels(self) -> bool:
        """Whether they are pixels: then nothing is subtracted, and all are divided by one number."""
        scaling = self.scaling
        if not isinstance(scaling, StandardScaling) or scaling.center.any():
            return False
        return len(set(scaling.spread.tolist())) == 1

    @classmethod
    def fit(cls, data: Arrays, rows: Array, impute: str | None, encoding: Encoding = PLAIN) -> ArrayInputs:
        """Fits the scaling to the given rows; refuses values that cannot be used in any row."""
        refuse_unusable(data, missing=impute is None)
        step = max(1, BLOCK // len(rows))
        parts, gone = list[Scaling](), list[Array]()
        for first in range(0, data.x.shape[1], step):
            values = data.x[:, first : first + step][rows].astype(np.float64)
            parts.append(fit_scaling(values, impute, encoding))
            gone.append(np.asarray(np.isnan(values).any(axis=0)))
        scaling = parts[0].concatenate(parts)
        if not scaling.sound.all():
            raise DataError(
                f"{data.source}: x[{int(scaling.sound.argmin())}] has no values to learn from, or numbers too large to "
                "be scaled; leave this feature out"
            )
        return cls.of(scaling, impute, np.concatenate(gone), encoding)

    @classmethod
    def of(cls, scaling: Scaling, impute: str | None, gone: Array, encoding: Encoding) -> ArrayInputs:
        """Makes them of what was fitted; `gone`: of which features training rows lacked some, bool (k,)."""
        return cls(scaling, impute, np.flatnonzero(gone & encoding.indicator), one(encoding), encoding.indicator)

    @property
    def features(self) -> list[str]:
        names, indicated = _features(len(self.scaling)), set(self.indicated.tolist())
        return [
            name
            for k, feature in enumerate(names)
            for name in ([feature, f"{feature} missing"] if k in indicated else [feature])
        ]

    def describe(self) -> list[tuple[str, str]]:
        """Says of each feature what becomes of it, or of all together where that is the same."""
        formulas = self.scaling.describe()
        for k in self.indicated.tolist():
            formulas[k] += INDICATED
        if len(set(formulas)) == 1:
            return [(f"all {len(formulas):,} features", formulas[0])]
        return list(zip(_features(len(formulas)), formulas, strict=True))

    def apply(self, data: Table | Arrays) -> tuple[Array, dict[str, int]]:
        """Returns x, float32 (rows, inputs), and by feature how many rows lack what no training row did."""
        data = _fitting(data, len(self.scaling))
        given = data.x
        refuse_unusable(data, missing=self.impute is None)
        columns = np.arange(len(self.scaling))
        places = columns + np.searchsorted(self.indicated, columns)
        x = np.empty((len(given), len(columns) + len(self.indicated)), np.float32)
        gaps = np.zeros(len(columns), np.int64)
        for block in _blocks(given):
            scaled = self.scaling.apply(given[block].astype(np.float64))
            beyond = np.abs(scaled) > np.finfo(np.float32).max
            if beyond.any():
                row, feature = map(int, np.argwhere(beyond)[0])
                raise DataError(
                    f"{data.source}, {data.place(block.start + row)}: {given[block][row, feature]:g} in x[{feature}] "
                    f"is too far from the training data, whose {self.scaling.middle(feature)}; correct it"
                )
            x[block, places] = scaled
            gaps += np.isnan(given[block]).sum(axis=0)
            x[block, places[self.indicated] + 1] = np.isnan(given[block][:, self.indicated]) * self.one
        gaps[self.indicated if self.indicator else columns] = 0
        return x, {f"x[{feature}]": int(gaps[feature]) for feature in np.flatnonzero(gaps)}

    def to_dict(self) -> dict[str, Any]:
        indicated = {"indicated": self.indicated.tolist(), "one": self.one} if self.indicator else {}
        return {"kind": "arrays", "impute": self.impute, **self.scaling.to_dict(), **indicated}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> ArrayInputs:
        impute = stored.choice(given, "impute", (None, *IMPUTE))
        scaling = stored_scaling(given, None, filled=impute is not None)
        if "indicated" not in given:
            return cls(scaling, impute)
        indicated = given["indicated"]
        sound = (
            impute is not None
            and isinstance(indicated, list)
            and all(type(k) is int and 0 <= k < len(scaling) for k in indicated)
        )
        stored.require(sound and indicated == sorted(set(indicated)), "indicated are no features")
        return cls(scaling, impute, np.array(indicated, np.int64), stored_one(given), True)


def fit_arrays(
    data: Arrays, rows: Array, impute: str | None, encoding: Encoding = PLAIN
) -> tuple[ArrayInputs | ByteInputs, str]:
    """Fits the inputs to the given rows; returns them, and in words how x is scaled."""
    if not data.images:
        return ArrayInputs.fit(data, rows, impute, encoding), how_scaled(data, encoding)
    return pixels(data.x.shape[1], int(data.x.max(axis=1)[rows].max()))


def how_scaled(data: Arrays, encoding: Encoding) -> str:
    """Says how features that are no pixels are scaled."""
    hint = " (for pixels, give x the axes rows, height, width)" if data.x.dtype == np.uint8 else ""
    return f"each brought to {BROUGHT_TO[encoding.numbers]}{', and clipped smoothly' if encoding.clip else ''}{hint}"


def pixels(inputs: int, largest: int) -> tuple[ArrayInputs | ByteInputs, str]:
    """Returns what images become inputs by, where the training rows' largest pixel is this; and how, in words."""
    if largest >= DARK:
        return ByteInputs(inputs), f"pixels, divided by {WHITE}"
    scaling = StandardScaling(np.zeros(inputs), np.full(inputs, float(largest)))
    return ArrayInputs(scaling, None), "pixels, divided by the largest among the rows to learn from"


def _features(number: int) -> list[str]:
    return [f"x[{index}]" for index in range(number)]


def _blocks(x: Array) -> Iterator[slice]:
    step = max(1, BLOCK // x.shape[1])
    for first in range(0, len(x), step):
        yield slice(first, first + step)


def _fitting(data: Table | Arrays, inputs: int) -> Arrays:
    """Returns the data, if they have the right features."""
    if isinstance(data, Table):
        raise DataError(
            f"{data.source} holds a table, and the training data were arrays; give .npz, .npy or IDX files with "
            f"{counted(inputs, 'feature')} a row"
        )
    if data.x.shape[1] != inputs:
        raise DataError(
            f"{data.source}: x has {counted(data.x.shape[1], 'feature')} a row, and the training data had {inputs:,}; "
            "give the same"
        )
    return data


def refuse_unusable(data: Arrays, missing: bool) -> None:
    """Refuses infinity, and NaN where no missing values are allowed."""
    if data.x.dtype.kind != "f":
        return
    gone = first = 0
    for block in _blocks(data.x):
        infinite, nan = np.isinf(data.x[block]), np.isnan(data.x[block])
        if infinite.any():
            row, feature = map(int, np.argwhere(infinite)[0])
            raise DataError(
                f"{data.source}, {data.place(block.start + row)}: x[{feature}] is infinite; correct it, or put NaN if "
                "it is missing"
            )
        if nan.any():
            first = first if gone else block.start + int(np.argwhere(nan)[0][0])
            gone += int(nan.sum())
    if gone and missing:
        raise DataError(
            f"{data.source}: x has {counted(gone, 'missing value')} (NaN), the first in {data.place(first)}; {FILL_IN}"
        )
