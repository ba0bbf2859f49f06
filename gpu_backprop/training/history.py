"""The measurements of a training run: one row an epoch."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from gpu_backprop.backend.attributes import FixedAttributes
from gpu_backprop.backend.errors import InputError, choose
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.backend.whole_file import new_file
from gpu_backprop.display.charts import Curve, chart
from gpu_backprop.display.html import Html, cell_output, join, table, tag
from gpu_backprop.training.figures import new_figure, spans_decades

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]
"""One epoch: epoch (counted from 1), loss, the metrics, in float16 the loss_scale at its end and how many steps were
skipped for an overflow, after a divergence how often the learning rate was halved (rate_halved), the val_ twins of loss
and metrics, seconds and samples_per_second."""

NO_METRICS = (
    "epoch", "step", "loss", "loss_scale", "skipped", "rate_halved", "learning_rate", "seconds", "samples_per_second"
)  # fmt: skip
"""The columns that are no metrics."""

FEW = 30
"""Up to so many epochs, a curve has a dot for each."""

LAST = 8
"""The last epochs, that a notebook shows besides the first and the best."""

MOST_CURVES = 40
"""Members that are drawn; of more, the best is among them."""

INTERRUPTED = "interrupted"
"""What `History.stopped` begins with where it was Ctrl-C."""

THIN, THICK = 0.6, 2.6
"""Widths of the lines of members in a figure, and of the best one's."""


