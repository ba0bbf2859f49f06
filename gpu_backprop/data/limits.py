"""The memory limit: how much a file may take once it is decoded. Every reader asks here before it decodes.

It is what --memory-limit, or memory_limit= in Python, says. Unless one of them does, it is half of the memory that this
process may have, and of one file no more than `most_bytes` of what it has on the disk.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO

from gpu_backprop.data.errors import DataError, MemoryLimitError
from gpu_backprop.data.files import RATIO, most_bytes
from gpu_backprop.data.messages import shown

UNKNOWN = 8 * 10**9
"""Bytes of memory that a machine is taken to have where the system doesn't say, as on Windows."""

ENTRY = 128
"""Bytes that a dict takes, at most, for a text that it holds, besides the text."""

POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
MORE = "use a part of it, or allow more with --memory-limit (memory_limit= in Python) if that is right"


@dataclass
class _Budget:
    """The memory that files which are read together may take once they are decoded, and how much of it they have taken.

    Attributes:
        asked: bytes that may be held; None: what the memory and the files allow.
        held: bytes that have been decoded.
        stored: bytes that the files have on the disk; None: there is no file.
        what: what messages call that which is being decoded.
    """

    asked: int | None = None
    held: int = 0
    stored: int | None = None
    what: str = "the data:"


_BUDGET: ContextVar[_Budget] = ContextVar("budget")


@contextmanager
def memory_limit(limit: int | str | None) -> Iterator[None]:
    """Limits what is decoded in this context to so many bytes in all; None keeps the limit that holds outside.

    Raises:
        DataError: it is no size.
    """
    outer = _BUDGET.get(_Budget())
    token = _BUDGET.set(_Budget(outer.asked if limit is None else size_of(limit)))
    try:
        yield
    finally:
        _BUDGET.reset(token)


@contextmanager
def decoding(what: str, stored: int | None = None) -> Iterator[None]:
    """Says that this context decodes a file of so many bytes on the disk, which messages call `what`."""
    budget = _BUDGET.get(None)
    if budget is None:
        with memory_limit(None), decoding(what, stored):
            yield
        return
    before, budget.what = budget.what, what
    if stored is not None:
        budget.stored = stored + (budget.stored or 0)
    try:
        yield
    finally:
        budget.what = before


def take(size: int) -> None:
    """Counts so many bytes, which are about to be decoded and kept; raises DataError where they are too many."""
    check(size)
    _BUDGET.get(_Budget()).held += size


def check(size: int) -> None:
    """Raises DataError where so many bytes more would be too many."""
    budget = _BUDGET.get(_Budget())
    size += budget.held
    if budget.asked is not None:
        limit, why = budget.asked, f"more than the limit of {budget.asked:,}"
    else:
        limit = memory() // 2
        why = f"more than half of the memory that this program may use, {limit:,}"
        if budget.stored is not None and (most := most_bytes(budget.stored)) < limit:
            limit, why = most, f"many times the size of the file, and more than {most:,}"
    if size > limit:
        raise MemoryLimitError(f"{budget.what} {size:,} bytes unpacked, {why}; {MORE}")


def asked() -> int | None:
    """Returns the limit that was asked for, if one was."""
    return _BUDGET.get(_Budget()).asked


def size_of(given: int | str) -> int:
    """Reads a size in bytes: a number, or a text such as "4GB", "500 MB" or "1.5 GiB".

    Raises:
        DataError: it is neither.
    """
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?) ?([kmgt]?)(i?)(b?)", str(given).strip().lower())
    size = 0
    if found and not isinstance(given, bool):
        base = 1000 if found[4] and not found[3] else 1024
        size = int(float(found[1]) * base ** POWERS[found[2]])
    if not size:
        raise DataError(f"a memory limit is a number of bytes, or a size such as 4GB or 500 MiB, not {shown(given)}")
    return size


def text_bytes(known: dict[str, str], before: int) -> int:
    """Counts the bytes of the texts that came to `known` after the first `before`."""
    new = len(known) - before
    return ENTRY * new + sum(map(sys.getsizeof, islice(reversed(known), new)))


def stored_bytes(file: IO[bytes]) -> int:
    """Counts the bytes of a file that are on the disk, without its holes, where the system can tell."""
    descriptor = file.fileno()
    size, place, at, there = os.fstat(descriptor).st_size, file.tell(), 0, 0
    if not hasattr(os, "SEEK_DATA"):
        return size
    try:
        while at < size and RATIO * there < size:
            begins = os.lseek(descriptor, at, os.SEEK_DATA)
            at = os.lseek(descriptor, begins, os.SEEK_HOLE)
            there += at - begins
    except OSError:  # no data follow, or this file system has no holes
        there = there or size
    finally:
        file.seek(place)
    return size if RATIO * there >= size else there


# The machine ----------------------------------------------------------------------------------------------------------


@cache
def memory() -> int:
    """Returns the memory of this machine in bytes; or, where it is less, what control groups (containers) or
    `ulimit -v` let this process have."""
    known = list(_allowed())
    with suppress(AttributeError, ValueError, OSError):  # not on Windows
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min((size for size in known if size > 0), default=UNKNOWN)


def _allowed() -> Iterator[int]:
    with suppress(ImportError):
        import resource

        if (most := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
            yield most
    for line in _lines_of(Path("/proc/self/cgroup")):
        _, controllers, group = line.split(":", 2)
        if not controllers:  # version 2
            root, name = Path("/sys/fs/cgroup"), "memory.max"
        elif "memory" in controllers.split(","):
            root, name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        else:
            continue
        within = PurePosixPath(group.lstrip("/"))
        for place in (within, *within.parents):
            yield from (int(text) for text in _lines_of(root / place / name) if text.isdigit())


def _lines_of(path: Path) -> list[str]:
    try:
        return path.read_text("ascii").splitlines()
    except (OSError, ValueError):
        return []
