"""Texts and whole numbers as categories."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np

from gpu_backprop.data.cells import folded, is_number
from gpu_backprop.data.files import Array

Category = str | int | None
"""None: a missing value."""

MOST_CATEGORIES, MOST_INPUTS = 10_000, 1_000
"""Of one column: that are outputs of the network, or inputs."""

BUCKETS = 256
"""The inputs of a hashed column, unless another number of them was asked for."""


def distinct(texts: Iterable[str]) -> list[str]:
    """Sorts the different texts; of those that mean the same, such as true and TRUE, it keeps the first."""
    return sorted({folded(text): text for text in sorted(set(texts), reverse=True)}.values())


def buckets(values: Array, number: int) -> Array:
    """Hashes each text to one of so many numbers, int64 (rows,): BLAKE2b, which is the same on every machine and in
    every process, of its UTF-8. A missing text is one as well."""

    def bucket(text: str | None) -> int:
        digest = blake2b(folded(text or "").encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "little") % number

    found = {value: bucket(value) for value in set(values.tolist())}
    return np.fromiter(map(found.__getitem__, values.tolist()), np.int64, len(values))


def spelled(values: Array) -> Array:
    """Returns numbers as the texts that Python spells them as, 7 for 7.0, None for NaN; texts as they are."""
    if values.dtype == object:
        return values
    texts = np.empty(len(values), object)
    texts[:] = [None if v != v else f"{v:.0f}" if v.is_integer() else repr(v) for v in values.tolist()]
    return texts


def codes(values: Array, categories: Sequence[Category]) -> Array:
    """Finds the category of each value, int64 (rows,); −1 for one that is none of them.

    A text is the category that is this very text, 3.1 never 3.10. A number that has no spelling, as in a table made in
    Python, is the category that spells it as Python does, or else the only one that spells it at all.
    """
    names = [None if category is None else str(category) for category in categories]
    exact = {name: code for code, name in enumerate(names)}
    same = {folded(name): code for name, code in exact.items() if name is not None}
    by_number: dict[float, int] = {}
    for name, code in exact.items():
        if name is not None and is_number(name):
            by_number[float(name)] = -1 if float(name) in by_number else code
    whole = any(isinstance(category, int) for category in categories)

    def code_of(value: str | float | None) -> int:
        if value is None or value != value:
            return exact.get(None, -1)
        if isinstance(value, str) and whole:
            return by_number.get(float(value), -1) if is_number(value) else -1
        if isinstance(value, str):
            return exact.get(value, same.get(folded(value), -1))
        return exact.get(f"{value:.0f}" if value.is_integer() else repr(value), by_number.get(value, -1))

    if values.dtype == object:
        found = {value: code_of(value) for value in set(values.tolist())}
        return np.fromiter(map(found.__getitem__, values.tolist()), np.int64, len(values))
    different, place = np.unique(values.astype(np.float64), return_inverse=True)
    return np.array(list(map(code_of, different.tolist())), np.int64)[place]
