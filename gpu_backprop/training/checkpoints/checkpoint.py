"""The callback that writes checkpoints."""

from __future__ import annotations

import math
import os
import time
import warnings
from pathlib import Path
from typing import Any

from gpu_backprop.backend.attributes import FixedAttributes
from gpu_backprop.backend.errors import InputError, ModelFileError
from gpu_backprop.backend.folder_lock import FolderLock
from gpu_backprop.network.numbers import number, positive
from gpu_backprop.training.callbacks import FitState
from gpu_backprop.training.checkpoints.folder import keep_newest, next_path, numbered
from gpu_backprop.training.checkpoints.record_file import write_record
from gpu_backprop.training.metrics import larger_is_better
from gpu_backprop.training.saving import save

BEST = "best.safetensors"


class Checkpoint(FixedAttributes):
    """A callback that writes all that training goes on from to a folder, so that `trainer.resume(folder)` goes on after
    whatever ends the process, to the same bits.

    The first one is written before the first step, so that a folder that can't be written is an error then. Each is
    safe on the disk before an older one is removed. One that can't be written is a warning, and training goes on. No
    other process can use the folder meanwhile. Where training is stopped, one is written after its last step. Of
    several ranks, the first one writes, and any number of them goes on.

    Args:
        folder: made where it is not there. One that holds checkpoints must have been resumed from.
        every_steps, every_seconds: how often, counted in steps, or in seconds since the last one; within an epoch as
            well. Neither: after every epoch. Seconds are looked at whenever the device was given work: on CUDA, that
            may be eight steps at once or a launch of them; to count steps, each has to be a launch of its own.
        keep: how many of them, the newest.
        best: whether the network with the best val_loss, or loss where nothing is held out, is saved as
            best.safetensors too, which `gpu_backprop.load` reads; or the name of another column of the history.
    """

    only_reads = True
    settable = "keep", "best", "figure"

    def __init__(
        self, folder: str | os.PathLike[str], *, every_steps: int | None = None, every_seconds: float | None = None,
        keep: int = 3, best: bool | str = False,
    ) -> None:  # fmt: skip
        self.folder, self.keep, self.best = Path(folder), positive("keep", keep), best
        self.every_steps = None if every_steps is None else positive("every_steps", every_steps)
        accepted = "a finite number of seconds > 0"
        if every_seconds is not None:
            every_seconds = number("every_seconds", every_seconds, accepted, lambda s: 0 < s < math.inf)
        self.every_seconds = every_seconds
        self.figure: float | None = None  # the best so far
        self._lock: FolderLock | None = None
        self._written: tuple[int, int] | None = None  # epoch and step of the newest
        self._steps, self._next = 0, math.inf
        if every_steps is not None or every_seconds is not None:
            self.on_step = self._write_unless_impossible
            self.each_step = every_steps is not None

    def on_start(self, state: FitState) -> None:
        """Writes the first one, or raises InputError."""
        trainer = state.trainer
        if self.best is not False and trainer.network.models_shape:
            raise InputError(
                "best= is for one network, and this one has several members, each with its own best epoch."
            )
        self._written = None
        try:
            with trainer.communicator.alike():
                if trainer.communicator.rank == 0:
                    self._open(trainer)
            self._write(state)
        except BaseException as error:
            self._release()
            if isinstance(error, OSError):
                raise InputError(f"cannot write checkpoints to {str(self.folder)!r}: {error.strerror}.") from error
            raise
        trainer.checkpoint_folders.add(self.folder.resolve())

    def _open(self, trainer: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.folder, "a folder of checkpoints")
        if numbered(self.folder) and self.folder.resolve() not in trainer.checkpoint_folders:
            raise InputError(
                f"{str(self.folder)!r} holds checkpoints: go on from them, by trainer.resume, or choose another "
                "folder, or remove them."
            )

    def is_due(self) -> bool:
        """Counts a call, which is a step where steps count, and tells whether one is to be written after it."""
        self._steps += 1
        if self.every_steps is not None and self._steps % self.every_steps == 0:
            return True
        return time.monotonic() >= self._next

    def on_epoch(self, state: FitState) -> None:
        """Writes one where they are written after epochs; and the best network."""
        if self.best is not False:
            self._keep_best(state)
        if self.every_steps is None and self.every_seconds is None:
            self._write_unless_impossible(state)

    def on_end(self, state: FitState) -> None:
        """Writes the last one, unless training ended in the middle of something."""
        try:
            begun = self._written is not None
            if begun and state.trainer.running.run.whole and self._written != (state.epoch, state.step):
                self._write_unless_impossible(state)
        finally:
            self._release()

    def state(self) -> dict[str, Any]:
        """Returns what goes over to another process."""
        return {"figure": self.figure, "best": self.best}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes what `state` gave; the best of another column is none of this one."""
        self.figure = state["figure"] if state["best"] == self.best else None

    def _write(self, state: FitState) -> None:
        fit, communicator = state.trainer.running, state.trainer.communicator
        if fit.run.done and not fit.run.is_finite():
            return  # the run itself says so, when the epoch ends at the latest
        record = fit.record()
        with communicator.alike():
            if communicator.rank == 0:
                write_record(next_path(self.folder), record, state.trainer.device)
                keep_newest(self.folder, self.keep)
        self._written = state.epoch, state.step
        self._set_next()

    def _write_unless_impossible(self, state: FitState) -> None:
        try:
            self._write(state)
        except OSError as error:
            self._warn("a checkpoint", error)

    def _keep_best(self, state: FitState) -> None:
        row = state.row or {}
        name = self.best if isinstance(self.best, str) else ("val_loss" if "val_loss" in row else "loss")
        if name not in row:
            raise InputError(f"best={name!r} is no column of the history: {', '.join(row)}.")
        if state.trainer.communicator.rank:  # the first one writes
            return
        sign = 1 if larger_is_better(name, state.trainer.metrics or ()) else -1
        better = self.figure is None or sign * row[name] > sign * self.figure
        if better and not math.isnan(row[name]):  # with which nothing compares as better
            try:
                with state.trainer.training_step.averaging.measured():  # validation has measured the same
                    save(self.folder / BEST, state.trainer, allow_nonfinite=True)
            except ModelFileError as error:
                self._warn("the best network", error)
            else:
                self.figure = row[name]

    def _warn(self, what: str, error: Exception) -> None:
        self._set_next()
        why = getattr(error, "strerror", None) or str(error)
        said = f"cannot write {what} to {str(self.folder)!r} ({why}); training goes on, and those that are there stay"
        warnings.warn(said, RuntimeWarning, stacklevel=2)

    def _set_next(self) -> None:
        self._next = time.monotonic() + (math.inf if self.every_seconds is None else self.every_seconds)

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None
