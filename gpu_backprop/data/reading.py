"""Reading data of any kind: the contents of a file, and then its name, decide what it is."""

from __future__ import annotations

import codecs
import gzip
import re
import stat
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

from gpu_backprop.data import limits
from gpu_backprop.data.cells import MISSING, composed
from gpu_backprop.data.csv_file import read_csv
from gpu_backprop.data.errors import DataError
from gpu_backprop.data.files import explained, unpacked
from gpu_backprop.data.frames import as_table, is_frame
from gpu_backprop.data.idx import read_idx_folder
from gpu_backprop.data.messages import listed, nearest, shown
from gpu_backprop.data.numpy_files import NPY_MAGIC, read_npy, read_npz, zip_archive
from gpu_backprop.data.parquet_file import read_parquet
from gpu_backprop.data.table import Arrays, Table
from gpu_backprop.display.escapes import escaped

ACCEPTED = "CSV, Parquet, .npz, .npy, or a folder of IDX files"
PARTS = ("train", "test")

START, HEAD = 64, 1 << 14
"""Bytes by which a file is known, and by which a text is that comments may stand at the beginning of."""
OURS = {b"PAR1": "parquet", NPY_MAGIC: "npy", b"PK\x03\x04": "zip", b"PK\x05\x06": "zip"}
IDX_TYPES = (b"\x08", b"\x09", b"\x0b", b"\x0c", b"\x0d", b"\x0e")
CONTROL = frozenset(range(32)) - frozenset(b"\t\n\v\f\r\x1a")
"""Bytes that no text begins with."""

FOREIGN: dict[bytes | tuple[bytes, ...], str] = {
    (b"\xff\xfe", b"\xfe\xff"): "UTF-16 text; save it as UTF-8",
    b"%PDF-": "a PDF document; give the data as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook of the old kind; export it as CSV",
    b"SQLite format 3": "an SQLite database; export the table as CSV",
    b"\x89HDF": "an HDF5 file; save its arrays with numpy.savez",
    (b"\x89PNG", b"\xff\xd8\xff"): "an image; save the pixels of all images with numpy.savez",
    b"BZh9": "packed with bzip2; unpack it first, or pack it with gzip",
    b"\xfd7zXZ": "packed with xz; unpack it first, or pack it with gzip",
    b"\x28\xb5\x2f\xfd": "packed with zstd; unpack it first, or pack it with gzip",
    (b"\x80\x04\x95", b"\x80\x05\x95"): "a Python pickle, which could run code as it is read; save arrays with "
    "numpy.savez",
}
"""Files of other kinds, by how they begin."""

KIND = rb"(continuous|discrete|string|time|[cdst])"
FOREIGN_TEXTS = {
    rb"([ \t\r]*(%.*)?\n)*[ \t]*@relation\b": "ARFF; put one line, the names of its attributes with commas between, in "
    "place of all up to @data",
    rb'\s*(\[\s*)?\{\s*("[^"\n]*"\s*:|\})': "JSON, or JSON lines; save it as CSV, as pandas.read_json and to_csv do",
    rb"\s*(?s:<!--.*?-->\s*)?<(!doctype|html|head|body|table|\?xml)\b": "a web page or other XML, maybe an error where "
    "data should be; open it in a browser, and download the data again",
    rb"version https://git-lfs": "a Git LFS pointer, which only says where the data are; fetch them with git lfs pull",
    rb".+\n%b([\t,;]%b)*\r?\n[\t,;]*((class|meta)[\t,;]*)+\r?\n" % (KIND, KIND): "a table with the three header "
    "lines of Orange; take out the second and the third",
}
"""Texts of other kinds: what stands at their beginning, in small or large letters."""


def read(
    path: Any, *, delimiter: str | None = None, part: str = "train", text: Collection[str] = (),
    missing: Collection[str] | None = None, memory_limit: int | str | None = None,
) -> Table | Arrays:  # fmt: skip
    """Reads a file or folder of data, or a data frame.

    Args:
        path: a CSV file, plain or gzipped; a Parquet file; an .npz file with the arrays x and y, or x_train, y_train,
            x_test and y_test; one of two .npy files NAME_x.npy and NAME_y.npy; a folder of IDX files, as MNIST has; or
            a data frame of pandas or polars, a table of pyarrow, a dict of columns.
        delimiter: what separates the fields of a CSV file; None finds out.
        part: "train" or "test", of data that have both.
        text: columns of a table that are text though they look like numbers: what they say are categories or classes.
        missing: the texts that stand for a missing value in a table, beside an empty field; None: NA, N/A, NaN and
            null, in small or large letters.
        memory_limit: how much memory the data may take, in bytes or as in "4GB"; None: half of the memory that this
            program may use, and no more than 200 times what the file takes on the disk, or 1 GiB.

    Raises:
        DataError: there is no such file, it is none of these, something is wrong in it, or it takes more memory.
    """
    if part not in PARTS:
        raise DataError(f"part is {shown(part)}; data have the parts 'train' and 'test'")
    words = MISSING if missing is None else frozenset(["", *(word.strip() for word in _listed(missing))])
    names = [composed(name) for name in _listed(text)]
    if is_frame(path):
        return as_table(path, names, words)
    path = Path(path)
    with limits.memory_limit(memory_limit):
        with explained(path):
            kind = kind_of(path)
        if kind in ("parquet", "csv"):
            return _read_table(path, kind, delimiter, _signature(path), names, words)
        if text or missing is not None:
            raise DataError(f"{path} holds arrays, which have neither columns of text nor texts for what is missing")
        if kind == "folder":
            return Arrays(str(path), *read_idx_folder(path, part), images=True, labelled=True)
        return read_npz(path, part) if kind == "npz" else read_npy(path)


