"""The folder of a user's compiled libraries: what is loaded from it is whole and the user's own, and it stays small."""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import NamedTuple

from gpu_backprop.backend.cache_folder import cache_folder
from gpu_backprop.backend.errors import DeviceError

LARGEST = 64 << 20
"""Bytes of the libraries that are kept: some two thousand."""

STALE = 24 * 3600
"""Seconds after which something that belongs to no library is thrown away."""

UNFINISHED = "compiling-"
"""How the name of a folder begins in which a compiler is at work."""

SUFFIX, NOTES = ".so", (".checked", ".log", ".products")

DIGEST = 32
"""Bytes: a library ends with the SHA-256 of all before, so that a truncated or damaged one is not loaded."""

_loads = count()


class Library(NamedTuple):
    """A library that is loaded."""

    functions: ctypes.CDLL
    digest: str  # of its bytes, so also of its text, its compiler and this processor
    path: Path


def library_name(*made_of: str) -> str:
    """Returns the name of the library that is made of all this."""
    return hashlib.sha256("\0".join(made_of).encode(errors="surrogateescape")).hexdigest()[:40] + SUFFIX


def folder() -> Path:
    """Returns a folder that only this user can write to, from which libraries can be loaded."""
    found = cache_folder()
    with suppress(OSError):
        if found is not None and not os.statvfs(found).f_flag & os.ST_NOEXEC:
            return found
    return _temporary_folder()


def kept() -> int:
    """Returns how many bytes the libraries in the folder have, of which LARGEST stay."""
    size = 0
    for path in folder().glob(f"*{SUFFIX}"):
        with suppress(OSError):  # another process has removed it
            size += path.lstat().st_size
    return size


def load(path: Path, own: bool = True) -> Library | None:
    """Loads a library; None: there is none that is whole and that this user alone can write to, or it needs another
    one that is missing. Of what is installed (own=False) only the first is asked."""
    file = _whole(path, own)
    if file is None:
        return None
    with suppress(OSError):
        os.utime(file)  # it is used
    try:
        return _loaded(file, path)
    except OSError:
        return None
    finally:
        os.close(file)


def store(made: Path, path: Path) -> Library:
    """Puts a new library into its place, and loads it.

    Raises:
        DeviceError: it cannot be loaded.
    """
    file = os.open(made, os.O_RDONLY | os.O_CLOEXEC)
    try:
        made.replace(path)
        path.with_suffix(".log").unlink(missing_ok=True)
        return _loaded(file, path)
    except OSError as error:
        raise DeviceError(f"the compiled kernels cannot be stored or loaded ({error})") from error
    finally:
        os.close(file)


def seal(made: Path) -> None:
    """Ends a new library with its digest."""
    content = made.read_bytes()
    made.write_bytes(content + hashlib.sha256(content).digest())
    made.chmod(0o700)


@contextmanager
def unfinished() -> Iterator[Path]:
    """Makes a folder for a compiler to work in; afterwards it is gone, and what was used least recently with it."""
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder(), ignore_cleanup_errors=True) as made:
        yield Path(made)
    with suppress(OSError):  # another process removes them too
        prune()


def prune() -> None:
    """Removes the libraries that were used least recently, so that LARGEST bytes stay, and what is STALE. A process
    keeps what it has loaded."""
    size, now = 0, time.time()
    found = [(entry, entry.stat(follow_symlinks=False)) for entry in os.scandir(folder())]
    for entry, status in sorted(found, key=lambda one: one[1].st_mtime, reverse=True):
        path, old = Path(entry), now - status.st_mtime > STALE
        if path.suffix == SUFFIX:
            size += status.st_size
            if size > LARGEST:
                path.unlink(missing_ok=True)
        elif old and entry.name.startswith(UNFINISHED):
            shutil.rmtree(path, ignore_errors=True)
        elif old and path.suffix in NOTES and not path.with_suffix(SUFFIX).exists():
            path.unlink(missing_ok=True)


@cache
def _temporary_folder() -> Path:
    """Makes a folder for this process alone, which is removed with it."""
    made = tempfile.mkdtemp(prefix="gpu_backprop-")
    atexit.register(_remove, made, os.getpid())
    return Path(made)


def _remove(made: str, owner: int) -> None:
    if os.getpid() == owner:  # not the child of a fork
        shutil.rmtree(made, ignore_errors=True)


def _whole(path: Path, own: bool) -> int | None:
    """Opens a library that is whole, and that this user alone can write to if it is their own; None: there is none."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        status = os.fstat(file)
        ours = status.st_uid == os.geteuid() and not status.st_mode & 0o022
        trusted = stat.S_ISREG(status.st_mode) and (ours or not own)
        content = os.pread(file, status.st_size, 0) if trusted else b""
    except OSError:
        content = b""
    if content and hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]:
        return file
    os.close(file)
    return None


def _loaded(file: int, path: Path) -> Library:
    """Loads the file that was checked, whatever has replaced it meanwhile. The C library takes a name it knows for the
    library it has loaded by that name, so each load has a new name."""
    name = f"/proc/self/fd/{'./' * next(_loads)}{file}"
    functions = ctypes.CDLL(name if os.path.exists(name) else os.fspath(path))
    return Library(functions, os.pread(file, DIGEST, os.fstat(file).st_size - DIGEST).hex(), path)
