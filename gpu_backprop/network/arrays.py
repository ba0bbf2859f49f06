"""Arrays from outside: anything that is an array, checked before it is copied in.

One that lies on the network's own CUDA device is used where it lies; the checks read back numbers and no arrays.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np

from gpu_backprop.backend.communicator import ALONE, Communicator
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.lazy_rows import HOST, LazyRows, SparseRows, is_sparse, keep_sparse
from gpu_backprop.network.frames import FILL_IN, TO_NUMBERS, columns_of, is_frame, read_column, read_frame

BFLOAT16_MAX = (2 - 2**-7) * 2.0**127
"""The largest bfloat16: NumPy's finfo does not know the type."""

BLOCK = 1 << 18
"""The most elements of a host array in one block, unless a single row has more."""

REAL = "fiub"
"""The kinds of NumPy's dtypes of real numbers."""

NOT_OF_NUMPY = frozenset((
    "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "int4", "uint4",
))  # fmt: skip
"""Dtypes of PyTorch and JAX that no array of NumPy can have."""

PLACES, TOGETHER = 1024, 1 << 30
"""Places in memory, and bytes, that Linux copies from in one call."""


def as_array(value: Any, name: str, device: Device) -> Array:
    """Returns `value` where it lies, on the network's device or else as a plain array on the host. Raises InputError if
    it is no array, or lies on another device."""
    if type(value) is np.ndarray and memory_map(value) is None:
        return value
    here = device.adopt(value, name)
    return host_array(value, name) if here is None else here


def host_array(value: Any, name: str) -> Array:
    """Returns `value` as a plain array: NumPy's without a copy, others by DLPack, the array protocol, or as lists."""
    masks = "numpy.ma" in sys.modules  # else nothing is masked, and to import it takes longer than to build a step
    if masks and isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        mask = np.ma.getmaskarray(value)
        raise InputError(
            f"{_counted(int(mask.sum()), 'masked')} in {name}, the first one at {place(first(mask))}. Remove those "
            "rows, or give every value a number: x.filled(0)."
        )
    if isinstance(value, LazyRows):
        return value  # type: ignore[return-value]
    if isinstance(value, np.ndarray):
        check_file(value)
        return np.asarray(value)
    if hasattr(type(value), "toarray") and not is_sparse(value):
        raise InputError(
            f"{name} is a {type(value).__name__}, which leaves zeros out, and a network reads them all: give "
            f"{name}.toarray(), or some of its rows at a time where that takes too much memory."
        )
    try:
        if is_sparse(value):
            return np.asarray(value.toarray(order="C"))
        if is_frame(value):
            return read_frame(value, name)
        if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__") and not hasattr(value, "to_numpy"):
            return np.from_dlpack(value)
        return read_column(value, name) if hasattr(value, "to_numpy") else np.asarray(value)
    except InputError:
        raise
    except Exception as error:  # other libraries raise anything when they cannot share their memory
        why = f"{type(value).__name__}: {str(error).rstrip('.')}"
        if (dtype := str(getattr(value, "dtype", "")).rpartition(".")[2]) in NOT_OF_NUMPY:
            why = (
                f"NumPy has no {dtype}. Give it as float32: {name}.float() of PyTorch, {name}.astype('float32') of JAX"
            )
        raise InputError(f"{name} cannot be read as an array: {why}.") from None


def whole(array: Array) -> Array:
    """Returns all rows as an array: those of a minibatch."""
    return array[:] if isinstance(array, LazyRows) else array


def memory_map(array: Any) -> np.memmap[Any, Any] | mmap.mmap | None:
    """Finds the memory map that a host array is part of, or None."""
    while type(array) is np.ndarray:  # which is quick, as every call asks
        array = array.base
    while array is not None and not isinstance(array, (np.memmap, mmap.mmap)):
        array = array.obj if isinstance(array, memoryview) else getattr(array, "base", None)
    return array


def check_file(array: Array) -> None:
    """Raises InputError if the file of a memory map has been cut off: to read beyond its end would end the process."""
    mapped = memory_map(array)
    if not isinstance(mapped, np.memmap):
        return
    pages: Any = mapped
    while isinstance(pages, np.ndarray):  # a part of a memory map is one too, with the offset of the whole
        pages = pages.base
    if not isinstance(pages, mmap.mmap):  # a copy
        return
    length = mapped.offset - mapped.offset % mmap.ALLOCATIONGRANULARITY + len(pages)
    if (size := pages.size()) < length:  # of the mapped file, even if another has its name by now
        raise InputError(
            f"{mapped.filename} has {size:,} bytes, but had {length:,} when it was mapped: another program has cut it "
            "off. Write it again, and map it again."
        )


