"""Rows of data, prepared, and split into those that a network learns from and those that it is scored on."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.lazy_rows import LazyRows
from gpu_backprop.commands.errors import Misuse
from gpu_backprop.commands.sources import (
    DIGITS,
    Data,
    describe,
    digits_preprocessing,
    drop_missing_target,
    has_test_part,
    load,
)
from gpu_backprop.data import Arrays, Preprocessing, Table, stratified_split
from gpu_backprop.data.encoding import Encoding
from gpu_backprop.data.messages import listed, shown
from gpu_backprop.data.row_blocks import larger_than_memory
from gpu_backprop.data.split import is_held_out
from gpu_backprop.data.stored_rows import StoredRows, open_rows
from gpu_backprop.data.table import missing
from gpu_backprop.training.checkpoints.fingerprint import fingerprint
from gpu_backprop.training.streaming import given_rows

HELD_OUT = 0.2
"""The share of the rows that is held out unless another was asked for."""

FILLED_IN = (
    "nothing in column {}, and every training row had something; it is filled in, of which the network is not told"
)
"""What is said of rows that lack a number or a date."""

SHOWN = 20
"""How many classes or columns are named; the rest is counted."""


@dataclass(frozen=True)
class Samples:
    """Prepared rows: x, and y as labels (rows,) or numbers (rows, outputs)."""

    x: Array
    y: Array

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Array) -> Samples:
        """Return some of the rows."""
        if isinstance(self.x, LazyRows):
            x = LazyRows((len(rows), *self.x.shape[1:]), self.x.dtype, lambda some: self.x[rows[some]])
            return Samples(cast(Array, x), self.y[rows])
        return Samples(self.x[rows], self.y[rows])

    def fingerprint(self) -> dict[str, Any]:
        """Tell these rows from others."""
        return fingerprint([self.x, self.y])


@dataclass(frozen=True)
class TrainTestData:
    """Rows to learn from and rows to be scored on.

    Attributes:
        things: what a row is called.
        preprocessing: how rows were prepared; it knows the training rows only.
        held_out: None where nothing is.
        split: bool (rows,), of all rows that DATA has: whether each was held out.
        fingerprints: what tells the rows of DATA, prepared, from others; and those of what else is measured on, if any.
    """

    things: str
    preprocessing: Preprocessing
    training: Samples
    held_out: Samples | None
    split: Array
    fingerprints: list[dict[str, Any]]

    @property
    def windows(self) -> bool:
        """Whether rows are on the disk, and read in windows."""
        return isinstance(self.training.x, LazyRows)


def load_train_test(
    options: argparse.Namespace, scale_target: bool, encoding: Encoding, windows: bool | None = None
) -> TrainTestData:
    """Read and prepare the rows that the command line names.

    Args:
        scale_target: whether quantities are scaled.
        encoding: how columns become inputs.
        windows: whether rows are read in windows, as by the run that goes on; None: where they do not fit in memory.
    """
    if options.data == DIGITS:
        return _digits(options)
    if _larger_than_memory(options) if windows is None else windows:
        return _in_windows(options, scale_target, encoding)
    data = load(options.data, options.delimiter, "train", options.text, options.missing)
    _check_target(data, options.target)
    if options.drop_missing_target:
        data = drop_missing_target(data, options.target)
    settings = {"impute": options.impute, "ignore": options.ignore, "hashed": dict(options.hash)}
    settings |= {"standardise_target": scale_target, "encoding": encoding}
    fit = partial(Preprocessing.fit, data, options.target, **settings)
    whole = fit(task=options.task)
    for warning in whole.warnings:
        warn(warning)
    testing = _test_data(options)
    if testing is not None:
        testing = whole.as_in_training(testing)
        if options.drop_missing_target:
            testing = drop_missing_target(testing, options.target)
        _print_data(whole, whole, data, options.quiet)
        training = prepare(whole, data, options.ignore)
        nothing = np.zeros(len(training), np.bool_)
        held_out_file = prepare(whole, testing, options.ignore)
        fingerprints = [training.fingerprint(), held_out_file.fingerprint()]
        return TrainTestData("rows", whole, training, held_out_file, nothing, fingerprints)
    override = "" if isinstance((whole.classes or [""])[0], str) else "; --task regression if these are quantities"
    rows, held_out = split(whole.targets(data), _share(options), options.seed, data.source, override)
    fitted = fit(task=whole.task, rows=rows)
    _print_data(whole, fitted, data, options.quiet)
    return _divide("rows", fitted, prepare(fitted, data, options.ignore), rows, held_out)


def _larger_than_memory(options: argparse.Namespace) -> bool:
    """Tell whether the rows take more memory than they may on the machine of any rank, each of which reads them all."""
    ranks = options.ranks
    processes = 1 + max(ranks.gather(ranks.local_rank))
    with ranks.alike():
        larger = larger_than_memory(options.data, processes)
    return bool(ranks.any(larger))


def _in_windows(options: argparse.Namespace, scale_target: bool, encoding: Encoding) -> TrainTestData:
    """Prepare rows that take more memory than they may, in a temporary file."""
    print(f"{options.data}: more than the memory limit, so that its rows are prepared on the disk, and read in windows")
    other = options.held_out_file is not None or (options.held_out is None and has_test_part(options.data))
    share = 0.0 if other else _share(options)
    form: dict[str, Any] = {"delimiter": options.delimiter, "drop_missing_target": options.drop_missing_target}
    form |= {"communicator": options.ranks}
    rows = open_rows(
        options.data, target=options.target, held_out=share, seed=options.seed, task=options.task, **form,
        impute=options.impute, ignore=options.ignore, hashed=dict(options.hash), text=options.text,
        missing=options.missing, standardise_target=scale_target, encoding=encoding,
    )  # fmt: skip
    learned, held_out = rows.preprocessing, rows.held_out
    assert learned is not None
    if other:
        file, part = (options.data, "test") if options.held_out_file is None else (options.held_out_file, "train")
        held_out = open_rows(file, preprocessing=learned, part=part, **form)
    count = len(rows) + (0 if rows.held_out is None else len(rows.held_out))
    if not options.quiet:
        print(f"{options.data}: {count:,} rows\n{learned.why}\ninputs: {learned.inputs:,}\n")
    for warning in learned.warnings:
        warn(warning)
    for warning in warnings_of(learned, rows.unseen):
        warn(f"{options.data}: {warning}")
    training, split = stored_samples(rows), is_held_out(0, count, share, options.seed)
    testing = None if held_out is None else stored_samples(held_out)
    whole = (
        training
        if other or testing is None
        else Samples(_in_order(training.x, testing.x, split), _in_order(training.y, testing.y, split))
    )
    fingerprints = [whole.fingerprint(), *([testing.fingerprint()] if other and testing is not None else [])]
    return TrainTestData("rows", learned, training, testing, split, fingerprints)


def stored_samples(rows: StoredRows) -> Samples:
    """Return x and y of rows that were prepared on the disk."""
    x, y, _ = given_rows(rows, None, None)
    return Samples(x, y)


def _in_order(training: Array, held_out: Array, split: Array) -> Array:
    """Return both together in the order of the data."""

    def read(rows: slice | Array) -> Array:
        assert isinstance(rows, slice)
        start, stop, _ = rows.indices(len(split))
        out, before = split[start:stop], np.count_nonzero(split[:start])
        number = np.count_nonzero(out)
        found = np.empty((stop - start, *training.shape[1:]), training.dtype)
        found[out] = held_out[before : before + number]
        found[~out] = training[start - before : stop - before - number]
        return found

    return cast(Array, LazyRows((len(split), *training.shape[1:]), training.dtype, read))


def warnings_of(preprocessing: Preprocessing, unseen: Mapping[str, int]) -> Iterator[str]:
    """Yield a sentence for each column in which some rows have a text that no training row had, or no number."""
    for column, number in unseen.items():
        if column in preprocessing.numeric:
            yield f"{number:,} rows have {FILLED_IN.format(shown(column))}"
            continue
        unknown = f"a text that no training row had; to the network it is {_taken_for(preprocessing, column)}"
        yield f"{number:,} rows have in column {shown(column)} {unknown}"


def _taken_for(preprocessing: Preprocessing, column: str) -> str:
    rare = f"{column}=(rare)" in preprocessing.features
    return "one of the rare categories" if rare else "none of the categories that it knows"


def prepare(preprocessing: Preprocessing, data: Data, ignored: Collection[str] = ()) -> Samples:
    """Return x and y of data."""
    return Samples(transform(preprocessing, data, ignored), preprocessing.targets(data))


def transform(preprocessing: Preprocessing, data: Data, ignored: Collection[str] = ()) -> Array:
    """Return x of data; warn of what is not as in the training data and was not to be ignored."""
    x = preprocessing.transform(data)
    for warning in unlike_training(preprocessing, data, ignored):
        warn(warning)
    return x


def unlike_training(preprocessing: Preprocessing, data: Data, ignored: Collection[str] = ()) -> Iterator[str]:
    """Yield a sentence for all that was not as in the training data in what was transformed last."""
    for column, rows in preprocessing.unseen.items():
        if column in preprocessing.numeric:
            has = "has" if rows == 1 else "have"
            yield f"{data.source}: {rows:,} of {data.rows:,} rows {has} {FILLED_IN.format(shown(column))}"
            continue
        lacking = _count_without_text(preprocessing, data, column)
        for number, what in (
            (rows - lacking, f"a text in column {shown(column)} that no training row had"),
            (lacking, f"no text in column {shown(column)}, and every training row had one"),
        ):
            if number:
                has = "has" if number == 1 else "have"
                known = _taken_for(preprocessing, column)
                yield f"{data.source}: {number:,} of {data.rows:,} rows {has} {what}; to the network it is {known}"
    extra = [column for column in preprocessing.extra if column not in ignored]
    if extra:
        yield f"{data.source}: not used, because the network was not trained on it: {listed(extra)}"


def split(y: Array, share: float, seed: int, source: str, hint: str = "") -> tuple[Array, Array]:
    """Choose the rows to learn from and to hold out: of every class alike, or of all rows where y holds quantities.

    Args:
        hint: what else can be done where there are too few rows.
    """
    if share == 0:
        return np.arange(len(y)), np.arange(0)
    try:
        return stratified_split(y if y.ndim == 1 else np.zeros(len(y)), share, seed)
    except ValueError as error:
        raise InputError(f"{source}: {error} (--held-out; 0 learns from all rows{hint})") from None


def _count_without_text(preprocessing: Preprocessing, data: Data, column: str) -> int:
    """Count the rows without a text in a column, unless that is a category, or filled in as in training."""
    if not isinstance(data, Table) or {column, f"{column} missing"}.intersection(preprocessing.features):
        return 0
    return int(missing(data.columns[column]).sum())


def warn(message: str) -> None:
    """Print a warning on standard error."""
    print(f"warning: {message}", file=sys.stderr)


def _digits(options: argparse.Namespace) -> TrainTestData:
    given = {
        "--target": options.target, "--delimiter": options.delimiter, "--impute": options.impute,
        "--ignore": options.ignore, "--hash": options.hash, "--ordinal": options.ordinal, "--text": options.text,
        "--missing": options.missing, "--drop-missing-target": options.drop_missing_target,
        "--held-out-file": options.held_out_file, "--task": None if options.task == "auto" else options.task,
    }  # fmt: skip
    if meaningless := [name for name, value in given.items() if value]:
        raise Misuse(f"{', '.join(meaningless)}: about data of your own, but none are given: gpu-backprop train DATA …")
    data, preprocessing = load(DIGITS), digits_preprocessing()
    samples = prepare(preprocessing, data)
    return _divide("digits", preprocessing, samples, *split(samples.y, _share(options), options.seed, data.source))


def _divide(things: str, preprocessing: Preprocessing, samples: Samples, rows: Array, held_out: Array) -> TrainTestData:
    of_both = np.zeros(len(samples), np.bool_)
    of_both[held_out] = True
    testing = samples.take(held_out) if len(held_out) else None
    return TrainTestData(things, preprocessing, samples.take(rows), testing, of_both, [samples.fingerprint()])


def _check_target(data: Data, target: str | None) -> None:
    if isinstance(data, Table) and target is None:
        raise Misuse(f"--target is missing, the column to be learned; {data.source} has {listed(data.columns)}")
    if isinstance(data, Arrays) and target is not None:
        raise Misuse(f"--target is about tables, and {data.source} holds arrays, whose target is y; leave it out")


def _share(options: argparse.Namespace) -> float:
    default = HELD_OUT if options.ensemble is None else 0.0  # whose members measure all rows, a fold each
    return default if options.held_out is None else float(options.held_out)


def _test_data(options: argparse.Namespace) -> Data | None:
    """Read the rows of another file or part, where the network is to be scored on these."""
    if options.held_out_file is not None:
        return load(options.held_out_file, options.delimiter)
    if options.held_out is None and has_test_part(options.data):
        return load(options.data, part="test")
    return None


def _print_data(whole: Preprocessing, preprocessing: Preprocessing, data: Data, quiet: bool) -> None:
    """Print what was read: the task and classes of all rows, and the inputs that the training rows make."""
    if quiet:
        return
    print(f"{describe(data)}\n{whole.why}")
    if whole.classes is not None:
        times = Counter(whole.targets(data).tolist())
        shares = [f"{name} ({times[label]:,})" for label, name in enumerate(whole.classes[:SHOWN])]
        print(f"classes (rows): {_cut(shares, len(whole.classes))}")
    if isinstance(data, Table):
        columns = preprocessing.summaries[:SHOWN]
        print(f"inputs: {preprocessing.inputs:,}, from {_cut(columns, len(preprocessing.summaries))}")
    else:
        print(f"inputs: {preprocessing.inputs:,}, {preprocessing.how}")
    print()


def _cut(names: list[str], there: int) -> str:
    return ", ".join(names) + (f" and {there - SHOWN:,} more" if there > SHOWN else "")
