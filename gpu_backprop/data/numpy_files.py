"""NumPy's files: .npy pairs and .npz. Their headers are checked against what is there before anything is allocated."""

from __future__ import annotations

import io
import math
import os
import re
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from gpu_backprop.data.cells import texts
from gpu_backprop.data.errors import DataError
from gpu_backprop.data.files import Array, explained, fill, native
from gpu_backprop.data.limits import check, decoding, memory_limit, stored_bytes, take
from gpu_backprop.data.messages import listed, shown
from gpu_backprop.data.table import Arrays

NPY_MAGIC = b"\x93NUMPY"
AGAIN = "copy it again, or save it again with numpy.save"

PAIR = re.compile(r"(?P<before>.*_)?(?P<letter>[xy])(?P<after>_.*)?\.npy", re.IGNORECASE)
"""NAME_x.npy, x.npy or x_NAME.npy, and the same with y."""

MOST_AXES, MOST_VALUES = 32, 1 << 48

LONGEST_HEADER = 10_000
"""Bytes of a header, as NumPy has it; a few bytes could claim 4 GB."""

BLOCK = 1 << 18
"""Texts that are taken out of an array at one time."""

HEADERS = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
"""By version of the format. The third differs in names of fields only, and arrays with fields are no data of ours."""


def read_npy(path: Path) -> Arrays:
    """Reads the arrays in x.npy and y.npy, or NAME_x.npy and NAME_y.npy; either of the two names both.

    Without a y beside it, or under another name, a file is x alone.

    Raises:
        DataError: a file is no .npy file, is damaged or cut off, or holds objects; or there is no x.
    """
    named = PAIR.fullmatch(path.name)
    partner = _partner(path, named) if named else None
    if named and named["letter"] in "yY":
        if partner is None:
            raise DataError(
                f"{path} holds targets, and no file of the same name with x for y is beside it; put it there"
            )
        return Arrays(str(partner), _npy(partner), _npy(path))
    return Arrays(str(path), _npy(path), _npy(partner) if partner else None)


