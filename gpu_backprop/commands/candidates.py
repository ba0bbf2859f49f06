"""The candidates of a search: settings that are drawn, and what populations are made of them."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import gpu_backprop as gb
from gpu_backprop.backend.formula import Array
from gpu_backprop.commands.building import Design, build_network, build_optimizer, choose_recipe, targets
from gpu_backprop.commands.datasets import TrainTestData
from gpu_backprop.commands.errors import Misuse
from gpu_backprop.commands.ranks import choose_device
from gpu_backprop.network.layers import Dropout
from gpu_backprop.network.losses import loss as loss_of
from gpu_backprop.recipes import Recipe
from gpu_backprop.training.search_result import Candidates
from gpu_backprop.training.search_space import GRID, HALVING, list_candidates

OF_MEMBERS = "clip_norm", "average", "class_weight"
"""The options of train that a member of a population has as they are."""


def draw(options: argparse.Namespace) -> list[dict[str, str]]:
    """Choose the candidates: for each a value by the name of each setting, as train is given it."""
    ranges = [one.name for one in options.grid if not one.values]
    count = math.prod(len(one.values) for one in options.grid if one.values)
    few = not ranges and count <= options.trials
    strategy = options.strategy or (GRID if few else "random")
    if strategy == GRID and ranges:
        raise Misuse(f"--strategy {GRID} tries all combinations, and {ranges[0]} is a range; list its candidates")
    if strategy == GRID and not few:
        raise Misuse(
            f"--strategy {GRID}: there are {count:,} combinations; give --trials {count}, or draw some of them"
        )
    space = {one.name: list(one.values) or _distribution(one) for one in options.grid}
    trials = None if few and strategy in (GRID, HALVING) else options.trials
    drawn = list_candidates(space, strategy, trials, options.seed)
    if len(drawn) < 2:
        raise Misuse("there is one candidate, and nothing to choose from; give --grid more of them, or use train")
    return [{name: value if isinstance(value, str) else f"{value:.4g}" for name, value in one.items()} for one in drawn]


def _distribution(one: Any) -> gb.Uniform | gb.LogUniform:
    return (gb.LogUniform if one.logarithmic else gb.Uniform)(one.low, one.high, integer=one.whole)


def _told(value: str) -> float | str:
    """Return what is shown of a value: a number, or a text."""
    try:
        return int(value) if value.isdecimal() else float(value)
    except ValueError:
        return value.replace(",", ":")


@dataclass(frozen=True)
class RecipeCandidates(Candidates):
    """Candidates that are told as train is asked for them.

    Attributes:
        made: what a Population is told of each: what all members share, and what is a member's own.
        asked: the options of train for each.
        recipes: of each.
        design, data: of all.
        seeds: how many networks each has for each fold.
        y: the targets, as the loss takes them.
        score: "loss", or the metric that the best has the best of.
    """

    made: Sequence[tuple[dict[str, Any], dict[str, Any]]]
    asked: Sequence[argparse.Namespace]
    recipes: Sequence[Recipe]
    design: Design
    data: TrainTestData
    seeds: int
    y: Array
    score: str

    def shared_by(self, number: int) -> dict[str, Any]:
        """Return the arguments of Population that all members share."""
        return self.made[number][0]

    def members(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Return the settings of members."""
        return [self.made[number][1] for number in numbers]

    def population(self, numbers: Sequence[int], seeds: Sequence[int]) -> gb.Population:
        """Make a population, whose members begin as those of train do."""
        population, recipe = super().population(numbers, seeds), self.recipes[numbers[0]]
        if recipe.data_driven:
            options = argparse.Namespace(**{**vars(self.asked[numbers[0]]), "ensemble": self.seeds})
            net = build_network(options, self.design, recipe, self.data.preprocessing, self.data.training.x)
            of_seeds = net.device.to_host(net.parameters)
            begun = of_seeds[np.tile(seeds, len(numbers)) - options.seed]
            population.network.device.copy_in(population.network.parameters, begun)
        return population


def build_candidates(
    drawn: Sequence[dict[str, str]], asked: Sequence[argparse.Namespace], design: Design, data: TrainTestData,
    options: argparse.Namespace,
) -> RecipeCandidates:  # fmt: skip
    """Build what populations are made of.

    Args:
        drawn: the settings of each candidate.
        asked: the options of train for each.
        options: of search.
    """
    rows, preprocessing, base = len(data.training), data.preprocessing, asked[0]
    if options.folds > rows:
        raise Misuse(f"--folds {options.folds}: there is not a row for each fold, but {rows:,} to learn from")
    recipes = [choose_recipe(one, design, preprocessing, rows) for one in asked]
    net = build_network(base, design, recipes[0], preprocessing, data.training.x)
    loss = loss_of(None if design.usual else design.loss, net.last)
    kinds: dict[tuple[str, str], gb.Optimizer] = {}
    made, dropout = [], max(recipe.dropout for recipe in recipes)
    for one, recipe in zip(asked, recipes, strict=True):
        alike = recipe.replace(dropout=dropout)  # so that one shape is enough: the rate is a member's own
        output = net.last.activation.name
        layers = alike.make_layers(net.inputs, net.outputs, output, preprocessing.numbers, one.max_norm)
        optimizer = build_optimizer(one, recipe)
        key = recipe.optimizer, repr(optimizer.schedule)
        kind = kinds.setdefault(key, gb.OPTIMIZERS[recipe.optimizer](schedule=optimizer.schedule))
        own = {**optimizer.settings, **{name: getattr(one, name) for name in OF_MEMBERS}}
        if isinstance(loss, gb.CrossEntropy) and design.usual:
            own["label_smoothing"] = recipe.label_smoothing
        if any(isinstance(layer, Dropout) for layer in layers):
            own["dropout"] = recipe.dropout
        shared = {"layers": layers, "optimizer": kind, "batch_size": recipe.choose_batch_size(rows, options.folds)}
        made.append((shared, {name: value for name, value in own.items() if value is not None}))
    monitored = recipes[0].monitor.removeprefix("val_")
    usual = "log_loss" if monitored == "loss" and loss.labels else monitored  # in which smoothing has no part
    score = options.score or usual
    more = {"inputs": net.inputs, "loss": loss, "dtype": base.dtype, "tf32": base.tf32}
    more |= {"device": choose_device(base), "communicator": base.ranks}
    more["metrics"] = [name for name in dict.fromkeys([score, monitored]) if name != "loss"]
    settings = [{name: _told(value) for name, value in one.items()} for one in drawn]
    y = targets(loss, net, data.training)
    return RecipeCandidates(settings, {}, more, made, asked, recipes, design, data, options.seeds, y, score)
