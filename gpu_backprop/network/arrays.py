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


def features(value: Any, inputs: int, *leads: tuple[int, ...], empty: bool = False) -> Array:
    """x as an array of real numbers, (..., rows, inputs).

    Args:
        inputs: how many numbers a sample has.
        leads: the shapes that may stand in front of the rows.
        empty: whether there may be no rows.
    """
    x = checked(host_array(value, "x"), "x")
    if x.ndim < 2 or x.shape[:-2] not in leads:
        axes = " or ".join(f"({', '.join((*map(str, lead), 'rows', 'inputs'))})" for lead in dict.fromkeys(leads))
        hint = f" One sample is x[None, :], of shape (1, {x.shape[0]})." if x.ndim == 1 else ""
        raise InputError(f"x must have the axes {axes}, got the shape {x.shape}.{hint}")
    if x.shape[-1] != inputs:
        raise InputError(f"x has {x.shape[-1]} features a sample, but the network was made for inputs={inputs}.")
    if x.shape[-2] == 0 and not empty:
        raise InputError(f"x is empty: its shape is {x.shape}, and at least one row is needed.")
    return x


def check_finite(array: Array, name: str) -> None:
    """InputError with the count and the first place if there is NaN or infinity."""
    if array.dtype.kind != "f":
        return
    with np.errstate(all="ignore"):
        if np.isfinite(array.sum(dtype=np.float64)):  # then every number is; else the slow way decides
            return
    bad = ~np.isfinite(array)
    count = int(bad.sum())
    if count:
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        values = "value is" if count == 1 else "values are"
        raise InputError(
            f"{count} {values} NaN or infinite in {name}, the first one ({array[first]}) at {place(first)}. "
            "Remove or replace them."
        )


def place(index: tuple[int, ...]) -> str:
    """Where a value lies in an array of (row), (row, column) or (member, row, column)."""
    axes = ("row", "column") if len(index) < 3 else ("member", "row", "column")
    return ", ".join(f"{axis} {i}" for axis, i in zip(axes, index, strict=False))
