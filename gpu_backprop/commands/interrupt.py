"""Handling the signals that ask the program to end: Ctrl-C, SIGTERM from a scheduler or a shutdown, SIGHUP from a
terminal that is closed."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, suppress
from types import FrameType
from typing import Protocol

from gpu_backprop.backend.communicator import ALONE, Communicator
from gpu_backprop.starting import SIGNALS, caught, exit_code


class Interrupted(KeyboardInterrupt):
    """A signal came; `code` is the exit code that it asks for."""

    def __init__(self, number: int) -> None:
        super().__init__("interrupted" if SIGNALS[number] == "Ctrl-C" else f"ended by {SIGNALS[number]}")
        self.code = exit_code(number)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handle a signal by an exception: what is under way ends, and cleans up."""
    raise Interrupted(number)


class Stoppable(Protocol):
    """What can be asked to end soon, as a Trainer."""

    def stop(self) -> object:
        """End it after what is under way."""


class StopOnSignal(ExitStack):
    """While it is open, the first signal ends training after the current step, and the network is written; the second
    ends the step at once, and test result, curves and report are left out. Writing itself is not interrupted. Where
    several ranks train, the first signal that any of them gets ends all after the same step, and the second ends the
    job at once: what is kept is the last checkpoint."""

    def __init__(self, trainer: Stoppable, ranks: Communicator = ALONE) -> None:
        super().__init__()
        self._trainer, self._ranks = trainer, ranks
        self._may_raise = self._written = False
        self._training = True
        self._first = 0

    @property
    def code(self) -> int:
        """The exit code that the first signal asks for; 0 while none came."""
        return exit_code(self._first) if self._first else 0

    def agree(self) -> None:
        """Let a signal that came to any of the ranks have come to all."""
        self._first = max(self._ranks.gather(self._first)) if self._ranks.ranks > 1 else self._first

    def __enter__(self) -> StopOnSignal:
        self.enter_context(caught(self._handle))
        return self

    def writing(self) -> None:
        """Let nothing be interrupted from here on."""
        self._training = self._may_raise = False

    def written(self) -> None:
        """Let a signal raise Interrupted from here on, once: nothing would be lost."""
        self._may_raise = self._written = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name, first = SIGNALS[number], not self._first
        self._first = self._first or number
        if self._may_raise and not self._written and self._ranks.ranks > 1:
            self._say(f"{name}: all ranks end at once; what is kept is the last checkpoint")
            self._ranks.abort(self.code)
        if self._may_raise:
            self._may_raise = False
            now = "what was learned is written" if self._written else "ending this step, then writing what was learned"
            self._say(f"{name}: {now}; leaving out the test result, curves and report")
            raise Interrupted(self._first)
        if first and self._training:
            self._trainer.stop()
            self._may_raise = True
            more = "all ranks end at once" if self._ranks.ranks > 1 else "without the test result, curves and report"
            self._say(f"{name}: finishing this step, then writing what was learned; once more: {more}")
        elif not self._written:  # else only the last lines remain
            self._say(f"{name}: what was learned is being written, which nothing interrupts")

    def _say(self, text: str) -> None:
        """Say it on standard error. Not by print: the signal may have come in the middle of one."""
        with suppress(OSError, ValueError, AttributeError):  # standard error may be closed or absent
            if self._ranks.rank == 0:
                os.write(sys.__stderr__.fileno(), f"\n{text}\n".encode())  # type: ignore[union-attr]
