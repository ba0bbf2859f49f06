"""A stage of a population's fit: the same members train side by side, until half of them have stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpu_backprop.backend.communicator import ALONE
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.training.callbacks import FitState
from gpu_backprop.training.checkpoints.recipe import describe, set_settings
from gpu_backprop.training.checkpoints.resuming import check_recipe
from gpu_backprop.training.history import Row
from gpu_backprop.training.members import put_members, take_members
from gpu_backprop.training.row_logs import CsvLog
from gpu_backprop.training.run import every_member_diverged
from gpu_backprop.training.spread import Spread
from gpu_backprop.training.step import State
from gpu_backprop.training.trainer import Trainer

COMPACTED = "half of the members have stopped, and the others go on without them"


class Stage:
    """Members that train side by side, as a callback of their trainer. What it learns of them gets its place in the
    trainer of all members.

    Args:
        whole: the trainer of all members.
        members: which of them these are, int64; None: all.
        trainer: of these members; None: `whole`.
        spread: over which ranks all members are; None: there is one.

    Attributes:
        stopped: which of these members were stopped by hand, bool.
        elsewhere: which of all members train on other ranks, bool.
        next: the stage that follows; None: there is none.
    """

    only_reads = True  # so that all others have seen an epoch before

    def __init__(
        self, whole: Trainer, members: Array | None = None, trainer: Trainer | None = None,
        spread: Spread | None = None, elsewhere: Array | None = None,
    ) -> None:  # fmt: skip
        self.whole, self.trainer = whole, whole if trainer is None else trainer
        count = len(whole.network.parameters)
        self.spread = Spread(ALONE, count) if spread is None else spread
        self.members = np.arange(count) if members is None else members
        self.stopped = np.zeros(len(self.members), np.bool_)
        self.elsewhere = np.zeros(count, np.bool_) if elsewhere is None else elsewhere
        self.next: Stage | None = None
        self._none, self._trains, self._ended = [0] * count, True, False
        step, diverged = self.trainer.training_step, np.array(whole.history.diverged or self._none)
        step.numbers = self.members
        step.others = self.spread.ranks > 1 or not np.delete(diverged, self.members).all()

    @property
    def running(self) -> Array:
        """Which of its members have not stopped, bool."""
        step = self.trainer.training_step
        assert step.running is not None
        found: Array = step.device.to_host(step.running) > 0
        return found

    @property
    def all_running(self) -> Array:
        """Which of all members have not stopped, on any rank, bool."""
        running = self.elsewhere.copy()
        if self._trains:
            running[self.members] |= self.running
        return running

    def of_members(self, given: Any) -> Any:
        """Returns what was given of its members, of what has an entry for every one."""
        if self.trainer is self.whole:
            return given
        if isinstance(given, list):
            return [given[m] for m in self.members]
        return given[self.members.tolist()] if getattr(given, "ndim", 0) > 1 else given

    def prepare(self, epochs: int, log: CsvLog, callbacks: Sequence[Callable[[], object]]) -> None:
        """Gets ready for a fit of so many epochs, or for what is left of it."""
        resumed, self.log, self.callbacks = self.trainer.resumed, log, callbacks
        self.last = epochs + (len(self.trainer.history) if resumed is None else resumed.first - 1)

    # As a callback ----------------------------------------------------------------------------------------------------

    def on_start(self, state: FitState) -> None:
        """Stops again what was stopped before a checkpoint was written, and compares what the ranks learn from."""
        fit = state.trainer.running
        self._steps = fit.run.steps_an_epoch
        if self.spread.ranks > 1 and self.members is self.spread.members:  # all of this rank's begin
            facts = {"trainer": describe(self.whole), "fit": fit.given, "epochs": [state.epoch, self.last]}
            facts |= {name: fit.fingerprints[name] for name in ("x", "y")}
            self.spread.check_same(facts | {"callbacks": fit.callbacks.settings()})
        self.stop(self.stopped)
        self._were_running = self.running

    def on_epoch(self, state: FitState) -> str | bool:
        """Completes the history of all members, asks the callbacks, and ends the fit where half have stopped."""
        assert state.row is not None
        rows = self.whole.history.rows
        if self.trainer is self.whole:
            state.row.update(self._place(state.row, rows[-2] if len(rows) > 1 else {}))
        else:
            rows.append(self._place(state.row, rows[-1] if rows else {}))
        self._tell()
        self._ended = self._complete()
        self._were_running = running = self.running
        if self._ended:
            return True
        if not 0 < running.sum() <= len(running) // 2 or state.epoch >= self.last:
            return False
        places = np.flatnonzero(running)
        trainer = take_members(self.trainer, places.tolist())
        self.next = Stage(self.whole, self.members[places], trainer, self.spread, self.elsewhere)
        return COMPACTED

    def _complete(self, trained: bool = True) -> bool:
        """Completes an epoch by what other ranks have measured, and asks the callbacks; tells whether the fit ends.

        Args:
            trained: whether this rank has trained in it.
        """
        spread, history = self.spread, self.whole.history
        if spread.ranks > 1:
            found = spread.tell_epoch(history, self.all_running, trained)
            if found is None:
                return True
            self.elsewhere = found
            self.elsewhere[spread.own] = False
            if history.diverged and all(history.diverged):
                error = every_member_diverged(history, history.rows.pop()["epoch"], self._steps)
                self.trainer.history.stopped = history.stopped
                raise error
        self.log.write()
        asked = [callback() for callback in self.callbacks]
        return spread.any(any(asked))

    def keep_company(self) -> None:
        """Takes part in the epochs of other ranks, where the members of this one have ended before."""
        self._trains, rows = False, self.whole.history.rows
        while self.spread.ranks > 1 and self.next is None and not self._ended and rows[-1]["epoch"] < self.last:
            rows.append(dict(rows[-1]))
            self._ended = self._complete(trained=False)

    def _place(self, row: Row, before: Row) -> Row:
        """Returns the row of all members; one that had stopped before the epoch keeps its last numbers."""
        placed = dict(row)
        for name, value in row.items():
            if isinstance(value, list):
                placed[name] = of_all = [*before.get(name, self._none)]
                for member, number, runs in zip(self.members, value, self._were_running, strict=True):
                    of_all[member] = number if runs else of_all[member]
        return placed

    def stop(self, which: Array) -> None:
        """Stops some of its members, given as truth values."""
        self.stopped = self.stopped | which
        step = self.trainer.training_step
        step.ended = step.ended | which

    def end(self) -> None:
        """Gives the trainer of all members what these have come to."""
        self._tell()
        mine, whole = self.trainer.history, self.whole.history
        if self.trainer is not self.whole:
            put_members(self.trainer, self.whole, self.members.tolist())
            whole.stopped = mine.stopped
            self.whole.network.preprocessing = self.trainer.network.preprocessing
            self.whole.network.classes = self.trainer.network.classes

    def _tell(self) -> None:
        """Brings what the history says of its members besides the rows into that of all."""
        mine, whole = self.trainer.history, self.whole.history
        for name in ("best_epoch", "diverged", "temperature"):
            if mine is not whole and (of_mine := getattr(mine, name)) is not None:
                of_all = [*(getattr(whole, name) or self._none)]
                for member, number in zip(self.members, of_mine, strict=True):
                    of_all[member] = number
                setattr(whole, name, of_all)

    # For checkpoints --------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Returns what of the other members, and of the population, a checkpoint needs besides its trainer's state."""
        whole = self.whole
        told = {"members": self.members, "stopped": self.stopped}
        if self.trainer is whole:
            return told
        state, history = whole.training_step.state(), whole.history
        arrays = {name: whole.device.to_host(array) for name, array in state.arrays.items()}
        kept = {name: value for name, value in vars(history).items() if name[0] != "_"}
        more = {"begun": whole.begun, "now": describe(whole)}
        return told | more | {"arrays": arrays, "host": state.host, "history": kept}

    @classmethod
    def restored(cls, whole: Trainer, told: Mapping[str, Any], path: Path, force: bool) -> Stage:
        """Makes the stage of which `state` gave this, and lets its trainer go on from the checkpoint that has it."""
        members, trainer = told["members"], whole
        if "arrays" in told:
            differ = check_recipe(whole, path, told, force)
            if told["arrays"]["parameters"].shape != whole.network.parameters.shape:
                raise InputError(f"{path} is of a population of other members, which cannot go on: {differ[0]}.")
            set_settings(whole, told["begun"][-1] if differ else describe(whole), told["now"])
            whole.training_step.load_state(State(told["arrays"], told["host"]))
            for name, value in told["history"].items():
                setattr(whole.history, name, value)
            whole.begun[:] = [describe(whole)] if differ else told["begun"]
            trainer = take_members(whole, members.tolist())
        trainer.resume(path, force=force)
        stage = cls(whole, members, trainer)
        stage.stopped = told["stopped"]
        stage.end()  # so that `whole` has all of them before the fit goes on too
        return stage
