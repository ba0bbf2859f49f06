"""Rows ready to be trained on, in temporary files: how data larger than memory are prepared, and read from then on.

The data are gone through twice: for what there is to learn of them (`first_pass`), and to write each row down as it
will be needed, four bytes a column. From then on a stretch of rows is read as fast as the disk gives it.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from gpu_backprop.data.cells import MISSING, composed
from gpu_backprop.data.encoding import PLAIN, Encoding
from gpu_backprop.data.errors import DataError
from gpu_backprop.data.files import Array, fill
from gpu_backprop.data.first_pass import HeldOut, Wanted, fit_blocks
from gpu_backprop.data.messages import counted, shown
from gpu_backprop.data.preprocessing import Preprocessing
from gpu_backprop.data.row_blocks import RowBlocks, first_block, numbered, open_blocks
from gpu_backprop.data.table import Arrays, Table
from gpu_backprop.data.target import column_or_y

LOG = logging.getLogger("gpu_backprop")

TOGETHER, DENSE = 1024, 16
"""Of rows by their indices so many are read at once, if one in so many, or more, of those from the first to the last is
wanted."""

PARTS, FILES = 3, 6
"""Of rows there are so many files, x, y and weights; and as many of those that are held out."""

Read = Callable[[slice | Array], Array]

_Prepared = tuple[Preprocessing, dict[str, int]]
"""What was learned of rows that are prepared, and `unseen`."""


class StoredRows:
    """Rows for `trainer.fit`, `trainer.evaluate` and `validation=`, in the place of x, y and weights: see `open_rows`.

    Attributes:
        shape, dtype: of x.
        read: returns x of a slice of rows, or of some by their indices.
        array: x where an array was given, which is read as it is.
        y: labels, int64 (rows,), or numbers, float64 (rows, outputs).
        weights: (rows,), or None.
        preprocessing: what made them of the data; None where arrays were given.
        held_out: the rows that were held out; None where none were.
        unseen: by column, how many rows have a text that no training row had.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, read: Read, y: Array, weights: Array | None = None) -> None:
        self.shape, self.dtype, self.read, self.y, self.weights = shape, np.dtype(dtype), read, y, weights
        self.array: Array | None = None
        self.preprocessing: Preprocessing | None = None
        self.held_out: StoredRows | None = None
        self.unseen: dict[str, int] = {}
        self._files = ExitStack()

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        held_out = "" if self.held_out is None else f", {len(self.held_out):,} held out"
        return f"StoredRows({len(self):,} rows of {counted(self.shape[1], 'input')}{held_out})"

    def close(self) -> None:
        """Deletes the temporary files, as the end of the program does."""
        self._files.close()

    def __enter__(self) -> StoredRows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_rows(
    source: str | os.PathLike[str] | Array, y: Array | None = None, *, target: str | None = None,
    weights: str | Array | None = None, held_out: float = 0.0, seed: int = 0, task: str = "auto",
    impute: str | None = None, ignore: Collection[str] = (), hashed: Mapping[str, int] | None = None,
    standardise_target: bool = True, preprocessing: Preprocessing | None = None, text: Collection[str] = (),
    missing: Collection[str] | None = None, drop_missing_target: bool = False, delimiter: str | None = None,
    part: str = "train", folder: str | os.PathLike[str] | None = None, encoding: Encoding = PLAIN,
    communicator: Any = None,
) -> StoredRows:  # fmt: skip
    """Opens rows that need not fit in memory, for `trainer.fit(rows, epochs=3, validation=rows.held_out)`.

    A file is gone through twice, a block of rows at a time, and its rows are prepared in a temporary file: four bytes a
    row and number (a column of categories is one, one of dates several), and eight for the target. They are trained
    on in windows; `training.streaming.WindowedData` says in what order.

    Args:
        source: a file of CSV or Parquet; x.npy with y.npy beside it; a folder of IDX files. Or x, an array that is a
            memory map, with y: nothing is prepared then, and nothing written.
        target, task, impute, ignore, hashed, standardise_target, encoding: as `Preprocessing.fit` takes them, but that
            medians and quantiles of more than 100,000 rows are those of a sample of so many.
        weights: of a table, the column that says how much each row counts; of arrays, (rows,).
        held_out, seed: the share of the rows that is kept from training, each row by itself, and which.
        preprocessing: of a network that is trained already, in the place of one that is fitted.
        text, missing, delimiter, part: as `read` takes them.
        drop_missing_target: whether rows without a target are left out; else they are an error.
        folder: where the temporary file goes; None: beside the data if that can be, else where the system has them.
        communicator: as a Trainer has it, of ranks that all make this call: the first of each machine prepares the
            rows, and the others open what it has written.

    Raises:
        DataError: something is wrong with the data or an argument, or the disk is too full.
    """
    if isinstance(source, np.ndarray):
        if y is None or y.shape[:1] != source.shape[:1] or source.ndim != 2 or isinstance(weights, str):
            raise DataError("open_rows(x, y) takes x, (rows, inputs), and y, and weights if any, with as many rows")
        given = StoredRows(source.shape, source.dtype, source.__getitem__, y, weights)
        given.array = source
        return given
    if y is not None or not (weights is None or isinstance(weights, str)):
        raise DataError("open_rows(file) finds y and the weights in the file; name them: target='price', weights='w'")
    if not 0 <= held_out < 1:
        raise DataError(f"held_out is {shown(held_out)}; give a share of the rows from 0 to below 1")
    words = MISSING if missing is None else frozenset(["", *(word.strip() for word in missing)])
    named = None if target is None else composed(target)
    if preprocessing is not None:
        words, named = preprocessing.missing, preprocessing.target
    place, split = _place(Path(source)) if folder is None else Path(folder), HeldOut(held_out, seed)

    def prepare(files: Sequence[RowFile], told: Callable[[Any], object]) -> _Prepared:
        blocks = open_blocks(
            source, delimiter=delimiter, part=part, text=[composed(name) for name in text], missing=words,
            drop=named if drop_missing_target else None,
        )  # fmt: skip
        blocks = replace(blocks, told=told)
        if preprocessing is not None:
            return _write(as_in_training(blocks, preprocessing), preprocessing, weights, split, files)
        wanted = Wanted(named, task, impute, ignore, hashed or {}, standardise_target, weights, encoding)
        learned, blocks = fit_blocks(blocks, wanted, split)
        return _write(blocks, learned, weights, split, files)

    with ExitStack() as stack:
        alone = communicator is None or communicator.ranks == 1
        files, writer = ([RowFile(place) for _ in range(FILES)], 0) if alone else _open_together(place, communicator)
        for file in files:
            stack.callback(file.close)
        learned, unseen = prepare(files, id) if alone else _prepare_together(files, writer, communicator, prepare)
        rows = _rows(files[:PARTS], learned)
        rows.held_out = _rows(files[PARTS:], learned) if split.fraction else None
        rows.unseen, rows._files = unseen, stack.pop_all()
    return rows


