"""Data that lie in memory: data frames of pandas and polars, tables of pyarrow, dicts of columns, and arrays."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np

from gpu_backprop.data.cells import MISSING, column_names, composed, is_number, texts
from gpu_backprop.data.columns import as_column, as_text, describe_mixture, is_categorical, is_text
from gpu_backprop.data.errors import DataError
from gpu_backprop.data.files import Array
from gpu_backprop.data.messages import counted, shown
from gpu_backprop.data.table import Arrays, Table, refuse_sparse

FRAME = "the data frame"
UNUSABLE = "{}; make it all numbers or all text"
IN_ROWS = ("itertuples", "to_dicts", "to_pydict")
"""Methods that data frames of pandas, of polars, and tables of pyarrow have, and nothing else has."""

ACCEPTED = (
    "give a data frame of pandas or polars, a table of pyarrow, a dict of columns, a NumPy array, what read() returns, "
    "or make a Table(source, columns) or Arrays(source, x, y) of it"
)


def is_frame(data: object) -> bool:
    """Tells whether it has named columns that `as_table` can read."""
    return isinstance(data, Mapping) or any(hasattr(type(data), name) for name in IN_ROWS)


def as_table(
    frame: Any, text: Collection[str] = (), missing: frozenset[str] = MISSING, *, source: str = FRAME,
    target: str | None = None,
) -> Table:  # fmt: skip
    """Reads a data frame as its CSV file would be read: the same words stand for a missing value, beside None, NaN, NA
    and NaT; truth values and dates become text. Columns of categories are text also where these are numbers, but for
    the target; durations are days. Columns of mixed or other types are there, but unusable.

    Args:
        text: columns that are text whatever is in them.
        missing: the texts that stand for a missing value.
        source: what messages call the frame.
        target: the column of the target, if it is there.

    Raises:
        DataError: it has no rows, or two columns of one name.
    """
    given = _columns(frame)
    names = column_names(source, [str(name) for name, _ in given])
    columns, unusable, asked = dict[str, Array](), dict[str, str](), list(text)
    for name, (_, column) in zip(names, given, strict=True):
        if name != target and name not in asked and is_categorical(column):
            asked.append(name)
        values = as_text(column) if name in asked else as_column(column)
        if values.ndim != 1 or (values.dtype != np.float64 and not (values.dtype == object and is_text(values))):
            unusable[name] = UNUSABLE.format(describe_mixture(values))
        else:
            columns[name] = _read_missing(values, missing, name in asked)
    table = Table(source, columns, unusable=unusable, text=asked, missing=missing, labels=getattr(frame, "index", None))
    if table.columns and not table.rows:
        raise DataError(f"{source} has {counted(len(names), 'column')} and no rows; give one with both")
    object.__setattr__(table, "reread", partial(as_table, frame, source=source, target=target))
    return table


def as_data(data: Any, target: str | None = None, missing: frozenset[str] = MISSING) -> Table | Arrays:
    """Returns a table or arrays of anything that holds rows; the other arguments are those of `as_table`.

    Raises:
        DataError: it is nothing that can be read.
    """
    refuse_sparse(data)
    if isinstance(data, np.ndarray):
        return Arrays("the array", data)
    if is_frame(data):
        return as_table(data, missing=missing, target=target)
    if not isinstance(data, (Table, Arrays)):
        raise DataError(f"what was given is of type {type(data).__name__}; {ACCEPTED}")
    return data


def with_target(data: Any, target: Any) -> tuple[Table | Arrays, str | None]:
    """Returns a table or arrays with their target, and which column that is; None for arrays.

    Args:
        target: the name of a column; or the targets themselves, (rows,), which become a column of the name that they
            have in their data frame, else `target`.
    """
    if target is None or isinstance(target, (str, Integral)):
        name = None if target is None else composed(str(target))
        return as_data(data, name), name
    data = as_data(data)
    if isinstance(data, Arrays):
        return add_target(data, target, ""), None
    unnamed = (given := getattr(target, "name", None)) in (None, "")  # "" is polars' name for none
    name = "target" if unnamed else str(given)
    while unnamed and name in data.names:
        name += "_"
    if name in data.names:
        raise DataError(
            f"the targets are called {shown(name)}, as a column of {data.source} is, which would be learned from; "
            "leave that column out if it is the target, or call them otherwise"
        )
    return add_target(data, target, name), name


def add_target(data: Table | Arrays, y: Any, name: str) -> Table | Arrays:
    """Returns the data with these targets; in a table they are a column of this name."""
    if is_frame(y) and len(columns := _columns(y)) == 1:
        y = columns[0][1]
    if isinstance(data, Arrays):
        return replace(data, y=np.asarray(y))
    values = as_column(y[:, 0] if getattr(y, "ndim", 1) == 2 and y.shape[1] == 1 else y)
    if values.shape != (data.rows,):
        raise DataError(
            f"{data.source} has {counted(data.rows, 'row')}, and the targets have the shape {values.shape}; give one "
            "for each row"
        )
    if values.dtype == object and is_text(values):
        values = texts(values.tolist(), {}, data.missing)
    found, again = replace(data, columns={**data.columns, name: values}), data.reread
    if again is not None:
        object.__setattr__(found, "reread", lambda text, missing: add_target(again(text, missing), y, name))
    return found


def _columns(frame: Any) -> list[tuple[Any, Any]]:
    """Returns the columns with their names; those of pandas may be of one name."""
    if hasattr(frame, "items"):
        return list(frame.items())
    if hasattr(frame, "get_columns"):
        return list(zip(frame.columns, frame.get_columns(), strict=True))
    return list(zip(frame.column_names, frame.columns, strict=True))


def _read_missing(values: Array, missing: frozenset[str], as_text: bool) -> Array:
    """Takes out the words that stand for a missing value; a column with nothing in it is one of numbers."""
    if values.dtype != object:
        for word in filter(is_number, missing):
            values = np.where(values == float(word), np.nan, values)
        return values
    found = texts(values.tolist(), {}, missing)
    return np.full(len(found), np.nan) if not as_text and not any(cell is not None for cell in found) else found
