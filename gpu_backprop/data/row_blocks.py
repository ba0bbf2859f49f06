"""Data in files a block of rows at a time, as often as wanted: what is larger than memory is never there as a whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from gpu_backprop.data import limits
from gpu_backprop.data.cells import MISSING
from gpu_backprop.data.csv_file import csv_blocks
from gpu_backprop.data.errors import DataError
from gpu_backprop.data.files import GZIP_MAGIC, explained
from gpu_backprop.data.idx import idx_folder_blocks
from gpu_backprop.data.numpy_files import npy_blocks
from gpu_backprop.data.parquet_file import decoded_size, parquet_blocks
from gpu_backprop.data.reading import kind_of
from gpu_backprop.data.table import Arrays, Table, missing

LEAST = 256 << 20
"""Bytes of a memory limit below which nothing is read in blocks: two windows and what is around them take as much."""


@dataclass(frozen=True)
class RowBlocks:
    """The rows of a file, or folder of IDX files, which can be gone through again and again.

    Attributes:
        kind: "csv", "parquet", "npy" or "folder".
        text, missing: as in `read`.
        drop: a column, without which rows are left out.
        told: called with each block, by which others know that the work goes on.
    """

    path: Path
    kind: str
    delimiter: str | None = None
    part: str = "train"
    text: Collection[str] = ()
    missing: frozenset[str] = MISSING
    drop: str | None = None
    told: Callable[[Table | Arrays], object] = id

    def __iter__(self) -> Iterator[Table | Arrays]:
        for block in self._blocks():
            self.told(block)
            yield block

    def _blocks(self) -> Iterator[Table | Arrays]:
        if self.kind in ("npy", "folder"):
            yield from npy_blocks(self.path) if self.kind == "npy" else idx_folder_blocks(self.path, self.part)
            return
        form = self.text, self.missing
        csv = self.kind == "csv"
        for table in csv_blocks(self.path, self.delimiter, *form) if csv else parquet_blocks(self.path, *form):
            if self.drop is not None and self.drop in table.columns:
                yield table.take(~missing(table.columns[self.drop]))
            else:
                yield table

    def as_text(self, names: Collection[str]) -> RowBlocks:
        """Returns the same, with these columns read as text."""
        return replace(self, text=sorted({*self.text, *names}))


def open_blocks(
    path: str | os.PathLike[str], *, delimiter: str | None = None, part: str = "train", text: Collection[str] = (),
    missing: frozenset[str] = MISSING, drop: str | None = None,
) -> RowBlocks:  # fmt: skip
    """Opens a file to be read in blocks.

    Raises:
        DataError: there is no such file, or it is none that can be read in blocks.
    """
    path = Path(path)
    with explained(path):
        kind = kind_of(path)
    if kind == "npz":
        raise DataError(f"{path} is packed, and has to be read as a whole; save x and y as NAME_x.npy and NAME_y.npy")
    return RowBlocks(path, kind, delimiter, part, text, missing, drop)


def larger_than_memory(path: str | os.PathLike[str], processes: int = 1) -> bool:
    """Tells whether the rows of a file take more memory than they may, if they were decoded as a whole, by so many
    processes of this machine; of one that is packed as a whole (gzip, .npz) nobody knows before. A limit of less than
    256 MiB is one for all that is decoded."""
    path = Path(path)
    most = limits.asked() or limits.memory() // (2 * processes)
    with explained(path):
        kind = kind_of(path)
        if most < LEAST or kind == "npz":
            return False
        if kind == "folder":
            return sum(entry.stat().st_size for entry in path.iterdir()) * 5 > most  # uint8, and float32 made of it
        if kind == "parquet":
            return decoded_size(path) > most
        with path.open("rb") as file:
            packed = file.read(2) == GZIP_MAGIC
        size = path.stat().st_size
        return not packed and (2 * size if kind == "npy" else size) > most


def numbered(blocks: RowBlocks) -> Iterator[tuple[int, Table | Arrays]]:
    """Yields the blocks, each after the number of its first row."""
    first = 0
    for block in blocks:
        yield first, block
        first += block.rows


def first_block(blocks: RowBlocks) -> Table | Arrays:
    """Returns the first block that has rows."""
    iterator = iter(blocks)
    for block in iterator:
        if block.rows:
            iterator.close()  # type: ignore[attr-defined]
            return block
    raise DataError(f"{blocks.path} has no rows to learn from; give a file with some")
