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
from gpu_backprop.training.metrics import default_metrics
from gpu_backprop.training.optimizer import PENALTIES

LEAST_VALIDATION = 10
"""With fewer validation rows, chance would choose the best epoch, and there are none."""

LOOKED_AT = 10_000
"""How many rows a network is begun with, at most, where it depends on them."""

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
    activations = design.hidden(len(recipe.layers), recipe.activation)
    hidden = recipe.hidden_layers(preprocessing.numbers, activations, options.max_norm)
    suiting = "softmax" if classes else "identity"
    output = recipe.output_layer(preprocessing.inputs, preprocessing.outputs, design.output or suiting)
    net = gb.Network(
        preprocessing.inputs, [*hidden, output], dtype=options.dtype, device=options.device, tf32=options.tf32,
        seed=options.seed if options.ensemble is None else range(options.seed, options.seed + options.ensemble),
    )  # fmt: skip
    if options.ensemble is not None:
        net.averaged = True
    net.preprocessing, net.classes = preprocessing, preprocessing.classes
    if recipe.data_driven:
        gb.initialize_from_data(net, x[:LOOKED_AT])
    return net


def build_trainer(
    options: argparse.Namespace, design: Design, recipe: Recipe, net: gb.Network, rows: int
) -> gb.Trainer:
    """Build a trainer of the network for so many rows, of which some may be validated on."""
    stopping = choose_stopping(options, recipe, rows)
    apart = 1 / stopping["folds"] if "folds" in stopping else stopping["validation_split"]
    if options.ensemble is not None and options.validation is not None:
        raise Misuse("--validation: the members of an --ensemble are validated on a fold each; leave it out")
    if options.ensemble is not None and options.ensemble > rows:
        raise Misuse(f"--ensemble {options.ensemble}: there is not a row for each fold, but {rows:,} to learn from")
    optimizer = recipe.make_optimizer(
        **{name: value for name in PENALTIES if (value := getattr(options, name)) is not None}
    )
    if options.warmup:
        named = "constant" if recipe.schedule == PLATEAU else recipe.schedule
        optimizer.schedule = {**optimizer.schedule, "learning_rate": gb.Warmup(options.warmup, named)}
    loss = design.loss
    if loss is None and recipe.label_smoothing and net.last.activation.name == "softmax":
        loss = gb.CrossEntropy(label_smoothing=recipe.label_smoothing)
    steps = {name: getattr(options, name) for name in ("clip_norm", "average", "accumulate", "clip_value")}
    trainer = gb.Trainer(net, loss, optimizer, batch_size=recipe.rows_a_step(rows - round(apart * rows)), **steps)
    monitored = [recipe.monitor.removeprefix("val_")] if recipe.monitor not in ("val_loss", "loss") else []
    trainer.metrics = list(dict.fromkeys([*default_metrics(trainer.loss), *monitored, *options.metrics]))
    return trainer


def choose_callbacks(options: argparse.Namespace, recipe: Recipe, validated: bool, scored: bool) -> list[Any]:
    """Return what the schedule "plateau" is, which looks at training data where there are none to validate on, what
    --tensorboard asks for, and what calibrates the network at the end.

    Args:
        validated: whether there are rows to validate on.
        scored: whether these are the held-out rows, which the network is scored on, so that nothing is fitted to them.
    """
    callbacks: list[Any] = []
    if recipe.schedule == PLATEAU:
        callbacks.append(gb.ReduceOnPlateau("val_loss" if validated else "loss"))
    if options.tensorboard is not None:
        callbacks.append(gb.TensorBoard(options.tensorboard))
    if recipe.calibrate and validated and not scored:
        callbacks.append(gb.TemperatureScaling())
    return callbacks


def choose_stopping(options: argparse.Namespace, recipe: Recipe, rows: int) -> dict[str, Any]:
    """Return what Trainer.fit is told of early stopping, with so many rows to learn from; and of folds."""
    early, share = not options.no_early_stopping, options.validation
    if options.ensemble is not None:
        stopping = recipe.early_stopping() if early else None
        return {"validation_split": 0.0, "early_stopping": stopping, "folds": options.ensemble}
    if share is None:
        share = recipe.validation if early and recipe.validation * rows >= LEAST_VALIDATION else 0.0
    return {"validation_split": share, "early_stopping": recipe.early_stopping() if early and share else None}


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
