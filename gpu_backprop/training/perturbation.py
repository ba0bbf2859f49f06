"""Population-based training: the worst members become copies of the best ones, with settings a little different."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu_backprop.backend.attributes import FixedAttributes
from gpu_backprop.backend.errors import InputError, choose
from gpu_backprop.backend.formula import Array
from gpu_backprop.network.numbers import number, one_or_several, positive
from gpu_backprop.training.metrics import larger_is_better
from gpu_backprop.training.optimizer import BOUNDS, FINITE
from gpu_backprop.training.population import Population

PERTURB_STREAM = 4
"""The stream of the seed that sources and factors are drawn from."""


class Perturb(FixedAttributes):
    """A callback of `Population.fit` for population-based training (Jaderberg et al. 2017): after every few epochs,
    each of the worst members gets the parameters of one of the best, with what its optimizer has learned, and the
    settings of that one times a factor. So settings follow a schedule that the population finds by itself.

    Members that have stopped take no part. A setting that would become what it cannot be, as a β₁ of 1 or more, is
    copied as it is.

    Args:
        every: after how many epochs, ≥ 1.
        share: how many are the worst, and how many the best, in (0, 0.5]; at least one.
        factors: one of which a setting is multiplied by, > 0.
        settings: names of settings of the optimizer.
        metric: what is best: "loss", or another column of the history; its val_ twin, where there are validation data.
        seed: of which one is copied, and of the factors.

    Raises:
        InputError: an argument cannot be what it is; in a fit, the optimizer has no such setting, the history no such
            column, or the members are spread over ranks.

    Attributes:
        log: a dict for each copy: the epoch, the member, its source, and the new settings by name.
    """

    settable = "every", "share", "factors", "settings", "metric", "seed"

    def __init__(
        self, every: int = 5, share: float = 0.25, factors: Sequence[float] = (0.8, 1.25),
        settings: Sequence[str] = ("learning_rate",), metric: str = "loss", seed: int = 0,
    ) -> None:  # fmt: skip
        self.every = positive("every", every)
        self.share = number("share", share, "a number in (0, 0.5]", lambda value: 0 < value <= 0.5)
        found = one_or_several("factors", factors, "numbers > 0", lambda value: 0 < value < math.inf)
        if not isinstance(found, list) or not found:
            raise InputError(f"factors must be a list of numbers > 0, such as (0.8, 1.25), got {factors!r}.")
        if isinstance(settings, str) or not settings:
            raise InputError(f"settings must be a list of names, such as ['learning_rate'], got {settings!r}.")
        self.factors, self.settings, self.metric, self.seed = found, tuple(settings), metric, seed
        self.log: list[dict[str, Any]] = []

    def __call__(self, population: Population) -> None:
        """Copies and perturbs, if it is time."""
        population.spread.require_one("Perturb")
        epoch = population.history[-1]["epoch"]
        if epoch % self.every:
            return
        ranked = self._ranked(population)
        count = min(max(1, int(self.share * len(ranked))), len(ranked) // 2)
        rng = np.random.default_rng([self.seed, PERTURB_STREAM, epoch])
        for member in ranked[len(ranked) - count :].tolist():
            source = int(rng.choice(ranked[:count]))
            changed = {name: self._perturbed(population, name, source, rng) for name in self.settings}
            population.copy_member(source, member)
            population.change(member, **changed)
            self.log.append({"epoch": epoch, "member": member, "source": source, **changed})

    def _ranked(self, population: Population) -> Array:
        """Returns the members that train, best first."""
        row, name = population.history[-1], self.metric
        column = f"val_{name}" if f"val_{name}" in row else name
        values = np.array(choose("metric of Perturb", column, row), np.float64)
        if larger_is_better(column, population.trainer.metrics or ()):
            values = -values
        order = np.argsort(values, kind="stable")  # NaN comes last
        ranked: Array = order[population.running[order]]
        return ranked

    def _perturbed(self, population: Population, name: str, source: int, rng: np.random.Generator) -> float:
        """Returns a setting of a member times a factor, or as it is, where it could not be that."""
        value = population.setting(source, name)
        changed = value * float(rng.choice(self.factors))
        return changed if BOUNDS.get(name, FINITE)[1](changed) else value
