"""Early stopping: a fit ends where it gets no better, and its parameters are those of its best epoch."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import DivergedError, InputError, choose
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.snapshot import copy_members
from gpu_backprop.data.messages import counted
from gpu_backprop.network.numbers import switch
from gpu_backprop.training.callbacks import FitState
from gpu_backprop.training.monitor import Monitor

TIES = _, LAST = "first", "last"


class EarlyStopping(Monitor):
    """A callback that ends a fit when a measurement has not improved for some epochs, and gives the network the
    parameters of the best epoch, however the fit ends: also at its full length, or by Ctrl-C, an error or a divergence.
    `trainer.fit(x, y, early_stopping=True)` makes one with these defaults.

    Where there is a models axis, each member has a best epoch and a stop of its own, after which it changes no more;
    the fit ends when all have stopped, or diverged under fit(on_divergence="stop"). With Trainer(average=...) the best
    parameters are averages, which are what is measured. An epoch whose measurement is NaN is no improvement. Each fit
    begins anew.

    Args:
        monitor: a column of the history: "val_loss", "val_accuracy", "loss" ...
        patience: after how many epochs without an improvement it ends, ≥ 1.
        min_delta: by how much a value has to be better to count as an improvement, ≥ 0, in its units. The best epoch is
            the one with the best value all the same.
        restore_best: False: the parameters stay those of the last epoch.
        mode: "min" or "max", whether a small or a large value is good; None: as is known of the metric.
        ties: "first" or "last", which of several epochs with the best value is the best one.

    Raises:
        InputError: a setting is wrong; when a fit begins, `monitor` is of validation data, and there are none, or
            nothing is known of its mode; after the first epoch, no such column was measured.
    """

    settings = settable = "monitor", "patience", "min_delta", "restore_best", "mode", "ties"
    called = "early stopping"

    def __init__(
        self, monitor: str = "val_loss", patience: int = 10, min_delta: float = 0.0, restore_best: bool = True,
        mode: str | None = None, ties: str = TIES[0],
    ) -> None:  # fmt: skip
        super().__init__(monitor, mode, patience, min_delta)
        choose("ties", ties, dict.fromkeys(TIES))
        self.ties = ties
        self.restore_best = switch("restore_best", restore_best)
        self._best: Array | None = None
        self._loaded: Mapping[str, Any] | None = None
        self._trainer: Any = None

    def state(self) -> dict[str, Any]:
        """Returns what a resumed fit goes on from: numbers of each member, and the best parameters, on the host."""
        best = {} if self._best is None else {"parameters": self._trainer.device.to_host(self._best)}
        return super().state() | best

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state` returned, now if a fit runs, else when the next one begins."""
        self._loaded = state
        if self._numbers:
            self._load()

    def on_start(self, state: FitState) -> None:
        """Makes room for the best parameters, and forgets the fit before."""
        self._trainer, network = state.trainer, state.trainer.network
        self._numbers, shape = {}, network.models_shape
        self._find_sign(state.trainer)
        self._numbers = {
            "best": np.full(shape, np.inf),  # the smallest value yet; one that is good if large is negative here
            "reference": np.full(shape, np.inf),  # that which a value has to improve on by min_delta
            "best_epoch": np.zeros(shape, np.int64),  # 0: none yet
            "improved": np.full(shape, state.epoch - 1),
            "running": np.ones(shape, np.bool_),
        }
        self._best = network.device.copy(network.parameters) if self.restore_best else None
        if self._loaded is not None:
            self._load()
        self._tell()

    def on_epoch(self, state: FitState) -> str | None:
        """Keeps the parameters where they are the best yet; says why the fit is to end, where it is."""
        value = self._value(state)
        numbers, running = self._numbers, self._numbers["running"]
        np.copyto(running, False, where=self._trainer.training_step.ended)
        better = value < numbers["best"]
        if self.ties == LAST:
            better |= (value == numbers["best"]) & np.isfinite(value)
        better &= running
        np.copyto(numbers["best"], value, where=better)
        np.copyto(numbers["best_epoch"], state.epoch, where=better)
        improved = running & (value < numbers["reference"] - self.min_delta)
        np.copyto(numbers["reference"], value, where=improved)
        np.copyto(numbers["improved"], state.epoch, where=improved)
        if self._best is not None:
            step = self._trainer.training_step
            copy_members(step.device, better, step.measured_parameters, self._best)
        np.logical_and(running, state.epoch - numbers["improved"] < self.patience, out=running)
        self._tell()
        return None if running.any() else self._reason()

    def on_end(self, state: FitState) -> None:
        """Gives the network the best parameters; those of a member that has none yet stay."""
        if not self._numbers:  # on_start ended early
            return
        found, best, self._best = self._numbers["best_epoch"] > 0, self._best, None
        self._numbers["running"][...] = True  # in what comes after the fit
        self._tell()
        if best is None or not found.any():
            return
        network, history = self._trainer.network, self._trainer.history
        for parameters in (self._trainer.training_step.measured_parameters, network.parameters):
            copy_members(network.device, found, best, parameters)
        network.refresh()
        whose = "each member's are" if found.ndim else "they are"
        told = f"of epoch {history.best_epoch}" if not found.ndim else "of its best epoch"
        if history.stopped:
            history.stopped += f"; the parameters are those {told}"
        if isinstance(error := sys.exception(), DivergedError):
            error.add_note(f"Then early stopping brought back the best parameters: {whose} those {told}.")

    def _reason(self) -> str:
        since = self._numbers["improved"]
        if since.ndim:
            return f"{self.monitor} of no member has improved for {counted(self.patience, 'epoch')}"
        if not self._numbers["best_epoch"]:
            return f"{self.monitor} was NaN or infinite in every epoch"
        return f"{self.monitor} has not improved since epoch {since}"

    def _tell(self) -> None:
        """Puts the best epoch into the history, and lets steps change the members that have not stopped, no others."""
        epochs, step = self._numbers["best_epoch"], self._trainer.training_step
        if epochs.any():
            self._trainer.history.best_epoch = epochs.tolist()
        if step.running is not None:
            step.running = self._numbers["running"]

    def _load(self) -> None:
        loaded, self._loaded = self._loaded, None
        assert loaded is not None
        for name, array in self._numbers.items():
            array[...] = loaded[name]
        if self._best is not None and "parameters" in loaded:
            self._trainer.device.copy_in(self._best, loaded["parameters"])
        self._tell()


def with_early_stopping(given: Any, callbacks: Any) -> Any:
    """Puts what `fit` was given as early_stopping in front of the callbacks, so that they see the best epoch, and at
    the end what it was trained to last."""
    if given is None or given is False:
        return callbacks
    if not isinstance(given, (bool, EarlyStopping)):
        raise InputError(f"early_stopping must be True, False or a gpu_backprop.EarlyStopping, got {given!r}.")
    first = EarlyStopping() if given is True else given
    return [first, *callbacks] if isinstance(callbacks, (list, tuple)) else callbacks  # else fit says what is wrong


def early_stopping_of(callbacks: Sequence[Any]) -> EarlyStopping | None:
    """Finds the EarlyStopping among callbacks."""
    found = [callback for callback in callbacks if isinstance(callback, EarlyStopping)]
    if len(found) > 1:
        raise InputError("a fit has one EarlyStopping, whose best parameters it keeps, but several were given.")
    return found[0] if found else None
