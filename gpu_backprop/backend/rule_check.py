"""What can be wrong with an update rule is found when it is made: its names, the texts of its coefficients, its NumPy
function, which is run on a small example, and its lines, which have to give the same."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from keyword import kwlist
from numbers import Real
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpu_backprop.backend.expression_code import SLOTS
from gpu_backprop.backend.formula import Array, Calls
from gpu_backprop.backend.rule_functions import FUNCTIONS
from gpu_backprop.backend.rule_text import NAME, arithmetic

AROUND = """w g change step largest work t A C gradient clip_above clip_below penalty_l1 penalty_l2
weight_shrink weight_keep all_moments setting prepare of"""
CPP = """auto bool case catch char const default delete do double enum explicit export extern float friend goto inline
int long namespace new operator private protected public register short signed static struct switch template this throw
typename union unsigned using virtual void volatile"""
RESERVED = frozenset([*f"{AROUND} {CPP} root power correction sign".split(), *FUNCTIONS, *kwlist])
"""What nothing in a rule may be called."""

PARTS = (
    ast.Expression, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.UnaryOp, ast.USub, ast.Call, ast.Name, ast.Load,
    ast.Constant,
)  # fmt: skip
"""What the text of a coefficient may be made of."""

EXAMPLE = (-2.0, 0.0, 0.5), (1.0, 0.0, 0.25)
"""Three gradients in each of two steps."""

PARAMETER = 0.5
"""Whose gradients they are, before each step."""

CLOSE = 1e-3
"""Relative, how far what is worked out in float32 and from the lines may differ."""


def check_names(rule: str, settings: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raises ValueError unless all names differ and can stand in Python and C++, and the settings are numbers."""
    taken = set(RESERVED)
    for name in (rule, *settings, *names):
        if not isinstance(name, str) or not name.isidentifier() or not name.isascii() or name in taken:
            raise ValueError(
                f"{name!r} must be a name of ASCII letters, digits and _ that means nothing else, neither in the rule "
                f"nor around its texts, in Python and C++ (as {' '.join(AROUND.split())} do)"
            )
        taken |= {name} - {rule}
    if next(iter(settings), "") != "learning_rate":
        raise ValueError("its first setting must be learning_rate")
    for name, value in settings.items():
        if not isinstance(value, Real) or isinstance(value, bool):
            raise ValueError(f"the default of {name} must be a number, got {value!r}")


def check_coefficient(text: str, known: set[str]) -> None:
    """Raises ValueError unless a coefficient is written with what C++ has too."""
    if not isinstance(text, str):
        raise ValueError(f"a coefficient must be text, got {text!r}")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise ValueError(f"{text!r} cannot be read: {error.msg}") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id not in known:
            raise ValueError(f"{node.id} in {text!r} is none of {', '.join(sorted(known))}")
        number = not isinstance(node, ast.Constant) or isinstance(node.value, (int, float))
        if not isinstance(node, PARTS) or not number:
            raise ValueError(f"{text!r} must be made of numbers, names, + - * /, and power(a, b) for a**b")


@cache
def in_floats(text: str) -> str:
    """Writes a coefficient in C++, where a number without a point would be an integer, and 1/2 would be 0."""
    tree = ast.parse(text.strip(), mode="eval")
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            node.value = float(node.value)  # type: ignore[arg-type]
    return ast.unparse(tree)


def run_numpy(
    function: Callable[..., Calls], moments: Sequence[str], steps: Sequence[Mapping[str, float]]
) -> list[dict[str, list[float]]]:
    """Takes steps with EXAMPLE, from moments of 0, with the coefficients of each. The arrays get their numbers after
    the NumPy function has bound them, as in a plan. Returns what changes, and the moments, of every step.

    Raises:
        ValueError: it fails, makes numbers that are not finite, or changes a parameter or a gradient.
    """
    shape, names = (2, len(EXAMPLE[0])), ("w", "g", "change", "work", *moments, *steps[0])
    arrays: list[Array] = [np.full(shape, np.nan, np.float32) for _ in range(3 + len(moments))]
    numbers: list[Array] = [np.full((2, 1), np.nan, np.float32) for _ in steps[0]]
    (w, g, change), kept, found = arrays[:3], arrays[3:], []
    scratch = {slot: np.full(shape, np.nan, np.float32) for slot in SLOTS}
    work = SimpleNamespace(full=lambda slot=0: scratch[slot], mask=lambda slot=0: np.zeros(shape, np.bool_))
    try:
        named = dict(zip(names[4:], (*kept, *numbers), strict=True))
        if (calls := function(w, g, change, work, **named)) is None:
            raise ValueError("it must yield calls, or return them")
        bound = list(calls)
        for moment in kept:
            moment[...] = 0
        for gradients, coefficients in zip(EXAMPLE, steps, strict=True):
            for array, value in zip((w, g, *numbers), (PARAMETER, gradients, *coefficients.values()), strict=True):
                array.flags.writeable = True
                array[...] = value
                array.flags.writeable = False
            with np.errstate(all="ignore"):
                for call in bound:
                    call()
            if not np.isfinite([change, *kept]).all():
                raise ValueError(
                    f"of gradients {gradients} it makes a change or moments that are not finite; "
                    + getattr(function, "instead", "it must fill change, and use numbers only when its calls run")
                )
            found.append({name: a[0].tolist() for name, a in zip(("change", *moments), (change, *kept), strict=True)})
    except Exception as error:
        called = getattr(function, "called", f"numpy({', '.join(names)})")
        raise ValueError(f"{called} fails: {error}") from error
    return found


def check_lines_do(
    lines: Sequence[tuple[str, str]], settings: Mapping[str, float], factors: Sequence[Mapping[str, float]],
    found: Sequence[Mapping[str, Sequence[float]]],
) -> None:  # fmt: skip
    """Raises ValueError unless the lines make of EXAMPLE what `run_numpy` found, step by step; factors: of each step,
    those that make the authors' moments of the ones that are kept."""
    for k in range(len(EXAMPLE[0])):
        moments = dict.fromkeys(factors[0], 0.0)
        for t, (gradients, of_moments, got) in enumerate(zip(EXAMPLE, factors, found, strict=True), 1):
            known = {**settings, **moments, "w": PARAMETER, "g": gradients[k], "t": t}
            try:
                for result, text in lines:
                    known[result] = arithmetic(text)(**{name: known[name] for name in NAME.findall(text)})
            except ArithmeticError:
                break  # such as 0/0, of which NumPy may make a number
            moments = {name: known[name] for name in moments}
            for name, want in {"change": PARAMETER - known["w"], **moments}.items():
                does = got[name][k] * of_moments.get(name, 1.0)
                if not math.isclose(does, want, rel_tol=CLOSE, abs_tol=CLOSE * settings["learning_rate"]):
                    raise ValueError(
                        f"in step {t}, with the gradient {gradients[k]:g}, its NumPy function makes {name} {does:g}, "
                        f"and its lines {want:g}"
                    )