def as_in_training(blocks: RowBlocks, preprocessing: Preprocessing) -> RowBlocks:
    """Returns the blocks, each column read as that of the training data was."""
    head = first_block(blocks)
    return blocks.as_text(preprocessing.text_columns(head)) if isinstance(head, Table) else blocks


def _write(
    blocks: RowBlocks, preprocessing: Preprocessing, weights: str | None, split: HeldOut, files: Sequence[RowFile]
) -> _Prepared:
    """Writes the rows as they are trained on, and those that are held out, each to files of their own."""
    all_unseen = dict[str, int]()
    for first, block in numbered(blocks):
        out = split.among(first, block.rows)
        packed, unseen = preprocessing.pack(block)
        arrays = packed, preprocessing.targets(block), None if weights is None else _weights(block, weights)
        for file, (chosen, values) in zip(files, product((~out, out), arrays), strict=True):
            if values is not None and chosen.any():
                file.append(values[chosen])
        for column, number in unseen.items():
            all_unseen[column] = all_unseen.get(column, 0) + number
    if not files[0].rows or (split.fraction and not files[PARTS].rows):
        raise DataError(f"{blocks.path} has too few rows to hold out {split.fraction:g} of them; give more")
    size, place = sum(file.size for file in files), files[0].folder
    LOG.info("%s: prepared, %s MiB in a temporary file in %s", blocks.path, f"{size / 2**20:,.0f}", place)
    return preprocessing, all_unseen


def _rows(files: Sequence[RowFile], preprocessing: Preprocessing) -> StoredRows:
    x, y, w = files
    unpack, read = preprocessing.unpack, x.read
    shape, weights = (x.rows, preprocessing.inputs), w.map() if w.rows else None
    found = StoredRows(shape, np.float32, lambda rows: unpack(read(rows)), y.map(), weights)
    found.preprocessing = preprocessing
    return found


def _open_together(folder: Path, communicator: Any) -> tuple[list[RowFile], int]:
    """Opens files that the ranks of a machine have in common; returns them, and which rank writes them. They have names
    until all have opened them, so that they are gone when the last process is, however it ends."""
    made: list[tuple[int, str]] = []
    with communicator.alike():
        if communicator.local_rank == 0:
            made += [tempfile.mkstemp(dir=folder) for _ in range(FILES)]
    try:
        names = communicator.gather([name for _, name in made])
        with communicator.alike():
            there = (rank for rank, some in enumerate(names) if some and Path(some[0]).exists())
            writer = communicator.rank if made else next(there, None)
            if writer is None:
                raise DataError(f"no other rank of this machine is seen to write in {folder}; name a folder= of all")
            numbers = [number for number, _ in made] or [os.open(name, os.O_RDONLY) for name in names[writer]]
    finally:
        for _, name in made:
            Path(name).unlink()
    return [RowFile(folder, os.fdopen(number, "w+b" if made else "rb")) for number in numbers], writer


