"""Reading back what a file says about preprocessing: every value is checked before it is used."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from gpu_backprop.data.categories import MOST_CATEGORIES
from gpu_backprop.data.errors import DataError
from gpu_backprop.data.files import Array
from gpu_backprop.data.messages import shown

T = TypeVar("T")
MOST_FEATURES = 1 << 24
LARGEST = sys.float_info.max


def damaged(what: str) -> DataError:
    """Makes the error that says what is wrong."""
    return DataError(f"the stored preprocessing is damaged or from another version: {what}; save the model again")


def require(condition: bool, what: str) -> None:
    """Raises DataError with what is wrong, unless the condition holds."""
    if not condition:
        raise damaged(what)


def field(given: object, key: str) -> Any:
    """Returns the value of a key."""
    require(isinstance(given, Mapping) and key in given, f"{shown(key)} is not where it belongs")
    assert isinstance(given, Mapping)
    return given[key]


def choice(given: object, key: str, accepted: Sequence[T]) -> T:
    """Reads one of the accepted values."""
    value = field(given, key)
    require(
        any(value is known or (isinstance(value, str) and value == known) for known in accepted),
        f"{key} {shown(value)}",
    )
    chosen: T = value
    return chosen


def text(given: object, key: str) -> str:
    """Reads a text."""
    value = field(given, key)
    require(isinstance(value, str), f"{key} {shown(value)} is no text")
    return str(value)


def count(given: object, key: str) -> int:
    """Reads a number of features."""
    value = field(given, key)
    require(type(value) is int and 0 < value <= MOST_FEATURES, f"{key} is {shown(value)}")
    return int(value)


def flag(given: Mapping[str, Any], key: str) -> bool:
    """Reads a truth value, which is False where it is not there."""
    value = given.get(key, False)
    require(type(value) is bool, f"{key} is {shown(value)}")
    return bool(value)


def entries(given: object, key: str) -> list[Any]:
    """Reads a list that is not empty."""
    value = field(given, key)
    require(isinstance(value, list) and 0 < len(value) <= MOST_FEATURES, f"{key} is no list, or an empty one")
    return list(value)


def numbers(given: object, key: str) -> Array:
    """Reads finite numbers, float64 (k,)."""
    values = entries(given, key)
    sound = all(type(value) in (int, float) and abs(value) <= LARGEST for value in values)
    require(sound, f"{key} has something in it that is no number")
    return np.array(values, np.float64)


def categories(given: object, key: str, *kinds: type) -> tuple[Any, ...]:
    """Reads different values of these types."""
    values = entries(given, key)
    require(len(values) <= MOST_CATEGORIES + 1, f"{key} are more than {MOST_CATEGORIES:,}")
    require(all(type(value) in kinds for value in values), f"{key} are of another type")
    require(len(set(values)) == len(values), f"{key} name one twice")
    return tuple(values)
