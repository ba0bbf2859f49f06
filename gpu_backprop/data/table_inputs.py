"""The columns of a table made into x, the numbers that a network reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_backprop.data import stored
from gpu_backprop.data.categories import BUCKETS, MOST_INPUTS, buckets, codes, distinct, spelled
from gpu_backprop.data.cells import composed
from gpu_backprop.data.encoding import PLAIN, Encoding
from gpu_backprop.data.errors import DataError
from gpu_backprop.data.files import Array
from gpu_backprop.data.messages import counted, listed, nearest, shown
from gpu_backprop.data.number_format import Finding, NumberFormat, describe_finding, read_numbers, stored_format
from gpu_backprop.data.scaling import BOUND, IMPUTE, Scaling, fit_scaling, smooth_clip, stored_scaling
from gpu_backprop.data.table import Arrays, Table, missing

FILL_IN = "fill them in, or train with --impute mean, median or constant (impute= in Python)"
INDICATED = ", and an input of its own is 1, else 0"
"""What becomes of a missing number besides."""

LEAVE_OUT = "leave it out with --ignore (ignore= in Python)"


@dataclass(frozen=True, eq=False)
class NumberColumn:
    """A column of numbers, one feature, and with `indicator` another one, 1 where the number is missing; None is the
    format of programs."""

    name: str
    scaling: Scaling
    format: NumberFormat | None = None
    indicator: bool = False

    @property
    def features(self) -> list[str]:
        return [self.name, *([f"{self.name} missing"] if self.indicator else [])]

    def describe(self) -> str:
        return self.scaling.describe()[0] + (INDICATED if self.indicator else "")


@dataclass(frozen=True, eq=False)
class TextColumn:
    """A column of text, a feature for each category: 1 for the one that it is, else 0. None is a missing text."""

    name: str
    categories: tuple[str | None, ...]

    @property
    def features(self) -> list[str]:
        return [f"{self.name} missing" if c is None else f"{self.name}={c}" for c in self.categories]

    def describe(self) -> str:
        names = listed("none" if c is None else c for c in self.categories)
        return f"{counted(len(self.categories), 'input')}, 1 for the category that it is, else 0: {names}"


@dataclass(frozen=True, eq=False)
class HashedColumn:
    """A column of text, a feature for each of so many buckets: 1 for the one that its text is hashed to, else 0."""

    name: str
    buckets: int

    @property
    def features(self) -> list[str]:
        return [f"{self.name} hashed to {bucket}" for bucket in range(self.buckets)]

    def describe(self) -> str:
        return f"{counted(self.buckets, 'input')}, 1 for the one that the text is hashed to, else 0"


Column = NumberColumn | TextColumn | HashedColumn


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
        hashed: Mapping[str, int], encoding: Encoding = PLAIN,
    ) -> TableInputs:  # fmt: skip
        """Fits the columns to the given rows; refuses values that cannot be used in any row.

        Args:
            findings: the numbers that were found in columns of text.
            hashed: the columns of text that are hashed, and the inputs of each.
            encoding: how columns become inputs.
        """
        if impute is None:
            _refuse_missing(table, names)
        columns: list[Column] = []
        for name in names:
            if name in hashed:
                columns.append(HashedColumn(name, hashed[name]))
                continue
            found = findings.get(name)
            values = table.columns[name] if found is None or found.numbers is None else found.numbers
            if values.dtype == object:
                columns.append(TextColumn(name, categories(table, name, values[rows].tolist(), found)))
            else:
                refuse_infinite(table, name, values)
                scaling = _scaling(table, name, values[rows], impute, encoding)
                indicator = encoding.indicator and bool(np.isnan(values[rows]).any())
                columns.append(NumberColumn(name, scaling, None if found is None else found.format, indicator))
        return cls(tuple(columns), impute, one(encoding))

    @property
    def features(self) -> list[str]:
        return [feature for column in self.columns for feature in column.features]

    def describe(self) -> list[tuple[str, str]]:
        """Says of each column what becomes of it."""
        return [(column.name, column.describe()) for column in self.columns]

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def widest(self) -> str:
        """Which column makes most inputs, and how many, in words."""
        most, column = max((len(column.features), column.name) for column in self.columns)
        fewer = " (--ignore leaves it out, --hash makes fewer)" if most > 1 else ""
        return f"column {shown(column)} makes {most:,} of them{fewer}"

    def text_columns(self, data: Table) -> list[str]:
        """Returns the columns that have to be read as text, even where they look like numbers."""
        return [
            column.name
            for column in self.columns
            if not isinstance(column, NumberColumn) or (column.format is not None and data.lines is not None)
        ]

    def apply(self, data: Table | Arrays) -> tuple[Array, dict[str, int]]:
        """Returns x, float32 (rows, inputs), and of each text column how many values are no known category, if any."""
        try:
            packed, unseen = self.pack(data)
            return self.expand(packed), unseen
        except MemoryError:
            raise DataError(
                f"{data.source}: {data.rows:,} rows of {len(self.features):,} inputs are too large for the memory of "
                f"this machine; {self.widest}: {LEAVE_OUT}, hash it with --hash (hashed= in Python), or use fewer rows"
            ) from None

    def pack(self, data: Table | Arrays) -> tuple[Array, dict[str, int]]:
        """Returns x with one number for each column, float32 (rows, columns), which `expand` makes features of: of text
        the number of its category, or −1, and NaN for a missing number that is indicated; and what `apply` returns."""
        if not isinstance(data, Table):
            raise DataError(
                f"{data.source} holds arrays, and the training data were a table; give CSV or Parquet with the columns "
                f"{listed(self.names)}"
            )
        self._refuse_absent(data)
        packed = np.empty((data.rows, len(self.columns)), np.float32)
        unseen: dict[str, int] = {}
        for place, column in enumerate(self.columns):
            if self.impute is None:
                _refuse_missing(data, [column.name])
            values = data.columns[column.name]
            if isinstance(column, NumberColumn):
                packed[:, place] = _scaled(data, column, values)
            elif isinstance(column, HashedColumn):
                packed[:, place] = buckets(spelled(values), column.buckets)
            else:
                code = codes(values, column.categories)
                packed[:, place] = code
                if (code < 0).any():
                    unseen[column.name] = int((code < 0).sum())
        return packed, unseen

    def expand(self, packed: Array) -> Array:
        """Returns x, float32 (rows, inputs), of what `pack` gave; the very array where each column is one feature."""
        widths = [len(column.features) for column in self.columns]
        numbers = [isinstance(column, NumberColumn) for column in self.columns]
        if all(numbers) and sum(widths) == len(widths):
            return packed
        first = np.cumsum([0, *widths[:-1]])
        x = np.zeros((len(packed), sum(widths)), np.float32)
        x[:, first[numbers]] = packed[:, numbers]
        for place, column in enumerate(self.columns):
            if not isinstance(column, NumberColumn):
                known = np.flatnonzero(packed[:, place] >= 0)
                x[known, first[place] + packed[known, place].astype(np.int64)] = self.one
            elif column.indicator:
                gone = np.isnan(packed[:, place])
                x[gone, first[place]] = column.scaling.apply(np.array([[np.nan]]))[0, 0]
                x[gone, first[place] + 1] = self.one
        return x

    def _refuse_absent(self, table: Table) -> None:
        table.refuse_unusable(self.names)
        absent = [name for name in self.names if name not in table.columns]
        if absent:
            extra = [name for name in table.columns if name not in self.names]
            add = "add it, " if len(absent) == 1 else "add them, "
            raise DataError(
                f"{table.source} lacks {counted(len(absent), 'column')} that the training data had: {listed(absent)}; "
                f"{nearest(absent[0], extra) or add}it has {listed(table.columns)}"
            )

    def to_dict(self) -> dict[str, Any]:
        columns = [{"name": column.name, **_entry(column)} for column in self.columns]
        one = {} if self.one == 1 else {"one": self.one}
        return {"kind": "table", "impute": self.impute, "columns": columns, **one}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> TableInputs:
        impute = stored.choice(given, "impute", (None, *IMPUTE))
        columns: list[Column] = []
        for entry in stored.entries(given, "columns"):
            name = composed(stored.text(entry, "name"))
            if "buckets" in entry:
                columns.append(HashedColumn(name, stored.count(entry, "buckets")))
            elif "categories" in entry:
                columns.append(TextColumn(name, stored.categories(entry, "categories", str, type(None))))
            else:
                scaling = stored_scaling(entry, 1, filled=impute is not None)
                indicator = stored.flag(entry, "indicator")
                stored.require(impute is not None or not indicator, "what is missing is indicated and not filled in")
                columns.append(NumberColumn(name, scaling, stored_format(entry), indicator))
        stored.require(len({column.name for column in columns}) == len(columns), "two columns have one name")
        return cls(tuple(columns), impute, stored_one(given))


def _entry(column: Column) -> dict[str, Any]:
    """Returns what is stored of a column, besides its name."""
    if isinstance(column, HashedColumn):
        return {"buckets": column.buckets}
    if isinstance(column, TextColumn):
        return {"categories": list(column.categories)}
    format = {} if column.format is None else {"format": column.format.to_dict()}
    return {**column.scaling.to_dict(), **format, **({"indicator": True} if column.indicator else {})}


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


def categories(
    table: Table, name: str, texts: Collection[str | None], found: Finding | None = None
) -> tuple[str | None, ...]:
    """Sorts the texts in a column, with None at the end if some are missing."""
    different = distinct(text for text in texts if text is not None)
    if len(different) > MOST_INPUTS:
        if found is not None:
            raise DataError(describe_finding(table, name, found, "category"))
        raise DataError(
            f"{table.source}: column {shown(name)} has {len(different):,} different texts, each of which would be an "
            f"input of the network, and more than {MOST_INPUTS:,} of one column say little; {LEAVE_OUT}, or hash it "
            f"to {BUCKETS} inputs with --hash (hashed= in Python)"
        )
    return (*different, *([None] if None in texts else []))


def _scaling(table: Table, name: str, values: Array, impute: str | None, encoding: Encoding) -> Scaling:
    scaling = fit_scaling(values[:, None], impute, encoding)
    if not scaling.sound.all():
        why = "has no values to learn from" if np.isnan(values).all() else "has numbers too large to be scaled"
        raise DataError(f"{table.source}: column {shown(name)} {why}; {LEAVE_OUT}")
    return scaling


def _scaled(table: Table, column: NumberColumn, values: Array) -> Array:
    """Scales the numbers of a column, (rows,), NaN where one is missing that is indicated; refuses those that float32
    cannot hold."""
    values, wrong = read_numbers(values, column.format, table.missing)
    if wrong is not None:
        held = "numbers" if column.format is None else f"numbers such as {shown(column.format)}"
        raise DataError(
            f"{table.source}, {table.place(wrong)}: {shown(values[wrong])} in column {shown(column.name)}, which held "
            f"{held} in the training data; correct it, or leave the field empty if it is missing"
        )
    refuse_infinite(table, column.name, values)
    scaled = column.scaling.apply(values[:, None])[:, 0]
    beyond = np.abs(scaled) > np.finfo(np.float32).max
    if beyond.any():
        row = int(beyond.argmax())
        raise DataError(
            f"{table.source}, {table.place(row)}: {values[row]:g} in column {shown(column.name)} is too far from the "
            f"training data, whose {column.scaling.middle(0)}; correct it"
        )
    if column.indicator:
        scaled[np.isnan(values)] = np.nan
    return scaled


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


def refuse_infinite(table: Table, name: str, values: Array) -> None:
    """Raises DataError for the first infinite value."""
    infinite = np.isinf(values)
    if infinite.any():
        row = int(infinite.argmax())
        raise DataError(
            f"{table.source}, {table.place(row)}: {values[row]} in column {shown(name)}, which no network can use; "
            "correct it, or leave the field empty if it is missing"
        )