class History(FixedAttributes):
    """The epochs that a trainer has trained, in all its fits, oldest first.

    `history[-1]["loss"]` is the loss of the last epoch; `history["loss"]` is the list of all of them, with None for an
    epoch of which that was not measured; a slice is a list of rows. `len(history)` counts the completed epochs and
    iterating gives their rows. An epoch that did not come to its end has no row, and the next one gets its number.

    Attributes:
        rows: a dict an epoch. With a models axis a value is a list, one number a member.
        steps: {"epoch", "step", "loss"} for each time that the loss was read within an epoch, which fit does where it
            is given loss_every: the mean of the steps since the last reading, or since the epoch began.
        stopped: of the last fit: None if it had its full length, else a sentence that says why it ended early.
        best_epoch: of the last fit with early stopping, the number of its best epoch, or a list of them, one a member;
            None where there was none.
        diverged: of the last fit with on_divergence="stop", the number of the epoch in which each member diverged, 0 of
            those that did not; None where none did. From that epoch on, what was measured of its training is NaN.
        temperature: of the last fit, by what its TemperatureScaling divided the logits, or a list, one a member; None
            where there was none.
    """

    settable = "rows", "steps", "stopped", "best_epoch", "diverged", "temperature"

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.steps: list[Row] = []
        self.stopped: str | None = None
        self.best_epoch: int | list[int] | None = None
        self.diverged: list[int] | None = None
        self.temperature: float | list[float] | None = None

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds an epoch."""
        self.rows.append(dict(row))

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the last fit."""
        return (self.stopped or "").startswith(INTERRUPTED)

    @property
    def columns(self) -> list[str]:
        """The names of what was measured, be it in one epoch alone, in the order in which they first came."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @overload
    def __getitem__(self, key: int) -> Row: ...
    @overload
    def __getitem__(self, key: slice) -> list[Row]: ...
    @overload
    def __getitem__(self, key: str) -> list[Any]: ...
    def __getitem__(self, key: int | slice | str) -> Row | list[Row] | list[Any]:
        if isinstance(key, str):
            if self.rows:
                choose("column", key, dict.fromkeys(self.columns))
            return [row.get(key) for row in self.rows]
        return self.rows[key]

    def __repr__(self) -> str:
        epochs = f"{len(self)} epoch{'' if len(self) == 1 else 's'}"
        measured = f": {describe_row(self.rows[-1])}" if self.rows else ""
        return f"<History of {epochs}{measured}{f'; {self.stopped}' if self.stopped else ''}>"

    def _repr_html_(self) -> str:
        if not self.rows:
            return cell_output(tag("p", "no epochs yet"))
        drawn = tag("div", draw_column(self, "loss"), class_="charts") if "loss" in self.columns else ""
        return cell_output(tell_result(self), table(self._lines(), [*self.columns, ""], left=0), drawn)

    def _lines(self) -> Iterator[Sequence[object]]:
        """Yields the cells of the first, the best and the last epochs, with dots for those that are left out."""
        found = find_best(self)
        best = set(found if isinstance(found, list) else [found])
        places = [0, *[k for k, row in enumerate(self.rows) if row["epoch"] in best][:LAST], *range(len(self))[-LAST:]]
        for before, place in pairwise([-1, *sorted(set(places))]):
            if place > before + 1:
                yield [*["⋮"] * len(self.columns), ""]
            row = self.rows[place]
            cells = [cell_text(name, row[name]) if name in row else "" for name in self.columns]
            yield [*(tag("b", cell) for cell in cells), tag("b", "best")] if row["epoch"] in best else [*cells, ""]

    @explain_arguments
    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes one line an epoch to the file `path`, under a line of column names; what was not measured is left
        blank. A file already there is replaced when the new one is whole.

        Raises:
            InputError: the file can't be written.
        """
        with explained(path), new_file(path) as file:
            file.write(csv_lines(self.rows, self.columns, header=True))

    @explain_arguments
    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draws the loss and the metric over the epochs, of training and validation data, and the learning rate where
        it changed; the best epoch is marked. Of several members the best has a thick line, and its best epoch is
        marked. Losses have a logarithmic scale where all are above 0 and the largest is 50 times the least or more.

        Args:
            path: an image to write (.png, .svg, .pdf ...). None: a figure of matplotlib.pyplot, which a notebook
                shows as the value of a cell and `matplotlib.pyplot.show()` in a window.

        Raises:
            InputError: there are no epochs to draw, or the image can't be written.
            MissingExtraError: matplotlib is not installed.
        """
        if not self.rows:
            raise InputError("the history has no epochs to draw; call fit first")
        metric, rates = main_metric(self.columns), self["learning_rate"] if "learning_rate" in self.columns else []
        panels = ["loss", *([] if metric is None else [metric])]
        if any(rate != rates[0] for rate in rates):
            panels.append("learning_rate")
        with new_figure(len(panels), path) as (figure, every_axes):
            for axes, name in zip(every_axes, panels, strict=True):
                draw_curves(self, axes, name)
        return figure


def tell_result(history: History) -> Html:
    """Returns a paragraph on the best epoch and one on what ended the last fit early, where there are such."""
    said = {"Best": describe_best(history), "It ended early": history.stopped}
    return join(tag("p", f"{what}: {told}.") for what, told in said.items() if told)


def draw_curves(history: History, axes: Axes, name: str) -> None:
    """Draws the curves of a column and its val_ twin, a line a member, and where the best epoch is."""
    from matplotlib.ticker import MaxNLocator

    best, drawn, epochs, values, member = find_best(history), [], [0], np.array(0.0), 0
    for column, label, colour in ((name, "training", "C0"), (f"val_{name}", "validation", "C1")):
        rows = [row for row in history if column in row]
        if not rows:
            continue
        epochs, values = [row["epoch"] for row in rows], np.array([row[column] for row in rows], np.float64)
        drawn.append(values)
        how: dict[str, Any] = {"color": colour, "marker": "." if len(rows) <= FEW else None}  # one epoch makes no line
        *others, member = choose_members(history, values)
        if others:
            axes.plot(epochs, values[:, others], linewidth=THIN, markersize=2, **how)
            how["linewidth"] = THICK
        (line,) = axes.plot(epochs, values.reshape(len(rows), -1)[:, member], **how)
        line.set_label(label if name != "learning_rate" else "")
    if isinstance(best, list) and values.ndim > 1 and best[member] in epochs:  # a rate may be one of all members
        at = best[member], values[epochs.index(best[member]), member]
        axes.plot(*at, "*", color="black", markersize=12, label=f"best: member {member}, epoch {at[0]}")
    elif isinstance(best, int):
        axes.axvline(best, color="black", linewidth=1, linestyle=":", label=f"best: epoch {best}")
    if name == "loss" and spans_decades(drawn):
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel=name.replace("_", " "))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def draw_column(history: History, name: str) -> Html:
    """Draws a column and its val_ twin over the epochs, as HTML: a thin line a member, and a thick one of the best; the
    best epoch is marked."""
    curves, drawn = [], []
    for column, label in ((name, "training"), (f"val_{name}", "validation")):
        rows = [row for row in history if column in row]
        if not rows:
            continue
        epochs, values = np.array([row["epoch"] for row in rows]), np.array([row[column] for row in rows], np.float64)
        drawn.append(values)
        *others, best = choose_members(history, values)
        members = values.reshape(len(rows), -1).T
        curves += [Curve(epochs, members[number], f"{label} thin") for number in others]
        told = f"{label}, member {best} of {len(members):,}, the best" if others else label
        style = f"{label} thick" if others else label
        curves.append(Curve(epochs, members[best], style, told if name != "learning_rate" else ""))
    marked = find_best(history)
    return chart(
        curves, "epoch", name.replace("_", " "), whole=True, logarithmic=name == "loss" and spans_decades(drawn),
        marked=marked if isinstance(marked, int) else None,
    )  # fmt: skip


def choose_members(history: History, values: Array) -> list[int]:
    """Chooses the members whose values, (epochs, members), are drawn, at most MOST_CURVES, the best of all last; of
    what all have in common, (epochs,), the only one."""
    count = values[0].size
    if count == 1:
        return [0]
    best = best_member(member_scores(history))
    others = [number for number in range(count) if number != best]
    return [*others[:: -(-len(others) // (MOST_CURVES - 1))], best]


def best_member(scores: Array) -> int:
    """Returns the member with the least of some scores; none whose score is not finite, while others have one."""
    return int(np.where(np.isfinite(scores), scores, np.inf).argmin())


def member_scores(history: History, column: str | None = None) -> Array:
    """Returns what was measured of each member in the epoch whose parameters it has, float64 (members,); NaN of one
    that has diverged.

    Args:
        column: None: val_loss, or loss where nothing was held out.
    """
    column = column or ("val_loss" if "val_loss" in history.columns else "loss")
    values, best = {row["epoch"]: row[column] for row in history if column in row}, history.best_epoch
    last = [*values.values()][-1]
    if isinstance(best, list):
        last = [values.get(epoch, last)[member] for member, epoch in enumerate(best)]
    scores = np.array(last, np.float64)
    if history.diverged is not None:
        scores[np.array(history.diverged) > 0] = np.nan
    return scores


@contextmanager
def explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Makes an InputError of an OSError in opening or writing a file."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write {str(path)!r}: {error.strerror}; give a path in a folder that exists and can be written"
        ) from error


def csv_lines(rows: Sequence[Row], columns: Sequence[str], header: bool) -> bytes:
    """Writes rows as lines of CSV, below a line of the columns where there is none yet."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header and columns:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def main_metric(columns: Iterable[str]) -> str | None:
    """Returns the metric that was measured first, without val_; None: there is none."""
    names = (column.removeprefix("val_") for column in columns)
    return next((name for name in names if name not in NO_METRICS), None)


