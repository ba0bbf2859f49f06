"""What expressions are made of: a tree of operations, and what each of them is in NumPy, in C++ and as a derivative."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SIZE, DEPTH = 1000, 64
"""The most operations of a tree, in all and one within another."""

SMALLEST, LARGEST = 1e-37, 3e38
"""Numbers of a text, where they are not 0: both kernels' types have them."""

MOST_POWER = 8
"""The largest exponent, since a power is multiplied out."""


@dataclass(frozen=True)
class Node:
    """An operation and its operands; of a "number" its value, of a "name" its text."""

    op: str
    args: tuple[Any, ...]
    size: int = field(default=1, compare=False)
    depth: int = field(default=1, compare=False)


@dataclass(frozen=True)
class Function:
    """What a name of the grammar does.

    Attributes:
        cpp: of operands {0}, {1}, in the working type A.
        ufunc: the same in NumPy.
        derivative: of operands a, b and their derivatives da, db, in the grammar.
        parts: of a, in place of cpp and ufunc, where it is made of other functions.
    """

    cpp: str
    ufunc: Callable[..., Any] | None
    derivative: str
    arity: int = 1
    parts: Node | None = None


def number(value: float) -> Node:
    """Makes the node of a number."""
    return Node("number", (float(value),))


def raw(op: str, *args: Node) -> Node:
    """Makes a node as it is."""
    return Node(op, args, 1 + sum(a.size for a in args), 1 + max(a.depth for a in args))


_A, _ZERO, _ONE = Node("name", ("a",)), number(0), number(1)


OPERATORS: Mapping[str, Function] = {
    "+": Function("{0} + {1}", np.add, "da + db", 2),
    "-": Function("{0} - {1}", np.subtract, "da - db", 2),
    "*": Function("{0} * {1}", np.multiply, "da * b + a * db", 2),
    "/": Function("{0} / {1}", np.divide, "(da - a / b * db) / b", 2),
    "neg": Function("-{0}", np.negative, "-da"),
}

_SIGMOID = raw("/", _ONE, raw("+", _ONE, raw("exp", raw("neg", _A))))
_SOFTPLUS = raw("+", raw("max", _A, _ZERO), raw("log1p", raw("exp", raw("neg", raw("abs", _A)))))

FUNCTIONS: Mapping[str, Function] = {
    "exp": Function("exp({0})", np.exp, "exp(a) * da"),
    "expm1": Function("expm1({0})", np.expm1, "exp(a) * da"),
    "log": Function("log({0})", np.log, "da / a"),
    "log1p": Function("log1p({0})", np.log1p, "da / (1 + a)"),
    "sqrt": Function("sqrt({0})", np.sqrt, "0.5 * da / sqrt(a)"),
    "abs": Function("fabs({0})", np.absolute, "sign(a) * da"),
    "sign": Function("{0} > A(0) ? A(1) : {0} < A(0) ? A(-1) : {0}", np.sign, "0"),
    "tanh": Function("tanh({0})", np.tanh, "(1 - tanh(a)) * (1 + tanh(a)) * da"),
    "sin": Function("sin({0})", np.sin, "cos(a) * da"),
    "cos": Function("cos({0})", np.cos, "-sin(a) * da"),
    "max": Function("{0} > {1} || {0} != {0} ? {0} : {1}", np.maximum, "where(a > b, da, db)", 2),
    "min": Function("{0} < {1} || {0} != {0} ? {0} : {1}", np.minimum, "where(a < b, da, db)", 2),
    "sigmoid": Function("", None, "sigmoid(a) * sigmoid(-a) * da", parts=_SIGMOID),
    "softplus": Function("", None, "sigmoid(a) * da", parts=_SOFTPLUS),
}
"""By name. Where a and b are equal, max and min have the derivative of b: that of max(z, 0) is 0 at 0."""

COMPARISONS: Mapping[str, Callable[..., Any]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}
"""What may stand first in where(…)."""

CONSTANTS: Mapping[str, float] = {"pi": math.pi}

KNOWN = (*FUNCTIONS, "where")

TAKEN = (*KNOWN, *CONSTANTS, "fabs", "self")
"""What nothing of one's own may be called: what the grammar has, and what stands around what is printed of it."""


class TooMuchError(ValueError):
    """Says what cannot be put into a tree."""


def make(op: str, *args: Node) -> Node:
    """Makes the node of an operation, in a simpler form where there is one.

    Raises:
        ValueError: it is no number, or too much.
    """
    if op == "**":
        return _power(*args)
    if op == "where" and (args[1] == args[2] or all(a.op == "number" for a in args[0].args)):
        return args[1] if args[1] == args[2] or evaluate(args[0], {}) else args[2]
    if op != "where" and all(a.op == "number" for a in args):
        with np.errstate(all="ignore"):
            return _checked(float(apply(op, *(a.args[0] for a in args))))
    if (simpler := _simpler(op, *args)) is not None:
        return simpler
    return _limited(raw(op, *args))


