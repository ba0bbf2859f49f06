"""Files that grow with a history, a row an epoch: CSV and JSON lines."""

from __future__ import annotations

import json
import math
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from io import FileIO
from typing import Any, Self

from gpu_backprop.backend.attributes import FixedAttributes
from gpu_backprop.backend.whole_file import descriptor_of, new_file
from gpu_backprop.training.callbacks import FitState
from gpu_backprop.training.history import History, Row, csv_lines, explained


class RowLog:
    """A file of a history that grows with it, here in JSON lines: the rows that it has are written at once, every other
    one as soon as it is known, and at the end all are safe on the disk. A path of None logs nothing.

    It is opened at once, before any training, and an InputError says if it can't be written. Where a later row can't
    be, one warning says so, and the file stays as it was before that row; no run ends for its log.
    """

    def __init__(self, path: str | os.PathLike[str] | None, history: History) -> None:
        self.history = history
        self._file: FileIO | None = None
        if path is None:
            return
        with explained(path):
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
        if self._file is not None:
            self._write_row(self.history[-1])

    def _write_row(self, row: Row) -> None:
        self._add(json_lines([row]))

    def _write_all(self) -> None:
        self._add(json_lines(self.history.rows))

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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close(error)

    def close(self, error: BaseException | None = None) -> None:
        """Makes all safe on the disk; a failure of that is warned of unless an error is on its way."""
        if self._file is None:
            return
        try:
            with self._file:
                if os.path.isfile(self._file.fileno()):  # a pipe or a device has nothing to flush
                    os.fsync(self._file.fileno())
        except OSError as failed:
            if error is None:
                self._give_up(failed)


class CsvLog(RowLog):
    """A log in CSV. Where a row brings a column that the rows before lack, the file is replaced by a new one; into a
    pipe all rows go again."""

    _columns: Sequence[str] = ()

    def _write_row(self, row: Row) -> None:
        if row.keys() <= set(self._columns):
            self._add(csv_lines([row], self._columns, header=False))
        elif self._columns and self._replaceable:
            self._replace()
        else:
            self._write_all()

    def _write_all(self) -> None:
        self._columns = self.history.columns
        self._add(csv_lines(self.history.rows, self._columns, header=True))

    def _replace(self) -> None:
        assert self._file is not None
        self._columns = self.history.columns
        try:
            path = os.path.realpath(self._file.name)
            self._file.close()  # Windows replaces no open file
            with new_file(path) as file:
                file.write(csv_lines(self.history.rows, self._columns, header=True))
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        except OSError as error:
            self._give_up(error)


class JsonLines(FixedAttributes):
    """A callback that writes the history to a file as JSON lines, an object an epoch, as soon as the epoch is over:
    `trainer.fit(x, y, callbacks=[gb.JsonLines("history.jsonl")])`. NaN and infinity, which JSON lacks, are null. A file
    already there is replaced; the rows of fits before are written at once.

    Where a later row can't be written, one warning says so, and training goes on without the file.

    Args:
        path: the file.
    """

    only_reads = True
    settable = ("path",)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self._log: RowLog | None = None

    def on_start(self, state: FitState) -> None:
        """Opens the file; raises InputError if it can't be written."""
        first = state.trainer.communicator.rank == 0
        self._log = RowLog(self.path if first else None, state.trainer.history)

    def on_epoch(self, state: FitState) -> None:
        """Adds the epoch."""
        if self._log is not None:
            self._log.write()

    def on_end(self, state: FitState) -> None:
        """Closes the file, which is safe on the disk then."""
        if self._log is not None:
            self._log.close(sys.exception())
            self._log = None


def json_lines(rows: Iterable[Row]) -> bytes:
    """Writes each row as a JSON object on a line."""
    return "".join(json.dumps(_finite(row), allow_nan=False) + "\n" for row in rows).encode()


def _finite(value: Any) -> Any:
    """Puts None in the place of each number that is not finite."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
