"""The sources of rows: the bundled digits, or a part of a file or folder."""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.commands.errors import Misuse
from gpu_backprop.data import Arrays, Preprocessing, Table, load_digits, read
from gpu_backprop.data.array_inputs import ArrayInputs
from gpu_backprop.data.scaling import StandardScaling
from gpu_backprop.data.table import missing
from gpu_backprop.data.target import Classes

DIGITS = "digits"
"""The word that stands for the bundled digits."""

DARKEST = 16
"""The value of a pixel that is all ink, in the bundled digits."""

Data = Table | Arrays


def load(
    where: str, delimiter: str | None = None, part: str | None = None, text: Collection[str] = (),
    missing_texts: Collection[str] | None = None,
) -> Data:  # fmt: skip
    """Load the data that a word on the command line names.

    Args:
        where: a file or folder, or "digits".
        part: "train" or "test"; None: the test part, of data that have one.
        text, missing_texts: as `read` takes them, as `text` and `missing`.
    """
    if where == DIGITS:
        if delimiter is not None or part is not None:
            raise Misuse(f"--delimiter and --part are about files, and {DIGITS} are the bundled ones; leave them out")
        x, labels = load_digits()
        return Arrays(DIGITS, x, labels)
    chosen = part or ("test" if has_test_part(where) else "train")
    return read(where, delimiter=delimiter, part=chosen, text=text, missing=missing_texts)


def load_rows(options: argparse.Namespace, preprocessing: Preprocessing) -> Data:
    """Load the rows that RUN is to be applied to, read as the training data were."""
    if options.part is not None and options.data != DIGITS and not has_test_part(options.data):
        raise Misuse(
            f"--part is about data with a part for training and one for testing, and {options.data} has only one"
        )
    return preprocessing.as_in_training(load(options.data, options.delimiter, options.part))


def drop_missing_target(data: Data, target: str | None) -> Data:
    """Leave out the rows without a target; say on standard error how many they are."""
    if not isinstance(data, Table):
        raise Misuse(f"--drop-missing-target is about tables, and {data.source} holds arrays; leave it out")
    if target is None or target not in data.columns:
        return data  # an error is raised where it is looked up
    gone = missing(data.columns[target])
    if gone.any():
        print(f"{data.source}: {gone.sum():,} of {data.rows:,} rows left out, whose target is missing", file=sys.stderr)
    if gone.all():
        raise InputError(f"{data.source}: the target, column {target!r}, is missing in every row; choose another")
    return data.take(~gone)


def has_test_part(where: str) -> bool:
    """Tell whether data come with rows that are meant for testing, as MNIST's do."""
    path = Path(where)
    try:
        if path.is_dir():
            return any(entry.name.startswith("t10k-") for entry in path.iterdir())
        if not path.is_file() or not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return {"x_train.npy", "x_test.npy"} <= set(archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False  # reading them explains better what is wrong


def digits_preprocessing() -> Preprocessing:
    """Make the preprocessing of the bundled digits: pixels become numbers from 0 to 1; nothing is fitted."""
    x, labels = load_digits()
    pixels = x.shape[1]
    inputs = ArrayInputs(StandardScaling(np.zeros(pixels), np.full(pixels, float(DARKEST))), None)
    return Preprocessing(inputs, Classes(None, tuple(np.unique(labels).tolist())))


def describe(data: Data) -> str:
    """Describe in one line what was read."""
    if isinstance(data, Table):
        return f"{data.source}: {data.rows:,} rows, {len(data.names):,} columns"
    return f"{data.source}: {data.rows:,} rows of {data.x.shape[1]:,} numbers ({data.x.dtype.name})"
