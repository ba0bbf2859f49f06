"""A learning rate that falls where a fit gets no better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpu_backprop.network.numbers import is_zero, number, positive
from gpu_backprop.training.callbacks import FitState
from gpu_backprop.training.monitor import Monitor


class ReduceOnPlateau(Monitor):
    """A callback that multiplies the learning rate by `factor` when a measurement has not improved for some epochs.
    With a models axis, each member has a rate of its own.

    It sets trainer.optimizer.learning_rate, which stays so after the fit; what a schedule makes of it is a factor on
    top. Each fit begins anew. An epoch whose measurement is NaN is no improvement.

    Args:
        monitor: a column of the history: "val_loss", "val_accuracy", "loss" ...
        factor: in (0, 1).
        patience: after how many epochs without an improvement, ≥ 1; PyTorch's ReduceLROnPlateau counts one less.
        min_delta: by how much a value has to be better than the best to count as an improvement, ≥ 0, in its units.
        cooldown: for how many epochs after a reduction none is counted, ≥ 0.
        minimum: ≥ 0, below which the learning rate does not fall.
        mode: "min" or "max", whether a small or a large value is good; None: as is known of the metric.

    Raises:
        InputError: a setting is wrong; when a fit begins, `monitor` is of validation data, and there are none, or
            nothing is known of its mode; after the first epoch, no such column was measured.
    """

    sets_rate = True
    called = "ReduceOnPlateau"
    settings = settable = "monitor", "factor", "patience", "min_delta", "cooldown", "minimum", "mode"

    def __init__(
        self, monitor: str = "val_loss", factor: float = 0.1, patience: int = 10, min_delta: float = 0.0,
        cooldown: int = 0, minimum: float = 0.0, mode: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(monitor, mode, patience, min_delta)
        self.factor = number("factor", factor, "a number in (0, 1)", lambda v: 0 < v < 1)
        self.cooldown = 0 if is_zero(cooldown) else positive("cooldown", cooldown)
        self.minimum = number("minimum", minimum, "a finite number ≥ 0", lambda v: 0 <= v < math.inf)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state` returned, in a fit that has begun."""
        self._numbers = {name: np.array(array) for name, array in state.items()}

    def on_start(self, state: FitState) -> None:
        """Forgets the fit before."""
        self._find_sign(state.trainer)
        shape = state.trainer.network.models_shape
        self._numbers = {
            "best": np.full(shape, np.inf),  # the smallest value yet; one that is good if large is negative here
            "waited": np.zeros(shape, np.int64),  # epochs in a row without an improvement
            "cooling": np.zeros(shape, np.int64),  # epochs of the cooldown that are left
        }

    def on_epoch(self, state: FitState) -> None:
        """Reduces the learning rate of those that have waited long enough."""
        value = self._value(state)
        best, waited, cooling = (self._numbers[name] for name in ("best", "waited", "cooling"))
        better = value < best - self.min_delta
        np.copyto(best, value, where=better)
        waited += 1
        np.copyto(waited, 0, where=better | (cooling > 0))
        np.maximum(cooling - 1, 0, out=cooling)
        due = waited >= self.patience
        if not due.any():
            return
        np.copyto(waited, 0, where=due)
        np.copyto(cooling, self.cooldown, where=due)
        optimizer = state.trainer.optimizer
        rate = np.asarray(optimizer.learning_rate)
        lower = np.maximum(rate * self.factor, self.minimum)
        optimizer.learning_rate = np.where(due & (lower > 0) & (lower < rate), lower, rate).tolist()