def _prepare_together(
    files: Sequence[RowFile], writer: int, communicator: Any, prepare: Callable[..., _Prepared]
) -> _Prepared:
    """Lets the writer prepare the rows, and returns on every rank of its machine what came of it."""
    found, failure = None, None
    with communicator.alike():
        try:
            if writer == communicator.rank:  # at each block it meets the others, so that none of them waits too long
                learned, unseen = prepare(files, lambda _: communicator.exchange(b"at work"))
                said, forms = (
                    [learned.why, learned.how, learned.warnings],
                    [(f.rows, f.form, f.dtype.str) for f in files],
                )
                found = learned.to_dict(), said, unseen, forms
        except Exception as error:
            failure = error
        while b"at work" in communicator.exchange(b""):
            pass
        if failure is not None:
            raise failure
    given, said, unseen, forms = communicator.gather(found)[writer]
    learned = Preprocessing.from_dict(given)
    learned.why, learned.how, learned.warnings = said
    for file, (rows, form, dtype) in zip(files, forms, strict=True):
        file.rows, file.form, file.dtype = rows, tuple(form), np.dtype(dtype)
    return learned, unseen


class RowFile:
    """Rows of numbers in a temporary file that has no name, so that it is gone when it is closed, or its process is."""

    def __init__(self, folder: Path, file: Any = None) -> None:
        self.folder, self._lock = folder, threading.Lock()
        self._file = file or tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 — open until the rows are closed, or gone
        weakref.finalize(self, self._file.close)
        self.rows, self.form, self.dtype = 0, tuple[int, ...](), np.dtype(np.float32)

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.rows * self._row

    @property
    def _row(self) -> int:
        return math.prod(self.form) * self.dtype.itemsize

    def append(self, values: Array) -> None:
        """Writes rows behind the others; all have the dtype and the further axes of the first."""
        self.form, self.dtype = values.shape[1:], values.dtype
        try:
            self._file.write(np.ascontiguousarray(values).data)
            self._file.flush()
        except OSError as error:
            free = shutil.disk_usage(self.folder).free
            raise DataError(
                f"the rows cannot be prepared in {self.folder}, after {self.rows:,} of them ({error.strerror}, "
                f"{free:,} bytes free); make room, or name another folder (folder= in Python)"
            ) from None
        self.rows += len(values)

    def map(self) -> Array:
        """Returns all rows, as a memory map."""
        mapped: Array = np.memmap(self._file, self.dtype, "r", 0, (self.rows, *self.form))
        return mapped

    def read(self, rows: slice | Array) -> Array:
        """Reads the rows of a slice or of indices; any number of threads may."""
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            chosen = np.arange(self.rows)[rows]
            parts = np.array_split(chosen, -(-len(chosen) // TOGETHER) or 1)
            return np.concatenate([self._read_some(part) for part in parts])
        start, stop, _ = rows.indices(self.rows)
        values: Array = np.empty((max(0, stop - start), *self.form), self.dtype)
        with self._lock:
            if self._file.closed:
                raise DataError("these rows have been closed, and their temporary file is gone; open them anew")
            self._file.seek(start * self._row)
            if values.size and fill(self._file, values) < values.nbytes:
                raise DataError("the temporary file of the prepared rows has been cut off; prepare them again")
        return values

    def _read_some(self, chosen: Array) -> Array:
        """Reads some rows; at once, with those between them, where these are few."""
        if not len(chosen) or (span := int(np.ptp(chosen)) + 1) > DENSE * len(chosen):
            return np.concatenate([self.read(slice(row, row + 1)) for row in chosen.tolist()] or [self.read(slice(0))])
        low = int(chosen.min())
        near: Array = self.read(slice(low, low + span))[chosen - low]
        return near

    def close(self) -> None:
        self._file.close()


def _weights(block: Table | Arrays, column: str) -> Array:
    """Returns the column of the weights, float64 (rows,)."""
    if isinstance(block, Arrays):
        raise DataError(f"{block.source} holds arrays, which have no column of weights; leave {shown(column)} out")
    values = column_or_y(block, column)
    if values.dtype == object or np.isnan(values).any():
        raise DataError(f"{block.source}: column {shown(column)}, the weights, must be numbers, none of them missing")
    return values


def _place(path: Path) -> Path:
    """Returns the folder of the data if files can be written there, else the system's for temporary files."""
    there = path if path.is_dir() else path.absolute().parent
    return there if os.access(there, os.W_OK) else Path(tempfile.gettempdir())
