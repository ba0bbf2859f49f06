"""Arrays from outside: anything that is an array, checked before it is copied in."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array


def host_array(value: Any, name: str) -> Array:
    """`value` as an array: a NumPy array as it is, others by DLPack, the array protocol, or as nested lists."""
    if isinstance(value, np.ndarray):
        return value
    try:
        if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
            return np.from_dlpack(value)
        return np.asarray(value)
    except Exception as error:  # whatever another library raises when it cannot hand its memory over
        raise InputError(f"{name} cannot be read as an array: {type(value).__name__}: {error}.") from None


def checked(array: Array, name: str) -> Array:
    """InputError unless the array holds real numbers."""
    if array.dtype.kind not in "fiub":
        raise InputError(
            f"{name} must hold real numbers (floats, integers or booleans), got dtype {array.dtype}. "
            "Text and objects have to be turned into numbers first."
        )
    return array


def check_finite(array: Array, name: str) -> None:
    """InputError with the count and the first place if there is NaN or infinity."""
    if array.dtype.kind != "f":
        return
    with np.errstate(all="ignore"):  # a sum is finite only if every number is; it overflows rarely, and then the slow way decides
        if np.isfinite(array.sum(dtype=np.float64)):
            return
    bad = ~np.isfinite(array)
    count = int(bad.sum())
    if count:
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        where = ", ".join(f"{axis} {i}" for axis, i in zip(("row", "column")[-array.ndim :] if array.ndim < 3 else ("model", "row", "column"), place, strict=True))
        if array.ndim == 1:
            where = f"row {place[0]}"
        values = "value is" if count == 1 else "values are"
        raise InputError(
            f"{count} {values} NaN or infinite in {name}, the first one ({array[place]}) at {where}. Remove or replace them."
        )
