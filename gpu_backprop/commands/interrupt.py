"""Ctrl-C while a network trains."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType

import gpu_backprop as gb

INTERRUPTED = 130
"""The exit code of a program that Ctrl-C ended."""


class StopOnInterrupt:
    """While it is open, the first Ctrl-C ends training after the current step and the second ends the program.

    A signal handler belongs to the main thread of a program: elsewhere this does nothing.
    """

    def __init__(self, trainer: gb.Trainer) -> None:
        self._trainer = trainer
        self._main_thread = threading.current_thread() is threading.main_thread()
        self.asked = False

    def __enter__(self) -> StopOnInterrupt:
        if self._main_thread:
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._main_thread:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise SystemExit(INTERRUPTED)
        self.asked = True
        self._trainer.stop()
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"\nCtrl-C: finishing this step, then writing what was learned; again: stop at once\n")