def loaded(source: Array, rows: Array | slice) -> Array:
    """Returns source[rows]; of a memory map, on Linux, a copy that the system makes: if the file has been cut off, to
    read the map would end the process, and the system's copy reports an error, which becomes an InputError."""
    if isinstance(source, LazyRows):
        return source[rows]
    size, copy = source[:1].nbytes, _system_copy()
    mapped = memory_map(source)
    if copy is None or mapped is None or not size or not source[:1].flags.c_contiguous:
        return source[rows]
    starts = np.arange(*rows.indices(len(source))) if isinstance(rows, slice) else rows
    out: Array = np.empty((len(starts), *source.shape[1:]), source.dtype)
    if isinstance(rows, slice) and source.strides[0] == size:  # side by side
        starts, size = starts[:1], size * len(starts)
    each = max(1, min(PLACES, TOGETHER // max(1, size)))
    for first in range(0, len(starts), each):
        some = starts[first : first + each]
        here = np.array([[out.ctypes.data + first * size, len(some) * size]], np.uintp)
        there = np.full((len(some), 2), size, np.uintp)
        there[:, 0] = source.ctypes.data + some * source.strides[0]
        if copy(os.getpid(), here.ctypes.data, 1, there.ctypes.data, len(some), 0) != len(some) * size:
            check_file(source)
            if ctypes.get_errno() in (errno.EPERM, errno.ENOSYS):  # as in some sandboxes
                return source[rows]
            raise InputError(f"{getattr(mapped, 'filename', 'a memory map')} cannot be read. Is its disk in order?")
    return out


def let_go(array: Array) -> None:
    """Takes the pages of a memory map out of this process's memory, where they would stay until others need it. The
    system still has them, and what was written to them."""
    mapped = memory_map(array)
    pages: Any = getattr(mapped, "_mmap", None)
    if pages is not None and getattr(mapped, "mode", "c") != "c" and hasattr(mmap, "MADV_DONTNEED"):  # "c": a copy
        pages.madvise(mmap.MADV_DONTNEED)


@cache
def _system_copy() -> Any:
    """Finds process_vm_readv, which copies from this process as well, or returns None."""
    try:
        call = ctypes.CDLL(None, use_errno=True).process_vm_readv
    except (AttributeError, OSError, TypeError):
        return None
    pointer, count = ctypes.c_void_p, ctypes.c_ulong
    call.restype, call.argtypes = ctypes.c_ssize_t, (ctypes.c_int, pointer, count, pointer, count, count)
    return call


def on_host(array: Array, device: Device) -> Array:
    """Returns an array that `as_array` gave as a NumPy array."""
    return array if isinstance(array, HOST) else device.to_host(array)


def check_real(array: Array, name: str) -> Array:
    """Raises InputError unless the array holds real numbers."""
    if array.dtype.kind not in REAL and array.dtype.name != "bfloat16":  # which has no kind in NumPy
        raise InputError(
            f"{name} must hold real numbers (floats, integers or booleans), got dtype {array.dtype}. {TO_NUMBERS}."
        )
    return array


def check_features(value: Any, inputs: int, device: Device, *leads: tuple[int, ...], empty: bool = False) -> Array:
    """Returns x as an array of real numbers, (..., rows, inputs), or raises InputError. `leads` are the shapes that may
    stand in front of the rows; `empty`: there may be no rows."""
    x = check_real(as_array(keep_sparse(value), "x", device), "x")
    shape = x.shape
    if len(shape) < 2 or shape[:-2] not in leads:
        axes = " or ".join(f"({', '.join((*map(str, lead), 'rows', 'inputs'))})" for lead in dict.fromkeys(leads))
        hint = f" One sample is x[None, :], of shape (1, {shape[0]})." if len(shape) == 1 else ""
        raise InputError(f"x must have the axes {axes}, got the shape {shape}.{hint}")
    if shape[-1] != inputs:
        raise InputError(
            f"x has {shape[-1]} features a sample, but the network was made for inputs={inputs}. "
            f"Give {inputs} columns, or make a Network({shape[-1]}, ...)."
        )
    if shape[-2] == 0 and not empty:
        raise InputError(f"x is empty: its shape is {shape}, and at least one row is needed.")
    return x


def check_finite(
    array: Array, name: str, dtype: Any = np.float64, given: Any = None, communicator: Communicator = ALONE
) -> None:
    """Raises InputError, with the count and first place, if there is NaN, infinity or what `dtype` cannot hold; `given`
    is what the array was read from, whose columns may have names. Of several ranks each looks at its share of the rows,
    and at others only where it has to say what is wrong."""
    stored = _stored(array)
    dtype = np.dtype(dtype)
    largest = BFLOAT16_MAX if dtype.name == "bfloat16" else float(np.finfo(dtype).max)

    def within(part: Array) -> bool:
        if part.dtype.name == "bfloat16":  # which no array module can take the min and max of
            part = part.astype(np.float32)
        return bool(part.min().item() >= -largest and part.max().item() <= largest)

    with np.errstate(all="ignore"):  # NumPy warns of NaN in min and max
        if all(within(part) for _, part in blocks(stored, communicator.share(len(stored)))):
            return
    what, advice = "NaN or infinite", FILL_IN if is_frame(given) else "Remove or replace them."
    count, value, where = search(array, lambda part: ~np.isfinite(part))
    if not count:
        wider = "float32" if dtype.name == "float16" else "float64"
        what, advice = f"too large for {dtype.name}", f"Scale them down, or use a network with dtype={wider!r}."
        count, value, where = search(array, lambda part: np.abs(part) > largest)
    if is_frame(given):
        at = int(where.rpartition(" ")[2])
        where = f"{where.partition(',')[0]}, column {columns_of(given)[at][0]!r}"
    raise InputError(f"{_counted(count, what)} in {name}, the first one ({value.item()}) at {where}. {advice}")


def blocks(array: Array, rows: range | None = None) -> Iterator[tuple[int, Array]]:
    """Yields the blocks of a host array along its first axis, or of some of its rows, each after the index of its
    beginning, so that what is computed from one takes little memory, however large a file the array maps. A device
    array is one block, because reading back from each would wait for the device."""
    if not array.size:
        return
    length = len(array)
    if isinstance(array, HOST) and array.size > BLOCK:
        length = max(1, BLOCK * length // array.size)
    rows = range(len(array)) if rows is None else rows
    for start in rows[::length]:
        some = slice(start, min(start + length, rows.stop))
        yield start, loaded(array, some) if isinstance(array, HOST) else array[some]
        let_go(array)


def search(array: Array, wrong: Callable[[Array], Array]) -> tuple[int, Array, str]:
    """Counts the elements, or rows, of an array of which `wrong` is true, and returns the first and its place too. Of 0
    in a sparse one it is false."""
    count, at = 0, tuple[int, ...]()
    for start, part in blocks(_stored(array)):
        found = wrong(part)
        here = int(found.sum())
        if here and not count:
            row, *rest = first(found)
            at = (start + row, *rest)
        count += here
    if count and isinstance(array, SparseRows):
        at = array.place(*at)
    return count, array[at], place(at)


def _stored(array: Array) -> Array:
    return array.values if isinstance(array, SparseRows) else array


def first(wrong: Array) -> tuple[int, ...]:
    """Returns the index of the first True."""
    return tuple(int(i) for i in np.argwhere(wrong)[0])


def _counted(count: int, what: str) -> str:
    return f"{count} {'value is' if count == 1 else 'values are'} {what}"


def place(index: tuple[int, ...]) -> str:
    """Says where a value lies in an array of (row), (row, column) or (member, row, column)."""
    axes = ("row", "column") if len(index) < 3 else ("member", "row", "column")
    return ", ".join(f"{axis} {i}" for axis, i in zip(axes, index, strict=False))


def fill(buffer: Array, values: Any, name: str, device: Device) -> None:
    """Copies values of the same shape into a buffer. After `weight -= …` they are the buffer itself."""
    if values is buffer:
        return
    values = check_real(as_array(values, name, device), name)
    if values.shape != buffer.shape:
        raise InputError(f"{name} must have the shape {buffer.shape}, got {values.shape}.")
    device.copy_in(buffer, values)