def _read_table(
    path: Path, kind: str, delimiter: str | None, signature: tuple[int, int], text: Collection[str],
    missing: frozenset[str],
) -> Table:  # fmt: skip
    """Reads a table, in a way that it can be read again with other settings as long as its file stays the same."""
    if _signature(path) != signature:
        raise DataError(f"{path} has changed since it was read, and its text is needed once more; read it again")
    table = read_parquet(path, text, missing) if kind == "parquet" else read_csv(path, delimiter, text, missing)
    if absent := [name for name in text if name not in table.names]:
        raise DataError(
            f"{path} has no column {shown(absent[0])}, which is to be text; {nearest(absent[0], table.names)}it has "
            f"{listed(table.names)}"
        )
    object.__setattr__(table, "reread", partial(_read_again, path, path.absolute(), kind, delimiter, signature))
    return table


def _read_again(given: Path, absolute: Path, *how: Any) -> Table:
    """Reads the file again, even if the working directory has changed; messages name it as it was given."""
    try:
        table = _read_table(absolute, *how)
    except DataError as error:
        raise type(error)(str(error).replace(str(absolute), str(given), 1)) from None
    object.__setattr__(table, "source", escaped(str(given)))
    object.__setattr__(table, "reread", partial(_read_again, given, absolute, *how[:3]))
    return table


def _listed(given: Collection[str]) -> Collection[str]:
    """Returns a list of texts; a single text is one of them, not a collection of letters."""
    return [given] if isinstance(given, str) else given


def _signature(path: Path) -> tuple[int, int]:
    """Returns the size and time of a file, which change when it is written again."""
    with explained(path):
        status = path.stat()
    return status.st_size, status.st_mtime_ns


def kind_of(path: Path) -> str:
    """Finds out what a file is: folder, npz, npy, parquet or csv."""
    if _is_folder(path):
        if not any("idx" in entry.name for entry in path.iterdir()):
            raise DataError(f"{path} is a folder without IDX files; give one with them, or name the file that is meant")
        return "folder"
    start, packed = _start(path)
    kind = _kind_of_bytes(path, start)
    if packed and kind not in ("csv", "binary"):
        raise DataError(f"{path} is a gzipped {kind} file; unpack it with gunzip")
    if kind == "zip":
        return _kind_of_zip(path)
    begins = f"it begins with the bytes {start[:8].hex(' ')}"
    if kind in ("csv", "binary") and path.suffix.lower() in (".npz", ".npy", ".parquet"):
        raise DataError(f"{path} is no {path.suffix} file: {begins}; copy it again, or name it as what it is")
    if kind == "binary":
        at = next(place for place, byte in enumerate(start) if byte in CONTROL)
        before, told = start[:at].decode("utf-8", "replace"), f"{begins};"
        if at and all(character.isprintable() or character.isspace() for character in before):
            line = start.count(b"\n", 0, at) + 1
            told = f"line {line} has the byte {start[at]:02x}, which no text has; take it out, or"
        raise DataError(f"{path} is no text: {told} give {ACCEPTED}")
    return kind


def _is_folder(path: Path) -> bool:
    """Tells whether it is a folder; refuses what is no file that can be read either."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = nearest(path.name, beside).strip() or "check the name and the folder"
        raise DataError(f"{path} does not exist; {hint}") from None
    except ValueError:  # a zero byte in a name
        raise DataError(f"{shown(path)} is no name of a file; check the name") from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DataError(f"{path} is no ordinary file; copy its contents into one")
    return stat.S_ISDIR(mode)


def _start(path: Path) -> tuple[bytes, bool]:
    """Reads the first bytes of a file, unpacked if it is gzipped, and whether it is."""
    with path.open("rb") as file, unpacked(file) as stream:
        return stream.read(HEAD), isinstance(stream, gzip.GzipFile)


def _kind_of_bytes(path: Path, start: bytes) -> str:
    """Finds out from the first bytes whether it is zip, npy, parquet, csv or binary."""
    if not start:
        raise DataError(f"{path} is empty; a line of column names and rows of values must be in it")
    if start.startswith(b"\0\0") and start[2:3] in IDX_TYPES:
        raise DataError(f"{path} is one IDX file; give the folder that holds it with its images and labels")
    for magic, what in FOREIGN.items():
        if start.startswith(magic):
            raise DataError(f"{path} is {what}")
    if not CONTROL.intersection(start[:START]):
        for pattern, what in FOREIGN_TEXTS.items():
            if re.match(pattern, start.removeprefix(codecs.BOM_UTF8), re.IGNORECASE):
                raise DataError(f"{path} is {what}")
        return "csv"  # of columns PAR1 and PAR2, for instance
    return next((kind for magic, kind in OURS.items() if start.startswith(magic)), "binary")


def _kind_of_zip(path: Path) -> str:
    """Tells an .npz file, a zip archive of .npy files, from other zip archives, such as Excel workbooks."""
    with zip_archive(path) as archive:
        names = archive.namelist()
    if any(name.startswith("xl/") for name in names):
        raise DataError(f"{path} is an Excel workbook; export it as CSV")
    if not any(name.endswith(".npy") for name in names):
        raise DataError(f"{path} is a zip archive without arrays; unpack it, and give the file in it that is meant")
    return "npz"
