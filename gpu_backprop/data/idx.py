"""IDX files, plain or gzipped: the format of MNIST and Fashion-MNIST.

Two zero bytes, the code of a type, the number of axes, the length of each axis as a big-endian uint32, then the values,
big-endian, the last axis running fastest (Y. LeCun, C. Cortes and C. Burges, The MNIST Database).
"""

from __future__ import annotations

import gzip
import math
import os
import struct
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from gpu_backprop.data.errors import DataError
from gpu_backprop.data.files import Array, explained, fill, native, unpacked
from gpu_backprop.data.limits import decoding, memory_limit, stored_bytes, take
from gpu_backprop.data.table import Arrays

Stream = BufferedReader | gzip.GzipFile

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
BLOCK = 1 << 20
"""Bytes of images that are read at one time, where not all are."""
MOST_AXES = 32
"""NumPy holds at least so many, and no real data have more."""
GZIP_RATIO = 1032
"""No gzip file grows by more than this factor when it is unpacked (Gailly and Adler, zlib technical details)."""
PREFIX = {"train": "train", "test": "t10k"}
"""What the file names of each part begin with."""


def read_idx(path: str | os.PathLike[str]) -> Array:
    """Reads the array in an IDX file.

    Nothing is allocated before the header has been found possible for the size of the file, and no more is unpacked
    than the header announces.

    Args:
        path: the file; whether it is gzipped is seen from its first bytes, whatever its name.

    Returns:
        An array in native byte order, of uint8, int8, int16, int32, float32 or float64, with at least one axis.

    Raises:
        DataError: no file, not IDX, empty, cut short, too long, or damaged.
    """
    path = Path(path)
    with (
        explained(path, "is a damaged gzip file"), path.open("rb") as file,
        decoding(f"{path}:", stored_bytes(file)), unpacked(file) as stream,
    ):  # fmt: skip
        shape, dtype = _header(stream, path)
        size = os.fstat(file.fileno()).st_size
        possible = size * GZIP_RATIO if isinstance(stream, gzip.GzipFile) else size - stream.tell()
        return native(_values(stream, path, shape, dtype, possible))


def read_idx_folder(folder: str | os.PathLike[str], part: str = "train") -> tuple[Array, Array]:
    """Reads the images and labels of one part of MNIST, Fashion-MNIST, or any data set whose files are named alike.

    Args:
        folder: where train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
            t10k-labels-idx1-ubyte are; ".idx" in place of "-idx" and a further ".gz" are accepted.
        part: "train" or "test".

    Returns:
        images: uint8 (n, rows · columns), each image row by row.
        labels: int64 (n,).

    Raises:
        DataError: no such part, folder or file, a damaged file, other contents than the name says, or images and
            labels that do not belong together.
    """
    folder = Path(folder)
    if part not in PREFIX:
        raise DataError(f"part is {part!r}; a folder of IDX files has the parts {' and '.join(map(repr, PREFIX))}")
    with explained(folder):
        images_path, labels_path = _find(
            folder, f"{PREFIX[part]}-images-idx3-ubyte", f"{PREFIX[part]}-labels-idx1-ubyte"
        )
    images = _checked(images_path, "images", ("images", "rows", "columns"))
    labels = _checked(labels_path, "labels", ("labels",))
    take(8 * len(labels))
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} has {len(images):,} images, but {labels_path} {len(labels):,} labels, so the two do not "
            "belong together; take both from the same data set"
        )
    return images.reshape(len(images), -1), labels.astype(np.int64)


