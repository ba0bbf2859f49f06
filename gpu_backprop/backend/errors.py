"""Errors for the person who made the mistake: what was given, what is accepted, what to do."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from gpu_backprop.backend.foreign_names import VALUES, meanings
from gpu_backprop.display.extras import install as install  # the end of a MissingExtraError

T = TypeVar("T")
R = TypeVar("R")


class GpuBackpropError(Exception):
    """Base of every error that this package raises on purpose."""

    def __str__(self) -> str:
        """Returns the message; control characters, which may come with a name from outside, are escaped."""
        return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in super().__str__())

    def __reduce__(self) -> tuple[Any, ...]:  # so that it is whole in another process
        return _rebuild, (type(self), self.args), vars(self)


def _rebuild(kind: type[GpuBackpropError], args: tuple[Any, ...]) -> GpuBackpropError:
    return kind.__new__(kind, *args)


class InputError(GpuBackpropError, ValueError):
    """An argument, an array or a setting is not what is accepted."""


class ArgumentError(InputError, TypeError):
    """A keyword argument does not exist."""


class SettingError(InputError, AttributeError):
    """An attribute does not exist, or can no longer be set."""


class DeviceError(GpuBackpropError, RuntimeError):
    """The device that was asked for cannot be used."""


class OutOfMemoryError(DeviceError, MemoryError):
    """The device has less memory than is needed. Nothing was allocated, or it was released.

    Attributes:
        needs: the bytes that were asked for, by kind.
        free: the bytes that were free; None where that is not known.
        batch_size: one that would have fitted, about the largest; None where none does, or there is none to choose.
    """

    def __init__(
        self, message: str, *, needs: Mapping[str, int], free: int | None = None, batch_size: int | None = None
    ) -> None:
        super().__init__(message)
        self.needs, self.free, self.batch_size = dict(needs), free, batch_size


class StateError(GpuBackpropError, RuntimeError):
    """A call came before the one that it needs, such as backward before forward, or while another one is changing the
    same object."""


class RankError(GpuBackpropError, RuntimeError):
    """Another process of those that train together has ended."""


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


def choose(kind: str, name: object, table: Mapping[str, T], suited: Collection[str] = ()) -> T:
    """Returns the row of `table` called `name`; InputError with the known names and the nearest one otherwise: of
    several, one of `suited`."""
    if isinstance(name, str) and name in table:
        return table[name]
    import difflib  # not above: the first mistake can wait for it, every start of a program need not

    text = str(name).lower()
    bare = re.sub("[^a-z0-9]", "", text)
    foreign = [*meanings(VALUES, bare), *meanings(VALUES, bare.removesuffix("loss"))]
    code = next((meant for meant in foreign if "(" in meant), "")
    known = sorted((meant for meant in foreign if meant in table), key=lambda meant: meant not in suited)
    nearest = known or [*([] if code else difflib.get_close_matches(text, table, n=1, cutoff=0.5))]
    hint = f" Did you mean {nearest[0]!r}?" if nearest else code and f" Use {code}."
    raise InputError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(table)}.")


def named(kind: str, spec: object, base: type[T], table: Mapping[str, R], suited: Collection[str] = ()) -> T | R:
    """Returns `spec` if it is an object of the class `base`, else the row of `table` that it names; see `choose`."""
    if isinstance(spec, base):
        return spec
    name = base.__name__
    if isinstance(spec, type) and issubclass(spec, base):
        raise InputError(f"{kind} must be an object, got the class {spec.__name__}: write {spec.__name__}().")
    if not isinstance(spec, str):
        one = f"an {name}" if name[0] in "AEIOU" else f"a {name}"
        raise InputError(f"{kind} must be a name or {one}, got {type(spec).__name__} {spec!r}.")
    return choose(kind, spec, table, suited)


def one_line(error: BaseException) -> str:
    """Returns the message of any error on one line, or its type where there is no message."""
    return " ".join(str(error).split()) or type(error).__name__
