"""gpu-backprop predict: a line of CSV for each row of data."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

import gpu_backprop as gb
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.whole_file import new_file
from gpu_backprop.commands.datasets import transform, warn, warnings_of
from gpu_backprop.commands.errors import Misuse
from gpu_backprop.commands.runs import MODEL, load_prepared
from gpu_backprop.commands.scoring import labels
from gpu_backprop.commands.sources import DIGITS, has_test_part, load_rows
from gpu_backprop.data import Preprocessing
from gpu_backprop.data.cells import is_number
from gpu_backprop.data.row_blocks import larger_than_memory, open_blocks
from gpu_backprop.data.stored_rows import as_in_training
from gpu_backprop.training.console import Readable

PREDICTION = "prediction"
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""The beginnings of a text that a spreadsheet may run as a formula."""

BLOCK = 1024
"""Rows that are computed and written at a time."""

NEGLIGIBLE = 1e-3
"""Of a standard deviation of the target: how far rounding may move a prediction."""


def predict(options: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    if options.output is not None:
        _refuse_inputs(options)
    net = load_prepared(options.run, options.device)
    widths = None if options.interval is None else half_widths(net, options.run, options.interval)
    parts = _parts(options, net.preprocessing)
    written = spreadsheet_safe if options.spreadsheet_safe else plain
    with _output(options.output) as file:
        writer = csv.writer(file, lineterminator="\n")
        for warning in predictions(net, parts, writer.writerows, options.data, written, widths):
            warn(warning)
    return 0


def predictions(
    net: gb.Network, parts: Iterable[Array], write: Callable[[Iterable[Sequence[str]]], object], source: str,
    written: Callable[[object], str], widths: Array | None = None,
) -> list[str]:  # fmt: skip
    """Hand the header to `write`, and then the fields of some rows at a time; return what there is to warn of.

    Args:
        parts: x of some rows at a time.
        source: what a warning calls the rows.
        written, widths: as `lines` takes them.
    """
    kept = 0
    write([[*map(written, [*header(net), *([] if widths is None else _interval_header(net))])]])
    for x in parts:
        for first in range(0, len(x), BLOCK):
            y = net.predict(x[first : first + BLOCK])
            write(lines(net, y, written, widths))
            kept += _kept_within_range(net, y)
    were = "prediction was" if kept == 1 else "predictions were"
    return [f"{source}: {kept:,} {were} kept within the range of the target that was seen in training"] if kept else []


def _kept_within_range(net: gb.Network, y: Array) -> int:
    """Count the rows for which the network predicts less or more than the target ever was in training."""
    if net.classes is not None:
        return 0
    moved = net.preprocessing.inverse(y) != net.preprocessing.inverse(y, clip=False)
    return int((moved & ~np.isnan(y)).any(axis=1).sum())


def half_widths(net: gb.Network, run: object, coverage: float) -> Array:
    """Return how far intervals go to both sides of a prediction, of each output; `run` is what an error calls it."""
    if net.intervals is None:
        why = "it predicts classes, whose probabilities say how sure it is"
        if net.classes is None:
            why = "train measures them for numbers, on validation rows; this one had none, or is older"
        raise InputError(f"{run} has no prediction intervals: {why}. Leave --interval out")
    return net.intervals.half_widths(coverage)


def _interval_header(net: gb.Network) -> list[str]:
    """Return the names of the two columns of each output's interval."""
    return [f"{end}{number}" for number in _numbers(net) for end in ("low", "high")]


def _numbers(net: gb.Network) -> list[str]:
    """Return what follows the names of columns of quantities, of which each output has one."""
    return [""] if net.outputs == 1 else [f" {number}" for number in range(1, net.outputs + 1)]


def _parts(options: argparse.Namespace, preprocessing: Preprocessing) -> Iterable[Array]:
    """Return x: of all rows, or, where they take more memory than they may, of some thousand rows at a time."""
    if options.data != DIGITS and larger_than_memory(options.data):
        return _blocks(options, preprocessing)
    return [transform(preprocessing, load_rows(options, preprocessing))]


def _blocks(options: argparse.Namespace, preprocessing: Preprocessing) -> Iterator[Array]:
    """Yield x of each block of rows; at the end, warn of what is not as in the training data."""
    part = options.part or ("test" if has_test_part(options.data) else "train")
    blocks = open_blocks(options.data, delimiter=options.delimiter, part=part, missing=preprocessing.missing)
    unseen = Counter[str]()
    for block in as_in_training(blocks, preprocessing):
        yield preprocessing.transform(block)
        unseen.update(preprocessing.unseen)
    for warning in warnings_of(preprocessing, unseen):
        warn(f"{options.data}: {warning}")


def header(net: gb.Network) -> Sequence[str]:
    """Return the header: prediction, then the name of each class; of several quantities, prediction 1 ..."""
    if net.classes is not None:
        names = [str(name) for name in net.classes]
        other = f"probability of {PREDICTION}"
        while other in names:
            other = f"probability of {other}"
        return [PREDICTION, *(other if name == PREDICTION else name for name in names)]
    return [f"{PREDICTION}{number}" for number in _numbers(net)]


def plain(name: object) -> str:
    r"""Write a class's name as UTF-8 can hold it: half of a surrogate pair, as in a damaged name, becomes \udce9."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def spreadsheet_safe(name: object) -> str:
    """Write the same with an apostrophe in front of what a spreadsheet would run as a formula."""
    text = plain(name)
    return f"'{text}" if text.startswith(FORMULA) and not is_number(text) else text


def lines(
    net: gb.Network, y: Array, written: Callable[[object], str], widths: Array | None = None
) -> Iterator[Sequence[str]]:
    """Yield the fields of each row; `written` writes the name of a class. With the half widths of intervals, their low
    and high ends follow."""
    if net.classes is None:
        values = net.preprocessing.inverse(y)
        fields = _quantities(net, values, y.dtype)
        if widths is not None:
            ends = [_quantities(net, end, y.dtype) for end in (values - widths, values + widths)]
            fields = np.hstack([fields, np.stack(ends, axis=2).reshape(len(y), -1)])
        yield from fields.tolist()
        return
    names = [written(name) for name in net.classes]
    probabilities = y if y.shape[1] > 1 else np.hstack([1 - y, y])
    for label, row in zip(labels(y), probabilities.astype(str).tolist(), strict=True):
        yield [names[label], *row]


def _quantities(net: gb.Network, values: Array, dtype: np.dtype[Any]) -> Array:
    """Write numbers with the digits of the predictions' dtype; with more where rounding would move a prediction by more
    than a negligible part of the target's spread."""
    zero, one = net.preprocessing.inverse(np.array([[0.0], [1.0]]).repeat(net.outputs, axis=1), clip=False)
    with np.errstate(over="ignore"):
        rounded = values.astype(dtype)
    near = np.abs(rounded - values) <= NEGLIGIBLE * np.abs(one - zero)
    texts: Array = np.where(near, rounded.astype(str), values.astype(str))
    return texts


@contextmanager
def _output(path: Path | None) -> Iterator[IO[str]]:
    """Open standard output, or a file that appears whole or not at all."""
    if path is None:
        stream = sys.stdout.stream if isinstance(sys.stdout, Readable) else sys.stdout
        if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
            stream.reconfigure(encoding="utf-8", errors="strict", newline="\n")  # as a file would be
        yield Readable(stream, wraps=False) if stream.isatty() else stream  # type: ignore[misc]
        return
    try:
        with new_file(path, encoding="utf-8") as file:
            yield file
    except BrokenPipeError:  # as on standard output
        raise
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r} ({error.strerror}); choose another --output") from error


def _refuse_inputs(options: argparse.Namespace) -> None:
    """Refuse to overwrite the files that predictions are made from."""
    for given in (Path(options.data), options.run, options.run / MODEL):
        if given.exists() and options.output.exists() and given.samefile(options.output):
            raise Misuse(f"--output {options.output} would overwrite {given}, which is read; choose another")
