"""Losses of one's own: one expression of an output y and its target t, from which everything else follows.

As of an activation of one's own, what is pickled are texts and numbers, of which the class is made again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from functools import cached_property, lru_cache
from itertools import product
from typing import Any, ClassVar

import numpy as np

from gpu_backprop.backend.errors import InputError, choose
from gpu_backprop.backend.expression import parse, to_text
from gpu_backprop.backend.expression_code import SLOTS, Program
from gpu_backprop.backend.expression_tree import TAKEN, Node, evaluate, names_of
from gpu_backprop.backend.formula import AROUND_A_LOSS, Array, Call, LossFormula, Work, row_sum
from gpu_backprop.backend.rule_check import RESERVED
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.formula_check import check_derivative, read_slope
from gpu_backprop.network.loss import Bounds, Loss
from gpu_backprop.network.losses import LOSSES
from gpu_backprop.network.numbers import number
from gpu_backprop.network.own_activations import Rehearsal, check_name

FINITE = ("a number from -1e37 to 1e37", lambda value: -1e37 <= value <= 1e37)
"""What a number of such a loss may be: the kernels' types have it."""

OUTPUTS = {
    "sigmoid": "sigmoid(z)",
    "softmax": "sigmoid(z)",
    "exp": "exp(z)",
    "softplus": "softplus(z)",
    "tanh": "tanh(z)",
}
"""What one output of these activations may be, where a loss is defined for them alone."""

TARGETS = 4.0
"""How far from 0 targets are looked at, unless they begin further away."""


@dataclass(frozen=True)
class LossTexts:
    """What a loss of one's own is made of; see `register_loss`."""

    name: str
    expression: str
    derivative: str
    settings: tuple[tuple[str, float], ...] = ()
    needs: tuple[str, ...] = ()
    low: float = -np.inf
    high: float = np.inf

    @property
    def names(self) -> tuple[str, ...]:
        """What its expressions may read."""
        return ("y", "t", *(name for name, _ in self.settings))

    def trees(self) -> tuple[Node, Node]:
        """Reads e and ∂e/∂y."""
        what = f"loss {self.name!r}"
        return (
            parse(self.expression, self.names, f"the expression of {what}"),
            parse(self.derivative, self.names, f"the derivative of {what}"),
        )


@dataclass(frozen=True)
class _Calls:
    """e of each row, and ∂e/∂y where it is asked for, in NumPy."""

    texts: LossTexts

    @cached_property
    def _programs(self) -> tuple[Program, Program]:
        value, slope = self.texts.trees()
        return Program(value), Program(value, slope)

    def __call__(
        self, y: Array, target: Array, grad_y: Array | None, e: Array, work: Work, *numbers: Array
    ) -> Iterator[Call]:
        values = dict(zip(self.texts.names, (y, target, *numbers), strict=True))
        *slots, last = SLOTS
        term, out = work.full(last), [] if grad_y is None else [grad_y]
        yield from self._programs[len(out)].calls(values, work, [term, *out], slots)
        yield row_sum(term, e)

    def __getstate__(self) -> dict[str, Any]:
        return {"texts": self.texts}


@dataclass(unsafe_hash=True)
class OwnLoss(Loss):
    """The base of losses that `register_loss` makes; a class of each has its numbers as fields.

    Attributes:
        texts: what it is made of.
    """

    texts: ClassVar[LossTexts]
    own_formula: ClassVar[LossFormula]

    @property
    def formula(self) -> LossFormula:
        return self.own_formula

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (self.texts,), self.__getstate__()


@explain_arguments
def register_loss(
    name: str, expression: str, derivative: str | None = None, *, settings: Mapping[str, float] | None = None,
    needs: str | Sequence[str] = (), low: float = -np.inf, high: float = np.inf,
) -> type[OwnLoss]:  # fmt: skip
    """Makes a loss e of an expression, under a name that everything here takes from then on, in this process:
    Trainer(net, "name"), estimators, populations, searches. docs/own-formulas.md has the grammar.

    Args:
        name: ASCII letters, digits and _; none of those that are built in.
        expression: one output's share of e, of the output `y`, its target `t` and the settings, such as
            "log(1 + exp(delta*abs(y - t)))"; e of a sample is the sum over its outputs.
        derivative: ∂e/∂y of the same; None: it is worked out.
        settings: by name, the defaults of numbers, each one or one a member, that can be set between steps.
        needs: the output activations that it is defined for, one name or several, such as "exp" for one with log(y).
            Of sigmoid and softmax the answers are counted right or wrong, and softmax takes class labels.
        low, high: the bounds of targets.

    Returns:
        A class, as gb.Huber is one: Trainer(net, Made(delta=2.0)).

    Raises:
        InputError: as of `register_activation`; or a setting is called as something else is, or is no number.
    """
    made = loss_of_texts(name, expression, derivative, settings=settings, needs=needs, low=low, high=high)
    if (known := LOSSES.get(name)) is not None and type(known) is not made:
        assert isinstance(known, OwnLoss)
        raise InputError(
            f"the loss {name!r} is registered already, as {known.texts.expression!r} and with settings and bounds of "
            f"its own; give this one another name."
        )
    LOSSES.setdefault(name, made())
    return made


