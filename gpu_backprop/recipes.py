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

from gpu_backprop.backend import errors
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.foreign_names import ARGUMENTS, meanings
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.suggestions import argument_error, explain_arguments
from gpu_backprop.data import Preprocessing
from gpu_backprop.data.encoding import PLAIN, TABULAR, Encoding
from gpu_backprop.data.messages import nearest
from gpu_backprop.display.html import cell_output, table
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.data_initialization import initialize_from_data
from gpu_backprop.network.initializers import INITIALIZERS
from gpu_backprop.network.layer import Layer
from gpu_backprop.network.layers import Dense, Dropout, Scale
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.losses import CrossEntropy
from gpu_backprop.network.network import Network
from gpu_backprop.network.numbers import number, positive, scalar, switch
from gpu_backprop.network.periodic import Periodic
from gpu_backprop.network.schedules import SCHEDULES
from gpu_backprop.training.calibration import TemperatureScaling
from gpu_backprop.training.early_stopping import TIES, EarlyStopping
from gpu_backprop.training.metrics import Given, default_metrics, metric_named
from gpu_backprop.training.optimizer import BOUNDS, Optimizer
from gpu_backprop.training.optimizers import OPTIMIZERS
from gpu_backprop.training.plateau import ReduceOnPlateau
from gpu_backprop.training.trainer import Trainer

__all__ = ["RECIPES", "Recipe", "images", "plain", "small_table", "tabular"]

MANY_ROWS = 10_000
"""With more rows, fewer epochs of larger minibatches are enough."""

PLATEAU = "plateau"
"""The schedule that is a callback, `gb.ReduceOnPlateau`."""

SMALL_TABLE = 300
"""A table of at most so many rows, or of more columns than rows, is small."""

_AT_LEAST_0: tuple[str, Callable[[float], bool]] = ("a finite number ≥ 0", lambda value: 0 <= value < math.inf)
_SHARE: tuple[str, Callable[[float], bool]] = ("a number in [0, 1)", lambda value: 0 <= value < 1)
_NUMBERS: Mapping[str, tuple[str, Callable[[float], bool]]] = {
    **dict.fromkeys(("periodic_rate", "scale", "bias_rate"), _AT_LEAST_0),
    **dict.fromkeys(("dropout", "validation", "label_smoothing"), _SHARE),
    **{name: BOUNDS[name] for name in ("learning_rate", "beta2", "weight_decay")},
}
_NAMES: Mapping[str, Mapping[str, Any]] = {
    "init": INITIALIZERS, "output_init": INITIALIZERS, "optimizer": OPTIMIZERS, "ties": dict.fromkeys(TIES),
    "schedule": {**SCHEDULES, PLATEAU: None}, "dropout_schedule": SCHEDULES, "decay_schedule": SCHEDULES,
}  # fmt: skip
_SWITCHES = "data_driven", "even_batches", "calibrate"
_FROM_1 = "batch_size", "epochs", "patience"
_FROM_0 = "periodic", "least_validation"
_OPTIONAL = (
    "init",
    "output_init",
    "dropout_schedule",
    "learning_rate",
    "beta2",
    "weight_decay",
    "decay_schedule",
    "patience",
)
"""The entries that may be None."""


