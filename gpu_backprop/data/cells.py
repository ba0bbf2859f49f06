"""Cells of text: which are missing, which are numbers, which are the same."""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial

import numpy as np

from gpu_backprop.data.errors import DataError
from gpu_backprop.data.files import Array
from gpu_backprop.data.limits import take, text_bytes
from gpu_backprop.data.messages import listed

MISSING: frozenset[str] = frozenset(
    "".join(letters)
    for word in ("", "na", "n/a", "nan", "null")
    for letters in itertools.product(*zip(word, word.upper(), strict=True))
)
"""What stands for a missing value unless other texts are named, without spaces around it; NA, Na, nA, na ..."""


def composed(text: str) -> str:
    """Returns a text in composed form (NFC): an é may come as one character, or as an e with an accent."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """Returns the one form of texts that mean the same: composed letters, true and false in small ones."""
    lower = text.lower()
    return lower if lower in ("true", "false") else composed(text)


def is_missing(cell: str, missing: Collection[str] = MISSING) -> bool:
    """Tells whether a cell stands for a missing value."""
    return cell.strip() in missing


def number(cell: str, missing: Collection[str] = MISSING) -> float:
    """Reads the number in a cell, NaN where it is missing.

    Raises:
        ValueError: it is no number, such as 1_000, which is one to Python only.
    """
    if is_missing(cell, missing):
        return np.nan
    if "_" in cell:
        raise ValueError(cell)
    value = float(cell)
    if value != value and missing != MISSING:
        raise ValueError(cell)
    return value


def is_number(cell: str) -> bool:
    """Tells whether a cell holds a number."""
    try:
        return not np.isnan(number(cell))
    except ValueError:
        return False


def numbers(cells: Sequence[str], missing: Collection[str] = MISSING) -> Array | None:
    """Reads cells as float64 (cells,), NaN where one is missing; None if any is neither missing nor a number."""
    exact = partial(number, missing=missing)
    for convert in (float, exact) if missing == MISSING else (exact,):  # float is quicker, and knows no missing values
        try:
            values = np.fromiter(map(convert, cells), np.float64, len(cells))
        except ValueError:
            continue
        if convert is exact or "_" not in "".join(cells):  # and takes 1_000 for a number
            return values
    return None


def texts(cells: Sequence[str | None], known: dict[str, str], missing: Collection[str] = MISSING) -> Array:
    """Reads cells as an object array of text without spaces around it, None where one is missing.

    Args:
        known: texts met before; equal texts become one object, which saves most of their memory.
    """
    before = len(known)
    column = np.empty(len(cells), object)
    for row, cell in enumerate(cells):
        if cell is not None and (text := cell.strip()) not in missing:
            column[row] = known.setdefault(text, text)
    take(column.nbytes + text_bytes(known, before))
    return column


def column_names(where: str, cells: Sequence[str]) -> list[str]:
    """Reads the names in a header, composed, without spaces around them; `column 3` where the third is empty.

    Raises:
        DataError: two columns have the same name.
    """
    names = [composed(cell.strip()) or f"column {number}" for number, cell in enumerate(cells, 1)]
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise DataError(f"{where}: more than one column is called {listed(twice)}; give each its own name")
    return names