def loss_of_texts(
    name: str, expression: str, derivative: str | None = None, *, settings: Mapping[str, float] | None = None,
    needs: str | Sequence[str] = (), low: float = -np.inf, high: float = np.inf,
) -> type[OwnLoss]:  # fmt: skip
    """Makes the class of a loss as `register_loss` does; it is not registered."""
    check_name("loss", name, _BUILT_IN)
    settings = settings or {}
    if not isinstance(settings, Mapping):
        raise InputError(f"settings of loss {name!r} must be a mapping of names and numbers, got {settings!r:.80}.")
    _check_settings(name, settings)
    if not isinstance(needs, (str, list, tuple)):
        raise InputError(f"needs of loss {name!r} must be names of activations, got {needs!r:.80}.")
    outputs = (needs,) if isinstance(needs, str) else tuple(needs)
    for one in outputs:
        choose("activation", one, ACTIVATIONS)
    for bound, value in (("low", low), ("high", high)):
        number(f"{bound} of loss {name!r}", value, "a number, or infinite", lambda v: not math.isnan(v))
    if not low < high:
        raise InputError(f"low of loss {name!r} must be less than high, got {low!r} and {high!r}.")
    numbers = tuple((setting, float(default)) for setting, default in settings.items())
    texts = LossTexts(name, expression, derivative or "", numbers, outputs, float(low), float(high))
    what = f"the expression of loss {name!r}"
    e = parse(expression, texts.names, what)
    if "y" not in names_of(e):
        raise InputError(f"{what} must read y, the output, got {expression!r:.80}.")
    slope = read_slope(f"loss {name!r}", e, "y", texts.names, derivative)
    if idle := [setting for setting in settings if setting not in names_of(e)]:
        raise InputError(f"{what} does not read its setting {idle[0]!r}: use it there, or leave it out.")
    return _loss_class(replace(texts, expression=to_text(e), derivative=to_text(slope)))


@lru_cache(256)
def _loss_class(texts: LossTexts) -> type[OwnLoss]:
    """Makes the class of a loss, of texts as `to_text` writes them, which it checks."""
    value, slope = texts.trees()
    _check_slope(texts, value, slope)
    accuracy = "argmax" if "softmax" in texts.needs else "threshold" if "sigmoid" in texts.needs else ""
    numbers = tuple(name for name, _ in texts.settings)
    calls, a = _Calls(texts), np.zeros((1, 1))
    try:
        list(calls(a, a, a, a, Rehearsal(), *(a for _ in numbers)))
    except InputError as error:
        raise InputError(f"loss {texts.name!r}: {error}") from None
    bounds: Bounds = dict.fromkeys(numbers, FINITE)
    return make_dataclass(
        "".join(part.capitalize() for part in texts.name.split("_")),
        [(name, Any, field(default=default)) for name, default in texts.settings],
        bases=(OwnLoss,), unsafe_hash=True,
        namespace={
            "__doc__": f"e = Σ {texts.expression}, ∂e/∂y = {texts.derivative}.", "__module__": __name__,
            "texts": texts, "name": texts.name, "bounds": bounds, "needs": texts.needs, "low": texts.low,
            "high": texts.high, "labels": "softmax" in texts.needs,
            "own_formula": LossFormula(
                texts.name, calls, Program(value).body(), Program(slope).body(), accuracy=accuracy, numbers=numbers
            ),
        },
    )  # fmt: skip


def _made_again(texts: LossTexts) -> OwnLoss:
    return _loss_class(texts)()


def _check_settings(name: str, settings: Mapping[str, float]) -> None:
    taken = {*RESERVED, *AROUND_A_LOSS, *TAKEN, "z", "e"}
    for setting, default in settings.items():
        check_name(f"setting of loss {name!r}", setting, frozenset())
        if setting in taken or hasattr(OwnLoss, setting) or setting == "reduction":
            raise InputError(f"a setting of loss {name!r} cannot be called {setting!r}, which means something else.")
        number(f"{setting} of loss {name!r}", default, *FINITE)


def _check_slope(texts: LossTexts, value: Node, slope: Node) -> None:
    """Compares both texts at outputs and targets that there may be; see `check_derivative`."""
    line = np.linspace(-TARGETS, TARGETS, 81) + 0.00371
    outputs = [evaluate(parse(OUTPUTS[name], "z"), {"z": line}) for name in texts.needs if name in OUTPUTS] or [line]
    low, high = max(texts.low, -TARGETS), min(texts.high, TARGETS)
    targets = np.linspace(low, high, 9) if low < high else np.array([texts.low, texts.high])
    for places, t in product(outputs, targets[np.isfinite(targets)].tolist()):
        given: dict[str, Any] = {"t": t, **dict(texts.settings)}
        check_derivative(
            f"loss {texts.name!r}", lambda y, given=given: evaluate(value, {"y": y, **given}),  # type: ignore[misc]
            lambda y, given=given: evaluate(slope, {"y": y, **given}),  # type: ignore[misc]
            places, np.array([t] if not texts.needs else []), given, of="y",
        )  # fmt: skip


_BUILT_IN = frozenset(LOSSES)