@dataclass(frozen=True)
class Recipe:
    """Settings of a network and of its training.

    Attributes:
        name: that of the recipe.
        encoding: how the columns of a table become inputs.
        layers: the units of each hidden layer.
        activation: of all hidden layers, or one for each.
        init: of the weights of hidden layers; None: what suits the activation.
        output_init: of the weights of the output layer.
        data_driven: whether weights and biases are then fitted to the rows, see `gb.initialize_from_data`.
        periodic: how many frequencies a Periodic layer in front has for each number of a table; 0: there is none.
        periodic_rate: by what its learning rate is multiplied.
        scale: by what the learning rate of a Scale layer before the hidden ones is multiplied; 0: there is none.
        bias_rate: by what the learning rate of biases is multiplied.
        dropout, dropout_schedule: the share of hidden units that is left out of each step, and what it follows.
        optimizer, learning_rate, schedule: None: the optimizer's own rate. The schedule may be "plateau" too, which is
            `gb.ReduceOnPlateau`, of the validation loss, or of the training loss where nothing is validated on.
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

    Raises:
        InputError: an entry is not what is accepted.
    """

    name: str
    encoding: Encoding = PLAIN
    layers: tuple[int, ...] = (256,)
    activation: str | tuple[str, ...] = "relu"
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

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field.name, getattr(self, field.name))
        if not isinstance(self.activation, str) and len(self.activation) != len(self.layers):
            raise InputError(
                f"activation names {len(self.activation)} functions for {len(self.layers)} hidden layers; give one for "
                "all of them, or one for each."
            )

    def replace(self, **entries: Any) -> Recipe:
        """Returns the recipe with other entries. Another optimizer has its own learning rate, beta2 and weight decay
        where these are not among them; Adam and AdamW share the first two.

        Raises:
            InputError: there is no such entry, or it is not what is accepted.
        """
        known = [field.name for field in dataclasses.fields(self)]
        if unknown := [name for name in entries if name not in known]:
            raise argument_error(type(self), unknown, known)
        if (optimizer := entries.get("optimizer", self.optimizer)) != self.optimizer:
            entries = {"weight_decay": None, "decay_schedule": None, **entries}
            if {optimizer, self.optimizer} != {"adam", "adamw"}:
                entries = {"learning_rate": None, "beta2": None, **entries}
        return dataclasses.replace(self, **entries)

    def override(self, entries: Mapping[str, Any]) -> Recipe:
        """Returns the recipe with the entries that a user asked for, as `replace` does, and with what they imply: a
        batch size is just that, and a share of validation rows is kept however few rows that is."""
        implied: dict[str, Any] = {"even_batches": False} if "batch_size" in entries else {}
        if "validation" in entries:
            implied["least_validation"] = 0
        return self.replace(**{**implied, **entries})

    def __str__(self) -> str:
        return "\n".join(f"  {name:17} {value}" for name, value in self._told().items())

    def _repr_html_(self) -> str:
        return cell_output(table(self._told().items(), left=2, class_="facts"))

    def _told(self) -> dict[str, object]:
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
        return {name: value for name, value in told.items() if value is not None}

    def make_network(
        self, inputs: int, outputs: int, output: str, *, x: Array | None = None, numbers: int = 0,
        max_norm: float | None = None, **settings: Any,
    ) -> Network:  # fmt: skip
        """Makes a network.

        Args:
            output: the activation of the output layer: softmax for classes, identity for numbers.
            x: the rows that it will learn from, (rows, inputs), for what depends on them.
            numbers: how many of the inputs, from the first on, are numbers, see `Preprocessing.numbers`.
            max_norm: of the hidden layers, as of `Dense`.
            settings: as of `Network`.
        """
        net = Network(inputs, self.make_layers(inputs, outputs, output, numbers, max_norm), **settings)
        if self.data_driven and x is not None:
            initialize_from_data(net, x)
        return net

    def make_layers(
        self, inputs: int, outputs: int, output: str, numbers: int = 0, max_norm: float | None = None
    ) -> list[Layer]:
        """Makes the layers of a network, of what `make_network` takes."""
        layers: list[Layer] = []
        if self.periodic and numbers:
            layers.append(Periodic(numbers, self.periodic, learning_rate_factor=self.periodic_rate))
        if self.scale:
            layers.append(Scale(learning_rate_factor=self.scale))
        of_all = self.activation
        activations = [of_all] * len(self.layers) if isinstance(of_all, str) else of_all
        for units, name in zip(self.layers, activations, strict=True):
            layers.append(Dense(units, name, init=self.init, max_norm=max_norm, **self._rates()))
            if self.dropout:
                layers.append(Dropout(self.dropout, schedule=self.dropout_schedule))
        below = self.layers[-1] if self.layers else inputs
        weight = 1.0
        if self.init == "ntp" and self.output_init != "ntp":  # the output layer has ntp's rate, whatever it begins with
            weight = below**-0.5
        return [*layers, Dense(outputs, output, init=self.output_init, **self._rates(weight))]

    def make_prepared_network(
        self, preprocessing: Preprocessing, x: Array, *, output: str | None = None, seed: int = 0,
        members: int | None = None, **settings: Any,
    ) -> Network:  # fmt: skip
        """Makes a network for the rows x that a preprocessing gave, which it keeps, with the names of the classes.

        Args:
            output: the activation of the output layer; None: the one that suits the task.
            members: of an ensemble, whose mean is predicted and which have the seeds from `seed` on; None: there is one
                network.
            settings: as of `make_network`.
        """
        suits = "softmax" if preprocessing.task == "classification" else "identity"
        net = self.make_network(
            preprocessing.inputs, preprocessing.outputs, output or suits, x=x, numbers=preprocessing.numbers,
            seed=seed if members is None else range(seed, seed + members), **settings,
        )  # fmt: skip
        if members is not None:
            net.averaged = True
        net.preprocessing, net.classes = preprocessing, preprocessing.classes
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
        optimizer = self.make_optimizer() if optimizer is None else optimizer
        trainer = Trainer(network, loss, optimizer, batch_size=self.choose_batch_size(rows, folds), **settings)
        monitored = [self.monitor.removeprefix("val_")] if self.monitor not in ("val_loss", "loss") else []
        trainer.metrics = list(dict.fromkeys([*default_metrics(trainer.loss), *monitored, *metrics]))
        return trainer

    def choose_batch_size(self, rows: int, folds: int | None = None) -> int:
        """Returns the rows a step, where there are so many to train on, and as many folds as of `fit_options`."""
        apart = 1 / folds if folds else self.validation_share(rows)
        learned = max(1, rows - round(apart * rows))  # fit refuses 0
        return -(-learned // max(1, round(learned / self.batch_size))) if self.even_batches else self.batch_size

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

    def fit_options(self, rows: int, folds: int | None = None, validation: Any = None) -> dict[str, Any]:
        """Returns what `Trainer.fit` is told besides x and y, of which there are so many rows.

        Args:
            folds: of an ensemble, whose members hold out a fold each; None: there is none.
            validation: the rows that the best epoch is measured on, as `Trainer.fit` takes them; None: the recipe's
                share of the others.
        """
        share = 0.0 if folds or validation is not None else self.validation_share(rows)
        validated = bool(share or folds or validation is not None)
        callbacks: list[Any] = []
        how: dict[str, Any] = {"epochs": self.epochs, "validation_split": share, "callbacks": callbacks}
        if self.schedule == PLATEAU:
            callbacks.append(ReduceOnPlateau("val_loss" if validated else "loss"))
        if validated:
            how["early_stopping"] = EarlyStopping(self.monitor, self.patience or self.epochs, ties=self.ties)
            callbacks += [TemperatureScaling()] if self.calibrate else []
        given = {"folds": folds or None, "validation": validation}
        return how | {name: value for name, value in given.items() if value is not None}


def _check(name: str, value: Any) -> None:
    """Raises InputError where an entry of this name cannot be that."""
    if value is None and name in _OPTIONAL:
        return
    if name == "encoding" and not isinstance(value, Encoding):
        raise InputError(f"encoding must be an Encoding, got {value!r}.")
    if name == "layers":
        if not isinstance(value, (tuple, list)):
            raise InputError(f"layers must be the units of each hidden layer, as in (300, 100), got {value!r}.")
        for units in value:
            positive("the units of each of the layers", units)
    if name == "activation":
        for one in value if isinstance(value, (tuple, list)) else [value]:
            errors.choose(name, one, ACTIVATIONS)
    if name == "monitor" and (not isinstance(value, str) or value.removeprefix("val_") != "loss"):
        try:
            metric_named(str(value).removeprefix("val_"))
        except InputError as error:
            raise InputError(f"monitor must be loss or a metric, with val_ before it or not: {error}") from None
    if name in _NAMES:
        errors.choose(name, value, _NAMES[name])
    if name in _SWITCHES:
        switch(name, value)
    if name in _NUMBERS:
        number(name, value, *_NUMBERS[name])
    if name in _FROM_1:
        positive(name, value)
    if name in _FROM_0 and (isinstance(value, bool) or not isinstance(plain := scalar(value), int) or plain < 0):
        raise InputError(f"{name} must be an integer ≥ 0, got {value!r}.")


@explain_arguments
def tabular(task: str, rows: int, columns: int) -> Recipe:
    """For tables: RealMLP (Holzmüller et al. 2024, "Better by default") without its parametric activations, and with
    the best epoch by cross entropy after temperature, calibrated probabilities, and fewer epochs of many rows.

    Args:
        task: "classification" or "regression".
        rows: how many there are to train on.
        columns: of the table.

    Raises:
        InputError: there is no such task, or no row.
    """
    _check_data(task, rows)
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


@explain_arguments
def small_table(task: str, rows: int, columns: int) -> Recipe:
    """For tables of few rows, or of more columns than rows: more dropout where there are classes."""
    recipe = tabular(task, rows, columns).replace(name="small-table")
    return recipe.replace(dropout=0.3) if task == "classification" else recipe


@explain_arguments
def images(task: str, rows: int, columns: int) -> Recipe:
    """For images, whose pixels are all of one kind."""
    _check_data(task, rows)
    few = rows <= MANY_ROWS
    epochs = 2 * max(20, min(60, 60 * MANY_ROWS // rows))
    validation = max(0.1, min(0.2, 100 / rows))
    return Recipe("images", batch_size=32 if few else 128, epochs=epochs, validation=validation)


@explain_arguments
def plain(task: str, rows: int, columns: int) -> Recipe:
    """One hidden layer with dropout, and columns at mean 0 and standard deviation 1: what tables had before."""
    return images(task, rows, columns).replace(name="plain")


def _check_data(task: str, rows: int) -> None:
    errors.choose("task", task, dict.fromkeys(("classification", "regression")))
    positive("rows", rows)


RECIPES: Mapping[str, Callable[[str, int, int], Recipe]] = {
    "tabular": tabular, "small-table": small_table, "images": images, "plain": plain,
}  # fmt: skip
"""By name: functions of the task, the rows to learn from and the columns, which return a Recipe."""


BOTH_WAYS = ("identity", "leaky_relu")
"""The activations with which an output can be as far below 0 as above it."""


def any_number(output: str | None, loss: Loss | None) -> bool:
    """Tells whether outputs of this activation, by this loss, may be any numbers, so that a target can be scaled."""
    return (output or "identity") in BOTH_WAYS and (loss is None or loss.low == -math.inf)


def read_entries(words: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads entries that are text: "none", "true", "false", in small or large letters, numbers, and for `layers` and
    `activation` one or more with commas between them; returns those of a recipe, and those of its encoding.

    Raises:
        InputError: there is no such entry, or it is not what is accepted.
    """
    readers: Mapping[str, Callable[[str], Any]] = {"layers": _units, "activation": _activations}
    return divide_entries({name: readers.get(name, _value)(text) for name, text in words.items()})


def divide_entries(entries: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Checks entries; returns those of a recipe, and those of its encoding.

    Raises:
        InputError: there is no such entry, or it is not what is accepted.
    """
    of_recipe, of_encoding = ({field.name for field in dataclasses.fields(one)} for one in (Recipe, Encoding))
    settable = (of_recipe | of_encoding) - {"name", "encoding"}
    own: dict[str, Any] = {}
    encoding: dict[str, Any] = {}
    for name, value in entries.items():
        if name not in settable:
            meant = (argument.split("=")[0] for argument in meanings(ARGUMENTS, name))
            near = nearest(next((word for word in meant if word in settable), name), settable)
            raise InputError(f"a recipe has no entry {name!r}; {near}it has {', '.join(sorted(settable))}.")
        if name in of_encoding:
            encoding[name] = value
            continue
        own[name] = value
        _check(name, value)
    Encoding(**encoding)
    return own, encoding


def _activations(text: str) -> str | tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    return names if len(names) > 1 else names[0]


def _units(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(units) for units in text.split(",")) if text.lower() != "none" else ()
    except ValueError:
        raise InputError(f"layers must be whole numbers with commas between them, or none, got {text!r}.") from None


def _value(text: str) -> Any:
    if text.lower() in (words := {"none": None, "true": True, "false": False}):
        return words[text.lower()]
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if math.isfinite(value):
            return value
    return text


def choose(images: bool, rows: int, columns: int) -> str:
    """Returns the name of the recipe for data of which nothing is known but whether they are images, all pixels of one
    kind, and how many rows and columns they have."""
    if images:
        return "images"
    return "small-table" if rows <= SMALL_TABLE or columns > rows else "tabular"
