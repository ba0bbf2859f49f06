"""Columns that become numbers: of numbers, of texts that have an order, and of dates."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_backprop.data import stored
from gpu_backprop.data.categories import codes
from gpu_backprop.data.cells import composed, folded, is_missing
from gpu_backprop.data.dates import PARTS, DateFormat, read_dates
from gpu_backprop.data.encoding import Encoding
from gpu_backprop.data.errors import DataError
from gpu_backprop.data.files import Array
from gpu_backprop.data.messages import counted, listed, nearest, shown
from gpu_backprop.data.number_format import NumberFormat, read_numbers, stored_format
from gpu_backprop.data.scaling import Scaling, fit_scaling, stored_scaling
from gpu_backprop.data.table import Table, missing

INDICATED = ", and an input of its own is 1, else 0"
"""What becomes of a missing number besides."""

LEAVE_OUT = "leave it out with --ignore (ignore= in Python)"
CORRECT = "correct it, or leave the field empty if it is missing"


@dataclass(frozen=True, eq=False)
class NumberColumn:
    """A column of numbers, one feature.

    Attributes:
        format: how they are written; None: as programs write them.
        indicator: whether another feature is 1 where the number is missing. False: there is none because no training
            row lacked a number; None: because none was asked for.
    """

    name: str
    scaling: Scaling
    format: NumberFormat | None = None
    indicator: bool | None = None

    @property
    def features(self) -> list[str]:
        return [self.name, *_indicating(self)]

    @property
    def summary(self) -> str:
        return self.name

    def describe(self) -> str:
        return self.scaling.describe()[0] + (INDICATED if self.indicator else "")

    def pack(self, table: Table, one: float) -> tuple[Array, int]:
        """Returns the features, float64 (rows, features), and how many rows lack a number where no training row did;
        `one` is what an input is where it is 1. Refuses numbers that float32 cannot hold."""
        values, wrong = read_numbers(table.columns[self.name], self.format, table.missing)
        if wrong is not None:
            held = "numbers" if self.format is None else f"numbers such as {shown(self.format)}"
            raise DataError(f"{_cell(table, self.name, wrong)}, which held {held} in the training data; {CORRECT}")
        refuse_infinite(table, self.name, values)
        return _packed(self, table, values[:, None], one), _lacking(self, values)

    def to_dict(self) -> dict[str, Any]:
        format = {} if self.format is None else {"format": self.format.to_dict()}
        return {**self.scaling.to_dict(), **format, **_flag(self)}

    @classmethod
    def from_dict(cls, name: str, given: Mapping[str, Any], filled: bool) -> NumberColumn:
        """Reads what to_dict gave; `filled`: with something that takes the place of missing numbers."""
        return cls(name, stored_scaling(given, 1, filled), stored_format(given), _indicator(given, filled))


@dataclass(frozen=True, eq=False)
class OrdinalColumn:
    """A column of texts that have an order, one feature like a number: the place of the text, from 0 on. A text that is
    none of them is like a missing one, and 0 where none is provided for."""

    name: str
    order: tuple[str, ...]
    scaling: Scaling
    indicator: bool | None = None

    @property
    def features(self) -> list[str]:
        return [self.name, *_indicating(self)]

    @property
    def summary(self) -> str:
        return f"{self.name} ({len(self.order):,} in order)"

    def describe(self) -> str:
        places = ", ".join(f"{shown(text)} {place}" for place, text in enumerate(self.order))
        return f"{self.scaling.describe()[0]}{INDICATED if self.indicator else ''}, where v is of {places}"

    def pack(self, table: Table, one: float) -> tuple[Array, int]:
        """Returns the features, and how many rows have an unseen text; see NumberColumn.pack."""
        values = table.columns[self.name]
        places = read_places(values, self.order)
        packed = _packed(self, table, places[:, None], one)
        return np.nan_to_num(packed), int((np.isnan(places) & ~missing(values)).sum())

    def to_dict(self) -> dict[str, Any]:
        return {"order": list(self.order), **self.scaling.to_dict(), **_flag(self)}

    @classmethod
    def from_dict(cls, name: str, given: Mapping[str, Any], filled: bool) -> OrdinalColumn:
        """Reads what to_dict gave."""
        order = stored.categories(given, "order", str)
        return cls(name, order, stored_scaling(given, 1, filled), _indicator(given, filled))


@dataclass(frozen=True, eq=False)
class DateColumn:
    """A column of dates, or dates with times, a feature for each of some PARTS of a date.

    Attributes:
        parts: those that were not the same in all training rows.
        scaling: of the parts.
    """

    name: str
    format: DateFormat
    parts: tuple[str, ...]
    scaling: Scaling
    indicator: bool | None = None

    @classmethod
    def of(cls, name: str, format: DateFormat, scaling: Scaling, indicator: bool | None) -> DateColumn:
        """Makes the column of the scaling of all PARTS."""
        kept = np.flatnonzero(~scaling.constant).tolist() or [0]
        return cls(name, format, tuple(PARTS[k] for k in kept), scaling.columns(kept), indicator)

    @property
    def features(self) -> list[str]:
        return [*(f"{self.name} {part}" for part in self.parts), *_indicating(self)]

    @property
    def summary(self) -> str:
        return f"{self.name} (dates)"

    def describe(self) -> str:
        first, *others = self.parts
        said = (
            f"{counted(len(self.parts), 'input')} of dates such as {self.format}: {first}, {self.scaling.describe()[0]}"
        )
        likewise = f"; likewise {', '.join(others)}" if others else ""
        return said + likewise + (INDICATED if self.indicator else "")

    def pack(self, table: Table, one: float) -> tuple[Array, int]:
        """Returns what NumberColumn.pack does; refuses texts that are no such dates."""
        values, wrong = read_dates(table.columns[self.name], self.format)
        if wrong is not None:
            held = f"dates such as {self.format}"
            raise DataError(f"{_cell(table, self.name, wrong)}, which held {held} in the training data; {CORRECT}")
        packed = _packed(self, table, values[:, [PARTS.index(part) for part in self.parts]], one)
        return packed, _lacking(self, values[:, 0])

    def to_dict(self) -> dict[str, Any]:
        return {"dates": self.format.to_dict(), "parts": list(self.parts), **self.scaling.to_dict(), **_flag(self)}

    @classmethod
    def from_dict(cls, name: str, given: Mapping[str, Any], filled: bool) -> DateColumn:
        """Reads what to_dict gave."""
        parts = stored.categories(given, "parts", str)
        stored.require(set(parts) <= set(PARTS), f"a date has no parts {listed(parts)}")
        format, scaling = DateFormat.from_dict(given["dates"]), stored_scaling(given, len(parts), filled)
        return cls(name, format, parts, scaling, _indicator(given, filled))


def read_places(values: Array, order: tuple[str, ...]) -> Array:
    """Returns the place of each text in an order, float64 (rows,), NaN where it has none."""
    places = codes(values, order)
    return np.where(places < 0, np.nan, places)


def checked_orders(
    table: Table, orders: Mapping[str, Sequence[str]], names: Collection[str]
) -> dict[str, tuple[str, ...]]:
    """Checks the columns whose texts have an order; `names` are those that are learned from."""
    found = {composed(name): tuple(order) for name, order in orders.items()}
    for name, order in found.items():
        if name not in names:
            raise DataError(
                f"{table.source}: column {shown(name)}, whose texts are to have an order, is none that is learned "
                f"from; {nearest(name, names)}these are {listed(names)}"
            )
        texts = [text if isinstance(text, str) and not is_missing(text) else None for text in order]
        if None in texts or len(texts) < 2 or len({folded(text or "") for text in texts}) < len(texts):
            raise DataError(
                f"the order of column {shown(name)} is {listed(order)}; give two different texts or more, the least "
                "first, as in --ordinal 'size=small<medium<large'"
            )
    return found


def fit_order(table: Table, name: str, order: tuple[str, ...]) -> Array:
    """Returns the places of the texts that are learned from; raises DataError for a text without one."""
    values = table.columns[name]
    places = read_places(values, order)
    if (stray := np.isnan(places) & ~missing(values)).any():
        raise DataError(
            f"{_cell(table, name, int(stray.argmax()))}, whose order is {listed(order)}; give this text its place in "
            "--ordinal (ordinal= of an Encoding), correct it, or leave the field empty if it is missing"
        )
    return places


def fit_column(
    table: Table, name: str, values: Array, impute: str | None, encoding: Encoding
) -> tuple[Scaling, bool | None]:
    """Fits the scaling of the numbers (rows, k) that a column becomes, and says whether missing ones are indicated; see
    NumberColumn.indicator."""
    scaling, gone = fit_scaling(values, impute, encoding), np.isnan(values).any(axis=1)
    if not scaling.sound.all():
        why = "has no values to learn from" if gone.all() else "has numbers too large to be scaled"
        raise DataError(f"{table.source}: column {shown(name)} {why}; {LEAVE_OUT}")
    return scaling, bool(gone.any()) if encoding.indicator else None


def refuse_infinite(table: Table, name: str, values: Array) -> None:
    """Raises DataError for the first infinite value."""
    infinite = np.isinf(values)
    if infinite.any():
        row = int(infinite.argmax())
        raise DataError(
            f"{table.source}, {table.place(row)}: {values[row]} in column {shown(name)}, which no network can use; "
            f"{CORRECT}"
        )


def _packed(column: NumberColumn | OrdinalColumn | DateColumn, table: Table, values: Array, one: float) -> Array:
    """Scales numbers (rows, k), and indicates those that are missing; refuses those that float32 cannot hold."""
    scaled = column.scaling.apply(values)
    beyond = np.abs(scaled) > np.finfo(np.float32).max
    if beyond.any():
        row, k = (int(index[0]) for index in np.nonzero(beyond))
        raise DataError(
            f"{table.source}, {table.place(row)}: {values[row, k]:g} in column {shown(column.name)} is too far from "
            f"the training data, whose {column.scaling.middle(k)}; correct it"
        )
    if not column.indicator:
        return scaled
    return np.concatenate([scaled, np.where(np.isnan(values[:, :1]), one, 0)], axis=1)


def _cell(table: Table, name: str, row: int) -> str:
    return f"{table.source}, {table.place(row)}: {shown(table.columns[name][row])} in column {shown(name)}"


def _indicating(column: NumberColumn | OrdinalColumn | DateColumn) -> list[str]:
    return [f"{column.name} missing"] if column.indicator else []


def _lacking(column: NumberColumn | DateColumn, values: Array) -> int:
    """Counts the missing ones of numbers (rows,), if no training row lacked one."""
    return int(np.isnan(values).sum()) if column.indicator is False else 0


def _flag(column: NumberColumn | OrdinalColumn | DateColumn) -> dict[str, Any]:
    return {} if column.indicator is None else {"indicator": column.indicator}


def _indicator(given: Mapping[str, Any], filled: bool) -> bool | None:
    indicator = stored.flag(given, "indicator")
    stored.require(filled or not indicator, "what is missing is indicated and not filled in")
    return indicator if "indicator" in given else None