def _limited(node: Node) -> Node:
    if node.size > SIZE or node.depth > DEPTH:
        raise TooMuchError(f"it has more than {SIZE} operations, or {DEPTH} one within another, once it is worked out")
    return node


def _checked(value: float) -> Node:
    if value and not SMALLEST <= abs(value) <= LARGEST:
        raise TooMuchError(f"numbers of it make {value:g}, which is not between {SMALLEST:g} and {LARGEST:g}")
    return number(value)


def _power(base: Node, exponent: Node) -> Node:
    if exponent.op != "number":
        return _limited(raw("**", base, exponent))
    power = exponent.args[0]
    if base.op == "number":
        try:
            return _checked(math.pow(base.args[0], power))
        except (ValueError, OverflowError):
            raise TooMuchError(f"{base.args[0]:g}**{power:g} is no number of a usual size") from None
    if power == 0.5:
        return make("sqrt", base)
    if power != int(power) or abs(power) > MOST_POWER:
        raise TooMuchError(
            f"an exponent must be a whole number from -{MOST_POWER} to {MOST_POWER}, or 0.5, and others are written "
            f"exp(p * log(a)); got {power:g}"
        )
    if power in (0, 1):
        return base if power else _ONE
    return _limited(raw("**", base, exponent))


def _simpler(op: str, a: Node, b: Node | None = None, *others: Node) -> Node | None:
    """Returns a form with fewer operations; and of log(1 + eᵃ) and b/(1 + eᵃ), one that does not overflow, nor does its
    derivative."""
    match op:
        case "neg" if a.op == "neg":
            return _first(a)
        case "+" if a == _ZERO or b == _ZERO:
            return b if a == _ZERO else a
        case "-" if b == _ZERO:
            return a
        case "-" if a == _ZERO and b is not None:
            return make("neg", b)
        case "*" if a == _ZERO or b == _ZERO:
            return _ZERO
        case "*" if a == _ONE or b == _ONE:
            return b if a == _ONE else a
        case "/" if a == _ZERO or b == _ONE:
            return a
        case "log1p" if a.op == "exp":
            return make("softplus", _first(a))
        case "log" if (x := _beside_one(a)) is not None:
            return make("softplus", x)
        case "/" if b is not None and (x := _beside_one(b)) is not None:
            if a == Node("exp", (x,)):
                return make("sigmoid", x)
            return make("*", a, make("sigmoid", make("neg", x)))
    return None


def _first(node: Node) -> Node:
    found: Node = node.args[0]
    return found


def _beside_one(node: Node) -> Node | None:
    """Returns x of 1 + exp(x), or of exp(x) + 1."""
    if node.op != "+" or _ONE not in node.args:
        return None
    other = node.args[node.args[0] == _ONE]
    return _first(other) if other.op == "exp" else None


def names_of(node: Node) -> set[str]:
    """Returns the names in a tree."""
    if node.op == "name":
        return {node.args[0]}
    return set() if node.op == "number" else set().union(*map(names_of, node.args))


def substitute(node: Node, by: Mapping[str, Node]) -> Node:
    """Puts trees in the places of names."""
    if node.op == "name":
        return by.get(node.args[0], node)
    if node.op == "number":
        return node
    args = [substitute(a, by) for a in node.args]
    return raw(node.op, *args) if node.op in COMPARISONS else make(node.op, *args)


def apply(op: str, *operands: Any) -> Any:
    """Applies one operation to numbers or arrays."""
    if op == "where":
        return np.where(*operands)
    if op == "**":
        return np.power(*operands)
    if op in COMPARISONS:
        return COMPARISONS[op](*operands)
    row = OPERATORS.get(op) or FUNCTIONS[op]
    if row.parts is not None:
        return evaluate(row.parts, {"a": operands[0]})
    assert row.ufunc is not None
    return row.ufunc(*operands)


def work_out(op: str, *operands: float | bool) -> float:
    """Applies a function to numbers, without a warning."""
    with np.errstate(all="ignore"):
        return float(apply(op, *operands))


def evaluate(node: Node, values: Mapping[str, Any]) -> Any:
    """Works out a tree: of numbers a number, of float64 arrays an array. Where it is NaN or infinite, NumPy's warnings
    are the caller's."""
    if node.op == "name":
        return values[node.args[0]]
    if node.op == "number":
        return node.args[0]
    return apply(node.op, *(evaluate(a, values) for a in node.args))
