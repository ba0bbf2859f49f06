"""The measurements of a training run: one row an epoch, in memory, as CSV while it runs, and as curves."""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from gpu_backprop.backend.errors import InputError, MissingExtraError, choose, install
from gpu_backprop.backend.whole_file import descriptor_of, new_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]
"""One epoch: epoch (counted from 1), loss, the metrics, in float16 the loss_scale at its end and how many steps were
skipped for an overflow, after a divergence how often the learning rate was halved (rate_halved), the val_ twins of loss
and metrics, seconds and samples_per_second."""

METRICS = ("accuracy", "r2", "mae")
INCHES = (9.0, 3.6)


class History:
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
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.steps: list[Row] = []
        self.stopped: str | None = None
        self.best_epoch: int | list[int] | None = None

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds an epoch."""
        self.rows.append(dict(row))

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

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes one line an epoch, under a line of column names; what was not measured is left blank. A file already
        there is replaced when the new one is whole.

        Raises:
            InputError: the file can't be written.
        """
        with _explained(path), new_file(path) as file:
            file.write(_csv(self.rows, self.columns, header=True))

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draws the loss and the metric over the epochs, of training and validation data.

        Args:
            path: an image to write (.png, .svg, .pdf ...). None: a figure of matplotlib.pyplot, which a notebook
                shows as the value of a cell and `matplotlib.pyplot.show()` in a window.

        Raises:
            InputError: there are no epochs to draw, or the image can't be written.
            MissingExtraError: matplotlib is not installed.
        """
        if not self.rows:
            raise InputError("the history has no epochs to draw; call fit first")
        figure = _new_figure(on_screen=path is None)
        metric = next((name for name in METRICS if name in self.columns or f"val_{name}" in self.columns), None)
        drawn = ["loss"] if metric is None else ["loss", metric]
        for axes, name in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
            self._draw(axes, name)
        if path is not None:
            form = Path(path).suffix[1:] or figure.canvas.get_default_filetype()
            try:
                with new_file(Path(path).with_suffix(f".{form}")) as file:
                    figure.savefig(file, format=form)
            except (OSError, ValueError) as error:  # ValueError: a file name ending that matplotlib doesn't know
                raise InputError(f"cannot write the curves to {str(path)!r}: {error}") from error
        return figure

    def _draw(self, axes: Axes, name: str) -> None:
        from matplotlib.ticker import MaxNLocator

        for column, label, colour in ((name, "training", "C0"), (f"val_{name}", "validation", "C1")):
            points = [(row["epoch"], row[column]) for row in self.rows if column in row]
            if points:
                marker = "o" if len(points) == 1 else None  # one epoch makes no line
                lines = axes.plot(*zip(*points, strict=True), color=colour, marker=marker)  # a line a member
                lines[0].set_label(label)
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()


class CsvLog:
    """A CSV file of a history that grows with it: the rows that it has are written at once, every other one as soon as
    it is known, and at the end all are safe on the disk. Where a row brings a column that the rows before lack, the
    file is replaced by a new one; into a pipe all rows go again. A path of None logs nothing.

    It is opened at once, before any training, and an InputError says if it can't be written. Where a later row can't
    be, one warning says so, and the file stays as it was before that row; no run ends for its log.
    """

    def __init__(self, path: str | os.PathLike[str] | None, history: History) -> None:
        self.history = history
        self._file: FileIO | None = None
        self._columns: list[str] = []
        if path is None:
            return
        with _explained(path):
            number = descriptor_of(path)
            if number is None:
                self._file = open(path, "wb", buffering=0)  # noqa: SIM115 (closed by __exit__)
            else:  # such as /dev/stdout: the file that output is added to keeps what it holds
                self._file = open(path, "ab", buffering=0, opener=lambda *_: os.dup(number))  # noqa: SIM115
        self._replaceable = number is None and os.path.isfile(self._file.fileno())
        if history.rows:
            self._write_all()

    def write(self) -> None:
        """Adds the newest row of the history."""
        if self._file is None:
            return
        row = self.history[-1]
        if row.keys() <= set(self._columns):
            self._add(_csv([row], self._columns, header=False))
        elif self._columns and self._replaceable:
            self._replace()
        else:
            self._write_all()

    def _write_all(self) -> None:
        self._columns = self.history.columns
        self._add(_csv(self.history.rows, self._columns, header=True))

    def _replace(self) -> None:
        assert self._file is not None
        self._columns = self.history.columns
        try:
            path = os.path.realpath(self._file.name)
            self._file.close()  # Windows replaces no open file
            with new_file(path) as file:
                file.write(_csv(self.history.rows, self._columns, header=True))
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        except OSError as error:
            self._give_up(error)

    def _add(self, content: bytes) -> None:
        assert self._file is not None
        data = memoryview(content)
        begin = self._file.tell() if self._file.seekable() else None
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(begin)
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        assert self._file is not None
        path, file, self._file = self._file.name, self._file, None
        with suppress(OSError):
            file.close()
        said = f"cannot write {os.fspath(path)!r} any more ({error.strerror}); training goes on without it"
        warnings.warn(said, RuntimeWarning, stacklevel=3)

    def __enter__(self) -> CsvLog:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._file is None:
            return
        try:
            with self._file:
                if os.path.isfile(self._file.fileno()):  # a pipe or a device has nothing to flush
                    os.fsync(self._file.fileno())
        except OSError as failed:
            if error is None:
                self._give_up(failed)


@contextmanager
def _explained(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write {str(path)!r}: {error.strerror}; give a path in a folder that exists and can be written"
        ) from error


def _csv(rows: Sequence[Row], columns: Sequence[str], header: bool) -> bytes:
    """Writes rows as lines of CSV, below a line of the columns where there is none yet."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header and columns:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def describe_row(row: Mapping[str, Any]) -> str:
    """Losses and metrics of an epoch on one line: "loss 0.0312, accuracy 0.9912, val_loss 0.0871"."""
    hidden = ("epoch", "step", "seconds", "samples_per_second")
    return ", ".join(f"{name} {number(value)}" for name, value in row.items() if name not in hidden)


def number(value: float | list[float]) -> str:
    """Writes four decimals where they say enough, else four digits and an exponent; a count as it is; of many members
    the least and the most."""
    if isinstance(value, list):
        return f"{number(min(value))} to {number(max(value))}"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.3e}"


def _new_figure(on_screen: bool) -> Figure:
    """Makes a figure that pyplot knows, or one that needs no display."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(f"drawing curves needs matplotlib: {install('plot')}") from error
    if not on_screen:
        return Figure(figsize=INCHES, layout="constrained")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=INCHES, layout="constrained")
    if "inline" in pyplot.get_backend():
        pyplot.close(figure)  # a notebook shows every open figure, and then the value of the cell: the same one twice
    return figure
