"""Columns from outside, lists, arrays and those of data frames, as a table holds them; no library is imported."""

from __future__ import annotations

import datetime
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np

from gpu_backprop.data.categories import spelled
from gpu_backprop.data.files import Array
from gpu_backprop.data.messages import shown

DAY = datetime.timedelta(days=1)
MOST_TYPES = 5
"""Types of cells that a message names."""

CATEGORICAL = ("CategoricalDtype", "Categorical", "Enum")
"""The types of columns that are declared to be categories, in pandas and polars. A dictionary of pyarrow is a way to
store any column."""


def as_column(column: Any) -> Array:
    """Converts a list, an array or a column of a data frame: numbers and truth values that are missing, and durations,
    which are days, to float64 with NaN; texts, truth values and dates to an object array of str with None; leaves
    other types as they are."""
    array = column if isinstance(column, np.ndarray) else _array_of(column)
    if array.ndim != 1 or array.dtype.kind not in "iufbUMmO":
        return array
    if array.dtype.kind in "iuf":
        return array.astype(np.float64, copy=False)
    if array.dtype.kind == "m":
        days: Array = array / np.timedelta64(DAY)
        return days
    if array.dtype.kind == "M":
        array = _dates(array)
    cells = array.tolist()
    if set(map(type, cells)) <= {str, type(None)}:
        return array.astype(object, copy=False)
    cells = [None if _is_nothing(cell) else cell for cell in cells]
    found = [cell for cell in cells if cell is not None]
    if found and all(map(_is_number, found)):
        return np.array([np.nan if cell is None else _number(cell) for cell in cells], np.float64)
    texts = _objects([_as_text(cell) for cell in cells])
    return texts if is_text(texts) else _objects(cells)


def as_text(column: Any) -> Array:
    """Does the same, and writes numbers as text: 7, be it whole or not, is "7", and 3.1 is "3.1"."""
    array = column if isinstance(column, np.ndarray) else _array_of(column)
    if array.dtype.kind in "iu":  # float64 cannot tell whole numbers from 2⁵³ on apart
        return array.astype(str).astype(object)
    if array.dtype == object and array.ndim == 1:
        array = _objects([str(cell) if type(cell) is int else cell for cell in array.tolist()])
    return spelled(values) if (values := as_column(array)).dtype == np.float64 else values


def is_categorical(column: Any) -> bool:
    """Tells whether a column of a data frame is declared to be categories, whatever these are."""
    return type(_type(column)).__name__ in CATEGORICAL


def is_text(column: Array) -> bool:
    """Tells whether all cells of an object array are str or None."""
    return all(cell is None or isinstance(cell, str) for cell in column.tolist())


def describe_mixture(column: Array) -> str:
    """Says what is in a column that is neither numbers nor text: the first cell of each type."""
    if column.dtype != object or column.ndim != 1:
        return f"has the dtype {column.dtype}" if column.ndim == 1 else f"has the shape {column.shape}"
    first = dict[str, object]()
    for cell in column.tolist():
        if cell is not None:
            first.setdefault(type(cell).__name__, cell)
    *others, last = [f"{shown(cell)} ({kind})" for kind, cell in first.items()][:MOST_TYPES]
    return f"holds {', '.join(others)} beside {last}" if others else f"holds {last}"


def _type(column: Any) -> Any:
    """Returns the type that a column of pandas or polars has as its dtype, and one of pyarrow as its type."""
    return getattr(column, "dtype", getattr(column, "type", None))


def _array_of(column: Any) -> Array:
    """Makes an array of anything; of objects where there is text, so that 1 and "a" do not become "1" and "a"."""
    kind = _type(column)
    try:
        if getattr(kind, "time_zone", None) or getattr(kind, "tz", None) or hasattr(kind, "index_type"):
            # what NumPy gets of polars and pyarrow lacks the zone, and where a category is missing
            return _objects((column.to_pylist if hasattr(column, "to_pylist") else column.to_list)())
        array = np.asarray(column)
    except ValueError:  # lists of different lengths
        return np.array([str(column)])[:, None]
    return np.asarray(column, object) if array.dtype.kind == "U" else array


def _objects(cells: list[Any]) -> Array:
    array = np.empty(len(cells), object)
    array[:] = cells
    return array


def _dates(array: Array) -> Array:
    """Writes dates and times as CSV has them: no time where none is needed, nor fractions of a second."""
    gone, exact = np.isnat(array), array
    for unit in "D", "s":
        if ((shorter := array.astype(f"M8[{unit}]")) == array)[~gone].all():
            exact = shorter
            break
    texts = np.char.replace(exact.astype(str), "T", " ").astype(object)
    texts[gone] = None
    return texts


def _is_nothing(cell: object) -> bool:
    return cell is None or (isinstance(cell, Real) and cell != cell) or type(cell).__name__ in ("NAType", "NaTType")


def _is_number(cell: object) -> bool:
    return isinstance(cell, (Real, Decimal, datetime.timedelta)) and not isinstance(cell, bool)


def _number(cell: Any) -> float:
    return cell / DAY if isinstance(cell, datetime.timedelta) else float(cell)


def _as_text(cell: object) -> object:
    """Writes truth values, dates and the intervals of pandas as files have them; leaves others as they are."""
    known = isinstance(cell, (bool, np.bool_, datetime.date, datetime.time))
    return str(cell) if known or type(cell).__name__ in ("Interval", "Period") else cell
