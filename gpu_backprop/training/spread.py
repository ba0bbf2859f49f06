"""A population spread over the ranks of a job: each trains some of the members by itself, tells the others after every
epoch what was measured of them, and at the end what they have become."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpu_backprop.backend.communicator import Communicator
from gpu_backprop.backend.errors import DivergedError, InputError, OutOfMemoryError, RankError, one_line
from gpu_backprop.backend.formula import Array
from gpu_backprop.network.numbers import one_a_member
from gpu_backprop.training.history import History
from gpu_backprop.training.step import State

OF_HISTORY = "best_epoch", "diverged", "temperature"
"""What a history says of each member besides its rows."""


class Spread:
    """Which members each rank trains: an equal share, or one more. All cost the same, since they have the same layers,
    minibatches and epochs.

    Args:
        communicator: of the ranks.
        members: how many members there are.

    Attributes:
        own: which of all members are this rank's.
        members: those that it trains, int64. A rank that has none trains one of another rank's, and tells nothing of
            it, so that every rank does the same.
    """

    def __init__(self, communicator: Communicator, members: int) -> None:
        self.communicator, self.ranks, rank = communicator, communicator.ranks, communicator.rank
        shares = [communicator.bounds(members, number) for number in range(self.ranks)]
        self._counts = [end - begin for begin, end in shares]
        self.own = slice(*shares[rank])
        self.members = np.arange(members)[self.own] if self._counts[rank] else np.array([rank % members])
        self._failed = False

    def require_one(self, what: str) -> None:
        """Raises InputError where there are other ranks, for what takes all members on one."""
        if self.ranks > 1:
            raise InputError(f"{what} takes all members, and they are spread over {self.ranks} ranks: train on one.")

    # Meetings ---------------------------------------------------------------------------------------------------------

    def meet(self, value: Any) -> list[Any]:
        """Gives every rank the value of each, plain data; raises the error of one that has failed."""
        found = self.communicator.gather({"value": value})
        for rank, one in enumerate(found):
            if "error" in one:
                self._failed = True
                raise _rebuild(rank, **one["error"])
        return [one["value"] for one in found]

    @contextmanager
    def together(self) -> Iterator[None]:
        """The context of what all ranks do: where one of them fails in it, so do the others in their next meeting, at
        the latest in that at the end. Of Ctrl-C, which reaches all, or finds them waiting, nothing is told."""
        if self.ranks == 1:
            yield
            return
        self._failed = False
        try:
            yield
            self.meet(None)
        except Exception as error:
            if not self._failed and not isinstance(error, RankError):  # after which nobody is there to be told
                self.communicator.gather({"error": _tell(error)})
            raise

    def any(self, flag: bool) -> bool:
        """Tells whether it is so on any rank."""
        return any(self.meet(flag)) if self.ranks > 1 else flag

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """Raises InputError where what decides what members learn is not the same on all ranks."""
        self.meet(None)  # all have come as far
        self.communicator.check_same(facts)

    # What there is of each member -------------------------------------------------------------------------------------

    def _cut(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns this rank's entries of lists with one for every member, and other values as they are."""
        return {name: value[self.own] if isinstance(value, list) else value for name, value in values.items()}

    def _join(self, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Puts together what `_cut` gave on each rank; of a number that is one for all members, that of the slowest."""
        names = dict.fromkeys(name for one in found for name in one)
        return {name: self._joined(name, [one.get(name) for one in found]) for name in names}

    def _joined(self, name: str, values: Sequence[Any]) -> Any:
        if not any(isinstance(value, list) for value in values):
            slowest = min if name == "samples_per_second" else max
            return slowest((value for value in values if value is not None), default=None)
        each = zip(values, self._counts, strict=True)
        return [one for value, count in each for one in (value if isinstance(value, list) else [value or 0] * count)]

    def tell_epoch(self, history: History, running: Array, trained: bool) -> Array | None:
        """Completes the last row of a history, and what it says of each member, by what the other ranks know.

        Args:
            running: which members train, those of this rank right, bool.
            trained: whether this rank has trained in the epoch; else its row is that of the epoch before.

        Returns:
            Which members train on any rank, bool; None: no rank has trained, and there is no such epoch.
        """
        row = {name: value for name, value in history.rows[-1].items() if trained or isinstance(value, list)}
        about = {name: getattr(history, name) for name in OF_HISTORY}
        own = self._cut(row), self._cut(about), self._cut({"running": running.tolist()}), trained
        rows, abouts, runnings, have_trained = zip(*self.meet(own), strict=True)
        if not any(have_trained):
            history.rows.pop()
            return None
        history.rows[-1] |= self._join(rows)
        for name, value in self._join(abouts).items():
            setattr(history, name, value)
        return np.array(self._join(runnings)["running"])

    def gather(self, whole: Any, trained: History) -> None:
        """Gives the trainer of all members, on every rank, what each rank has made of its own.

        Args:
            trained: the history of the trainer that has trained this rank's.
        """
        if self.ranks == 1:
            return
        step, optimizer, history = whole.training_step, whole.optimizer, whole.history
        state, shape = step.state(), whole.network.models_shape
        arrays = {name: whole.device.to_host(array) for name, array in state.arrays.items()}
        numbers = {name: one_a_member(name, value, shape).tolist() for name, value in optimizer.settings.items()}
        own = numbers | {"shuffling": state.host["shuffling"]} | {name: getattr(history, name) for name in OF_HISTORY}
        found = self.meet([self._cut(own), len(trained), trained.stopped])
        joined = self._join([one for one, *_ in found])
        arrays = {name: self._exchange(array) for name, array in arrays.items()}
        step.load_state(State(arrays, state.host | {"shuffling": joined["shuffling"]}))
        for name in optimizer.settings:
            if joined[name] != numbers[name]:
                setattr(optimizer, name, joined[name])
        for name in OF_HISTORY:
            setattr(history, name, joined[name])
        history.stopped = max(found, key=lambda one: one[1])[2]

    def _exchange(self, array: Array) -> Array:
        """Returns an array of all members, of which each rank has its own right."""
        return np.concatenate(self.communicator.gather_arrays(array[self.own])).reshape(array.shape)


def _tell(error: Exception) -> dict[str, Any]:
    where = {name: getattr(error, name) for name in ("epoch", "step") if hasattr(error, name)}
    return {"kind": type(error).__name__, "text": one_line(error), **where}


def _rebuild(rank: int, kind: str, text: str, **where: int) -> Exception:
    """Makes the error that another rank has raised, of the kinds that somebody catches."""
    said = f"rank {rank}: {text}"
    if kind == DivergedError.__name__:
        return DivergedError(said, **where)
    if kind == OutOfMemoryError.__name__:
        return OutOfMemoryError(said, needs={})
    return InputError(said) if kind == InputError.__name__ else RankError(f"rank {rank}: {kind}: {text}")