def find_best(history: History) -> int | list[int] | None:
    """Returns the best epoch so far, with a models axis one for each member: that of early stopping, or the one with
    the lowest val_loss; None where there is neither now: the loss of training data does not tell which is best."""
    if history.best_epoch or not history.rows or "val_loss" not in history[-1]:
        return history.best_epoch
    measured = [(row["epoch"], row["val_loss"]) for row in history if "val_loss" in row]
    epochs, values = zip(*measured, strict=True)
    lowest = np.where(np.isnan(values), np.inf, values).argmin(axis=0)
    best: int | list[int] = np.take(epochs, lowest).tolist()
    return best


def describe_best(history: History) -> str:
    """Names the best epoch, and what the validation, or the training where there is none, measured: "epoch 17, val_loss
    0.1361"; nothing where there is none."""
    best = find_best(history)
    if best is None:
        return ""
    if isinstance(best, list):
        return f"epoch {number(best)}, of each member by itself"
    row = next(row for row in history.rows if row["epoch"] == best)
    names = [f"{'val_' * ('val_loss' in row)}{name}" for name in ("loss", main_metric(row))]
    return f"epoch {best}, {describe_row({name: row[name] for name in names if name in row})}"


def describe_row(row: Mapping[str, Any]) -> str:
    """Losses and metrics of an epoch on one line: "loss 0.0312, accuracy 0.9912, val_loss 0.0871"."""
    hidden = ("epoch", "step", "seconds", "samples_per_second")
    return ", ".join(f"{name} {number(value)}" for name, value in row.items() if name not in hidden)


def cell_text(name: str, value: Any) -> str:
    """Writes what a column of the History has, as `number` does; of seconds and samples a second, three digits."""
    if name in ("seconds", "samples_per_second"):
        return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"
    return number(value)


def number(value: float | Sequence[float]) -> str:
    """Writes four decimals where they say enough, else four digits and an exponent; a count as it is; of many members
    the least and the most, without those that are NaN."""
    if isinstance(value, Sequence):
        known = [one for one in value if not math.isnan(one)] or value
        return f"{number(min(known))} to {number(max(known))}"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.3e}"
