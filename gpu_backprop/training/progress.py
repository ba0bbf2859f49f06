"""Showing how training goes: a line an epoch, above a bar where someone watches; in a notebook a bar; or nothing."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from gpu_backprop.backend.text_table import terminal_width
from gpu_backprop.display.escapes import escaped
from gpu_backprop.display.html import tag
from gpu_backprop.training.console import Readable, in_notebook
from gpu_backprop.training.epoch_table import EpochTable
from gpu_backprop.training.history import History, describe_best, describe_row, find_best

if TYPE_CHECKING:  # rich takes half as long to import as NumPy, and `import gpu_backprop` can do without it
    from rich.console import Console
    from rich.progress import ProgressColumn

REFRESH = 0.1
"""Seconds between two looks of a bar: often enough for the eye, too seldom to cost anything."""

NOTEBOOK_REFRESH = 0.2
"""The same in a notebook, where each look is a message to a page."""

LINES, PAUSE = 200, 60.0
"""Of more epochs than so many, every 2nd, 5th, 10th ... has a line, and one at least every so many seconds."""

WIDTH = 120
"""Characters of a line where no terminal limits it."""

STEP_PAUSE = 10.0
"""Seconds from one line of a log to the next that tells of a loss within an epoch."""

BAR = (
    ("spinner", "epoch", "bar", "measured", "rate", "left"), ("spinner", "epoch", "bar", "measured", "left"),
    ("epoch", "measured", "left"), ("epoch", "measured"),
)  # fmt: skip
"""The columns of a bar's line: the first choice that fits."""

WIDTHS = {"spinner": 1, "bar": 10}
"""Characters; a bar is as long as there is room, and at least so long."""

BEST = " *"
"""Marks an epoch that is the best so far; with a models axis the number of members follows of which it is."""


class Progress:
    """Shows nothing; what the others have in common."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def advance(self, samples: int) -> None:
        """Notes that so many samples more were trained on."""

    def step(self, row: Mapping[str, Any]) -> None:
        """Shows a loss that was read within an epoch, a row of History.steps."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Shows a complete epoch, the newest row of the History."""

    def close(self) -> None:
        """Ends the display, for whatever reason the run is over."""


class LineProgress(Progress):
    """A plain line an epoch, in columns; where the best epoch is known (`find_best`), one that is it so far is marked,
    and a last line names it. Of a run of more than LINES epochs every 2nd, 5th, 10th ... has a line, and always the
    first and the last. While an epoch is long, a line now and then for a loss that was read within it."""

    def __init__(self, epochs: int, history: History) -> None:
        self._history = history
        self._first, self._last = len(history) + 1, len(history) + epochs
        self._told = len(history)  # the number of the newest epoch that this was told of
        self._every = _stride(epochs)
        self._waiting: Mapping[str, Any] | None = None  # the newest epoch, while it has no line
        self._last_line = time.monotonic()
        self._table = EpochTable(self._last, WIDTH)

    def step(self, row: Mapping[str, Any]) -> None:
        if time.monotonic() - self._last_line >= STEP_PAUSE:
            self._print(f"epoch {row['epoch']}/{self._last}, step {row['step']}: {describe_row(row)}")
            self._last_line = time.monotonic()

    def epoch(self, row: Mapping[str, Any]) -> None:
        epoch = int(row["epoch"])
        self._waiting, self._told = row, epoch
        due = epoch in (self._first, self._last) or epoch % self._every == 0
        if due or time.monotonic() - self._last_line >= PAUSE:
            self._print_epoch()

    def close(self) -> None:
        if len(self._history) > self._told:  # a callback ended the run before this was told
            self._waiting = self._history[-1]
        self._print_epoch()
        best = describe_best(self._history)
        if best and len(self._history) >= self._first:
            told = f"{BEST[1:]} best: {best}"
            while len(told) > self._width() and ", " in told:
                told = told.rpartition(", ")[0]
            self._print("", mark=told)

    def _mark(self, epoch: int) -> str:
        best = find_best(self._history)
        if isinstance(best, list):
            return f"{BEST}{best.count(epoch)}" if epoch in best else ""
        return BEST if best == epoch else ""

    def _print_epoch(self) -> None:
        if self._waiting is None:
            return
        row = self._waiting
        self._table.width = self._width() - len(BEST)
        head = self._table.head(row)
        if head is not None:
            self._print(head, "bold")
        self._print(self._table.line(row), mark=self._mark(row["epoch"]))
        self._waiting, self._last_line = None, time.monotonic()

    def _width(self) -> int:
        width = None if sys.stdout is None else terminal_width(sys.stdout)
        return width or WIDTH

    def _print(self, text: str, style: str = "", mark: str = "") -> None:
        """Prints a line that ends with a mark."""
        print(text + mark, flush=True)


