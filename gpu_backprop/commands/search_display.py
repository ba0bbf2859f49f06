"""Showing how a search goes: the best candidates so far, anew after every epoch where someone watches, or now and then
a line; and all of them at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from gpu_backprop.backend.text_table import columns
from gpu_backprop.display.escapes import escaped
from gpu_backprop.training.console import Readable
from gpu_backprop.training.history import number
from gpu_backprop.training.search_result import SearchResult, Trial, trial_cells

SHOWN = 10
"""Candidates in the table."""

REFRESH, PAUSE = 0.5, 10.0
"""Seconds from one look to the next: of a table that is drawn anew, and of a log."""


class SearchDisplay:
    """A callback of a search, and a context manager.

    Args:
        epochs: of each member, at most.
        members: how many all candidates have together.
        quiet: nothing is shown.

    Attributes:
        result: the newest that it was called with; None: there was none.
    """

    def __init__(self, epochs: int, members: int, quiet: bool) -> None:
        self.result: SearchResult | None = None
        self._epochs, self._members, self._quiet = epochs, members, quiet
        self._next = time.monotonic()
        self._live: Any = None

    def __enter__(self) -> SearchDisplay:
        if not self._quiet and sys.stdout is not None and sys.stdout.isatty():
            from rich.console import Console
            from rich.live import Live

            console = Console(file=sys.stdout.stream if isinstance(sys.stdout, Readable) else None)
            if console.is_interactive:
                self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False)
                self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, result: SearchResult) -> None:
        self.result = result
        if self._quiet or time.monotonic() < self._next:
            return
        trials = result.trials
        told = f"epoch {len(result.parts[-1].history)} of at most {self._epochs}, {self._begun(trials)}"
        if self._live is None:
            print(f"{told}; best so far: {tell_trial(result.metric, trials[0])}", flush=True)
        else:
            self._draw([*tell_trials(result), "", told])
        self._next = time.monotonic() + (PAUSE if self._live is None else REFRESH)

    def _begun(self, trials: Sequence[Trial]) -> str:
        begun = sum(len(trial["scores"]) for trial in trials)
        running = 0 if self.result is None else self.result.running
        return f"{running:,} networks train, {begun - running:,} have ended, {self._members - begun:,} wait"

    def _draw(self, lines: Sequence[str]) -> None:
        from rich.text import Text

        self._live.update(Text(escaped("\n".join(lines)), no_wrap=True, overflow="ellipsis"), refresh=True)


def tell_trial(metric: str, trial: Trial) -> str:
    """Write a candidate on a line: "val_loss 0.1361 ± 0.0012, learning_rate 0.01, layers 64:128"."""
    settings = ", ".join(f"{name} {value}" for name, value in trial["settings"].items())
    return f"{metric} {number(trial['score'])} ± {number(trial['std'])}, {settings}"


def tell_trials(result: SearchResult) -> list[str]:
    """Write the best candidates as a table."""
    trials = result.trials
    names = [*trials[0]["settings"]]
    rows = [[*trial_cells(trial), "diverged" if trial["diverged"] else ""] for trial in trials[:SHOWN]]
    left = len(trials) - len(rows)
    lines = columns([[*names, result.metric, "±", "epochs", ""], *rows], len(names))
    return [*lines, *([f"and {left:,} more"] if left else [])]
