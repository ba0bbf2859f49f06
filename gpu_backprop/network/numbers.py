"""Numbers from outside: Python's and NumPy's alike, one of 0-d arrays too, and no truth values."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array


def number(
    what: str, value: object, accepted: str, fits: Callable[[float], bool] = math.isfinite, hint: str = ""
) -> float:
    """Returns `value` as a float; raises InputError, which says what is accepted, unless it is a number that fits."""
    plain = scalar(value)
    if isinstance(plain, (int, float, np.floating)) and not isinstance(plain, bool):
        try:
            if fits(found := float(plain)):
                return found
        except OverflowError:  # an int beyond all floats
            pass
    raise InputError(f"{what} must be {accepted}, got {plain!r}{hint}.")


def one_or_several(
    what: str, value: object, accepted: str, fits: Callable[[float], bool] = math.isfinite, hint: str = ""
) -> float | list[float]:
    """Returns a number as `number` does, or a sequence of them, one a member, as a list."""
    if not isinstance(value, (list, tuple)) and not (isinstance(value, np.ndarray) and value.ndim):
        return number(what, value, accepted, fits, hint)
    try:
        return [number(what, one, accepted, fits) for one in value]
    except InputError:
        raise InputError(f"{what} must be {accepted}, got {value!r}{hint}.") from None


def one_a_member(name: str, value: object, models_shape: tuple[int, ...]) -> Array:
    """Brings one number, or one a member, into `models_shape`, as float64 on the host; raises InputError where there
    are more or fewer."""
    array = np.asarray(value, np.float64)
    if array.shape not in ((), models_shape):
        members = f"one number, or {models_shape[0]}, one a member" if models_shape else "one number"
        raise InputError(f"{name} must be {members}, got {value!r}.")
    return np.broadcast_to(array, models_shape)


def member_numbers(
    what: str, value: object, accepted: str, fits: Callable[[float], bool], models_shape: tuple[int, ...]
) -> tuple[float | tuple[float, ...], Array]:
    """Returns one number, or one a member, twice: as it is kept to be read, and in `models_shape`."""
    found = one_or_several(what, value, accepted, fits)
    numbers = one_a_member(what, found, models_shape)
    return tuple(found) if isinstance(found, list) else found, numbers  # where setting one of them is no silent nothing


def positive(name: str, value: object) -> int:
    """Returns `value` as an int ≥ 1, or raises InputError."""
    plain = value if type(value) is int else scalar(value)
    if isinstance(plain, bool) or not isinstance(plain, int) or plain < 1:
        hint = f" Did you mean {round(plain)}?" if isinstance(plain, float) and 1 <= plain < math.inf else ""
        raise InputError(f"{name} must be an integer ≥ 1, got {plain!r}.{hint}")
    return plain


def switch(name: str, value: object) -> bool:
    """Returns `value` as a bool, or raises InputError."""
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{name} must be True or False, got {value!r}.")
    return bool(value)


def is_zero(value: object) -> bool:
    """Tells whether `value` is the number 0."""
    plain = scalar(value)
    return isinstance(plain, (int, float)) and plain is not False and plain == 0


def scalar(value: object) -> object:
    """Converts a NumPy scalar or an array without axes to Python's number; anything else stays as it is."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return value.item()
    try:
        return value if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return value