class BarProgress(LineProgress):
    """The lines, and below them a bar over the whole run: the epoch, steps per second and the time left."""

    def __init__(self, console: Console, epochs: int, samples: int, history: History) -> None:
        from rich.progress import Progress as RichProgress

        super().__init__(epochs, history)
        # No thread of its own: it would take turns with the training loop. advance() refreshes instead.
        self._bar = RichProgress(console=console, auto_refresh=False)
        self._task = self._bar.add_task("", total=epochs * samples)
        self._texts: dict[str, Any] = {
            "epoch": f"epoch {self._first}/{self._last}",
            "measured": "",
            "rate": "",
            "left": "",
        }
        self._widths = WIDTHS | dict.fromkeys(self._texts, 0)
        self._samples = self._steps = 0
        self._next_look = 0.0
        self._draw()

    def __enter__(self) -> Progress:
        outside = {"stdout": sys.stdout, "stderr": sys.stderr}
        self._bar.start()  # which has put streams in their place until it stops, that print above the bar
        for name, stream in outside.items():
            if isinstance(stream, Readable) and stream is not getattr(sys, name):
                setattr(sys, name, Readable(getattr(sys, name)))
        return self

    def advance(self, samples: int) -> None:
        self._samples += samples
        self._steps += 1
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + REFRESH
            self._look()

    def step(self, row: Mapping[str, Any]) -> None:
        self._texts["measured"] = describe_row(row)

    def epoch(self, row: Mapping[str, Any]) -> None:
        self._texts["epoch"] = f"epoch {min(int(row['epoch']) + 1, self._last)}/{self._last}"
        super().epoch(row)

    def close(self) -> None:
        super().close()
        self._look()
        self._texts["left"] = f"in {_clock(self._bar.tasks[0].elapsed)}"
        self._draw()
        self._bar.stop()

    def _look(self) -> None:
        """Works out how fast it goes, and draws the bar."""
        self._bar.update(self._task, completed=self._samples)
        task = self._bar.tasks[0]
        if task.speed and task.time_remaining is not None:
            steps = task.speed * self._steps / self._samples
            self._texts["rate"] = f"{steps:,.0f} steps/s" if steps >= 10 else f"{steps:.2g} steps/s"
            self._texts["left"] = f"{_clock(task.time_remaining)} left"
        self._draw()

    def _draw(self) -> None:
        """Puts the texts on the line, and as much else as there is room for beside the longest of them."""
        self._widths |= {name: max(self._widths[name], len(text)) for name, text in self._texts.items()}
        self._bar.columns = _columns(self._bar.console.width, self._widths)
        self._bar.update(self._task, refresh=True, **self._texts)

    def _width(self) -> int:
        return self._bar.console.width

    def _print(self, text: str, style: str = "", mark: str = "") -> None:
        from rich.text import Text

        self._bar.console.print(Text.assemble((escaped(text), style), (escaped(mark), "bold green")), soft_wrap=True)


