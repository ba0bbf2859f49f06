"""What is measured: a network, a minibatch, and how it is trained; and data that it can be trained on."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

import gpu_backprop as gb
from gpu_backprop.backend.communicator import Communicator
from gpu_backprop.backend.formula import Array
from gpu_backprop.commands.building import read_design


@dataclass(frozen=True)
class Workload:
    """A network of Dense layers and how it is trained.

    Attributes:
        widths: the inputs, then the units of each layer.
        batch: rows of a minibatch.
        activation: of the hidden layers, one for all or one for each, and one more for the output; none: relu.
        loss: a name; it decides the output's activation where that is not given.
        optimizer: a name.
        learning_rate: None: the optimizer's own.
        dropout: the share of hidden units that is left out.
        models: how many networks train side by side; 0: one, without a models axis.
        dtype, device: as `gb.Network` takes them.
    """

    widths: tuple[int, ...]
    batch: int = 128
    activation: tuple[str, ...] = ()
    loss: str = "cross_entropy"
    optimizer: str = "adam"
    learning_rate: float | None = None
    dropout: float = 0.0
    models: int = 0
    dtype: str = "float32"
    device: str = "auto"

    def __str__(self) -> str:
        return "-".join(map(str, self.widths))

    def layers(self) -> list[gb.Dense | gb.Dropout]:
        """The layers, as `gpu-backprop train` would choose their activations."""
        *hidden, outputs = self.widths[1:]
        wanted = read_design(argparse.Namespace(loss=self.loss, activation=self.activation, layers=hidden))
        layers: list[gb.Dense | gb.Dropout] = []
        activations = wanted.activations or ("relu",)
        each = activations * len(hidden) if len(activations) == 1 else activations
        for units, activation in zip(hidden, each, strict=True):
            layers.append(gb.Dense(units, activation))
            if self.dropout:
                layers.append(gb.Dropout(self.dropout))
        return [*layers, gb.Dense(outputs, wanted.output or "identity")]

    def trainer(self, communicator: Communicator | None = None) -> gb.Trainer:
        """A new network with initial weights of seed 0, and what trains it: this process, or these ranks."""
        optimizer = gb.OPTIMIZERS[self.optimizer]()
        if self.learning_rate is not None:
            optimizer.learning_rate = self.learning_rate
        seed = range(self.models) if self.models else 0
        net = gb.Network(self.widths[0], self.layers(), dtype=self.dtype, device=self.device, seed=seed)
        return gb.Trainer(net, self.loss, optimizer, batch_size=self.batch, communicator=communicator)

    def data(self, rows: int) -> tuple[Array, Array]:
        """So many samples: normal x, and targets that the loss takes, which there is nothing to learn from."""
        rng, outputs = np.random.default_rng(0), self.widths[-1]
        x = rng.standard_normal((rows, self.widths[0]), np.float64 if self.dtype == "float64" else np.float32)
        loss = gb.LOSSES[self.loss]
        if loss.labels:
            return x, rng.integers(0, outputs, rows)
        if loss.low == 0:
            return x, rng.integers(0, 2, (rows, outputs)).astype(x.dtype)
        return x, rng.standard_normal((rows, outputs), x.dtype)

    def described(self, trainer: gb.Trainer) -> dict[str, Any]:
        """All of it, as it goes into a file."""
        return {
            "network": str(self),
            "batch": self.batch,
            "activations": [layer.activation.name for layer in trainer.network.layers if isinstance(layer, gb.Dense)],
            "dropout": self.dropout,
            "models": self.models or 1,
            "loss": trainer.loss.name,
            "optimizer": repr(trainer.optimizer),
            "dtype": self.dtype,
            "device": trainer.device.name,
            "why this device": trainer.device.reason,
            "parameters": sum(array.size for _, array, _ in trainer.network.parameter_arrays()),
        }


def widths(text: str) -> tuple[int, ...]:
    """784-512-512-10, or 1024x4-10 for 1024-1024-1024-1024-10."""
    found: list[int] = []
    for part in text.split("-"):
        match = re.fullmatch(r"([1-9][0-9]{0,8})(?:[x×]([1-9][0-9]{0,3}))?", part)
        if match is None:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a network: give its inputs and the units of each layer, as in 784-512-512-10, or "
                "1024x4-10 for 1024-1024-1024-1024-10"
            )
        found += [int(match[1])] * int(match[2] or 1)
    if len(found) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} has inputs and no layer: give the units too, as in 784-10")
    return tuple(found)
