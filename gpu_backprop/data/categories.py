"""Texts and whole numbers as categories."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu_backprop.data.cells import is_number
from gpu_backprop.data.table import Array

Category = str | int | None
"""None: a missing value."""

MOST_CATEGORIES = 10_000
"""Of one column: each is an input, or an output, of the network."""


def codes(values: Array, categories: Sequence[Category]) -> Array:
    """Which category each value is, int64 (rows,); −1 for one that is none of them.

    The type of a column is decided file by file, so that texts like "7" meet us as numbers where a file has no others:
    a number is the category that spells it.
    """
    by_name = {category: code for code, category in enumerate(categories)}
    by_number = {float(c): code for c, code in by_name.items() if c is not None and is_number(str(c))}
    if values.dtype == object:
        whole = any(isinstance(category, int) for category in categories)

        def code(text: str | None) -> int:
            if whole and text is not None:
                return by_number.get(float(text), -1) if is_number(text) else -1
            return by_name.get(text, -1)

        return np.fromiter(map(code, values.tolist()), np.int64, len(values))
    different, place = np.unique(values, return_inverse=True)
    found = [by_name.get(None, -1) if np.isnan(v) else by_number.get(float(v), -1) for v in different]
    return np.array(found, np.int64)[place]
