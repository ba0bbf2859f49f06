"""The record of an optimizer: how one step changes a parameter, said once for every back end and for its readers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, ClassVar

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Calls
from gpu_backprop.backend.rule_check import check_coefficient, check_lines_do, check_names, in_floats, run_numpy
from gpu_backprop.backend.rule_functions import FUNCTIONS
from gpu_backprop.backend.rule_text import check_lines


@dataclass(frozen=True)
class UpdateRule:
    """One step of an optimizer, element by element: W ← W − change, where the change follows from the gradient, from
    moments, which are arrays like W that begin at 0, and from a few coefficients. What each field may be is said in
    docs/own_optimizer.md. For example

        from functools import partial
        import numpy as np

        def sign_descent(w, g, change, work, rate):
            yield partial(np.sign, g, out=change)
            yield partial(np.multiply, change, rate, out=change)

        SIGN_DESCENT = UpdateRule(
            "sign_descent", settings={"learning_rate": 0.01}, moments={}, coefficients={"rate": "learning_rate"},
            numpy=sign_descent, cuda="change = rate * sign(g);", lines=[("w", "{w} − {learning_rate}·sign({g})")],
        )
        trainer = Trainer(network, optimizer=Optimizer(SIGN_DESCENT, learning_rate=0.001))

    Any rule may have the settings of OPTIONAL, and itself says nothing about them. Where weight_decay (λ) is there,
    W ← (1 − ηλ)W − change: the decay is decoupled from the gradient (Loshchilov and Hutter 2019). Where others are,
    what the rule gets as g is the gradient clipped to ±clip_value, plus l2·W + l1·sign(W).

    Raises:
        InputError: a name is no identifier or stands for two things, a coefficient cannot be worked out, the NumPy
            function does not do its work on a small example, or the lines are not those of its moments and of w.
    """

    name: str
    settings: Mapping[str, float]
    """By name the default of each of its numbers, learning_rate (η) first."""
    moments: Mapping[str, str]
    """By name, the factor that makes the authors' moment of the one that is kept: written as a coefficient is, without
    step and `largest`."""
    coefficients: Mapping[str, str]
    """By name, expressions that are worked out once a step, on the host and in C++. They are made of the settings,
    which are float64 until C(…) rounds them to the type of coefficients; of step, from 1; of `largest`, the largest
    gradient whose square is a number; of numbers, + − * / and the functions of COEFFICIENT_MATH."""
    numpy: Callable[..., Calls]
    """numpy(w, g, change, work, **moments, **coefficients): yields calls, functions without arguments, that change the
    moments in place and fill change, and that leave w and g as they are. All are arrays of one shape, but for a
    coefficient, which is one number a model; their numbers are there when the calls run, not before. work.full(0) to
    work.full(5) give further arrays, work.mask() one of booleans."""
    cuda: str
    """C++ statements in the working type A that assign `change` and the moments, of w, g, moments, coefficients and
    numbers such as A(0.5). "": there are none, and it runs on NumPy alone."""
    lines: Sequence[tuple[str, str]]
    """The same as its authors wrote it, without weight decay, as (result, text): the formula in plans and docs, which
    `explain` spells out. A result is a moment, a name that later lines read, or, last, "w", of which the text is
    "{w} − " and one term. A text is made of + − · / ^ ² ( ), √(…), the functions of expression_tree.py and of
    rule_functions.py, numbers and {names}: of settings, w, g, t (the number of the step), moments and
    earlier results."""

    kind: ClassVar[str] = "update"

    def __post_init__(self) -> None:
        for name in ("settings", "moments", "coefficients"):
            if not isinstance(given := getattr(self, name), Mapping):
                raise InputError(f"update rule {self.name!r}: {name} must be a mapping, got {given!r}.")
            object.__setattr__(self, name, dict(given))  # what becomes of the given one does not matter
        try:
            check_names(self.name, self.settings, (*self.moments, *self.coefficients))
            known = {*self.settings, "step", "largest", *COEFFICIENT_MATH} - {"__builtins__"}
            for text in (*self.coefficients.values(), *self.moments.values()):
                check_coefficient(text, known)
            if not isinstance(self.cuda, str) or (self.cuda and not re.search(r"\bchange\s*=", self.cuda)):
                raise ValueError(f"its C++ text must assign change, got {self.cuda!r}")
            check_lines(self.name, self.settings, self.moments, self.lines)
            steps = [self.check_settings(self.settings, step) for step in (1.0, 2.0)]
            coefficients, factors = (
                [{n: of[n] for n in names} for of in steps] for names in (self.coefficients, self.moments)
            )
            check_lines_do(self.lines, self.settings, factors, run_numpy(self.numpy, [*self.moments], coefficients))
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"update rule {self.name!r}: {error}.") from error

    def check_settings(self, settings: Mapping[str, Any], step: float = 1.0) -> dict[str, float]:
        """Returns the coefficients of a step, and the factors of the moments, of settings that are one number
        or one a member each, of the last member.

        Raises:
            InputError: one of them is no finite number.
        """
        texts = {**self.coefficients, **self.moments}
        several = [value for value in settings.values() if isinstance(value, tuple)]
        found: Sequence[float] = ()
        for member in range(max(map(len, several), default=1)):
            values = [value[member % len(value)] if isinstance(value, tuple) else value for value in settings.values()]
            try:
                found = self.evaluator(texts.values())(1e18, step, *map(float, values))
                if all(map(math.isfinite, found)):
                    continue
                wrong = "not finite"
            except Exception as error:
                wrong = str(error)
            given = ", ".join(f"{name}={value!r}" for name, value in zip(settings, values, strict=True))
            told = " or ".join(f"{name} = {text}" for name, text in texts.items() if self._fails(text, step, values))
            raise InputError(f"update rule {self.name!r}: {told} cannot be worked out of {given}: {wrong}.")
        return dict(zip(texts, found, strict=True))

    def _fails(self, text: str, step: float, settings: Sequence[float]) -> bool:
        try:
            return not math.isfinite(*self.evaluator([text])(1e18, step, *map(float, settings)))
        except Exception:
            return True

    @lru_cache(64)  # noqa: B019, every optimizer that is made asks for one or two, which are checked as they are made
    def with_settings(self, *names: str) -> UpdateRule:
        """Returns this rule with some settings of OPTIONAL besides its own."""
        added = {name: OPTIONAL[name] for name in names if name not in self.settings}
        return replace(self, settings={**self.settings, **added}) if added else self

    def __hash__(self) -> int:
        return hash((self.name, self.numpy, self.cuda))

    @property
    def decays(self) -> bool:
        """Whether it has a decoupled weight decay."""
        return "weight_decay" in self.settings

    @property
    def clips(self) -> bool:
        """Whether it clips the gradient by value."""
        return "clip_value" in self.settings

    @property
    def penalizes(self) -> bool:
        """Whether it adds the slope of a penalty on W to the gradient."""
        return "l1" in self.settings or "l2" in self.settings

    @property
    def of_gradient(self) -> dict[str, str]:
        """By name, coefficients of what is done with the gradient before the rule gets it."""
        return {name: text for name, text in OF_GRADIENT.items() if text.lstrip("-") in self.settings}

    def lines_for(self, rate: float = 1, decay: float = 1, penalty: float = 1) -> Iterator[tuple[str, str, str]]:
        """Yields the lines as (result, "←" or "=", text), with what the optional settings do, for parameters that have
        these factors of the learning rate, the weight decay and the penalties. Where something is done with the
        gradient first, that is the first line: g of "gradient"."""
        slopes = {"l2": "{l2}·{w}", "l1": "{l1}·sign({w})"}
        terms = [_times(penalty) + text for name, text in slopes.items() if name in self.settings and penalty]
        if self.clips or terms:
            gradient = "clip({gradient}, {clip_value})" if self.clips else "{gradient}"
            yield "g", "=", " + ".join([gradient, *terms])
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
        text = re.sub(r"most<A>\(\)|A\(|<A>", "(", self.cuda)
        own = len(re.findall(r"(?<=[\w)]) *[-+*/](?!=) *|\b\w+\(", text)) + 1 + self.decays
        return own + sum({"l1": 3, "l2": 2, "clip_value": 2}.get(name, 0) for name in self.settings)

    @property
    def cuda_coefficients(self) -> dict[str, str]:
        """The coefficients in C++, those of the gradient too."""
        return {name: in_floats(text) for name, text in {**self.coefficients, **self.of_gradient}.items()}

    def evaluator(self, texts: Iterable[str]) -> Callable[..., tuple[Any, ...]]:
        """Makes a function of some coefficients: of largest, step, and the settings in their order, each a number or an
        array of one a model."""
        names, values = ", ".join(("largest", "step", *self.settings)), "".join(f"{text}, " for text in texts)
        return _evaluator(f"lambda {names}: ({values})")


OPTIONAL: Mapping[str, float] = {"weight_decay": 0.0, "l1": 0.0, "l2": 0.0, "clip_value": 1.0}
"""Settings that any rule may have, with their defaults."""

OF_GRADIENT = {"clip_above": "clip_value", "clip_below": "-clip_value", "penalty_l1": "l1", "penalty_l2": "l2"}
"""The coefficients of those that change the gradient."""

COEFFICIENT_MATH: dict[str, Any] = {
    "__builtins__": {},
    "C": lambda a: a,
    "root": lambda a: a**0.5,
    "power": pow,
    "sign": np.sign,
    "correction": lambda rest, step: 1 - (1 - rest) ** step,
    **FUNCTIONS,
}
"""What coefficients are written with: root(a) = √a, power(a, b) = aᵇ, sign(a), correction(1 − β, t) = 1 − βᵗ, which
stands for a sum of t terms that each weigh 1 − β, and forget with β; and FUNCTIONS."""


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
