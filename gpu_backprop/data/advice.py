"""Warnings about what looks like a mistake in data that can be learned from all the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from gpu_backprop.data.categories import BUCKETS
from gpu_backprop.data.cells import folded, is_number
from gpu_backprop.data.dates import FoundDates, are_dates
from gpu_backprop.data.files import Array
from gpu_backprop.data.messages import MOST, counted, listed, shown
from gpu_backprop.data.number_format import Finding, describe_finding
from gpu_backprop.data.table import Arrays, Table
from gpu_backprop.data.target import EXACT, LARGEST_CLASS, Classes, RegressionTarget, Target, class_values

FAR = 20
"""Quartile distances from the median, from which on a target is an outlier."""

IGNORE = "--ignore (ignore= in Python)"


def warnings(
    data: Table | Arrays, names: Sequence[str], rows: Array, target: Target, findings: Mapping[str, Finding]
) -> Iterator[str]:
    """Yields a sentence for each suspicion, about the columns of these names and the given rows of them.

    Args:
        findings: the numbers that were found in columns of text, the target among them.
    """
    goal = findings.get(target.column or "")
    doubted = goal is not None and goal.why in ("stray", "doubtful", "unknown", "mixed")
    if isinstance(data, Table):
        numbers = {name: found.numbers for name, found in findings.items() if found.numbers is not None}
        yield from _about_names(data, names)
        yield from _about_spread(data, {name: numbers.get(name, data.columns[name])[rows] for name in names}, findings)
        for name, found in findings.items():
            if name != target.column:
                yield describe_finding(data, name, found, "category")
            elif doubted or (isinstance(target, RegressionTarget) and not found.why):
                yield describe_finding(data, name, found, "class")
    elif not data.images:  # these have pixels that are always white
        yield from _about_features(data, rows)
    if isinstance(target, Classes) and not doubted:
        yield from _about_classes(data, target)
    if isinstance(target, RegressionTarget):
        yield from _about_outliers(data, target, rows)


def about_encoding(source: str, hashed: Collection[str], dates: Mapping[str, FoundDates]) -> Iterator[str]:
    """Yields what is to be said of columns that were hashed though nobody asked for it, and of dates that are text."""
    for name, found in dates.items():
        if found.format is None:
            yield f"{source}: column {shown(name)} has {found.why}"
    if hashed:
        have = f"{_columns(sorted(hashed))} too many different texts for an input each"
        yield (
            f"{source}: {have}, so that each text is hashed to one of {BUCKETS} inputs; --hash names another number "
            f"(hashed= in Python), and {IGNORE} leaves such a column out"
        )


def _about_names(table: Table, names: Sequence[str]) -> Iterator[str]:
    if numbers := [name for name in names if is_number(name)]:
        yield (
            f"{table.source}: {_columns(numbers)} a number for a name, as a file without a header would have; check "
            "its first line"
        )


def _about_spread(table: Table, columns: dict[str, Array], findings: Collection[str]) -> Iterator[str]:
    """Warns of columns with one value in all rows or another in each; find_numbers says more about numbers in text."""
    constant, unique, merged = [], [], _merged(table, columns)
    for name, column in columns.items():
        if name in merged:
            continue
        different = len(set(column.tolist())) if column.dtype == object else len(np.unique(column))
        if different == 1:
            constant.append(name)
        elif name in findings or are_dates(column):
            continue
        elif different == len(column) and (column.dtype == object or (column == np.floor(column)).all()):
            unique.append(name)
    if constant:
        yield f"{table.source}: {_columns(constant)} one value in every row, from which nothing can be learned"
    if merged:
        yield (
            f"{table.source}: {_columns(merged)} whole numbers from 2⁵³ on that float64 cannot tell apart, so that "
            f"different ones became one; if they are names, take the column {EXACT}"
        )
    if unique:
        yield (
            f"{table.source}: {_columns(unique)} another value in every row, as a row number or a name has; leave such "
            f"a column out with {IGNORE}"
        )


def about_dates(table: Table, names: Sequence[str]) -> Iterator[str]:
    """Yields what is to be said of numbers that are dates."""
    if dates := [name for name in names if are_dates(table.columns[name])]:
        such = shown(f"{table.columns[dates[0]][0]:.15g}")
        yield (
            f"{table.source}: {_columns(dates)} numbers that are all dates, such as {such} in {table.place(0)}, and "
            f"are learned from as numbers; --text {shown(dates[0])} reads them as dates (text= in Python)"
        )


def _about_features(data: Arrays, rows: Array) -> Iterator[str]:
    first = data.x[rows[0]]
    same = [index for index in range(len(first)) if (data.x[rows, index] == first[index]).all()]
    if same:
        names = listed(f"x[{index}]" for index in same)
        yield f"{data.source}: {names} {_has(same)} one value in every row, from which nothing can be learned"


def _about_classes(data: Table | Arrays, target: Classes) -> Iterator[str]:
    values = class_values(data, target.column).tolist()
    meant = [folded(value) if isinstance(value, str) else value for value in values]
    once = [values[meant.index(value)] for value, times in Counter(meant).items() if times == 1]
    if once:
        names = listed(int(value) if isinstance(value, float) else value for value in once)
        yield (
            f"{data.source}: {'the class' if len(once) == 1 else 'the classes'} {names} {_has(once)} one row only, the "
            f"first in {data.place(values.index(once[0]))}, which can be learned from or tested on, not both; add rows"
        )


def _about_outliers(data: Table | Arrays, target: RegressionTarget, rows: Array) -> Iterator[str]:
    """Warns of targets so far from all others that squared errors see nothing else; not where half of them are one
    number, of which nothing can be told."""
    y = target.targets(data)[rows]
    low, median, high = np.quantile(y, [0.25, 0.5, 0.75], axis=0)
    far = rows[((np.abs(y - median) > FAR * (high - low)) & (high > low)).any(axis=1)]
    if len(far):
        name = "y" if target.column is None else f"column {shown(target.column)}"
        places = ", ".join(data.place(row) for row in far[:MOST].tolist())
        more = f" and {len(far) - MOST:,} more" if len(far) > MOST else ""
        yield (
            f"{data.source}: {name}, the target, is more than {FAR} times its quartile distance away from its median "
            f"in {counted(len(far), 'row')}, {places}{more}, which squared errors heed more than all others; correct "
            'them if they are wrong, else take --loss huber (loss="huber" in Python)'
        )


def _merged(table: Table, columns: Mapping[str, Array]) -> list[str]:
    """Finds the columns in which numbers that differ in the file are the same float64."""
    large = [n for n, column in columns.items() if column.dtype != object and (np.abs(column) >= LARGEST_CLASS).any()]
    if not large or table.reread is None:
        return []
    texts = table.again(large, table.missing).columns
    return [name for name in large if len(set(texts[name].tolist())) > len(np.unique(table.columns[name]))]


def _columns(names: Sequence[str]) -> str:
    return f"{'column' if len(names) == 1 else 'columns'} {listed(names)} {_has(names)}"


def _has(things: Sequence[object]) -> str:
    return "has" if len(things) == 1 else "have"
