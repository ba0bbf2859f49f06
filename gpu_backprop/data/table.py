"""The contents of a file: a table with named columns, or arrays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt

from gpu_backprop.data.cells import MISSING, composed
from gpu_backprop.data.columns import as_column, describe_mixture, is_text
from gpu_backprop.data.errors import DataError
from gpu_backprop.data.files import Array
from gpu_backprop.data.messages import shown
from gpu_backprop.display.escapes import escaped


@dataclass(frozen=True, eq=False)
class Table:
    """Rows under named columns, from CSV or Parquet.

    Attributes:
        source: the file, as messages name it.
        columns: by name, in the order of the file; each (rows,), either float64 with NaN where a value is missing, or
            an object array of str with None where one is missing. Lists, arrays of other numbers, of str, bool or dates
            and the columns of a data frame become such; True is the text "True" and a date that of CSV, as from files,
            and a duration is days.
        lines: the line of the file where each row begins, counted from 1; None where the file has no lines.
        unusable: further columns of the file, that no network can read, by name, and what is wrong with each of them.
        text: the columns that are text because that was asked for.
        missing: the texts that stood for a missing value.
        reread: reads the file again, with other columns as text and other texts for missing values; None where there
            is no file. It alone knows how a column's numbers were written.
        kept: the rows of the file that are left, where some were taken out; None: all.
        labels: what a data frame calls its rows, its index; None: it has none.

    Raises:
        DataError: columns of other types, or of different lengths.
    """

    source: str
    columns: Mapping[str, Array] = field(default_factory=dict)
    lines: Array | None = None
    unusable: Mapping[str, str] = field(default_factory=dict)
    text: Collection[str] = ()
    missing: frozenset[str] = field(default=MISSING, repr=False)
    reread: Callable[[Collection[str], frozenset[str]], Table] | None = field(default=None, repr=False)
    kept: Array | None = None
    labels: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.source, str):
            raise DataError(
                f"a Table begins with a name for messages, and a {type(self.source).__name__} was given; write "
                "Table('people', columns)"
            )
        columns = dict(self.columns.items())  # len() of a data frame counts rows
        named = {
            composed(name) if isinstance(name, str) else name: as_column(column) for name, column in columns.items()
        }
        if len(named) < len(columns):
            raise DataError(f"{self.source}: two columns have one name, in other forms of its letters; rename one")
        object.__setattr__(self, "columns", named)
        object.__setattr__(self, "source", escaped(self.source))
        for name, column in self.columns.items():
            if not isinstance(name, str):
                raise DataError(f"{self.source}: a column is called {name!r}, which is no text; call it {str(name)!r}")
            if column.shape != (self.rows,):
                raise DataError(
                    f"{self.source}: column {shown(name)} has the shape {column.shape}; every column of a table must "
                    f"have one value for each of its {self.rows} rows"
                )
            if column.dtype != np.float64 and not (column.dtype == object and is_text(column)):
                mixture = f" and {describe_mixture(column)}" if column.dtype == object else ""
                raise DataError(
                    f"{self.source}: column {shown(name)} has the dtype {column.dtype}{mixture}; give float64 numbers "
                    "(NaN: missing) or an object array of str (None: missing)"
                )

    def refuse_unusable(self, names: Iterable[str], remedy: str = "") -> None:
        """Raises DataError for the first of these columns that no network can read."""
        for name in names:
            if name in self.unusable:
                raise DataError(f"{self.source}: column {shown(name)} {self.unusable[name]}{remedy}")

    @property
    def names(self) -> list[str]:
        """All columns of the file."""
        return [*self.columns, *self.unusable]

    @property
    def rows(self) -> int:
        return next((len(column) for column in self.columns.values()), 0)

    def line(self, row: int) -> int:
        """Returns the line of a row (counted from 0) in the file, or where there are no lines its number from 1."""
        row = row if self.kept is None else int(self.kept[row])
        return row + 1 if self.lines is None else int(self.lines[row])

    def place(self, row: int) -> str:
        """Says the same in words: line 7, row 7; or by what a data frame calls the row: index 7, index 'Oslo'."""
        if self.labels is not None:
            label = self.labels[row if self.kept is None else int(self.kept[row])]
            return f"index {label if isinstance(label, Integral) else shown(label)}"
        return f"{'row' if self.lines is None else 'line'} {self.line(row)}"

    def take(self, rows: npt.ArrayLike) -> Table:
        """Returns some rows, by indices or a mask; `line` and `place` still tell where they stand in the file."""
        kept = np.arange(self.rows)[np.asarray(rows)]
        columns = {name: column[kept] for name, column in self.columns.items()}
        return replace(self, columns=columns, kept=kept if self.kept is None else self.kept[kept])

    def again(self, text: Collection[str], missing: frozenset[str]) -> Table:
        """Reads the same rows from the file again."""
        assert self.reread is not None
        table = self.reread(text, missing)
        return table if self.kept is None else table.take(self.kept)

    def taken_for_missing(self, name: str) -> str:
        """Returns `; 'Na' in line 2 was taken for one, ...` about the first text of a column that was; or nothing."""
        with suppress(DataError):  # if the file is gone, the message does without it
            texts = self.columns[name] if self.reread is None else self.again([name], frozenset([""])).columns[name]
            for row in np.flatnonzero(missing(self.columns[name]) & ~missing(texts)).tolist():
                text = f"{shown(texts[row])} in {self.place(row)}"
                return f"; {text} was taken for one, and with --missing '' (missing= in Python) only an empty field is"
        return ""


@dataclass(frozen=True, eq=False)
class Arrays:
    """Rows of unnamed features with their targets, from .npy, .npz or IDX.

    Attributes:
        source: the file or folder, as messages name it.
        x: (rows, features), of the dtype that is stored: uint8 for images. More axes are flattened into features, and
            one axis is one feature.
        y: the targets, numbers (rows,) or (rows, k), or an object array of str (rows,); None where there are none.
        images: whether the features are pixels; uint8 of three or four axes always is.
        labelled: whether y is known to be classes, as in a format for labels; else its values decide.
        first: the number of the first row in the file, of rows that are a part of it.

    Raises:
        DataError: x or y of other types or shapes, or of different lengths, or no rows.
    """

    source: str
    x: Array
    y: Array | None = None
    images: bool = False
    labelled: bool = False
    first: int = 0

    def __post_init__(self) -> None:
        refuse_sparse(self.x)
        for name, given in ("x", self.x), ("y", self.y):
            if given is not None and not isinstance(given, np.ndarray):
                raise DataError(
                    f"{self.source}: {name} is a {type(given).__name__}; give a NumPy array: {name}.toarray() of a "
                    f"sparse matrix, {name}.to_numpy() of a data frame, np.array({name}) of a list"
                )
        object.__setattr__(self, "source", escaped(str(self.source)))
        if self.x.dtype.kind not in "biuf":
            raise DataError(f"{self.source}: x has the dtype {self.x.dtype}; it must be numbers")
        if not self.x.size or not self.x.ndim:
            raise DataError(f"{self.source}: x has the shape {self.x.shape}; it must have rows, and numbers in them")
        object.__setattr__(self, "images", self.x.dtype == np.uint8 and (self.images or self.x.ndim in (3, 4)))
        object.__setattr__(self, "x", self.x.reshape(len(self.x), -1))
        if self.y is not None:
            object.__setattr__(self, "y", self._checked(self.y))

    def _checked(self, y: Array) -> Array:
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y.ndim not in (1, 2) or len(y) != self.rows or not y.size:
            raise DataError(
                f"{self.source}: y has the shape {y.shape} and x has {self.rows} rows; y must be one target a row, "
                "(rows,), or several, (rows, k)"
            )
        if y.dtype.kind == "U" and y.ndim == 1:
            y = y.astype(object)
        if y.dtype.kind not in "biuf" and not (y.dtype == object and y.ndim == 1 and is_text(y)):
            raise DataError(f"{self.source}: y has the dtype {y.dtype}; it must be numbers, or one text a row")
        return y

    @property
    def rows(self) -> int:
        return len(self.x)

    def place(self, row: int) -> str:
        """Says where a row (counted from 0) stands: row 7, counted from 1."""
        return f"row {self.first + row + 1}"


def refuse_sparse(given: object) -> None:
    """Raises DataError for a sparse matrix of scipy."""
    if type(given).__module__.startswith("scipy.sparse"):
        raise DataError(
            f"what was given is a {type(given).__name__}, and to centre its columns would fill in its zeros; divide "
            "them by their largest absolute values (scikit-learn's MaxAbsScaler does) and train on the sparse matrix, "
            "without a Preprocessing, or give x.toarray() where that fits in memory"
        )


def missing(values: Array) -> Array:
    """Marks the values that are missing, bool of the same shape: None among texts, NaN among numbers."""
    if values.dtype == object:
        return np.array([value is None for value in values.tolist()], bool)
    return np.isnan(values)
