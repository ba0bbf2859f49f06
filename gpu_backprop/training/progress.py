"""Showing how training goes: a bar where someone watches, lines where a log is kept, or nothing."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gpu_backprop.training.console import Readable
from gpu_backprop.training.history import describe_row

if TYPE_CHECKING:  # rich takes half as long to import as NumPy, and `import gpu_backprop` can do without it
    from rich.console import Console
    from rich.progress import ProgressColumn

REFRESH = 0.1
"""Seconds between two looks of a bar: often enough for the eye, too seldom to cost anything."""

LINES, PAUSE = 25, 60.0
"""A log gets about so many lines for a run, however many epochs it has, and one at least every so many seconds."""

LINE = (
    ("spinner", "epoch", "bar", "measured", "rate", "left"), ("spinner", "epoch", "bar", "measured", "left"),
    ("spinner", "epoch", "measured", "left"), ("epoch", "measured"),
)  # fmt: skip
"""The columns of a bar's line: the first choice that fits."""

WIDTHS = {"spinner": 1, "bar": 10, "left": 7}
"""Characters; a bar is as long as there is room, and at least so long."""

STEP_PAUSE = 10.0
"""Seconds from one line of a log to the next that tells of a loss within an epoch."""


class Progress:
    """Shows nothing; what the other two have in common."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def advance(self, samples: int) -> None:
        """Notes that so many samples more were trained on."""

    def step(self, row: Mapping[str, Any]) -> None:
        """Shows a loss that was read within an epoch, a row of History.steps."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Shows a complete epoch, a row of the History."""

    def close(self) -> None:
        """Ends the display, for whatever reason the run is over."""


class LineProgress(Progress):
    """A plain line an epoch; of a long run every 2nd, 5th, 10th ... epoch, and always the first and the last. While an
    epoch is long, a line now and then for a loss that was read within it."""

    def __init__(self, epochs: int, done: int = 0) -> None:
        self._first, self._last = done + 1, done + epochs
        self._every = _stride(epochs)
        self._waiting: str | None = None  # the newest epoch, while it has no line
        self._last_line = time.monotonic()

    def step(self, row: Mapping[str, Any]) -> None:
        if time.monotonic() - self._last_line >= STEP_PAUSE:
            print(f"epoch {row['epoch']}/{self._last}, step {row['step']}: {describe_row(row)}", flush=True)
            self._last_line = time.monotonic()

    def epoch(self, row: Mapping[str, Any]) -> None:
        number = int(row["epoch"])
        width = len(str(self._last))
        rate = f", {row['samples_per_second']:,.0f} samples/s" if "samples_per_second" in row else ""
        self._waiting = f"epoch {number:{width}}/{self._last}: {describe_row(row)}{rate}"
        due = number in (self._first, self._last) or number % self._every == 0
        if due or time.monotonic() - self._last_line >= PAUSE:
            self.close()

    def close(self) -> None:
        if self._waiting is not None:
            print(self._waiting, flush=True)
            self._waiting, self._last_line = None, time.monotonic()


class BarProgress(Progress):
    """A bar over the whole run, with epoch, loss, metric, samples per second and time left."""

    def __init__(self, console: Console, epochs: int, samples: int, done: int = 0) -> None:
        from rich.progress import Progress as RichProgress

        self._last_epoch = done + epochs
        self._widths = WIDTHS | {"epoch": 0, "measured": 0, "rate": 0}
        # No thread of its own: it would take turns with the training loop. advance() refreshes instead.
        self._bar = RichProgress(console=console, auto_refresh=False)
        self._task = self._bar.add_task("", total=epochs * samples, measured="", rate="")
        self._tell(epoch=f"epoch {done + 1}/{self._last_epoch}")
        self._samples = 0
        self._next_look = 0.0

    def __enter__(self) -> Progress:
        outside = {"stdout": sys.stdout, "stderr": sys.stderr}
        self._bar.start()  # which has put streams in their place until it stops, that print above the bar
        for name, stream in outside.items():
            if isinstance(stream, Readable) and stream is not getattr(sys, name):
                setattr(sys, name, Readable(getattr(sys, name)))
        return self

    def advance(self, samples: int) -> None:
        self._samples += samples
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + REFRESH
            self._bar.update(self._task, completed=self._samples, refresh=True)

    def step(self, row: Mapping[str, Any]) -> None:
        self._tell(measured=_briefly(row))

    def epoch(self, row: Mapping[str, Any]) -> None:
        following = min(int(row["epoch"]) + 1, self._last_epoch)
        rate = f"{row['samples_per_second']:,.0f} samples/s" if "samples_per_second" in row else ""
        self._tell(epoch=f"epoch {following}/{self._last_epoch}", measured=_briefly(row), rate=rate)

    def _tell(self, **told: str) -> None:
        """Puts texts on the line, and as much else as there is room for beside the longest of them."""
        self._widths |= {name: max(self._widths[name], len(text)) for name, text in told.items()}
        self._bar.columns = _columns(self._bar.console.width, self._widths)
        self._bar.tasks[0].fields.update(told)

    def close(self) -> None:
        self._bar.update(self._task, completed=self._samples, refresh=True)
        self._bar.stop()


def open_progress(progress: bool, epochs: int, samples: int, done: int = 0) -> Progress:
    """Opens the display of a run of so many epochs of so many samples each, after so many that are done; a context
    manager.

    In a terminal, and in Jupyter where ipywidgets is installed, it is a bar. Elsewhere it is plain lines: a bar would
    fill a log with control characters. Without `progress` nothing is shown.
    """
    if not progress:
        return Progress()
    from rich.console import Console

    console = Console(file=sys.stdout.stream if isinstance(sys.stdout, Readable) else None)
    if console.is_jupyter:
        watched = importlib.util.find_spec("ipywidgets") is not None
    else:
        # rich also takes FORCE_COLOR for a terminal
        watched = console.is_interactive and sys.stdout is not None and sys.stdout.isatty()
    return BarProgress(console, epochs, samples, done) if watched else LineProgress(epochs, done)


def _briefly(row: Mapping[str, Any]) -> str:
    """Describes the loss and one metric, of the validation data where there are any: a bar has but one line."""
    metric = next((name for name in ("val_accuracy", "val_r2", "accuracy", "r2", "val_loss") if name in row), None)
    return describe_row({name: row[name] for name in ("loss", metric) if name is not None})


def _stride(epochs: int) -> int:
    """Returns the smallest of 1, 2, 5, 10, 20, 50 ... that leaves at most LINES of the epochs."""
    powers = (10**power for power in itertools.count())
    return next(int(digit * power) for power in powers for digit in (1, 2, 5) if epochs <= LINES * digit * power)


def _columns(width: int, widths: Mapping[str, int]) -> tuple[ProgressColumn, ...]:
    """Chooses the columns of a line of so many characters, from left to right."""
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn

    names = next((names for names in LINE if sum(widths[name] + 1 for name in names) <= width + 1), LINE[-1])
    kinds = {"spinner": SpinnerColumn(), "bar": BarColumn(bar_width=None), "left": TimeRemainingColumn()}
    return tuple(kinds.get(name) or TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in names)
