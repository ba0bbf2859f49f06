"""Data frames of pandas, polars and pyarrow as arrays of numbers; no library is imported for it."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array

TO_NUMBERS = (
    "gpu_backprop.data.Preprocessing makes numbers of text and dates, as TabularClassifier and TabularRegressor do by "
    "themselves"
)
FILL_IN = "Take these rows out, or fill it in, as gpu_backprop.data.Preprocessing with impute='mean' does."
HELD = {"U": "text", "T": "text", "S": "bytes", "M": "dates", "m": "durations", "c": "complex numbers"}
"""What arrays hold that are no real numbers, by the kinds of their dtypes."""


def is_frame(value: object) -> bool:
    """Tells whether it has named columns."""
    return not isinstance(value, np.ndarray) and hasattr(type(value), "columns")


def columns_of(frame: Any) -> list[tuple[Any, Any]]:
    """Returns the columns of a data frame, each with its name, which in pandas and pyarrow others may have too."""
    if hasattr(frame, "items"):
        return list(frame.items())
    if hasattr(frame, "get_columns"):
        return list(zip(frame.columns, frame.get_columns(), strict=True))
    if hasattr(frame, "column_names"):
        return list(zip(frame.column_names, frame.columns, strict=True))
    return [(label, frame[label]) for label in frame.columns]


def only_column(value: Any) -> Any:
    """Returns the column of a data frame that has one; anything else as it is."""
    if not is_frame(value) or hasattr(value, "collect"):
        return value
    columns = columns_of(value)
    return columns[0][1] if len(columns) == 1 else value


def read_frame(frame: Any, name: str) -> Array:
    """Stacks the columns of a data frame, whose types may be its library's own; raises InputError where a value is
    missing or no number."""
    if hasattr(frame, "collect"):
        raise InputError(f"{name} is a {type(frame).__name__}, which has no rows yet: give {name}.collect().")
    dtypes = getattr(frame, "dtypes", None)
    if dtypes is not None and all(isinstance(dtype, np.dtype) and dtype.kind in "fiu" for dtype in dtypes):
        return np.asarray(frame)
    columns = [read_column(column, f"column {label!r} of {name}") for label, column in columns_of(frame)]
    return np.stack(columns, axis=1)


def read_column(column: Any, name: str) -> Array:
    """Reads a column of a data frame likewise."""
    values = column_values(column)
    if values.dtype.kind in "iub":
        return values
    cells = values.tolist() if values.dtype == object else []
    if values.dtype.kind == "f" and not isinstance(getattr(column, "dtype", None), np.dtype):
        missing = np.flatnonzero(np.isnan(values))
    else:
        missing = np.array([row for row, cell in enumerate(cells) if is_missing(cell)])
    other = [row for row, cell in enumerate(cells) if not (_is_number(cell) or is_missing(cell))]
    if other or values.dtype.kind not in "fO":
        held = HELD.get(values.dtype.kind, f"the dtype {values.dtype}")
        if other:
            cell = cells[other[0]]
            held = f"{'text' if isinstance(cell, str) else type(cell).__name__}, {repr(cell)[:60]} at row {other[0]}"
        raise InputError(
            f"{name} must hold real numbers (floats, integers or booleans), and it holds {held}. {TO_NUMBERS}; "
            "or leave it out."
        )
    if len(missing):
        many = "1 value is" if len(missing) == 1 else f"{len(missing)} values are"
        raise InputError(f"{many} missing in {name}, the first one at row {missing[0]}. {FILL_IN}")
    return values if values.dtype.kind == "f" else values.astype(np.float64)


def column_values(column: Any) -> Array:
    """Returns what a column holds, of objects where its library has something of its own."""
    kind: Any = getattr(column, "type", None)
    if hasattr(kind, "index_type"):  # a dictionary of pyarrow, of which NumPy gets the last word where one is missing
        column = column.cast(kind.value_type)
    return np.asarray(column)


def is_missing(cell: object) -> bool:
    """Tells whether a cell is None or what pandas has for a missing value; not NaN, which is a number as well."""
    return cell is None or type(cell).__name__ in ("NAType", "NaTType")


def _is_number(cell: object) -> bool:
    return isinstance(cell, Real) or type(cell).__name__ == "Decimal"
