"""Errors for the person who made the mistake: what was given, what is accepted, what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class GpuBackpropError(Exception):
    """Base of every error that this package raises on purpose."""

    def __str__(self) -> str:
        """The message; what a terminal would obey instead of showing it, in a name from outside, is escaped."""
        return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in super().__str__())


class InputError(GpuBackpropError, ValueError):
    """An argument, an array or a setting is not what is accepted."""


class DeviceError(GpuBackpropError, RuntimeError):
    """The device that was asked for cannot be used."""


class OutOfMemoryError(DeviceError, MemoryError):
    """The device has less memory than is needed. Nothing was allocated, or it was given back.

    Attributes:
        needs: the bytes that were asked for, by kind.
        free: the bytes that were free; None where that is not known.
        batch_size: the largest batch size that would have fitted; None where none does, or there is none to choose.
    """

    def __init__(
        self, message: str, *, needs: Mapping[str, int], free: int | None = None, batch_size: int | None = None
    ) -> None:
        super().__init__(message)
        self.needs, self.free, self.batch_size = dict(needs), free, batch_size


class StateError(GpuBackpropError, RuntimeError):
    """A call came before the one that it needs, such as backward before forward."""


class DivergedError(GpuBackpropError, FloatingPointError):
    """The loss became NaN or infinite.

    Attributes:
        epoch, step: where, both counted from 1.
        history: the History of the epochs that were completed.
    """

    def __init__(self, message: str, *, epoch: int, step: int, history: object = None) -> None:
        super().__init__(message)
        self.epoch, self.step, self.history = epoch, step, history


class GradientError(GpuBackpropError, AssertionError):
    """A derived gradient and a finite difference disagree."""


class ModelFileError(GpuBackpropError, ValueError):
    """A model file is damaged, foreign, or newer than this program."""


class MissingExtraError(GpuBackpropError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


def choose(kind: str, name: object, table: Mapping[str, T]) -> T:
    """The row of `table` called `name`; InputError with the known names and the nearest one otherwise."""
    if isinstance(name, str) and name in table:
        return table[name]
    import difflib  # not above: the first mistake can wait for it, every start of a program need not

    nearest = difflib.get_close_matches(name.lower(), table, n=1, cutoff=0.5) if isinstance(name, str) else []
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise InputError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(table)}.")
