"""The network, loss and optimizer that the options of train describe."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

import gpu_backprop as gb
from gpu_backprop import recipes
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.lazy_rows import LazyRows
from gpu_backprop.commands.datasets import Samples
from gpu_backprop.commands.errors import Misuse
from gpu_backprop.data import Preprocessing
from gpu_backprop.data.encoding import PLAIN, TABULAR, Encoding
from gpu_backprop.recipes import PLATEAU, Recipe
from gpu_backprop.training.optimizer import PENALTIES

OVERRIDDEN = (
    "layers", "dropout", "optimizer", "learning_rate", "schedule", "weight_decay", "batch_size", "epochs", "patience",
    "validation",
)  # fmt: skip
"""The options that are entries of a recipe, too."""

BOTH_WAYS = ("identity", "leaky_relu")
"""The activations with which an output can be as far below 0 as above it."""


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
        return (self.output or "identity") in BOTH_WAYS and (self.loss is None or self.loss.low == -math.inf)

    def hidden(self, layers: int, usual: str = "relu") -> list[str]:
        """Return the activation of each of so many hidden layers."""
        given = list(self.activations) or [usual] * layers
        return given * layers if len(given) == 1 else given[:layers]


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
    """Choose how the columns of a table become inputs."""
    _, entries = recipes.read_entries(dict(options.set))
    encoding = PLAIN if options.recipe in ("plain", "images") else TABULAR
    return replace(encoding, ordinal=dict(options.ordinal), **entries)


def choose_recipe(options: argparse.Namespace, design: Design, preprocessing: Preprocessing, rows: int) -> Recipe:
    """Choose the recipe for so many rows to learn from, and override what the options say otherwise."""
    if options.ensemble is not None and options.validation is not None:
        raise Misuse("--validation: the members of an --ensemble are validated on a fold each; leave it out")
    if options.ensemble is not None and options.ensemble > rows:
        raise Misuse(f"--ensemble {options.ensemble}: there is not a row for each fold, but {rows:,} to learn from")
    columns = len(preprocessing.columns) or preprocessing.inputs
    name = options.recipe or recipes.choose(preprocessing.images, rows, columns)
    recipe = recipes.RECIPES[name](preprocessing.task, rows, columns)
    entries = {entry: value for entry in OVERRIDDEN if (value := getattr(options, entry)) is not None}
    if (optimizer := entries.get("optimizer", recipe.optimizer)) != recipe.optimizer:
        alike = {optimizer, recipe.optimizer} == {"adam", "adamw"}
        recipe = recipe.replace(weight_decay=None, decay_schedule=None)
        recipe = recipe if alike else recipe.replace(learning_rate=None, beta2=None)
    if design.loss is not None or design.output is not None:
        recipe = recipe.replace(monitor="val_loss", label_smoothing=0.0, calibrate=False)
    if options.no_early_stopping and recipe.patience is not None:
        recipe = recipe.replace(epochs=recipe.epochs // 2)  # since none is lost by stopping later than at the best one
    if options.no_early_stopping or options.validation is not None:
        recipe = recipe.replace(validation=0.0, least_validation=0)
    own, _ = recipes.read_entries(dict(options.set))
    if options.batch_size is not None:
        entries["even_batches"] = False
    if options.layers is not None:
        entries["layers"] = tuple(options.layers)
    if len(design.activations) == 1:
        own["activation"] = design.activations[0]
    return recipe.replace(**{**entries, **own})


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
    output = design.output or ("softmax" if classes else "identity")
    net = recipe.make_network(
        preprocessing.inputs, preprocessing.outputs, output, x=x, numbers=preprocessing.numbers,
        activations=design.hidden(len(recipe.layers), recipe.activation), max_norm=options.max_norm,
        dtype=options.dtype, device=options.device, tf32=options.tf32,
        seed=options.seed if options.ensemble is None else range(options.seed, options.seed + options.ensemble),
    )  # fmt: skip
    if options.ensemble is not None:
        net.averaged = True
    net.preprocessing, net.classes = preprocessing, preprocessing.classes
    return net


def build_trainer(
    options: argparse.Namespace, design: Design, recipe: Recipe, net: gb.Network, rows: int
) -> gb.Trainer:
    """Build a trainer of the network for so many rows, of which some may be validated on."""
    optimizer = recipe.make_optimizer(
        **{name: value for name in PENALTIES if (value := getattr(options, name)) is not None}
    )
    if options.warmup:
        named = "constant" if recipe.schedule == PLATEAU else recipe.schedule
        optimizer.schedule = {**optimizer.schedule, "learning_rate": gb.Warmup(options.warmup, named)}
    steps = {name: getattr(options, name) for name in ("clip_norm", "average", "accumulate", "clip_value")}
    return recipe.make_trainer(
        net, rows, loss=design.loss, optimizer=optimizer, folds=options.ensemble, metrics=options.metrics, **steps
    )


def choose_callbacks(options: argparse.Namespace, recipe: Recipe, validated: bool) -> list[Any]:
    """Return what the schedule "plateau" is, which looks at training data where there are none to validate on, and what
    --tensorboard asks for."""
    callbacks: list[Any] = []
    if recipe.schedule == PLATEAU:
        callbacks.append(gb.ReduceOnPlateau("val_loss" if validated else "loss"))
    if options.tensorboard is not None:
        callbacks.append(gb.TensorBoard(options.tensorboard))
    return callbacks


def choose_fit_options(options: argparse.Namespace, recipe: Recipe, rows: int) -> dict[str, Any]:
    """Return what Trainer.fit is told besides x and y, of which there are so many rows."""
    how = recipe.fit_options(rows, options.ensemble)
    return how | {"early_stopping": None, "callbacks": []} if options.no_early_stopping else how


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
