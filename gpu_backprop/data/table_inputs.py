"""The columns of a table made into x, the numbers that a network reads."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_backprop.data import stored
from gpu_backprop.data.categories import BUCKETS, MOST_INPUTS, spelled
from gpu_backprop.data.cells import composed
from gpu_backprop.data.dates import EPOCH, DateFormat, read_dates
from gpu_backprop.data.encoding import PLAIN, Encoding
from gpu_backprop.data.errors import DataError
from gpu_backprop.data.files import Array
from gpu_backprop.data.messages import counted, listed, nearest, shown
from gpu_backprop.data.number_columns import (
    LEAVE_OUT,
    DateColumn,
    NumberColumn,
    OrdinalColumn,
    fit_column,
    fit_order,
    refuse_infinite,
)
from gpu_backprop.data.number_format import Finding, describe_finding, read_numbers
from gpu_backprop.data.scaling import BOUND, IMPUTE, smooth_clip
from gpu_backprop.data.table import Arrays, Table, missing
from gpu_backprop.data.text_columns import HashedColumn, SignColumn, TextColumn, Times, count_texts, fit_text

FILL_IN = "fill them in, or train with --impute mean, median or constant (impute= in Python)"
DAYS_A_YEAR = 365.2425
"""In the mean, in the Gregorian calendar."""
TEXT: dict[str, type[HashedColumn | TextColumn | SignColumn]] = {
    "buckets": HashedColumn,
    "categories": TextColumn,
    "signs": SignColumn,
}
NUMBERS: dict[str, type[OrdinalColumn | DateColumn | NumberColumn]] = {"order": OrdinalColumn, "dates": DateColumn}
"""Columns by the key that tells them apart where they are stored."""

ONE_HOT = TextColumn, HashedColumn
"""These are packed as the number of the input that is 1, others as their inputs."""

TEXTS = TextColumn | SignColumn | HashedColumn
Column = NumberColumn | OrdinalColumn | DateColumn | TEXTS


@dataclass(frozen=True, eq=False)
class TableInputs:
    """The columns of a table that make up x, whatever their order in a file.

    Attributes:
        one: what an input is where it is 1, float32. Clipped, it is not 1: a category that few rows have becomes 2 by
            robust scaling (the range is 1, so that the spread is ½), and smooth clipping makes 1.664 of it, as RealMLP.
    """

    columns: tuple[Column, ...]
    impute: str | None
    one: float = 1.0

    @classmethod
    def fit(
        cls, table: Table, names: Sequence[str], rows: Array, impute: str | None, findings: Mapping[str, Finding],
        hashed: Mapping[str, int], encoding: Encoding = PLAIN, orders: Mapping[str, tuple[str, ...]] | None = None,
        dates: Mapping[str, DateFormat] | None = None,
    ) -> TableInputs:  # fmt: skip
        """Fits the columns to the given rows; refuses values that cannot be used in any row.

        Args:
            findings: the numbers that were found in columns of text.
            hashed: the columns of text that are hashed, and the inputs of each.
            encoding: how columns become inputs.
            orders: the columns whose texts have an order.
            dates: the columns of dates, and how these are written.
        """
        if impute is None:
            _refuse_missing(table, names)
        columns: list[Column] = []
        for name in names:
            found = findings.get(name)
            values = table.columns[name] if found is None or found.numbers is None else found.numbers
            if name in hashed:
                columns.append(HashedColumn(name, hashed[name]))
            elif orders and name in orders:
                places = fit_order(table, name, orders[name])[rows, None]
                columns.append(OrdinalColumn(name, orders[name], *fit_column(table, name, places, impute, encoding)))
            elif dates and name in dates:
                parts, _ = read_dates(values[rows], dates[name])
                columns.append(DateColumn.of(name, dates[name], *fit_column(table, name, parts, impute, encoding)))
            elif values.dtype == object:
                columns.append(text_column(table, name, count_texts(values[rows].tolist()), encoding, found))
            else:
                refuse_infinite(table, name, values)
                scaling, indicator = fit_column(table, name, values[rows, None], impute, encoding)
                columns.append(NumberColumn(name, scaling, None if found is None else found.format, indicator))
        return cls(in_order(columns, encoding), impute, one(encoding))

    @property
    def features(self) -> list[str]:
        return [feature for column in self.columns for feature in column.features]

    def describe(self) -> list[tuple[str, str]]:
        """Says of each column what becomes of it."""
        return [(column.name, column.describe()) for column in self.columns]

    @property
    def summaries(self) -> list[str]:
        """The name of each column, and where it is not of numbers what it is."""
        return [column.summary for column in self.columns]

    @property
    def numbers(self) -> int:
        """How many of the features, from the first on, are of numbers, dates or orders."""
        leading = itertools.takewhile(lambda column: not isinstance(column, TEXTS), self.columns)
        return sum(len(column.features) for column in leading)

    @property
    def numeric(self) -> set[str]:
        """The columns of numbers, and those of dates."""
        return {column.name for column in self.columns if isinstance(column, NumberColumn | DateColumn)}

    @property
    def hashed(self) -> set[str]:
        return {column.name for column in self.columns if isinstance(column, HashedColumn)}

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def widest(self) -> str:
        """Which column makes most inputs, and how many, in words."""
        most, column = max((len(column.features), column.name) for column in self.columns)
        fewer = " (--ignore leaves it out, --hash makes fewer)" if most > 1 else ""
        return f"column {shown(column)} makes {most:,} of them{fewer}"

    def read_column(self, data: Table, name: str) -> Array:
        """Does what `Preprocessing.read_column` says."""
        column, values = next(one for one in self.columns if one.name == name), data.columns[name]
        if isinstance(column, NumberColumn):
            return read_numbers(values, column.format, data.missing)[0]
        if isinstance(column, DateColumn):
            days = read_dates(values, column.format)[0][:, 0]
            return EPOCH.year + days / DAYS_A_YEAR
        return spelled(values)

    def text_columns(self, data: Table) -> list[str]:
        """Returns the columns that have to be read as text, even where they look like numbers."""
        return [
            column.name
            for column in self.columns
            if not isinstance(column, NumberColumn) or (column.format is not None and data.lines is not None)
        ]

    def apply(self, data: Table | Arrays) -> tuple[Array, dict[str, int]]:
        """Returns x, float32 (rows, inputs), and what of each column no training row had: how many values, if any."""
        try:
            packed, unseen = self.pack(data)
            return self.expand(packed), unseen
        except MemoryError:
            raise DataError(
                f"{data.source}: {data.rows:,} rows of {len(self.features):,} inputs are too large for the memory of "
                f"this machine; {self.widest}: {LEAVE_OUT}, hash it with --hash (hashed= in Python), or use fewer rows"
            ) from None

    def pack(self, data: Table | Arrays) -> tuple[Array, dict[str, int]]:
        """Returns what `expand` makes x of, float32 (rows, numbers): of a column of categories the number of the one
        that it is, or −1, and of others the inputs; and what `apply` returns."""
        if not isinstance(data, Table):
            raise DataError(
                f"{data.source} holds arrays, and the training data were a table; give CSV, Parquet or a data frame "
                f"with the columns {listed(self.names)}"
            )
        self._refuse_absent(data)
        packed = np.empty((data.rows, sum(map(_packed_width, self.columns))), np.float32)
        unseen: dict[str, int] = {}
        place = 0
        for column in self.columns:
            if self.impute is None:
                _refuse_missing(data, [column.name])
            width = _packed_width(column)
            packed[:, place : place + width], unknown = column.pack(data, self.one)
            place += width
            if unknown:
                unseen[column.name] = unknown
        return packed, unseen

    def expand(self, packed: Array) -> Array:
        """Returns x, float32 (rows, inputs), of what `pack` gave; the very array where that has all inputs."""
        if not any(isinstance(column, ONE_HOT) for column in self.columns):
            return packed
        widths = [len(column.features) for column in self.columns]
        x = np.zeros((len(packed), sum(widths)), np.float32)
        given, made, place, first = list[int](), list[int](), 0, 0
        for column, width in zip(self.columns, widths, strict=True):
            if isinstance(column, ONE_HOT):
                known = np.flatnonzero(packed[:, place] >= 0)
                x[known, first + packed[known, place].astype(np.int64)] = self.one
            else:
                given += range(place, place + width)
                made += range(first, first + width)
            place, first = place + _packed_width(column), first + width
        x[:, made] = packed[:, given]
        return x

    def _refuse_absent(self, table: Table) -> None:
        table.refuse_unusable(self.names)
        absent = [name for name in self.names if name not in table.columns]
        if absent:
            extra = [name for name in table.columns if name not in self.names]
            add = "add it, " if len(absent) == 1 else "add them, "
            raise DataError(
                f"{table.source} lacks {counted(len(absent), 'column')} that the training data had: {listed(absent)}; "
                f"{nearest(absent[0], extra) or add}it has {listed(table.columns) or 'no column'}"
            )

    def to_dict(self) -> dict[str, Any]:
        columns = [{"name": column.name, **column.to_dict()} for column in self.columns]
        one = {} if self.one == 1 else {"one": self.one}
        return {"kind": "table", "impute": self.impute, "columns": columns, **one}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> TableInputs:
        impute = stored.choice(given, "impute", (None, *IMPUTE))
        columns: list[Column] = []
        for entry in stored.entries(given, "columns"):
            name = composed(stored.text(entry, "name"))
            text = next((kind for key, kind in TEXT.items() if key in entry), None)
            numbers = next((kind for key, kind in NUMBERS.items() if key in entry), NumberColumn)
            if text is not None:
                columns.append(text.from_dict(name, entry))
            else:
                columns.append(numbers.from_dict(name, entry, filled=impute is not None))
        stored.require(len({column.name for column in columns}) == len(columns), "two columns have one name")
        return cls(tuple(columns), impute, stored_one(given))


def in_order(columns: Iterable[Column], encoding: Encoding) -> tuple[Column, ...]:
    """Returns the columns in the order of their inputs: those of numbers first, if that is wanted."""
    return tuple(sorted(columns, key=lambda column: encoding.numbers_first and isinstance(column, TEXTS)))


def one(encoding: Encoding) -> float:
    """Returns what an input is where it is 1; see `TableInputs.one`."""
    if not encoding.clip:
        return 1.0
    return float(np.float32(smooth_clip(np.array(2.0 if encoding.numbers == "robust" else 1.0))))


def stored_one(given: Mapping[str, Any]) -> float:
    """Reads what an input is where it is 1."""
    value = given.get("one", 1.0)
    stored.require(type(value) in (int, float) and 0 < value <= BOUND, f"one is {shown(value)}")
    return float(value)


def text_column(
    table: Table, name: str, times: Times, encoding: Encoding, found: Finding | None = None
) -> TextColumn | SignColumn | HashedColumn:
    """Fits a column of text; raises DataError where it has too many different ones, which are not to be hashed."""
    if (column := fit_text(name, times, encoding)) is not None:
        return column
    if found is not None:
        raise DataError(describe_finding(table, name, found, "category"))
    if encoding.many == "hash":
        return HashedColumn(name, BUCKETS)
    raise DataError(
        f"{table.source}: column {shown(name)} has {len(times) - (None in times):,} different texts, each of which "
        f"would be an input of the network, and more than {MOST_INPUTS:,} of one column say little; {LEAVE_OUT}, or "
        f"hash it to {BUCKETS} inputs with --hash (hashed= in Python)"
    )


def _packed_width(column: Column) -> int:
    return 1 if isinstance(column, ONE_HOT) else len(column.features)


def _refuse_missing(table: Table, names: Sequence[str]) -> None:
    """Refuses missing values: names the first column that has some, how many, and where."""
    found: list[tuple[str, int, int]] = []
    for name in names:
        gone = missing(table.columns[name])
        if gone.any():
            found.append((name, int(gone.sum()), int(gone.argmax())))
    if found:
        (name, number, row), *others = found
        more = f", and {counted(len(others), 'more column has', 'more columns have')} some" if others else ""
        raise DataError(
            f"{table.source}: column {shown(name)} has {counted(number, 'missing value')}, the first in "
            f"{table.place(row)}{more}; {FILL_IN}{table.taken_for_missing(name)}"
        )
