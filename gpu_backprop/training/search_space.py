"""What a search looks through: lists of values and distributions, and the candidates that are made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np

from gpu_backprop.backend.attributes import Explaining
from gpu_backprop.backend.errors import InputError, MissingExtraError, choose, install
from gpu_backprop.backend.formula import Array
from gpu_backprop.network.numbers import number, positive, scalar, switch

GRID, HALVING = "grid", "halving"
FACTOR = 3
"""Of successive halving, unless another is given: one of so many candidates goes on, for as many times the epochs."""

Candidate = dict[str, Any]
"""A value by the name of each setting."""

DRAW_STREAM = 3
"""The stream of the seed that candidates are drawn from; those of the rows' order and of folds are elsewhere."""


@dataclass(frozen=True)
class _Range(metaclass=Explaining):
    """What distributions between two numbers share."""

    accepted: ClassVar[tuple[str, Callable[[float], bool]]] = ("a finite number", math.isfinite)

    low: float
    high: float
    integer: bool = False

    def __post_init__(self) -> None:
        kind = type(self).__name__
        low, high = (number(f"{name} of {kind}", getattr(self, name), *self.accepted) for name in ("low", "high"))
        if low >= high:
            raise InputError(f"{kind} is from a low number to a higher one, got low={low:g} and high={high:g}.")
        switch(f"integer of {kind}", self.integer)

    def ppf(self, q: float) -> float:
        """Returns the number below which the share q of all lies."""
        value = self._at(q)
        return round(value) if self.integer else value

    def rvs(self, random_state: np.random.RandomState) -> float:
        """Draws a number, for scikit-learn's searches."""
        return self.ppf(random_state.random_sample())

    def _at(self, q: float) -> float:
        return self.low + q * (self.high - self.low)


class Uniform(_Range):
    """A distribution for `gb.search`: all numbers between two are equally likely.

    Args:
        low, high: these two, finite, low < high.
        integer: whether the numbers are rounded to whole ones.

    Raises:
        InputError: there are no numbers between these.
    """


class LogUniform(_Range):
    """A distribution for `gb.search`: all orders of magnitude between two numbers are equally likely, as suits learning
    rates and penalties.

    Args:
        low, high: these two, 0 < low < high.
        integer: whether the numbers are rounded to whole ones.

    Raises:
        InputError: there are no numbers between these.
    """

    accepted = ("a finite number > 0", lambda value: 0 < value < math.inf)

    def _at(self, q: float) -> float:
        value: float = self.low * (self.high / self.low) ** q
        return value


def list_candidates(space: Any, strategy: str, trials: int | None, seed: int) -> list[Candidate]:
    """Returns what is tried, each once: all combinations of the lists, or so many that are drawn.

    Args:
        space: by the name of a setting a list of values, or a distribution: an object with a method ppf.
        strategy: a name of STRATEGIES.
        trials: how many are drawn. A combination that is drawn again is tried once.
        seed: of what is drawn.

    Raises:
        InputError: there are none, or the strategy takes something else.
        MissingExtraError: Sobol points are wanted, and scipy is not installed.
    """
    draw = choose("strategy", strategy, STRATEGIES)
    if not isinstance(space, Mapping) or not space:
        raise InputError(
            "space must be a dict that names at least one setting, such as {'learning_rate': [0.01, 0.001]}, got "
            f"{type(space).__name__} {space!r:.200}."
        )
    found = {name: _values(name, given) for name, given in space.items()}
    count = None if trials is None else positive("trials", trials)
    if count is None and strategy in (GRID, HALVING):
        places: Iterable[tuple[Any, ...]] = product(*(_places(name, one, strategy) for name, one in found.items()))
    elif count is None:
        raise InputError(f"strategy={strategy!r} draws candidates: say how many, as in trials=50.")
    elif draw is None:
        raise InputError(
            f"trials={count}, but strategy={GRID!r} tries all combinations. Leave trials out, or let so many be drawn "
            "by strategy='random' or 'sobol'."
        )
    else:
        points = draw(count, len(found), seed).tolist()
        places = dict.fromkeys(
            tuple(_place(one, share) for one, share in zip(found.values(), point, strict=True)) for point in points
        )
    return [
        {name: one[at] if isinstance(one, list) else at for (name, one), at in zip(found.items(), chosen, strict=True)}
        for chosen in places
    ]


def _values(name: str, given: Any) -> Any:
    """Returns a list of the values of a setting, or its distribution."""
    if hasattr(given, "ppf"):
        return given
    given = given.tolist() if isinstance(given, np.ndarray) else given
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise InputError(
            f"{name} of the space must be a list of values, or a distribution as gb.LogUniform(1e-4, 1e-1) is, got "
            f"{type(given).__name__} {given!r:.200}."
        )
    if not given:
        raise InputError(f"{name} of the space is an empty list, so that there is nothing to try.")
    return [scalar(value) for value in given]


def _places(name: str, values: Any, strategy: str) -> range:
    if not isinstance(values, list):
        raise InputError(
            f"{name} of the space is a distribution, {values!r}, of which candidates are drawn: say how many, as in "
            f"strategy={'random' if strategy == GRID else strategy!r}, trials=50, or give a list of values."
        )
    return range(len(values))


def _place(values: Any, share: float) -> Any:
    """Returns the place in a list, or the number of a distribution, below which a share of all lies."""
    if isinstance(values, list):
        return int(share * len(values))
    found = values.ppf(share)
    return int(found) if hasattr(values, "pmf") else scalar(found)  # scipy's distributions of integers give floats


def _random(count: int, dimensions: int, seed: int) -> Array:
    return np.random.default_rng([seed, DRAW_STREAM]).random((count, dimensions))


def _sobol(count: int, dimensions: int, seed: int) -> Array:
    try:
        from scipy.stats import qmc
    except ImportError as error:
        raise MissingExtraError(f"Sobol points need scipy: {install('lbfgs')}") from error
    sobol = qmc.Sobol(dimensions, seed=np.random.default_rng([seed, DRAW_STREAM]))
    points: Array = sobol.random_base2(math.ceil(math.log2(count)))[:count]
    return points


STRATEGIES: Mapping[str, Callable[[int, int, int], Array] | None] = {
    GRID: None,
    "random": _random,
    "sobol": _sobol,
    HALVING: _random,
}
"""By name, how points in [0, 1)ⁿ are drawn, (candidates, settings); None: none are."""
