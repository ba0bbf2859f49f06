"""Cells of text: which are missing, which are numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from gpu_backprop.data.errors import DataError
from gpu_backprop.data.messages import listed
from gpu_backprop.data.table import Array

MISSING = frozenset({"", "na", "n/a", "nan", "null"})
"""What stands for a missing value, in small letters and without spaces around it."""


def is_missing(cell: str) -> bool:
    """Whether a cell stands for a missing value."""
    return cell.strip().lower() in MISSING


def number(cell: str) -> float:
    """The number in a cell, NaN where it is missing.

    Raises:
        ValueError: it is no number, such as 1_000, which is one to Python only.
    """
    if is_missing(cell):
        return np.nan
    if "_" in cell:
        raise ValueError(cell)
    return float(cell)


def is_number(cell: str) -> bool:
    """Whether a cell holds a number."""
    try:
        return not np.isnan(number(cell))
    except ValueError:
        return False


def numbers(cells: Sequence[str]) -> Array | None:
    """float64 (cells,) with NaN where one is missing; None where a cell is neither missing nor a number."""
    for convert in (float, number):  # the first is much quicker, and knows neither missing values nor 1_000
        try:
            values = np.fromiter(map(convert, cells), np.float64, len(cells))
        except ValueError:
            continue
        if convert is number or "_" not in "".join(cells):
            return values
    return None


def texts(cells: Sequence[str | None], known: dict[str, str]) -> Array:
    """Object (cells,) of text without spaces around it, None where one is missing.

    Args:
        known: texts met before; equal texts become one object, which saves most of their memory.
    """
    column = np.empty(len(cells), object)
    for row, cell in enumerate(cells):
        if cell is not None and (text := cell.strip()).lower() not in MISSING:
            column[row] = known.setdefault(text, text)
    return column


def column_names(where: str, cells: Sequence[str]) -> list[str]:
    """The names in a header, without spaces around them; `column 3` where the third is empty.

    Raises:
        DataError: two columns have the same name.
    """
    names = [cell.strip() or f"column {number}" for number, cell in enumerate(cells, 1)]
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise DataError(f"{where}: more than one column is called {listed(twice)}; give each its own name")
    return names
