"""Recipes: tables of settings that are good where nothing else was asked for, each for one kind of data.

`gb.recipes.tabular(task, rows, columns)` returns one, `recipe.replace(epochs=50)` overrides entries of it, and its
methods make the network, the trainer and the options of fit. `gpu-backprop train --recipe NAME` takes it by name. Each
entry was chosen on twelve tables by bench/tables.py, which measures the recipe on twelve others.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.data.encoding import PLAIN, TABULAR, Encoding
from gpu_backprop.network.data_initialization import initialize_from_data
from gpu_backprop.network.layer import Layer
from gpu_backprop.network.layers import Dense, Dropout, Scale
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.losses import CrossEntropy
from gpu_backprop.network.network import Network
from gpu_backprop.network.periodic import Periodic
from gpu_backprop.training.calibration import TemperatureScaling
from gpu_backprop.training.early_stopping import EarlyStopping
from gpu_backprop.training.metrics import Given, default_metrics
from gpu_backprop.training.optimizer import Optimizer
from gpu_backprop.training.optimizers import OPTIMIZERS
from gpu_backprop.training.trainer import Trainer

MANY_ROWS = 10_000
"""With more rows, fewer epochs of larger minibatches are enough."""

LOOKED_AT = 10_000
"""How many rows a network is begun with, at most, where it depends on them."""

PLATEAU = "plateau"
"""The schedule that is a callback, `gb.ReduceOnPlateau`."""

SMALL_TABLE = 300
"""A table of at most so many rows, or of more columns than rows, is small."""


@dataclass(frozen=True)
class Recipe:
    """Settings of a network and of its training.

    Attributes:
        name: that of the recipe.
        encoding: how the columns of a table become inputs.
        layers: the units of each hidden layer.
        activation: of the hidden layers.
        init: of the weights of hidden layers; None: what suits the activation.
        output_init: of the weights of the output layer.
        data_driven: whether weights and biases are then fitted to the rows, see `gb.initialize_from_data`.
        periodic: how many frequencies a Periodic layer in front has for each number of a table; 0: there is none.
        periodic_rate: by what its learning rate is multiplied.
        scale: by what the learning rate of a Scale layer before the hidden ones is multiplied; 0: there is none.
        bias_rate: by what the learning rate of biases is multiplied.
        dropout, dropout_schedule: the share of hidden units that is left out of each step, and what it follows.
        optimizer, learning_rate, schedule: None: the optimizer's own rate.
        beta2, weight_decay, decay_schedule: None: the optimizer's own.
        batch_size: rows a step.
        even_batches: whether a few more or fewer are taken, so that the last minibatch of an epoch is no small one.
        epochs: passes over the training rows, at most.
        patience: the epochs without an improvement after which training ends; None: never. The best epoch is kept.
        monitor, ties: the column of the history by which the best epoch is found, and which of equals it is.
        validation: the share of the training rows that it is measured on.
        least_validation: with fewer rows in that share, chance would choose the epoch, and all are trained on.
        label_smoothing: of cross entropy.
        calibrate: whether the temperature of the probabilities is fitted to the validation rows.
    """

    name: str
    encoding: Encoding = PLAIN
    layers: tuple[int, ...] = (256,)
    activation: str = "relu"
    init: str | None = None
    output_init: str | None = None
    data_driven: bool = False
    periodic: int = 0
    periodic_rate: float = 0.1
    scale: float = 0.0
    bias_rate: float = 1.0
    dropout: float = 0.4
    dropout_schedule: str | None = None
    optimizer: str = "adam"
    learning_rate: float | None = 0.003
    schedule: str = "constant"
    beta2: float | None = None
    weight_decay: float | None = None
    decay_schedule: str | None = None
    batch_size: int = 32
    even_batches: bool = False
    epochs: int = 120
    patience: int | None = 20
    monitor: str = "val_loss"
    ties: str = "first"
    validation: float = 0.1
    least_validation: int = 10
    label_smoothing: float = 0.0
    calibrate: bool = False

    def replace(self, **entries: Any) -> Recipe:
        """Returns the recipe with other entries.

        Raises:
            InputError: there is no such entry.
        """
        known = [field.name for field in dataclasses.fields(self)]
        if unknown := [name for name in entries if name not in known]:
            raise InputError(f"a recipe has no entry {', '.join(map(repr, unknown))}; it has {', '.join(known)}.")
        return dataclasses.replace(self, **entries)

    def __str__(self) -> str:
        default = Encoding()
        told = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)[1:]}
        told["encoding"] = (
            ", ".join(
                f"{field.name}={value!r}" if not isinstance(value, bool) else field.name
                for field in dataclasses.fields(Encoding)
                if (value := getattr(self.encoding, field.name)) != getattr(default, field.name)
            )
            or "plain"
        )
        return "\n".join(f"  {name:17} {value}" for name, value in told.items() if value is not None)

    def make_network(
        self, inputs: int, outputs: int, output: str, *, x: Array | None = None, numbers: int = 0,
        activations: Sequence[str] | None = None, max_norm: float | None = None, **settings: Any,
    ) -> Network:  # fmt: skip
        """Makes a network.

        Args:
            output: the activation of the output layer: softmax for classes, identity for numbers.
            x: the rows that it will learn from, (rows, inputs), for what depends on them; at most 10,000 are looked at.
            numbers: how many of the inputs, from the first on, are numbers, see `Preprocessing.numbers`.
            activations: of each hidden layer; None: the recipe's.
            max_norm: of the hidden layers, as of `Dense`.
            settings: as of `Network`.
        """
        layers: list[Layer] = []
        if self.periodic and numbers:
            layers.append(Periodic(numbers, self.periodic, learning_rate_factor=self.periodic_rate))
        if self.scale:
            layers.append(Scale(learning_rate_factor=self.scale))
        for units, name in zip(self.layers, activations or [self.activation] * len(self.layers), strict=True):
            layers.append(Dense(units, name, init=self.init, max_norm=max_norm, **self._rates()))
            if self.dropout:
                layers.append(Dropout(self.dropout, schedule=self.dropout_schedule))
        below = self.layers[-1] if self.layers else inputs
        weight = (
            below**-0.5 if self.init == "ntp" != self.output_init else 1.0
        )  # the rate of ntp, whatever it begins with
        layers.append(Dense(outputs, output, init=self.output_init, **self._rates(weight)))
        net = Network(inputs, layers, **settings)
        if self.data_driven and x is not None:
            initialize_from_data(net, x[:LOOKED_AT])
        return net

    def _rates(self, weight: float = 1.0) -> dict[str, Any]:
        factors = {name: one for name, one in (("weight", weight), ("bias", self.bias_rate)) if one != 1}
        return {"learning_rate_factor": factors} if factors else {}

    def make_trainer(
        self, network: Network, rows: int, *, loss: Loss | None = None, optimizer: Optimizer | None = None,
        folds: int | None = None, metrics: Sequence[Given] = (), **settings: Any,
    ) -> Trainer:  # fmt: skip
        """Makes a trainer of the network.

        Args:
            rows: how many there are to train on, those included that the best epoch is measured on.
            loss: None: cross entropy with the recipe's smoothing for softmax, else the Trainer's own choice.
            optimizer: None: the recipe's.
            folds: as of `fit_options`.
            metrics: what is measured besides what suits the loss.
            settings: as of `Trainer`.
        """
        if loss is None and self.label_smoothing and network.last.activation.name == "softmax":
            loss = CrossEntropy(label_smoothing=self.label_smoothing)
        apart = 1 / folds if folds else self.validation_share(rows)
        batch_size, learned = self.batch_size, rows - round(apart * rows)
        if self.even_batches:
            batch_size = -(-learned // max(1, round(learned / batch_size)))
        optimizer = self.make_optimizer() if optimizer is None else optimizer
        trainer = Trainer(network, loss, optimizer, batch_size=batch_size, **settings)
        monitored = [self.monitor.removeprefix("val_")] if self.monitor not in ("val_loss", "loss") else []
        trainer.metrics = list(dict.fromkeys([*default_metrics(trainer.loss), *monitored, *metrics]))
        return trainer

    def make_optimizer(self, **settings: Any) -> Optimizer:
        """Makes the optimizer, with further settings."""
        names = "learning_rate", "beta2", "weight_decay"
        own = {name: one for name in names if (one := getattr(self, name)) is not None}
        made = OPTIMIZERS[self.optimizer](**{**own, **settings})
        schedules = {"learning_rate": self.schedule, "weight_decay": self.decay_schedule}
        made.schedule = {name: one for name, one in schedules.items() if one not in (None, "constant", PLATEAU)}
        return made

    def validation_share(self, rows: int) -> float:
        """Returns the share of so many rows that the best epoch is measured on: 0 where they are too few."""
        return self.validation if self.validation * rows >= self.least_validation else 0.0

    def fit_options(self, rows: int, folds: int | None = None) -> dict[str, Any]:
        """Returns what `Trainer.fit` is told besides x and y, of which there are so many rows.

        Args:
            folds: of an ensemble, whose members hold out a fold each; None: there is none.
        """
        share = 0.0 if folds else self.validation_share(rows)
        how: dict[str, Any] = {"epochs": self.epochs, "validation_split": share}
        if not share and not folds:
            return how
        how["early_stopping"] = EarlyStopping(self.monitor, self.patience or self.epochs, ties=self.ties)
        how["callbacks"] = [TemperatureScaling()] if self.calibrate else []
        return how | ({"folds": folds} if folds else {})


def tabular(task: str, rows: int, columns: int) -> Recipe:
    """For tables: RealMLP (Holzmüller et al. 2024, "Better by default") without its parametric activations, and with
    the best epoch by cross entropy after temperature, calibrated probabilities, and fewer epochs of many rows.

    Args:
        task: "classification" or "regression".
        rows: how many there are to train on.
        columns: of the table.
    """
    classes = task == "classification"
    return Recipe(
        "tabular", encoding=TABULAR, periodic=16, scale=6.0, layers=(256, 256, 256),
        activation="selu" if classes else "mish", init="ntp", output_init="zeros", data_driven=True, bias_rate=0.1,
        dropout=0.15 if classes else 0.05, dropout_schedule="flat_cosine", optimizer="adamw",
        learning_rate=0.04 if classes else 0.07, schedule="coslog4", beta2=0.95, weight_decay=0.02,
        decay_schedule="flat_cosine", batch_size=256, even_batches=True, epochs=max(64, min(256, 512_000 // rows)),
        patience=None, monitor="val_calibrated_log_loss" if classes else "val_loss", ties="last", validation=0.2,
        label_smoothing=0.1 if classes else 0.0, calibrate=classes,
    )  # fmt: skip


def small_table(task: str, rows: int, columns: int) -> Recipe:
    """For tables of few rows, or of more columns than rows: more dropout where there are classes."""
    recipe = tabular(task, rows, columns).replace(name="small-table")
    return recipe.replace(dropout=0.3) if task == "classification" else recipe


def images(task: str, rows: int, columns: int) -> Recipe:
    """For images, whose pixels are all of one kind."""
    few = rows <= MANY_ROWS
    epochs = 2 * max(20, min(60, 60 * MANY_ROWS // max(rows, 1)))
    validation = max(0.1, min(0.2, 100 / max(rows, 1)))
    return Recipe("images", batch_size=32 if few else 128, epochs=epochs, validation=validation)


def plain(task: str, rows: int, columns: int) -> Recipe:
    """One hidden layer with dropout, and columns at mean 0 and standard deviation 1: what tables had before."""
    return images(task, rows, columns).replace(name="plain")


RECIPES: Mapping[str, Callable[[str, int, int], Recipe]] = {
    "tabular": tabular, "small-table": small_table, "images": images, "plain": plain,
}  # fmt: skip
"""By name: functions of the task, the rows to learn from and the columns, which return a Recipe."""


def read_entries(words: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads entries that are text: "none", "true", "false", numbers, and whole numbers with commas between them for
    `layers`; returns those of a recipe, and those of its encoding.

    Raises:
        InputError: there is no such entry.
    """
    of_recipe, of_encoding = ({field.name for field in dataclasses.fields(one)} for one in (Recipe, Encoding))
    own: dict[str, Any] = {}
    encoding: dict[str, Any] = {}
    for name, text in words.items():
        if name not in (of_recipe | of_encoding) - {"name", "encoding", "ordinal"}:
            known = ", ".join(sorted((of_recipe | of_encoding) - {"name", "encoding", "ordinal"}))
            raise InputError(f"a recipe has no entry {name!r}; it has {known}.")
        value = _units(text) if name == "layers" else _value(text)
        (own if name in of_recipe else encoding)[name] = value
    return own, encoding


def _units(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(units) for units in text.split(",")) if text != "none" else ()
    except ValueError:
        raise InputError(f"layers must be whole numbers with commas between them, or none, got {text!r}.") from None


def _value(text: str) -> Any:
    if text in (words := {"none": None, "true": True, "false": False}):
        return words[text]
    for number in (int, float):
        try:
            value = number(text)
        except ValueError:
            continue
        if math.isfinite(value):
            return value
    return text


def choose(images: bool, rows: int, columns: int) -> str:
    """Returns the name of the recipe for data of which nothing else is known."""
    if images:
        return "images"
    return "small-table" if rows <= SMALL_TABLE or columns > rows else "tabular"
