"""What looks like a mistake in data that can be learned from all the same."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from gpu_backprop.data.cells import is_number
from gpu_backprop.data.messages import listed, shown
from gpu_backprop.data.table import Array, Arrays, Table
from gpu_backprop.data.target import Classes, Target, class_values

DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+")
IGNORE = "--ignore (ignore= in Python)"


def warnings(data: Table | Arrays, names: Sequence[str], rows: Array, target: Target) -> Iterator[str]:
    """A sentence for each suspicion, about the columns of these names and the given rows of them."""
    if isinstance(data, Table):
        columns = {name: data.columns[name][rows] for name in names}
        yield from _about_names(data, names)
        yield from _about_spread(data, columns)
        yield from _about_text(data, {name: column for name, column in columns.items() if column.dtype == object})
    elif not data.images:  # these have pixels that are always white
        yield from _about_features(data, rows)
    if isinstance(target, Classes):
        yield from _about_classes(data, target)


def _about_names(table: Table, names: Sequence[str]) -> Iterator[str]:
    if numbers := [name for name in names if is_number(name)]:
        yield (
            f"{table.source}: {_columns(numbers)} a number for a name, as a file without a header would have; check "
            "its first line"
        )


def _about_spread(table: Table, columns: dict[str, Array]) -> Iterator[str]:
    """Columns that say the same of every row, or something else of every row."""
    constant, unique = [], []
    for name, column in columns.items():
        different = len(set(column.tolist())) if column.dtype == object else len(np.unique(column))
        if different == 1:
            constant.append(name)
        elif different == len(column) and (column.dtype == object or (column == np.floor(column)).all()):
            unique.append(name)
    if constant:
        yield f"{table.source}: {_columns(constant)} one value in every row, from which nothing can be learned"
    if unique:
        yield (
            f"{table.source}: {_columns(unique)} another value in every row, as a row number or a name has; leave such "
            f"a column out with {IGNORE}"
        )


def _about_text(table: Table, columns: dict[str, Array]) -> Iterator[str]:
    """Columns of text that were meant as numbers."""
    for name, column in columns.items():
        times = Counter(column.tolist())
        del times[None]
        commas = [text for text in times if DECIMAL_COMMA.fullmatch(text)]
        if times and len(commas) == len(times):
            yield (
                f"{table.source}: column {shown(name)} has numbers with a decimal comma, which are text here, each a "
                "category; write them with a point"
            )
        words = {text: number for text, number in times.items() if not is_number(text)}
        if sum(words.values()) < times.total() / 2:
            cells = table.columns[name].tolist()
            row = next((row for row, text in enumerate(cells) if text is not None and not is_number(text)), None)
            why = "the file stores text" if row is None else f"{table.place(row)} has {shown(cells[row])}"
            yield (
                f"{table.source}: column {shown(name)} has numbers in most rows, which are text here, each a category, "
                f"because {why}; correct it, or leave the field empty if it is missing"
            )


def _about_features(data: Arrays, rows: Array) -> Iterator[str]:
    first = data.x[rows[0]]
    same = [index for index in range(len(first)) if (data.x[rows, index] == first[index]).all()]
    if same:
        names = listed(f"x[{index}]" for index in same)
        yield f"{data.source}: {names} {_has(same)} one value in every row, from which nothing can be learned"


def _about_classes(data: Table | Arrays, target: Classes) -> Iterator[str]:
    values = class_values(data, target.column).tolist()
    once = [value for value, times in Counter(values).items() if times == 1]
    if once:
        names = listed(int(value) if isinstance(value, float) else value for value in once)
        yield (
            f"{data.source}: {'the class' if len(once) == 1 else 'the classes'} {names} {_has(once)} one row only, the "
            f"first in {data.place(values.index(once[0]))}, which can be learned from or tested on, not both; add rows"
        )


def _columns(names: Sequence[str]) -> str:
    return f"{'column' if len(names) == 1 else 'columns'} {listed(names)} {_has(names)}"


def _has(things: Sequence[object]) -> str:
    return "has" if len(things) == 1 else "have"
