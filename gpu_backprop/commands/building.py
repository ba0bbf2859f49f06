"""The network, loss and optimizer that the options of train describe."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

import gpu_backprop as gb
from gpu_backprop import recipes
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.lazy_rows import LazyRows
from gpu_backprop.commands.datasets import Samples
from gpu_backprop.commands.errors import Misuse
from gpu_backprop.commands.ranks import choose_device
from gpu_backprop.data import Preprocessing
from gpu_backprop.data.encoding import PLAIN, Encoding
from gpu_backprop.recipes import PLATEAU, Recipe
from gpu_backprop.training.optimizer import PENALTIES

OVERRIDDEN = (
    "dropout", "optimizer", "learning_rate", "schedule", "weight_decay", "batch_size", "epochs", "patience",
    "validation",
)  # fmt: skip
"""The options that are entries of a recipe, too, as they are."""


@dataclass(frozen=True)
class Design:
    """The activations and the loss that --activation and --loss ask for.

    Attributes:
        activations: as given: one for all hidden layers or one for each, and maybe one for the output.
        output: of the output layer; None: the one that suits the task.
        loss: None: the one that suits the output.
    """

    activations: tuple[str, ...]
    output: str | None
    loss: gb.Loss | None

    @property
    def any_number(self) -> bool:
        """Whether outputs may be any numbers, so that a target can be scaled."""
        return recipes.any_number(self.output, self.loss)

    @property
    def usual(self) -> bool:
        """Whether classes have cross entropy of softmax, as where nothing is asked for."""
        return self.output in (None, "softmax") and (self.loss is None or self.loss.name == "cross_entropy")


def read_design(options: argparse.Namespace) -> Design:
    """Read --activation and --loss; --layers, where it is given, says which activation is the output's."""
    loss = None if options.loss is None else gb.LOSSES[options.loss]
    output = loss.needs[0] if loss is not None and loss.needs else None
    given, layers = tuple(options.activation or ()), options.layers
    if layers is None:
        return Design(given, output, loss)
    if len(given) == len(layers) + 1 and (len(given) > 1 or not layers):
        *hidden, output = given
        given = tuple(hidden)
    if len(given) not in (0, 1, len(layers)):
        raise Misuse(
            f"--activation names {len(given)} functions for {len(layers)} hidden layers; give one for all of them, one "
            "for each, or one for each and one for the output"
        )
    return Design(given, output, loss)


def choose_encoding(options: argparse.Namespace) -> Encoding:
    """Choose how the columns of a table become inputs: by the recipe that is named, or else by those for tables."""
    recipe = recipes.RECIPES[options.recipe or "tabular"]("regression", 1, 1)
    _, entries = recipes.read_entries(dict(options.set))
    return replace(recipe.encoding, ordinal=dict(options.ordinal), **entries)


def choose_recipe(options: argparse.Namespace, design: Design, preprocessing: Preprocessing, rows: int) -> Recipe:
    """Choose the recipe for so many rows to learn from, and override what the options say otherwise."""
    given = _given_entries(options, design)
    if options.ensemble is not None and "validation" in given:
        named = "--set validation" if options.validation is None else "--validation"
        raise Misuse(f"{named}: the members of an --ensemble are validated on a fold each; leave it out")
    if options.ensemble is not None and options.ensemble > rows:
        raise Misuse(f"--ensemble {options.ensemble}: there is not a row for each fold, but {rows:,} to learn from")
    columns = len(preprocessing.columns) or preprocessing.inputs
    name = options.recipe or recipes.choose(preprocessing.images, rows, columns)
    recipe = recipes.RECIPES[name](preprocessing.task, rows, columns)
    names, layers = design.activations, given.get("layers", recipe.layers)
    if len(names) > 1 and len(names) != len(layers):
        raise Misuse(
            f"--activation names {len(names)} functions for the {len(layers)} hidden layers of recipe {name}; give one "
            "for all of them, or one for each; with --layers, one more is the output's"
        )
    implied: dict[str, Any] = {"encoding": PLAIN if preprocessing.images else choose_encoding(options)}
    if not design.usual:
        implied |= {"monitor": "val_loss", "label_smoothing": 0.0, "calibrate": False}
    if options.no_early_stopping:
        implied["calibrate"] = False
        if recipe.patience is not None:
            implied["epochs"] = recipe.epochs // 2  # since none is lost by stopping later than at the best one
    if options.no_early_stopping:
        implied |= {"validation": 0.0, "least_validation": 0}
    return recipe.replace(**implied).override(given)