def idx_folder_blocks(folder: Path, part: str = "train") -> Iterator[Arrays]:
    """Yields what `read_idx_folder` reads some thousand images at a time; the labels are there as a whole meanwhile."""
    with explained(folder):
        images, labels_path = _find(folder, f"{PREFIX[part]}-images-idx3-ubyte", f"{PREFIX[part]}-labels-idx1-ubyte")
    with memory_limit(None):  # counted anew each time
        labels = _checked(labels_path, "labels", ("labels",)).astype(np.int64)
    with explained(images, "is a damaged gzip file"), images.open("rb") as file, unpacked(file) as stream:
        (rows, *pixels), dtype = _header(stream, images)
        if dtype != np.uint8 or len(pixels) != 2 or rows != len(labels):
            raise DataError(f"{images} does not hold one image of bytes for each of {len(labels):,} labels")
        step = max(1, BLOCK // math.prod(pixels))
        for first in range(0, rows, step):
            x = np.empty((min(step, rows - first), math.prod(pixels)), dtype)
            if fill(stream, x) < x.nbytes:
                raise DataError(f"{images} is cut short: {rows:,} images were announced; copy or download it again")
            yield Arrays(str(folder), x, labels[first : first + len(x)], images=True, labelled=True, first=first)


def _header(stream: Stream, path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Reads the lengths of the axes and the type of the values."""
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or not 1 <= magic[3] <= MOST_AXES:
        begins = f"it begins with the bytes {magic.hex(' ')}" if magic else "it is empty"
        raise DataError(
            f"{path} is not an IDX file: {begins}, where 00 00, a type from 08 to 0e and 1 to {MOST_AXES} axes belong; "
            "if a download went wrong, repeat it"
        )
    lengths = stream.read(4 * magic[3])
    if len(lengths) < 4 * magic[3]:
        raise DataError(f"{path} is cut short: it ends within the header; copy or download it again")
    shape = struct.unpack(f">{magic[3]}I", lengths)
    if 0 in shape:
        raise DataError(f"{path} is empty: its header announces {' × '.join(map(str, shape))} values; use another file")
    return shape, np.dtype(TYPES[magic[2]])


def _values(stream: Stream, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], possible: int) -> Array:
    """Reads the values behind the header, of which no more than `possible` bytes can follow."""
    wanted = math.prod(shape) * dtype.itemsize
    announced = f"its header announces {' × '.join(map(str, shape))} values of {dtype.name}, {wanted:,} bytes"
    if wanted > possible:
        raise DataError(
            f"{path} is cut short or damaged: {announced}, but no more than {possible:,} can follow in a file of its "
            "size; copy or download it again"
        )
    take(wanted)
    values = np.empty(shape, dtype)
    got = fill(stream, values)
    if got < wanted:
        raise DataError(f"{path} is cut short: {announced}, but only {got:,} follow; copy or download it again")
    if stream.read(1):
        raise DataError(f"{path} is too long: {announced}, and more follow; copy or download it again")
    return values


def _find(folder: Path, *names: str) -> list[Path]:
    """Finds the files of these names, with -idx or .idx in them, plain or gzipped."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give the one that the IDX files are in")
    found = {}
    for name in names:
        written = (
            folder / f"{name.replace('-idx', mark)}{suffix}" for mark in ("-idx", ".idx") for suffix in ("", ".gz")
        )
        found[name] = next((path for path in written if path.is_file()), None)
    missing = [name for name, path in found.items() if path is None]
    if missing:
        here = sorted(path.name for path in folder.iterdir())
        more = f" and {len(here) - 6} more" if len(here) > 6 else ""
        raise DataError(
            f"{folder} has no {' and no '.join(missing)}, plain or .gz, but {', '.join(here[:6]) or 'nothing'}{more}; "
            "put there what is missing, or give another folder"
        )
    return [path for path in found.values() if path is not None]


def _checked(path: Path, what: str, axes: tuple[str, ...]) -> Array:
    """Reads the array in a file that has to hold bytes with these axes."""
    array = read_idx(path)
    if array.ndim != len(axes) or array.dtype != np.uint8:
        raise DataError(
            f"{path} does not hold {what}: it has {array.dtype.name} values of the shape {array.shape}, where {what} "
            f"are uint8 with the axes ({', '.join(axes)}); check whether files were renamed or mixed up"
        )
    return array
