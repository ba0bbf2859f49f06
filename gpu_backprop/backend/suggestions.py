"""Errors of keyword arguments and attributes that do not exist, with what to write instead: see foreign_names.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from gpu_backprop.backend.errors import ArgumentError
from gpu_backprop.backend.foreign_names import ARGUMENTS, ARGUMENTS_OF, ATTRIBUTES, meanings

P = ParamSpec("P")
R = TypeVar("R")

ARGUMENT = re.compile(r"(\w+)(=|$)")
"""How what to write begins where it is an argument of the same call."""


def explain_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function say what to write where it is called with a keyword that it does not have."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            explain_call(error, function, kwargs)
            raise

    return call


def explain_call(error: TypeError, called: Callable[..., Any], given: Iterable[str]) -> None:
    """Raises an ArgumentError if `error`, just caught around a call, is of that call, and not from within, and a name
    of `given` is none of its arguments."""
    if error.__traceback__ is None or error.__traceback__.tb_next is not None:
        return
    accepted = accepted_arguments(called)
    unknown = [name for name in given if name not in accepted]
    if unknown and f"{unknown[0]!r}" in str(error):  # else it takes any keyword, and something else was wrong
        raise argument_error(called, unknown, accepted) from None


def accepted_arguments(called: Callable[..., Any]) -> list[str]:
    """Returns the names of the arguments of a function or class."""
    from inspect import signature  # not above: the first mistake can wait for it, every start of a program need not

    parameters = signature(called).parameters.values()
    return [p.name for p in parameters if p.name != "self" and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def argument_error(called: Any, unknown: Iterable[str], accepted: Collection[str]) -> ArgumentError:
    """Returns the error of names that are no arguments of a function or class."""
    said = " ".join(_refusal(called, name, accepted) for name in unknown)
    return ArgumentError(f"{said} It takes {', '.join(accepted) or 'none'}.")


def _refusal(called: Any, name: str, accepted: Collection[str]) -> str:
    refusal = f"{called.__name__} has no argument {name}"
    if meant := next(_arguments(called, name, accepted), ""):
        return f"{refusal}; {_instruction(meant)}."
    import difflib  # not above: the first mistake can wait for it, every start of a program need not

    near = difflib.get_close_matches(name, accepted, n=1, cutoff=0.5)
    return f"{refusal}; did you mean {near[0]}?" if near else f"{refusal}."


def _arguments(called: Any, name: str, accepted: Collection[str]) -> Iterator[str]:
    """Finds what can be written in place of an argument."""
    kinds = called.__mro__ if isinstance(called, type) else [called]
    for table in (*(ARGUMENTS_OF.get(kind.__qualname__, {}) for kind in kinds), ARGUMENTS):
        prefix, underscores, _ = name.partition("__")
        for meant in (*meanings(table, name), *meanings(table, prefix + underscores)):
            argument = ARGUMENT.match(meant)
            if not argument or argument[1] in accepted:
                yield meant


def suggest_attribute(kind: type | str, name: str) -> str:
    """Returns what to write in place of an attribute of a class, or of the package, as " Use history['loss']."; nothing
    where that is not known."""
    kinds = [kind] if isinstance(kind, str) else [one.__name__ for one in kind.__mro__]
    meant = next((meant for one in kinds for meant in meanings(ATTRIBUTES.get(one, {}), name)), "")
    return meant and f" Use {meant}."


def _instruction(meant: str) -> str:
    return meant if meant.startswith("leave it out") else f"use {meant}"