def _given_entries(options: argparse.Namespace, design: Design) -> dict[str, Any]:
    """Return the entries of the recipe that options give, and --set; refuse two values of one."""
    given = {name: value for name in OVERRIDDEN if (value := getattr(options, name)) is not None}
    if options.layers is not None:
        given["layers"] = tuple(options.layers)
    if design.activations:
        given["activation"] = design.activations if len(design.activations) > 1 else design.activations[0]
    texts = dict(options.set)
    entries, _ = recipes.read_entries(texts)
    for name, value in entries.items():
        if given.get(name, value) != value:
            option = f"--{name.replace('_', '-')}"
            raise Misuse(f"{option} and --set {name}={texts[name]} contradict each other; leave one of them out")
    return given | entries


def build(
    options: argparse.Namespace, design: Design, preprocessing: Preprocessing, x: Array
) -> tuple[Recipe, gb.Trainer]:
    """Choose the recipe for the rows x to learn from, and build the network and its trainer."""
    recipe = choose_recipe(options, design, preprocessing, len(x))
    net = build_network(options, design, recipe, preprocessing, x)
    return recipe, build_trainer(options, design, recipe, net, len(x))


def build_network(
    options: argparse.Namespace, design: Design, recipe: Recipe, preprocessing: Preprocessing, x: Array
) -> gb.Network:
    """Build the recipe's layers and an output for each class or number; the network keeps its preprocessing. What it
    begins with may depend on the rows x that it will learn from."""
    classes = preprocessing.task == "classification"
    if design.loss is not None and design.loss.labels and not classes:
        raise Misuse(
            f"--loss {design.loss.name} is for classes, and this is regression; choose another, or --task "
            "classification"
        )
    return recipe.make_prepared_network(
        preprocessing, x, output=design.output, seed=options.seed, members=options.ensemble, max_norm=options.max_norm,
        dtype=options.dtype, device=choose_device(options), tf32=options.tf32,
    )  # fmt: skip


def build_trainer(
    options: argparse.Namespace, design: Design, recipe: Recipe, net: gb.Network, rows: int
) -> gb.Trainer:
    """Build a trainer of the network for so many rows, of which some may be validated on."""
    optimizer = build_optimizer(options, recipe)
    steps = {name: getattr(options, name) for name in ("clip_norm", "average", "accumulate", "clip_value")}
    steps["communicator"] = options.ranks
    loss = None if design.usual else design.loss
    return recipe.make_trainer(
        net, rows, loss=loss, optimizer=optimizer, folds=options.ensemble, metrics=options.metrics, **steps
    )


def build_optimizer(options: argparse.Namespace, recipe: Recipe) -> gb.Optimizer:
    """Build the recipe's optimizer, with the penalties and the warmup that the options say."""
    optimizer = recipe.make_optimizer(
        **{name: value for name in PENALTIES if (value := getattr(options, name)) is not None}
    )
    if options.warmup:
        named = "constant" if recipe.schedule == PLATEAU else recipe.schedule
        optimizer.schedule = {**optimizer.schedule, "learning_rate": gb.Warmup(options.warmup, named)}
    return optimizer


def choose_fit_options(options: argparse.Namespace, recipe: Recipe, rows: int) -> dict[str, Any]:
    """Return what Trainer.fit is told besides x and y, of which there are so many rows."""
    how = recipe.fit_options(rows, options.ensemble)
    if options.no_early_stopping:
        how["early_stopping"] = None
    if options.tensorboard is not None:
        how["callbacks"].append(gb.TensorBoard(options.tensorboard))
    return how


def targets(loss: gb.Loss, net: gb.Network, samples: Samples) -> Array:
    """Return y as the loss takes it: for a loss that knows no labels, classes become rows of 0 and 1."""
    if samples.y.ndim == 1 and not loss.labels:
        if net.outputs == 1:
            return samples.y[:, None]
        if isinstance(samples.x, LazyRows):
            shape = len(samples), net.outputs
            return cast(Array, LazyRows(shape, np.float64, lambda rows: gb.one_hot(samples.y[rows], net.outputs)))
        return gb.one_hot(samples.y, net.outputs)
    return samples.y
