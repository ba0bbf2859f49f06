"""The network, loss and optimizer that the options of train describe."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

import gpu_backprop as gb
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.lazy_rows import LazyRows
from gpu_backprop.commands.datasets import Samples
from gpu_backprop.commands.errors import Misuse
from gpu_backprop.data import Preprocessing
from gpu_backprop.training.metrics import default_metrics
from gpu_backprop.training.optimizer import PENALTIES

ADAM_RATE, EPOCHS, BATCH = 0.003, 60, 32
"""Together with the other defaults these did well on fifteen data sets of 150 to 8,000 rows. Other optimizers have
default rates of their own."""

MANY_ROWS, LEAST_EPOCHS, LARGE_BATCH = 10_000, 20, 128
"""With more rows, fewer epochs of larger minibatches are enough; on MNIST they do better."""

PATIENCE, LONGER = 20, 2
"""Of early stopping: the epochs without an improvement, and how many times as many epochs there may be with it."""

VALIDATION, MOST_VALIDATION, VALIDATION_ROWS, LEAST_VALIDATION = 0.1, 0.2, 100, 10
"""The share of the training rows that early stopping is decided by, and the most, where that makes fewer than so many
rows; with fewer than the last, chance would choose the epoch, and there is none. bench/tables.py measures all of it."""

BOTH_WAYS = ("identity", "leaky_relu")
"""The activations with which an output can be as far below 0 as above it."""


@dataclass(frozen=True)
class Design:
    """The activations and the loss that --activation and --loss ask for.

    Attributes:
        hidden: the activation of each hidden layer.
        output: that of the output layer; None: the one that suits the task.
        loss: None: the one that suits the output.
    """

    hidden: list[str]
    output: str | None
    loss: gb.Loss | None

    @property
    def any_number(self) -> bool:
        """Whether outputs may be any numbers, so that a target can be scaled."""
        return (self.output or "identity") in BOTH_WAYS and (self.loss is None or self.loss.low == -math.inf)


def read_design(options: argparse.Namespace) -> Design:
    """Read --activation and --loss."""
    loss = None if options.loss is None else gb.LOSSES[options.loss]
    output = loss.needs[0] if loss is not None and loss.needs else None
    given, layers = list(options.activation or ["relu"] * len(options.layers)), len(options.layers)
    if len(given) == 1 and layers > 1:
        given *= layers
    if len(given) == layers + 1:
        output = given.pop()
    if len(given) != layers:
        raise Misuse(
            f"--activation names {len(given)} functions for {layers} hidden layers; give one for all of them, one for "
            "each, or one for each and one for the output"
        )
    return Design(given, output, loss)


def build_network(options: argparse.Namespace, design: Design, preprocessing: Preprocessing) -> gb.Network:
    """Build hidden layers with dropout and an output for each class or number; the network keeps its preprocessing."""
    classes = preprocessing.task == "classification"
    if design.loss is not None and design.loss.labels and not classes:
        raise Misuse(
            f"--loss {design.loss.name} is for classes, and this is regression; choose another, or --task "
            "classification"
        )
    layers: list[gb.Dense | gb.Dropout] = []
    for units, activation in zip(options.layers, design.hidden, strict=True):
        layers.append(gb.Dense(units, activation, max_norm=options.max_norm))
        if options.dropout:
            layers.append(gb.Dropout(options.dropout))
    layers.append(gb.Dense(preprocessing.outputs, design.output or ("softmax" if classes else "identity")))
    net = gb.Network(
        preprocessing.inputs, layers, dtype=options.dtype, device=options.device, tf32=options.tf32, seed=options.seed
    )
    net.preprocessing, net.classes = preprocessing, preprocessing.classes
    return net


def build_trainer(options: argparse.Namespace, design: Design, net: gb.Network, rows: int) -> gb.Trainer:
    """Build a trainer of the network for so many rows."""
    penalties = {name: value for name in PENALTIES if (value := getattr(options, name)) is not None}
    optimizer = gb.OPTIMIZERS[options.optimizer](**penalties)
    if options.learning_rate is not None:
        optimizer.learning_rate = options.learning_rate
    elif options.optimizer in ("adam", "adamw"):
        optimizer.learning_rate = ADAM_RATE
    named = options.schedule not in ("constant", "plateau")
    if options.warmup:
        optimizer.schedule = gb.Warmup(options.warmup, options.schedule if named else "constant")
    elif named:
        optimizer.schedule = options.schedule
    batch_size = options.batch_size or (BATCH if rows <= MANY_ROWS else LARGE_BATCH)
    steps = {name: getattr(options, name) for name in ("clip_norm", "average", "accumulate", "clip_value")}
    trainer = gb.Trainer(net, design.loss, optimizer, batch_size=batch_size, **steps)
    trainer.metrics = list(dict.fromkeys([*default_metrics(trainer.loss), *options.metrics]))
    return trainer


def choose_callbacks(options: argparse.Namespace, validated: bool) -> list[gb.ReduceOnPlateau | gb.TensorBoard]:
    """Return what the schedule "plateau" is, which looks at training data where there are none to validate on, and what
    --tensorboard asks for."""
    callbacks: list[gb.ReduceOnPlateau | gb.TensorBoard] = []
    if options.schedule == "plateau":
        callbacks.append(gb.ReduceOnPlateau("val_loss" if validated else "loss"))
    if options.tensorboard is not None:
        callbacks.append(gb.TensorBoard(options.tensorboard))
    return callbacks


def choose_stopping(options: argparse.Namespace, rows: int) -> dict[str, Any]:
    """Return what Trainer.fit is told of early stopping, with so many rows to learn from."""
    early, share = not options.no_early_stopping, options.validation
    if share is None:
        share = max(VALIDATION, min(MOST_VALIDATION, VALIDATION_ROWS / rows))
        share = share if early and share * rows >= LEAST_VALIDATION else 0.0
    stopping = gb.EarlyStopping(patience=options.patience or PATIENCE) if early and share else None
    return {"validation_split": share, "early_stopping": stopping}


def choose_epochs(rows: int, early_stopping: bool) -> int:
    """Choose the number of epochs for so many rows, at most."""
    return max(LEAST_EPOCHS, min(EPOCHS, EPOCHS * MANY_ROWS // rows)) * (LONGER if early_stopping else 1)


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