def npy_blocks(path: Path) -> Iterator[Arrays]:
    """Yields the arrays that `read_npy` reads some thousand rows at a time; y is there as a whole meanwhile."""
    named = PAIR.fullmatch(path.name)
    partner = _partner(path, named) if named else None
    if named and named["letter"] in "yY":
        if partner is None:
            raise DataError(f"{path} holds targets, and no file of the same name with x for y is beside it")
        path, partner = partner, path
    with memory_limit(None):  # counted anew each time
        y = None if partner is None else _npy(partner)
    with explained(path), path.open("rb") as file:
        shape, fortran, dtype = _header(str(path), file)
        place, size = file.tell(), os.fstat(file.fileno()).st_size
    if dtype.kind not in "biuf" or dtype.itemsize > 8 or 0 in shape or not shape:
        raise DataError(
            f"{path}: the shape {shape} of {dtype.name}; of what is read in blocks, x must be rows of numbers"
        )
    if place + math.prod(shape) * dtype.itemsize != size:
        raise DataError(f"{path}: damaged or cut off, because its header announces {shape} of {dtype.name}; {AGAIN}")
    if y is not None and len(y) != shape[0]:
        raise DataError(f"{path}: y has the shape {y.shape} and x has {shape[0]} rows; y must have one target a row")
    step = max(1, BLOCK // math.prod(shape[1:]))
    for first in range(0, shape[0], step):  # mapped anew for each, so that what was read need not stay
        with explained(path):
            x = np.memmap(path, dtype, "r", place, shape, "F" if fortran else "C")
        some = slice(first, first + step)
        yield Arrays(str(path), native(np.array(x[some])), None if y is None else y[some], first=first)


def read_npz(path: Path, part: str = "train") -> Arrays:
    """Reads the arrays x and y in an .npz file; where it has two parts, x_train and y_train, or x_test and y_test.

    Raises:
        DataError: the file is no .npz file, is damaged or cut off, holds objects, unpacks to more than it may, or has
            other arrays.
    """
    with zip_archive(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        x_name = next((name for name in ("x", f"x_{part}") if name in members), None)
        if x_name is None:
            sparse = "; of a sparse matrix, save x=matrix.toarray()" if "indptr" in members else ""
            raise DataError(
                f"{path} has the arrays {listed(members) or '(none)'}; it must have x and y, or x_{part} and y_{part}"
                + sparse
            )
        y_name = x_name.replace("x", "y", 1)
        x = _member(path, archive, members[x_name])
        return Arrays(str(path), x, _member(path, archive, members[y_name]) if y_name in members else None)


def _partner(path: Path, named: re.Match[str]) -> Path | None:
    """Finds the y beside an x, or the x beside a y, if there is one."""
    for letter in "yY" if named["letter"] in "xX" else "xX":
        partner = path.with_name(f"{named['before'] or ''}{letter}{named['after'] or ''}.npy")
        if partner.is_file():
            return partner
    return None


def _npy(path: Path) -> Array:
    with explained(path), path.open("rb") as file, decoding(f"{path}:", stored_bytes(file)):
        return _array(str(path), file, os.fstat(file.fileno()).st_size)


@contextmanager
def zip_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens a zip archive, and turns its faults into a DataError."""
    with explained(path), path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive
        except DataError:
            raise
        except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError) as error:
            raise DataError(f"{path} is damaged or cut off ({shown(error)}); copy it again, or save it again") from None


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    where = f"{path}, array {shown(info.filename.removesuffix('.npy'))}"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise DataError(f"{where}: packed or encrypted in a way that NumPy does not use; save it with numpy.savez")
    with path.open("rb") as file:
        stored = min(info.compress_size, stored_bytes(file))
    with decoding(f"{where}:", stored), archive.open(info) as stream:
        check(info.file_size)
        return _array(where, stream, info.file_size)


def _array(where: str, file: IO[bytes], size: int) -> Array:
    """Reads the array in an open .npy file of `size` bytes."""
    shape, fortran, dtype = _header(where, file)
    if dtype.kind == "O":
        raise DataError(f"{where}: Python objects, which could run code as they are read; save numbers or text")
    if dtype.kind not in "biufU" or (dtype.kind == "f" and dtype.itemsize > 8) or not dtype.itemsize:
        raise DataError(f"{where}: values of the dtype {shown(dtype)}; save integers, float16 to float64, or text")
    if 0 in shape:
        raise DataError(f"{where}: the shape {shape} has nothing in it; save an array with rows")
    wanted, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if wanted != there:
        raise DataError(
            f"{where}: damaged or cut off, because its header announces {' × '.join(map(str, shape))} values of "
            f"{dtype.name}, {wanted:,} bytes, and {there:,} follow; {AGAIN}"
        )
    take(wanted)
    array: Array = np.empty(shape, dtype, "F" if fortran else "C")
    if (got := fill(file, array.T if fortran else array)) < wanted:
        raise DataError(f"{where}: cut off while it was read, after {got:,} of {wanted:,} bytes; {AGAIN}")
    if dtype.kind == "U":
        return _words(where, native(array)).reshape(shape)
    if dtype.kind == "b":
        np.not_equal(array.view(np.uint8), 0, out=array)  # a bool must be 0 or 1
    return native(array)


def _words(where: str, array: Array) -> Array:
    """Converts an array of text to an object array of str, (size,)."""
    flat, known = array.ravel(), dict[str, str]()
    if flat.view(np.uint32).max() > sys.maxunicode:
        raise DataError(f"{where}: damaged, because there are characters in its text that do not exist; {AGAIN}")
    words = np.empty(flat.size, object)
    for first in range(0, flat.size, BLOCK):
        words[first : first + BLOCK] = texts(flat[first : first + BLOCK].tolist(), known)
    return words


def _header(where: str, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Reads the shape, whether the first index runs fastest, and the dtype."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a header that Python 2 wrote is read all the same
            version = np.lib.format.read_magic(file)
            if version[0] not in HEADERS:
                raise ValueError(f"version {version} of the format")
            start = file.read(2 * version[0])
            if (length := int.from_bytes(start, "little")) > LONGEST_HEADER:
                raise ValueError(f"it claims to have {length:,} bytes")
            shape, fortran, dtype = HEADERS[version[0]](io.BytesIO(start + file.read(length)))
        if len(shape) > MOST_AXES or not all(0 <= length < MOST_VALUES for length in shape):
            raise ValueError("a shape that no array has")
    except OSError:
        raise
    except Exception as error:  # parsing may raise anything
        raise DataError(f"{where}: the header is missing or damaged ({shown(error)}); {AGAIN}") from None
    return shape, fortran, dtype
