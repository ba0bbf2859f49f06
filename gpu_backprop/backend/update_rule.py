"""The record of an optimizer: how one step changes a parameter, said once for every back end and for its readers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Calls
from gpu_backprop.backend.rule_text import check_lines


@dataclass(frozen=True)
class UpdateRule:
    """One step of an optimizer, element by element: W ← W − change, where the change follows from the gradient, from
    moments, which are arrays like W that begin at 0, and from a few coefficients.

    Where weight_decay (λ) is among the settings, W ← (1 − ηλ)W − change: the decay is decoupled from the gradient
    (Loshchilov and Hutter 2019), and the rule itself says nothing about it.

    Raises:
        InputError: a name is no identifier or stands for two things, or a coefficient or a line cannot be worked out.
    """

    name: str
    settings: Mapping[str, float]
    """By name the default of each of its numbers, learning_rate (η) first."""
    moments: Mapping[str, str]
    """By name, the factor that makes the authors' moment of the one that is kept: written as a coefficient is, without
    step and `largest`."""
    coefficients: Mapping[str, str]
    """By name, expressions that Python and C++ read alike, worked out once a step. They are made of the settings, which
    are float64 until C(…) rounds them to the type of coefficients; of step, from 1; of `largest`, the largest gradient
    whose square is a number; of numbers, + − * / and the functions of COEFFICIENT_MATH."""
    numpy: Callable[..., Calls]
    """numpy(g, change, work, **moments, **coefficients): calls that change the moments in place and fill change. All
    are arrays of one shape, but for a coefficient, which is one number a model; work.full() gives further ones."""
    cuda: str
    """C++ statements in the working type A that assign `change` and the moments, of w, g, moments and coefficients."""
    lines: tuple[tuple[str, str], ...]
    """The same as its authors wrote it, without weight decay, as (result, text): the formula in plans and docs, which
    `explain` spells out. A result is a moment, a name that later lines read, or, last, "w", of which the text is
    "{w} − " and one term. A text is made of + − · / ^ ² ( ), √(…), sign(…), numbers and {names}: of settings, w, g, t
    (the number of the step), moments and earlier results."""

    kind: ClassVar[str] = "update"

    def __post_init__(self) -> None:
        names = [self.name, *self.settings, *self.moments, *self.coefficients]
        taken = {"w", "g", "change", "step", "largest", "work", "t"}
        for name in names:
            if not name.isidentifier() or not name.isascii() or name in taken:
                raise InputError(
                    f"update rule {self.name!r}: {name!r} must be a name of ASCII letters, digits and _ of its own, "
                    f"and not one of {', '.join(sorted(taken))}."
                )
            taken |= {name} - {self.name}
        if next(iter(self.settings), "") != "learning_rate":
            raise InputError(f"update rule {self.name!r}: its first setting must be learning_rate.")
        for what, text in {**self.coefficients, **self.moments}.items():
            try:
                self.evaluator([text])(1e18, 1.0, *map(float, self.settings.values()))
            except Exception as error:
                raise InputError(f"update rule {self.name!r}: {what} = {text} cannot be worked out: {error}.") from None
        check_lines(self.name, self.settings, self.moments, self.lines)

    @property
    def decays(self) -> bool:
        """Whether it has a decoupled weight decay."""
        return "weight_decay" in self.settings

    def lines_for(self, rate: float = 1, decay: float = 1) -> Iterator[tuple[str, str, str]]:
        """Yields the lines as (result, "←" or "=", text), with the weight decay, for parameters whose learning rate has
        the factor `rate` and whose weight decay has the factor `decay`."""
        *others, (w, text) = self.lines
        for result, other in others:
            yield result, "←" if result in self.moments else "=", other
        change = _times(rate) + text.removeprefix("{w} − ")
        if self.decays and rate * decay:
            change = f"{_times(rate * decay)}{{learning_rate}}·{{weight_decay}}·{{w}} − {change}"
        yield w, "←", "{w} − " + change

    @property
    def flops(self) -> int:
        """Of one parameter: one for each operator and function of the C++ text, and for what is done with the change.
        A gradient that is cut off counts as one operation."""
        text = re.sub(r"A\(|<A>", "(", self.cuda)
        return len(re.findall(r"(?<=[\w)]) [-+*/] |\b\w+\(", text)) + 1 + self.decays

    def evaluator(self, texts: Iterable[str]) -> Callable[..., tuple[Any, ...]]:
        """Makes a function of some coefficients: of largest, step, and the settings in their order, each a number or an
        array of one a model."""
        names, values = ", ".join(("largest", "step", *self.settings)), "".join(f"{text}, " for text in texts)
        return _evaluator(f"lambda {names}: ({values})")


COEFFICIENT_MATH: dict[str, Any] = {
    "__builtins__": {},
    "C": lambda a: a,
    "root": lambda a: a**0.5,
    "power": pow,
    "correction": lambda rest, step: 1 - (1 - rest) ** step,
}
"""What coefficients are written with: root(a) = √a, power(a, b) = aᵇ, and correction(1 − β, t) = 1 − βᵗ, which stands
for a sum of t terms that each weigh 1 − β, and forget with β."""


def _times(factor: float) -> str:
    return "" if factor == 1 else f"{factor:.12g}·".replace("-", "−")


@cache
def _evaluator(text: str) -> Callable[..., tuple[Any, ...]]:
    made: Callable[..., tuple[Any, ...]] = eval(text, COEFFICIENT_MATH)
    return made


def largest_gradient(dtype: np.dtype[Any]) -> float:
    """Half of the root of the largest number, where rules that take squares cut gradients off: those of larger ones
    would add up to infinity, and stop a parameter for ever."""
    return 0.5 * math.sqrt(np.finfo(dtype).max)