class NotebookProgress(Progress):
    """A bar in the output of a notebook's cell, which the page draws, with the newest epoch beside it; at the end that
    line stays, and names the best epoch. A line an epoch is what the History shows."""

    def __init__(self, epochs: int, samples: int, history: History) -> None:
        self._history = history
        self._first, self._last = len(history) + 1, len(history) + epochs
        self._samples, self._all = 0, epochs * samples
        self._epoch, self._measured = self._first, ""
        self._begun = self._next_look = time.monotonic()
        self._handle: Any = None

    def __enter__(self) -> Progress:
        from IPython.display import display

        self._handle = display(self._line(), raw=True, display_id=True)
        return self

    def advance(self, samples: int) -> None:
        self._samples += samples
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + NOTEBOOK_REFRESH
            speed = self._samples / max(now - self._begun, 1e-9)
            self._show(f"{speed:,.0f} samples/s", f"{_clock((self._all - self._samples) / speed)} left")

    def step(self, row: Mapping[str, Any]) -> None:
        self._measured = describe_row(row)

    def epoch(self, row: Mapping[str, Any]) -> None:
        self._epoch, self._measured = min(int(row["epoch"]) + 1, self._last), describe_row(row)

    def close(self) -> None:
        seconds, best = time.monotonic() - self._begun, ""
        if len(self._history) >= self._first:  # it may have rows that this was not told of
            self._epoch, self._measured = len(self._history), describe_row(self._history[-1])
            best = describe_best(self._history)
        speed = self._samples / max(seconds, 1e-9)
        self._show(f"{speed:,.0f} samples/s", f"in {_clock(seconds)}", best and f"best: {best}")

    def _show(self, *told: str) -> None:
        if self._handle is not None:
            self._handle.update(self._line(*told), raw=True)

    def _line(self, *told: str) -> dict[str, str]:
        """Returns the line as a page shows it, and as text for what has no page."""
        text = " · ".join(filter(None, (f"epoch {self._epoch}/{self._last}", self._measured, *told)))
        bar = tag("progress", value=self._samples, max=self._all, style="vertical-align: middle")
        return {"text/html": tag("div", bar, " ", text, style="font-family: monospace"), "text/plain": escaped(text)}


def open_progress(progress: bool, epochs: int, samples: int, history: History) -> Progress:
    """Opens the display of a run of so many epochs of so many samples each, whose rows the history gets; a context
    manager.

    In a notebook there is a bar, in a terminal a bar below lines. Elsewhere, also in a terminal without cursor control,
    there are plain lines: a bar would fill a log with control characters. Without `progress` nothing is shown.
    """
    if not progress:
        return Progress()
    if in_notebook():
        return NotebookProgress(epochs, samples, history)
    from rich.console import Console

    console = Console(file=sys.stdout.stream if isinstance(sys.stdout, Readable) else None)
    # rich also takes FORCE_COLOR for a terminal
    watched = console.is_interactive and sys.stdout is not None and sys.stdout.isatty()
    return BarProgress(console, epochs, samples, history) if watched else LineProgress(epochs, history)


def _clock(seconds: float | None) -> str:
    """Writes a time as 0:01:30."""
    return str(timedelta(seconds=round(seconds or 0)))


def _stride(epochs: int) -> int:
    """Returns the smallest of 1, 2, 5, 10, 20, 50 ... that leaves at most LINES of the epochs."""
    powers = (10**power for power in itertools.count())
    return next(int(digit * power) for power in powers for digit in (1, 2, 5) if epochs <= LINES * digit * power)


def _columns(width: int, widths: Mapping[str, int]) -> tuple[ProgressColumn, ...]:
    """Chooses the columns of a bar's line of so many characters, from left to right."""
    from rich.progress import BarColumn, SpinnerColumn, TextColumn

    def room(names: Sequence[str]) -> int:
        return sum(widths[name] + 1 for name in names if widths[name]) - 1

    names = next((names for names in BAR if room(names) <= width), BAR[-1])
    kinds = {"spinner": SpinnerColumn(), "bar": BarColumn(bar_width=None)}
    return tuple(
        kinds.get(name) or TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in names if widths[name]
    )
