"""Preprocessing fitted to rows that are read in blocks: what `Preprocessing.fit` finds, up to rounding.

The target is held as a whole, 8 bytes a row, and everything else is counted as it goes by. In which way people wrote
the numbers of a column (55 %, $1,745), the first block decides; where a later block has others, they are text.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from gpu_backprop.data import advice
from gpu_backprop.data.array_inputs import ArrayInputs, how_scaled, pixels, refuse_unusable
from gpu_backprop.data.categories import MOST_INPUTS, spelled
from gpu_backprop.data.cells import composed
from gpu_backprop.data.dates import AS_TEXT, DateFormat, FoundDates, find_dates, read_dates
from gpu_backprop.data.encoding import PLAIN, Encoding
from gpu_backprop.data.errors import DataError
from gpu_backprop.data.files import Array
from gpu_backprop.data.messages import counted, listed, shown
from gpu_backprop.data.number_columns import (
    LEAVE_OUT,
    DateColumn,
    NumberColumn,
    OrdinalColumn,
    checked_orders,
    fit_order,
    refuse_infinite,
)
from gpu_backprop.data.number_format import NumberFormat, decimal_mark, find_numbers, read_numbers
from gpu_backprop.data.preprocessing import Inputs, Preprocessing, checked_hashes, input_names
from gpu_backprop.data.row_blocks import RowBlocks, first_block, numbered
from gpu_backprop.data.running_scaling import RunningScaling
from gpu_backprop.data.scaling import IMPUTE, Scaling, refuse_too_wide
from gpu_backprop.data.split import is_held_out
from gpu_backprop.data.table import Arrays, Table, missing
from gpu_backprop.data.table_inputs import (
    FILL_IN,
    Column,
    TableInputs,
    in_order,
    one,
    text_column,
)
from gpu_backprop.data.target import column_or_y, fit_target
from gpu_backprop.data.text_columns import MOST_COUNTED, HashedColumn, count_texts


@dataclass(frozen=True)
class HeldOut:
    """Which rows are held out; see `is_held_out`."""

    fraction: float = 0.0
    seed: int = 0

    def among(self, first: int, count: int) -> Array:
        """Marks those of so many rows from number `first` on."""
        return is_held_out(first, count, self.fraction, self.seed)


@dataclass(frozen=True)
class Wanted:
    """How a preprocessing is to be fitted; see `Preprocessing.fit`, but for `weights`: the column of the weights."""

    target: str | None
    task: str = "auto"
    impute: str | None = None
    ignore: Collection[str] = ()
    hashed: Mapping[str, int] = field(default_factory=dict)
    standardise: bool = True
    weights: str | None = None
    encoding: Encoding = PLAIN


class _TextAfterAll(Exception):
    """A column that was taken for numbers has text in a later block."""


def fit_blocks(blocks: RowBlocks, wanted: Wanted, held_out: HeldOut) -> tuple[Preprocessing, RowBlocks]:
    """Fits a preprocessing to the rows that are not held out; returns it, and the blocks as they have to be read."""
    if wanted.impute not in (None, *IMPUTE):
        raise DataError(f"impute is {shown(wanted.impute)}; choose one of {listed(IMPUTE)}")
    wanted = replace(wanted, impute=wanted.encoding.imputing(wanted.impute))
    head = first_block(blocks)
    refuse_too_wide(head, wanted.encoding)
    if isinstance(head, Arrays):
        if given := [*wanted.ignore, *wanted.hashed, *wanted.encoding.ordinal, *filter(None, [wanted.target])]:
            raise DataError(f"{head.source} holds arrays, which have no columns; leave {listed(given)} out")
        counts: _Counts = _ArrayCounts(head, wanted)
        counts.add_all(blocks, wanted, held_out)
        return counts.finish(blocks, wanted, held_out), blocks
    ignore = [composed(name) for name in wanted.ignore]
    hashed = checked_hashes(head, wanted.hashed)
    names = [name for name in head.names if name not in ignore and name != wanted.target]
    orders = checked_orders(head, wanted.encoding.ordinal, names)
    text = {*hashed, *orders, *(name for name, values in head.columns.items() if values.dtype == object)}
    free = [name for name in head.columns if name not in {*ignore, *hashed, *orders}]
    found = find_dates(head, [name for name in free if name != wanted.target], wanted.encoding.dates)
    findings = {name: numbers for name, numbers in find_numbers(head, free).items() if name not in found}
    dates = {name: date.format for name, date in found.items() if date.format is not None}
    formats = {name: numbers.format for name, numbers in findings.items() if numbers.format is not None}
    names = input_names(head, wanted.target, [*ignore, *filter(None, [wanted.weights])])
    while True:
        read = blocks.as_text(text if blocks.kind == "csv" else {*hashed, *orders})
        table_counts = _TableCounts(names, hashed, formats, orders, dates)
        table_counts.mark = decimal_mark(head, findings)
        try:
            table_counts.add_all(read, wanted, held_out)
        except _TextAfterAll as error:
            text.add(name := error.args[0])
            formats.pop(name, None)
            if (format := dates.pop(name, None)) is not None:
                found[name] = FoundDates(
                    None, f"dates such as {format} in its first rows and other texts later, {AS_TEXT}"
                )
        else:
            fitted = table_counts.finish(blocks, wanted, held_out)
            unasked = table_counts.hashed.keys() - hashed
            fitted.warnings = list(advice.about_encoding(str(blocks.path), unasked, found))
            return fitted, read


class _Counts:
    """What is counted of inputs, and the target."""

    def __init__(self) -> None:
        self.targets: list[Array] = []
        self.images = self.labelled = False
        self.mark = ""

    def add_all(self, blocks: RowBlocks, wanted: Wanted, held_out: HeldOut) -> None:
        """Adds all rows; those that are held out are checked only."""
        for first, block in numbered(blocks):
            self._add(block, ~held_out.among(first, block.rows), wanted)
            self.targets.append(given := column_or_y(block, wanted.target))
            if (given.dtype == object) != (self.targets[0].dtype == object):
                raise _TextAfterAll(wanted.target)

    def _add(self, block: Table | Arrays, training: Array, wanted: Wanted) -> None:
        raise NotImplementedError

    def _inputs(self, blocks: RowBlocks, wanted: Wanted) -> tuple[Inputs, str]:
        raise NotImplementedError

    def finish(self, blocks: RowBlocks, wanted: Wanted, held_out: HeldOut) -> Preprocessing:
        """Returns the preprocessing."""
        y = np.concatenate(self.targets)
        self.targets.clear()
        source, column = str(blocks.path), wanted.target
        data: Table | Arrays
        if column is None:
            data = Arrays(source, np.zeros((len(y), 1), np.uint8), y, labelled=self.labelled)
        else:
            data = Table(source, {column: y}, text=blocks.text, missing=blocks.missing)
        found = None
        if isinstance(data, Table) and column is not None:
            found = find_numbers(data, [column], self.mark).get(column)
        rows, clip = np.arange(len(y)), wanted.encoding.clip_target
        target, why = fit_target(data, column, rows, wanted.task, wanted.standardise, found, clip)
        if target.task == "regression" and held_out.fraction:
            training = np.flatnonzero(~held_out.among(0, len(y)))
            target, _ = fit_target(data, column, training, target.task, wanted.standardise, found, clip)
        inputs, how = self._inputs(blocks, wanted)
        fitted = Preprocessing(inputs, target)
        fitted.why, fitted.how, fitted.missing = why, how, blocks.missing
        return fitted


class _ArrayCounts(_Counts):
    """Of arrays: each feature's scaling, and of images the largest pixel."""

    def __init__(self, head: Arrays, wanted: Wanted) -> None:
        super().__init__()
        self.images, self.labelled = head.images, head.labelled
        self._largest, self._how = 0, how_scaled(head, wanted.encoding)
        self._running = RunningScaling(head.x.shape[1], wanted.impute, wanted.encoding)

    def _add(self, block: Table | Arrays, training: Array, wanted: Wanted) -> None:
        assert isinstance(block, Arrays)
        refuse_unusable(block, missing=wanted.impute is None)
        if self.images:
            self._largest = max(self._largest, int(block.x[training].max(initial=0)))
        else:
            self._running.add(block.x[training].astype(np.float64))

    def _inputs(self, blocks: RowBlocks, wanted: Wanted) -> tuple[Inputs, str]:
        if self.images:
            return pixels(len(self._running.mean), self._largest)
        gone, scaling = self._running.gone > 0, self._running.scaling()
        if not scaling.sound.all():
            raise DataError(f"{blocks.path}: x[{int(scaling.sound.argmin())}] has no values, or numbers too large")
        how = f", by a sample of {scaling.sample:,} rows" if scaling.sample else ""
        return ArrayInputs.of(scaling, wanted.impute, gone, wanted.encoding), self._how + how


