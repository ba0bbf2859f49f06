"""What callbacks share that watch how a column of the history gets better."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from gpu_backprop.backend.attributes import FixedAttributes
from gpu_backprop.backend.errors import InputError, choose
from gpu_backprop.backend.formula import Array
from gpu_backprop.network.numbers import number, positive
from gpu_backprop.training.callbacks import FitState
from gpu_backprop.training.metrics import larger_is_better

VALIDATION = "val_"
"""What the columns of a history begin with that were measured on validation data."""

MODES = {"min": 1.0, "max": -1.0}
"""What a monitored value is multiplied by, so that smaller is better."""


class Monitor(FixedAttributes):
    """A callback that watches a column.

    Attributes:
        settings: the names of its own, as they are shown, and compared where a fit goes on in another process.
        called: what it is called where the column is unknown.
    """

    settings: ClassVar[tuple[str, ...]]
    called: ClassVar[str]

    def __init__(self, monitor: str, mode: str | None, patience: int, min_delta: float) -> None:
        if not isinstance(monitor, str):
            raise InputError(f"monitor must be the name of a column of the history, as 'val_loss' is, got {monitor!r}.")
        if mode is not None:
            choose("mode", mode, MODES)
        self.monitor, self.mode, self._sign = monitor, mode, 1.0
        self.patience = positive("patience", patience)
        self.min_delta = number("min_delta", min_delta, "a finite number ≥ 0", lambda v: 0 <= v < math.inf)
        self._numbers: dict[str, Array] = {}  # those of each member, as `state` names them

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.settings)})"

    @property
    def needs_validation(self) -> bool:
        """Whether what it monitors is measured on validation data; a fit without them is an error then."""
        return self.monitor.startswith(VALIDATION)

    def state(self) -> dict[str, Any]:
        """Returns what a resumed fit goes on from: arrays on the host, one number a member."""
        return {name: array.copy() for name, array in self._numbers.items()}

    def _find_sign(self, trainer: Any) -> None:
        """Finds whether larger values are better: by the mode, or by what is known of the metric."""
        if self.mode is not None:
            self._sign = MODES[self.mode]
            return
        try:
            self._sign = -1.0 if larger_is_better(self.monitor, trainer.metrics or ()) else 1.0
        except InputError as error:
            name = f"{type(self).__name__}({self.monitor!r}, mode='min')"
            raise InputError(f"{error} Or give {name} or mode='max'.") from None

    def _value(self, state: FitState) -> Array:
        """Returns the value of the epoch that has ended, of each member; a smaller one is better."""
        assert state.row is not None
        value: Array = self._sign * np.asarray(choose(f"monitor of {self.called}", self.monitor, state.row), np.float64)
        return value
