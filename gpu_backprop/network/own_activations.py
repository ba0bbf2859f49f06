"""Activations of one's own: one expression of z, from which NumPy's calls and the kernels' C++ follow.

Such an activation is data. It is saved as its two texts, of which the grammar of backend/expression.py makes everything
else again, wherever it is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.expression import parse, to_text
from gpu_backprop.backend.expression_code import SLOTS, Program
from gpu_backprop.backend.expression_tree import evaluate, names_of
from gpu_backprop.backend.formula import Activation, Array, Calls, Work, call
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.formula_check import EDGES, PLACES, check_derivative, read_slope

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,59}", re.ASCII)


@dataclass(frozen=True)
class _Value:
    """y = f(z), in NumPy."""

    expression: str

    @cached_property
    def _program(self) -> Program:
        return Program(parse(self.expression, "z"))

    def __call__(self, z: Array, y: Array, work: Work) -> Calls:
        yield from self._program.calls({"z": z}, work, [y], SLOTS)

    def __getstate__(self) -> dict[str, Any]:
        return {"expression": self.expression}


@dataclass(frozen=True)
class _Gradient:
    """∇z = ∇y ⊙ f′, in NumPy."""

    derivative: str
    reads: str

    @cached_property
    def _program(self) -> Program:
        return Program(parse(self.derivative, self.reads))

    def __call__(self, grad_y: Array, s: Array, grad_z: Array, work: Work) -> Calls:
        (slope,) = yield from self._program.calls({self.reads: s}, work, [None], SLOTS)
        yield call(np.multiply, grad_y, slope, out=grad_z)

    def __getstate__(self) -> dict[str, Any]:
        return {"derivative": self.derivative, "reads": self.reads}


@explain_arguments
def register_activation(name: str, expression: str, derivative: str | None = None) -> Activation:
    """Makes an activation y = f(z) of an expression, under a name that everything here takes from then on, in this
    process: Dense(64, "name"), estimators, populations, searches. docs/own-formulas.md has the grammar.

    The expression becomes NumPy's calls, the C++ of the kernels of a CPU, and those of CUDA. A network with it is saved
    and pickled with its texts, and is loaded where the name was never registered.

    Args:
        name: ASCII letters, digits and _; none of those that are built in.
        expression: f of `z`, such as "z * tanh(log1p(exp(z)))". It works on one number at a time: what mixes the units
            of a row, as softmax does, is no expression.
        derivative: f′ of `z`, or of `y` = f(z), which takes less memory; None: it is worked out.

    Returns:
        The activation, which can be given in place of its name.

    Raises:
        InputError: the name is taken, by another text; a text is not in the grammar, or is no number somewhere; the
            derivative disagrees with central differences of f in float64, and the message shows where.
    """
    for what, text in {"name": name, "expression": expression, "derivative": derivative}.items():
        if not isinstance(text, str) and not (text is None and what == "derivative"):
            raise InputError(f"{what} of an activation must be text, got {type(text).__name__} {text!r:.80}.")
    made = activation_of_texts(name, expression, derivative)
    if (known := ACTIVATIONS.get(name)) not in (None, made):
        assert known is not None
        raise InputError(
            f"the activation {name!r} is registered already, as {known.expression!r} with the derivative "
            f"{known.derivative!r}; give this one another name."
        )
    return ACTIVATIONS.setdefault(name, made)


@lru_cache(256)
def activation_of_texts(name: str, expression: str, derivative: str | None = None) -> Activation:
    """Makes an activation of texts, and checks it, as `register_activation` does; it is not registered."""
    check_name("activation", name, _BUILT_IN)
    what = f"the expression of activation {name!r}"
    value = parse(expression, "z", what)
    if "z" not in names_of(value):
        raise InputError(f"{what} must read z, got {expression!r:.80}: a network cannot learn through a constant.")
    slope = read_slope(f"activation {name!r}", value, "z", ("z", "y"), derivative)
    if len(read := names_of(slope)) > 1:
        raise InputError(
            f"the derivative of activation {name!r} must be written in z or in y, got one in both, {derivative!r:.80}: "
            "a layer keeps one of them."
        )
    reads = (read or {"z"}).pop()
    expression, derivative = to_text(value), to_text(slope)
    check_derivative(
        f"activation {name!r}", lambda z: evaluate(value, {"z": z}),
        lambda z: evaluate(slope, {"z": z, "y": evaluate(value, {"z": z})}), PLACES, np.array(EDGES),
    )  # fmt: skip
    bodies = Program(value).body(), Program(slope).body(**{reads: "s"})
    made = Activation(
        name, reads, _Value(expression), _Gradient(derivative, reads), *bodies, False, expression, derivative
    )
    _rehearse(made)
    return made


def _rehearse(f: Activation) -> None:
    """Raises InputError where it takes more scratch memory than there is."""
    assert f.numpy_value is not None and f.numpy_gradient is not None
    a, work = np.zeros(1), Rehearsal()
    try:
        for calls in (f.numpy_value(a, a, work), f.numpy_gradient(a, a, a, work)):
            list(calls)
    except InputError as error:
        raise InputError(f"activation {f.name!r}: {error}") from None


class Rehearsal:
    """Scratch memory that nothing is worked out in."""

    def full(self, slot: int = 0) -> Array:
        return np.zeros(1)

    rows = full

    def mask(self) -> Array:
        return np.zeros(1, np.bool_)

    def zeros(self) -> Array:
        return np.zeros(1)


def check_name(kind: str, name: object, built_in: frozenset[str]) -> None:
    """Raises InputError unless something of this kind may be called so."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(
            f"the name of an own {kind} must be ASCII letters, digits and _, from a letter on and at most 60, got "
            f"{name!r:.80}."
        )
    if name in built_in:
        raise InputError(f"the {kind} {name!r} is built in; give yours another name, such as 'my_{name}'.")


def spell_activation(f: Activation) -> str | dict[str, str]:
    """Writes an activation as plain data: its name, with its texts where it is of one's own."""
    return {"name": f.name, "expression": f.expression, "derivative": f.derivative} if f.expression else f.name


def activation_of_data(spec: Mapping[str, Any]) -> Activation:
    """Makes the activation again of what `spell_activation` wrote; InputError where it is no such thing."""
    match spec:
        case {"name": str(name), "expression": str(expression), "derivative": str(derivative), **rest} if not rest:
            return activation_of_texts(name, expression, derivative)
    raise InputError(
        f"an own activation is told by its name, expression and derivative, all of them text, got {spec!r:.99}."
    )


_BUILT_IN = frozenset([*ACTIVATIONS, "logistic"])
"""Names of ours, and what scikit-learn calls one of them."""