class _TableCounts(_Counts):
    """Of a table: the scaling of each column of numbers, the different texts of each other, what is missing."""

    def __init__(
        self, names: list[str], hashed: Mapping[str, int], formats: Mapping[str, NumberFormat],
        orders: Mapping[str, tuple[str, ...]], dates: Mapping[str, DateFormat],
    ) -> None:  # fmt: skip
        super().__init__()
        self.hashed = dict(hashed)
        self._names, self._formats, self._orders, self._dates = names, formats, orders, dates
        self._numbers: dict[str, int] | None = None  # how many each column makes
        self._running = RunningScaling(0)
        self._texts: dict[str, Counter[str | None]] = {}
        self._missing: dict[str, tuple[int, str]] = {}

    def _add(self, block: Table | Arrays, training: Array, wanted: Wanted) -> None:
        assert isinstance(block, Table)
        numbers: dict[str, Array] = {}
        for name in self._names:
            values = block.columns[name]
            gone = missing(values)
            if gone.any():
                number, place = self._missing.get(name, (0, block.place(int(gone.argmax()))))
                self._missing[name] = number + int(gone.sum()), place
            if name in self._formats:
                values, wrong = read_numbers(values, self._formats[name], block.missing)
                if wrong is not None:
                    raise _TextAfterAll(name)
            if name in self.hashed:
                continue
            if name in self._orders:
                numbers[name] = fit_order(block, name, self._orders[name])[:, None]
                continue
            if name in self._dates:
                numbers[name], wrong = read_dates(values, self._dates[name])
                if wrong is not None:
                    raise _TextAfterAll(name)
                continue
            if values.dtype != object:
                refuse_infinite(block, name, values)
                numbers[name] = values[:, None]
                continue
            if self._numbers is not None and name in self._numbers:
                raise _TextAfterAll(name)
            known = self._texts.setdefault(name, Counter())
            known.update(spelled(values)[training].tolist())
            if len(known) > (MOST_COUNTED if wanted.encoding.rare else MOST_INPUTS) + 1:
                self._text_column(block, name, wanted)  # which is hashed from here on, or says what is wrong
        if self._numbers is None:
            self._numbers = {name: values.shape[1] for name, values in numbers.items()}
            self._running = RunningScaling(sum(self._numbers.values()), wanted.impute, wanted.encoding)
        if set(self._numbers) != set(numbers):
            raise _TextAfterAll(next(iter(set(self._numbers) ^ set(numbers))))
        if numbers:
            self._running.add(np.concatenate([numbers[name] for name in self._numbers], axis=1)[training])

    def _inputs(self, blocks: RowBlocks, wanted: Wanted) -> tuple[Inputs, str]:
        if self._missing and wanted.impute is None:
            (name, (number, place)), *others = self._missing.items()
            more = f", and {counted(len(others), 'more column has', 'more columns have')} some" if others else ""
            raise DataError(
                f"{blocks.path}: column {shown(name)} has {counted(number, 'missing value')}, the first in {place}"
                f"{more}; {FILL_IN}"
            )
        gone, scaling, columns = self._running.gone > 0, self._running.scaling(), list[Column]()
        table, widths = Table(str(blocks.path)), self._numbers or {}
        ends = dict(zip(widths, itertools.accumulate(widths.values()), strict=True))
        for name in self._names:
            if name in self.hashed:
                columns.append(HashedColumn(name, self.hashed[name]))
            elif name in self._texts:
                columns.append(self._text_column(table, name, wanted))
            else:
                at = range(ends[name] - widths[name], ends[name])
                own, indicator = scaling.columns(at), bool(gone[at].any()) if wanted.encoding.indicator else None
                if not own.sound.all():
                    why = "has no values to learn from, or numbers too large to be scaled"
                    raise DataError(f"{blocks.path}: column {shown(name)} {why}; {LEAVE_OUT}")
                columns.append(self._number_column(name, own, indicator))
        return TableInputs(in_order(columns, wanted.encoding), wanted.impute, one(wanted.encoding)), ""

    def _text_column(self, table: Table, name: str, wanted: Wanted) -> Column:
        column = text_column(table, name, count_texts(self._texts[name]), wanted.encoding)
        if isinstance(column, HashedColumn):
            self.hashed[name] = column.buckets
        return column

    def _number_column(self, name: str, scaling: Scaling, indicator: bool | None) -> Column:
        if name in self._orders:
            return OrdinalColumn(name, self._orders[name], scaling, indicator)
        if name in self._dates:
            return DateColumn.of(name, self._dates[name], scaling, indicator)
        return NumberColumn(name, scaling, self._formats.get(name), indicator)
