"""Arrays made into x, the numbers that a network reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_backprop.data import stored
from gpu_backprop.data.errors import DataError
from gpu_backprop.data.files import Array
from gpu_backprop.data.messages import counted
from gpu_backprop.data.scaling import IMPUTE, Scaling
from gpu_backprop.data.table import Arrays, Table
from gpu_backprop.data.table_inputs import FILL_IN

BLOCK = 1 << 20
"""Values that are scaled at one time."""

WHITE, DARK = 255, 128
"""The largest uint8; and of what images have only less, the largest pixel is taken for white."""


@dataclass(frozen=True, eq=False)
class ByteInputs:
    """Images of uint8: x = v/255."""

    inputs: int

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
    """Arrays of numbers, each feature scaled by itself."""

    scaling: Scaling
    impute: str | None

    @classmethod
    def fit(cls, data: Arrays, rows: Array, impute: str | None) -> ArrayInputs:
        """Fits the scaling to the given rows; refuses values that cannot be used in any row."""
        _refuse_unusable(data, missing=impute is None)
        step = max(1, BLOCK // len(rows))
        parts = [
            Scaling.fit(data.x[:, first : first + step][rows].astype(np.float64), impute)
            for first in range(0, data.x.shape[1], step)
        ]
        scaling = Scaling.concatenate(parts)
        if not scaling.sound.all():
            raise DataError(
                f"{data.source}: x[{int(scaling.sound.argmin())}] has no values to learn from, or numbers too large to "
                "be scaled; leave this feature out"
            )
        return cls(scaling, impute)

    @property
    def inputs(self) -> int:
        return len(self.scaling.mean)

    @property
    def features(self) -> list[str]:
        return _features(self.inputs)

    def describe(self) -> list[tuple[str, str]]:
        """Says of each feature what becomes of it, or of all together where that is the same."""
        formulas = self.scaling.describe()
        if len(set(formulas)) == 1:
            return [(f"all {self.inputs:,} features", formulas[0])]
        return list(zip(self.features, formulas, strict=True))

    def apply(self, data: Table | Arrays) -> tuple[Array, dict[str, int]]:
        """Returns x, float32 (rows, inputs), and no unseen texts, for arrays have none."""
        data = _fitting(data, self.inputs)
        given = data.x
        _refuse_unusable(data, missing=self.impute is None)
        x = np.empty(given.shape, np.float32)
        for block in _blocks(given):
            scaled = self.scaling.apply(given[block].astype(np.float64))
            beyond = np.abs(scaled) > np.finfo(np.float32).max
            if beyond.any():
                row, feature = map(int, np.argwhere(beyond)[0])
                raise DataError(
                    f"{data.source}, {data.place(block.start + row)}: {given[block][row, feature]:g} in x[{feature}] "
                    f"is too far from the training data, whose mean is {self.scaling.mean[feature]:g}; correct it"
                )
            x[block] = scaled
        return x, {}

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "arrays", "impute": self.impute, **self.scaling.to_dict()}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> ArrayInputs:
        impute = stored.choice(given, "impute", (None, *IMPUTE))
        return cls(Scaling.from_dict(given, None, filled=impute is not None), impute)


def fit_arrays(data: Arrays, rows: Array, impute: str | None) -> tuple[ArrayInputs | ByteInputs, str]:
    """Fits the inputs to the given rows; returns them, and in words how x is scaled."""
    if not data.images:
        hint = " (for pixels, give x the axes rows, height, width)" if data.x.dtype == np.uint8 else ""
        return ArrayInputs.fit(data, rows, impute), f"each brought to mean 0 and standard deviation 1{hint}"
    inputs, largest = data.x.shape[1], int(data.x.max(axis=1)[rows].max())
    if largest >= DARK:
        return ByteInputs(inputs), f"pixels, divided by {WHITE}"
    scaling = Scaling(np.zeros(inputs), np.full(inputs, float(largest)))
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


def _refuse_unusable(data: Arrays, missing: bool) -> None:
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
