"""Recipes: tables of settings that are good where nothing else was asked for, for one kind of data each.

`gb.recipes.tabular(task, rows, columns)` returns one; `recipe.replace(epochs=50)` overrides entries, and
`recipe.build_network` and `recipe.build_trainer` make what it describes. `gpu-backprop train` takes them by name.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from gpu_backprop.data.encoding import PLAIN, Encoding


@dataclass(frozen=True)
class Recipe:
    """Settings of a network and of its training.

    Attributes:
        name: that of the recipe.
        encoding: how the columns of a table become inputs.
        layers: the units of each hidden layer.
        activation: of the hidden layers.
        dropout: the share of hidden units that is left out of each step.
        optimizer, learning_rate, schedule: names, and the rate; None: the optimizer's own.
        batch_size, epochs: rows a step, and passes over the training rows at most.
        patience: of early stopping; None: it trains to the end, and keeps the best epoch all the same.
        label_smoothing: of cross entropy.
        monitor: the column of the history by which the best epoch is found.
        calibrate: whether the temperature of the probabilities is fitted to the validation rows.
    """

    name: str
    encoding: Encoding = PLAIN
    layers: tuple[int, ...] = (256,)
    activation: str = "relu"
    dropout: float = 0.4
    optimizer: str = "adam"
    learning_rate: float | None = 0.003
    schedule: str = "constant"
    batch_size: int = 32
    epochs: int = 120
    patience: int | None = 20
    label_smoothing: float = 0.0
    monitor: str = "val_loss"
    calibrate: bool = False

    def replace(self, **entries: Any) -> Recipe:
        """Returns the recipe with other entries."""
        return dataclasses.replace(self, **entries)


def plain(task: str, rows: int, columns: int) -> Recipe:
    """What `train` did before there were recipes: one hidden layer with dropout."""
    return Recipe("plain")
