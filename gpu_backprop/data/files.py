"""Helpers of every reader of files: their errors explained, and a bound on what they may unpack to."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpu_backprop.data.errors import DataError
from gpu_backprop.data.messages import shown

Array = npt.NDArray[Any]

GZIP_MAGIC = b"\x1f\x8b"

BLOCK = 1 << 20
"""Bytes that are read at one time, which unpacking also buffers."""

ALWAYS = 1 << 30
"""Bytes that any file may unpack to. A few kilobytes can claim, or be, many gigabytes."""

RATIO = 200
"""Beyond that, how many times its own size: real data reach 50."""


def most_bytes(packed: int) -> int:
    """Returns how many bytes `packed` bytes of a file may unpack to."""
    return max(ALWAYS, RATIO * packed)


@contextmanager
def naming_column(path: Path, column: str) -> Iterator[None]:
    """Names the column for which there is not enough memory."""
    try:
        yield
    except MemoryError:
        raise DataError(
            f"{path}: column {shown(column)} is too large for the memory of this machine; use fewer rows, or take it "
            "out of the file"
        ) from None


@contextmanager
def explained(path: Path, damaged: str = "is damaged or cut off") -> Iterator[None]:
    """Turns what can go wrong while a file is read into a DataError; `damaged` is said if it can't be unpacked."""
    try:
        yield
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path} {damaged} ({shown(error)}); copy or download it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check its name and permissions") from None
    except MemoryError:
        raise DataError(f"{path} is too large for the memory of this machine; use a part of it") from None


def unpacked(file: BufferedReader) -> BufferedReader | gzip.GzipFile:
    """Returns an open file, or where it is gzipped what unpacks it."""
    packed = file.read(2) == GZIP_MAGIC
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if packed else file


def fill(stream: Any, values: Array) -> int:
    """Reads from an open file into the memory of an array until it is full or the file ends; returns the bytes read."""
    room = values.reshape(-1).view(np.uint8).data
    got = 0
    while got < len(room):
        count = stream.readinto(room[got : got + BLOCK])
        if not count:
            break
        got += count
    return got


def native(values: Array) -> Array:
    """Converts an array of our own to the byte order of this machine, in place."""
    return values if values.dtype.isnative else values.byteswap(inplace=True).view(values.dtype.newbyteorder("="))
