"""X and y of TabularClassifier and TabularRegressor as tables or arrays, and messages in words of X and y."""

from __future__ import annotations

import dataclasses
import datetime
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.data import Arrays, Table
from gpu_backprop.data.errors import DataError
from gpu_backprop.data.frames import as_table, is_frame
from gpu_backprop.data.messages import counted, listed, shown
from gpu_backprop.data.table import missing

TARGET = "target"
"""What the target is called in a model file, where y has no name."""

IN_WORDS_OF_X = {
    r" with --ignore \(ignore= in Python\)": "",
    r"leave these rows out( with --drop-missing-target \(Table\.take in Python\))?": "leave these rows out of X and y",
    r", and with --missing '' \(missing= in Python\) only an empty field is": "",
    r"no column to learn from but .*": "no column to learn from; give one",
    "leave the field empty": "make it NaN or None",
    r"choose --task regression \(task= in Python\)": "take TabularRegressor",
    r"choose --task classification \(task= in Python\)": "take TabularClassifier",
    r" with --text \(text= in Python\)": " by astype(str)",
    r"--ordinal( \(ordinal= of an Encoding\)| '.*')": "settings={'ordinal': {column: texts}}",
    r", or allow more with --memory-limit \(memory_limit= in Python\) if that is right": "",
    r" \(--ignore leaves it out, --hash makes fewer\)|, hash it with --hash \(hashed= in Python\)": "",
    r", or hash it to \d+ inputs with --hash \(hashed= in Python\)": ", or take settings={'many': 'hash'}",
    "validation_split=": "validation_fraction=", r"validation=\(x, y\)": "eval_set=(X, y)",
    r"\bfolds=": "ensemble=", "y, the target,": "y", r"^X: y\b": "y", r"^X, (?=[^:]*: y\b)": "",
}  # fmt: skip
"""What messages of the preprocessing and of Trainer.fit say, as patterns, and what is said to those who gave X and
y."""


@contextmanager
def in_words_of_x(target: str | None) -> Iterator[None]:
    """Lets errors speak of X, y and the estimator's own parameters; `target`: the column that y became, if it did."""
    try:
        yield
    except (InputError, DataError) as error:
        said = str(error) if target is None else str(error).replace(f"column {shown(target)}", "y")
        for theirs, ours in IN_WORDS_OF_X.items():
            said = re.sub(theirs, ours, said)
        error.args = (said, *error.args[1:])
        raise


def read_rows(
    X: Any, columns: Sequence[str] | None, y: Array | None = None, target: Any = None, source: str = "X"
) -> Table | Arrays:
    """Returns X and y as data: a table of a data frame, or of an array with other things than numbers, else arrays.

    Args:
        columns: what those of the table of fit are called; none where it was arrays. None: this is fit.
        target: the name of y, the last column; where it has none, or that of another column, it gets one.
        source: what messages call it.
    """
    if not is_frame(X):
        if not columns and X.dtype.kind in "biuf":
            return Arrays(source, X, y)
        X = dict(zip(columns or [f"x[{k}]" for k in range(X.shape[1])], X.T, strict=True))
    table = as_table(X, source=source)
    if columns is not None and not columns:
        return Arrays(source, np.stack([*table.columns.values()], axis=1), y)
    if y is None:
        return table
    if y.ndim == 2:
        raise InputError(
            f"y has {y.shape[1]} columns, and from a data frame one number a row can be learned: give one of them, or "
            "take sklearn.multioutput.MultiOutputRegressor(TabularRegressor(...))."
        )
    name = target if isinstance(target, str) and target else TARGET
    while name in table.names:
        name += "_"
    return dataclasses.replace(table, columns={**table.columns, name: y}, reread=None)


def leave_out_empty(data: Table | Arrays, columns: Sequence[str]) -> tuple[Table | Arrays, list[str]]:
    """Returns the data to fit a preprocessing to, and which of their columns it is to ignore: those without any value,
    of which it warns. In arrays, whose columns cannot be ignored, they become 0, a constant, which says nothing.

    Raises:
        InputError: no column has a value.
    """
    if isinstance(data, Table):
        empty = [name for name in columns if name in data.columns and missing(data.columns[name]).all()]
        every, ignored = len(columns) + len(data.unusable), empty
    else:
        numbers = data.x.dtype.kind == "f"
        gone = np.asarray(np.isnan(data.x).all(axis=0)) if numbers else np.zeros(data.x.shape[1], bool)
        every, ignored, empty = len(gone), [], [f"x[{k}]" for k in np.flatnonzero(gone)]
        data = dataclasses.replace(data, x=np.where(gone, 0, data.x)) if empty else data
    if empty and len(empty) == every:
        raise InputError("X has no value in any column, only missing ones; give a column to learn from.")
    if empty:
        have = counted(len(empty), "column has", "columns have")
        said = f"X: {have} no value in the training rows, and will be left out: {listed(empty)}."
        warnings.warn(said, UserWarning, stacklevel=3)
    return data, ignored


def refuse_dates(y: Any) -> None:
    """Raises TypeError for dates and durations, of which conversion would make numbers in units that nobody chose."""
    values = np.asarray(y)
    cells = values.ravel().tolist() if values.dtype.kind == "O" else []
    of_time = (datetime.date, datetime.time, datetime.timedelta, np.datetime64, np.timedelta64)
    stray = next((cell for cell in cells if isinstance(cell, of_time)), None)
    if values.dtype.kind in "mM" or stray is not None:
        days, kind = " / numpy.timedelta64(1, 'D')", values.dtype.kind
        if kind == "m" or isinstance(stray, (datetime.timedelta, np.timedelta64)):
            given, how = "durations", f"numpy.asarray(y, 'm8[us]'){days}"
        else:
            given, how = "dates or times", f"(numpy.asarray(y, 'M8[us]') - numpy.datetime64('2000-01-01')){days}"
        raise TypeError(f"y holds {given}, and regression needs numbers; give such, in days for example: {how}.")
