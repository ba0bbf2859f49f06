"""What tells one data set from another, without a look at all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.lazy_rows import HOST
from gpu_backprop.network.arrays import loaded

BLOCKS, BLOCK = 256, 1 << 16
"""Of each array so many blocks of so many bytes are looked at, spread over it: all of an array of up to 16 MiB."""


def fingerprint(arrays: Sequence[Array | None], to_host: Callable[[Array], Array] = np.asarray) -> dict[str, Any]:
    """Returns {"rows", "forms", "sha256"} of arrays of so many rows each: the same for the same data, as plain data.

    Args:
        arrays: (rows, ...) each, on the host or the device.
        to_host: makes NumPy's of those that are not.
    """
    sha256, there = hashlib.sha256(), [array for array in arrays if array is not None]
    for array in there:
        for start in _starts(array):
            part = slice(start, start + _rows_of_a_block(array))
            rows = loaded(array, part) if isinstance(array, HOST) else to_host(array[part])
            sha256.update(np.ascontiguousarray(rows).data.cast("B"))
    forms = [f"{array.dtype.name} {tuple(array.shape)}" for array in there]
    return {"rows": len(there[0]), "forms": forms, "sha256": sha256.hexdigest()}


def tell_data(there: Mapping[str, Any], here: Mapping[str, Any], whose: str) -> Iterator[str]:
    """Yields how arrays differ from those that a checkpoint has seen, a sentence each, by their fingerprints."""
    for name in {**there, **here}:
        if (was := there.get(name)) == (now := here.get(name)):
            continue
        form, form_now = ("none" if one is None else one["forms"][0] for one in (was, now))
        said = "other values" if form == form_now else f"{form_now} here, and {form}"
        yield f"{whose} {name}: {said} in the checkpoint"


def _rows_of_a_block(array: Array) -> int:
    return max(1, BLOCK * len(array) // max(1, array.nbytes))


def _starts(array: Array) -> list[int]:
    """The first rows of the blocks; the last row is in one of them."""
    each, rows = _rows_of_a_block(array), len(array)
    if rows <= BLOCKS * each:
        return list(range(0, rows, each))
    return [int(start) for start in np.linspace(0, rows - each, BLOCKS)]
