"""One fit: all is checked and gets its place, then the epochs run; however they end, what was learned is kept."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import InputError, choose
from gpu_backprop.data.stored_rows import StoredRows
from gpu_backprop.network.numbers import positive
from gpu_backprop.network.samples import Samples, samples
from gpu_backprop.training import memory
from gpu_backprop.training.callbacks import Callbacks
from gpu_backprop.training.checkpoints.fingerprint import fingerprint
from gpu_backprop.training.checkpoints.recipe import describe
from gpu_backprop.training.checkpoints.running_fit import RunningFit
from gpu_backprop.training.console import in_notebook
from gpu_backprop.training.early_stopping import EarlyStopping, early_stopping_of, with_early_stopping
from gpu_backprop.training.evaluation import Evaluation, held_out_samples
from gpu_backprop.training.fit_schedule import FitSchedule
from gpu_backprop.training.folds import choose_folds
from gpu_backprop.training.history import INTERRUPTED, History
from gpu_backprop.training.member_rows import choose_measured, choose_rows, names_rows, of_members
from gpu_backprop.training.one_launch import CHOSEN, decide
from gpu_backprop.training.progress import Progress, open_progress
from gpu_backprop.training.row_logs import CsvLog
from gpu_backprop.training.row_weights import ClassWeight, hold_out, validation_share, weighted_by_class
from gpu_backprop.training.run import HALVE_RATE, ON_DIVERGENCE, STOP, Run
from gpu_backprop.training.streaming import given_rows, is_streamed
from gpu_backprop.training.unscaled import warn_of_unscaled


class Fit:
    """What `Trainer.fit` does, with its arguments. Nothing has happened where to make one raises an error."""

    def __init__(
        self, trainer: Any, x: Any, y: Any, epochs: int, *, weights: Any, class_weight: ClassWeight, validation: Any,
        validation_split: float, shuffle: bool, early_stopping: bool | EarlyStopping | None,
        csv: str | os.PathLike[str] | None, progress: bool, loss_every: int | None, callbacks: Sequence[Any],
        on_divergence: str, folds: Any, rows: Any,
    ) -> None:  # fmt: skip
        self.trainer, self.step, self.network = trainer, trainer.training_step, trainer.network
        self.history: History = trainer.history
        self.csv, self.progress = csv, progress
        epochs = positive("epochs", epochs)
        data = samples(
            self.network, trainer.loss, *given_rows(x, y, weights), values=True, idle=False, learn=True, apart=True,
            communicator=trainer.communicator,
        )  # fmt: skip
        self.network.trained_by = self.network.intervals = None  # they say nothing of the weights that come
        if loss_every is not None:
            loss_every = positive("loss_every", loss_every)
        choose("on_divergence", on_divergence, dict.fromkeys(ON_DIVERGENCE))
        if on_divergence == STOP and not self.network.models_shape:
            raise InputError(
                "on_divergence='stop' stops the members that diverge, and there is no models axis: use 'raise'."
            )
        callbacks = with_early_stopping(early_stopping, callbacks)
        self.callbacks = told = Callbacks(trainer, callbacks)
        stopper = early_stopping_of(callbacks)
        self.keeps_best = stopper is not None and stopper.restore_best
        share = validation_share(validation_split, validation, bool(early_stopping), callbacks, folds)
        data, held_out = self._divide(data, validation, share, class_weight, folds, rows)

        self.resumed = trainer.resumed
        first = len(self.history) + 1 if self.resumed is None else self.resumed.first
        steps = -(-data.rows // trainer.batch_size)
        self.schedule = schedule = FitSchedule(self.network, trainer.optimizer, first, epochs, steps)
        halves = on_divergence == HALVE_RATE
        before = None if self.resumed is None else self.resumed.record.get("in_one_launch")
        chosen = decide(self.step, trainer.settings, data, loss_every, bool(schedule), bool(told.each_step), before)
        settings = trainer.settings._replace(one_launch=chosen)
        rooms = memory.require_fit(self.step, settings, data, held_out, shuffle, self.keeps_best, halves, schedule)
        if chosen == CHOSEN and is_streamed(self.step.device, data, trainer.stream, rooms[0]):
            settings = settings._replace(one_launch=False)
            rooms = memory.require_fit(self.step, settings, data, held_out, shuffle, self.keeps_best, halves, schedule)
        source = trainer.place(data, "training data", rooms[0], shuffle)
        after_step = told.after_step if told.have_on_step else lambda _: trainer.stopping
        self.step.averaging.begin(anew=self.resumed is None)
        self.run = Run(
            self.step, source, settings, self.history, shuffle, loss_every, after_step, told.repeatable, halves,
            schedule, bool(told.each_step), on_divergence == STOP,
        )  # fmt: skip
        self.running = RunningFit(trainer, self.run, told, data, held_out, on_divergence, first)
        if self.resumed is not None:
            self.resumed.go_on(self.running)
        self.first, self.last = first, first + epochs - 1
        self.evaluation = None if held_out is None else self._evaluation(held_out, rooms[1])
        self.network.classes = self.network.classes if data.names is None else data.names

    def _divide(
        self, data: Samples, validation: Any, share: float, class_weight: ClassWeight, folds: Any, rows: Any
    ) -> tuple[Samples, Samples | None]:
        """Returns the rows to learn from, weighted, and those to measure."""
        trainer, by_rows = self.trainer, names_rows(validation)
        if isinstance(validation, StoredRows):
            validation = given_rows(validation, None, None)
        measured = None if by_rows else validation
        held_out = held_out_samples(self.network, trainer.loss, measured, data, trainer.communicator)
        prepared = self.network.preprocessing is not None
        warn_of_unscaled(data, trainer.loss, trainer.device, prepared, stacklevel=6)
        measured = replace(data, weights=None) if data.weighs_apart else data
        if share:
            learned, held_out = hold_out(self.network, measured, share, self.step.seeds[0])
            data = replace(data, chosen=learned.chosen)
        if rows is not None or (data.weighs_apart and folds is None):
            data = choose_rows(rows, self.network, data)
        if class_weight is not None:
            data = weighted_by_class(self.network, data, class_weight)
        if folds is not None:
            fold = choose_folds(folds, self.network, data, self.step.seeds[0])
            members = range(*self.network.models_shape)
            held_out = of_members(measured, [np.flatnonzero(fold == m) for m in members])
            data = of_members(data, [np.flatnonzero(fold != m) for m in members])
        if by_rows:
            held_out = choose_measured(validation, self.network, measured, data)
        return data, held_out

    def _evaluation(self, held_out: Samples, room: int) -> Evaluation:
        trainer = self.trainer
        rows = self.step.accumulation.rows_at_once(trainer.batch_size)
        source = trainer.place(held_out, "validation data", room, False, measured=True)
        return Evaluation(
            self.network, trainer.loss, held_out, rows, trainer.graph, metrics=trainer.metrics, source=source,
            communicator=trainer.communicator,
        )  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """Returns what has to be the same on all ranks, so that they learn the same, as plain data."""
        running, state = self.running, self.step.state()
        begin = {
            name: fingerprint([array.reshape(-1)], self.step.device.to_host)["sha256"]
            for name, array in state.arrays.items()
            if array.size
        }
        versions = {"gpu_backprop": sys.modules["gpu_backprop"].__version__, "numpy": np.__version__}
        epochs = {"epochs": [self.first, self.last], "goes on in": [self.run.number, self.run.begins_after]}
        return {
            "version": versions, "trainer": describe(self.trainer), "fit": running.given | epochs,
            "training": running.fingerprints, "validation": running.held_out_fingerprints,
            "loss_every": self.run.loss_every, "callbacks": self.callbacks.names,
            "callback": self.callbacks.settings(), "state": begin, "seeds": state.host["seeds"],
            "stretches of files": getattr(self.run.data, "stretch", None),
        }  # fmt: skip

    def train(self) -> History:
        """Runs the epochs, and returns the history."""
        history, run = self.history, self.run
        self.network.refresh()
        left, communicator = max(0, self.last + 1 - run.number), self.trainer.communicator
        first = communicator.rank == 0
        with communicator.alike():
            csv = CsvLog(self.csv if first else None, history)
        with (
            csv as log,
            open_progress(self.progress and first, left, run.data.rows, history) as shown,
            self.step.averaging.kept(),
            self.step.shuffling.working_ahead(),
            self.step.ending_members(anew=self.resumed is None),
            self.trainer.as_running(self.running),
            self.callbacks,
        ):
            history.stopped = None
            if self.resumed is None:
                history.best_epoch = history.diverged = history.temperature = None
            try:
                self._run_epochs(log, shown)
            except KeyboardInterrupt:
                run.whole = False
                history.stopped = f"{INTERRUPTED} in epoch {run.number}"
                kept = "" if self.keeps_best else "; what was learned until then is kept"
                history.stopped += self._rolled_back() or kept
                if not in_notebook():
                    raise
            except Exception as error:
                run.whole = False
                if not history.stopped:
                    history.stopped = f"ended in epoch {run.number} by {type(error).__name__}"
                    history.stopped += self._rolled_back()
                raise
            finally:
                self.schedule.end()
        return history

    def _rolled_back(self) -> str:
        """Says that it went back to the epoch before, where it did after a loss that is not finite. A rank whose error
        the others have not cannot know."""
        return "" if self.trainer.communicator.leaves_alone() else self.run.roll_back_if_diverged()

    def _run_epochs(self, log: CsvLog, shown: Progress) -> None:
        """Puts each epoch into the history, the log and the display, and tells the callbacks."""
        trainer, run, told, history = self.trainer, self.run, self.callbacks, self.history
        begin = run.number
        told.start(run)
        trainer.stopping = trainer.stopping or told.asked_by_callback is not None
        for epoch in range(begin, self.last + 1):
            if trainer.communicator.any(trainer.stopping):
                when = f"before epoch {epoch}" if epoch == self.first else f"after epoch {epoch - 1}"
                history.stopped = f"stopped {when}{told.asked}"
                return
            row = run.epoch(epoch, shown, epoch == self.last)
            if row is None:
                history.stopped = f"stopped in epoch {epoch}{told.asked}{run.roll_back_if_diverged()}"
                return
            seconds = time.perf_counter() - run.started
            if self.evaluation is not None:
                with self.step.averaging.measured():
                    row |= {f"val_{name}": value for name, value in self.evaluation.run().items()}
            if told.set_rate or "learning_rate" in trainer.optimizer.schedule:
                row["learning_rate"] = self.schedule.learning_rate(epoch)
            row |= {"seconds": seconds, "samples_per_second": run.data.rows / seconds}
            row = trainer.communicator.agree(row)
            history.append(row)
            log.write()
            told.epoch(run)
            shown.epoch(row)  # which marks the best epoch, that a callback may have found
            if self.step.ended.all() and epoch < self.last:
                history.stopped = f"every member had ended after epoch {epoch}"
                return
