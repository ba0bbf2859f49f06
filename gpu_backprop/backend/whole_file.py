"""Files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

PARTIAL = re.compile(r"\.([0-9a-f]{8})-([0-9]+)-[0-9a-f]{16}\.partial")
"""The name of a file that is being written: machine, process, and something random."""

ABANDONED = 7 * 24 * 3600.0
"""Seconds without a change after which a partial file of another machine is removed."""


@contextmanager
def new_file(path: str | os.PathLike[str], encoding: str | None = None) -> Iterator[IO[Any]]:
    """Opens a new file, which replaces `path` when the block ends without an error, once it is safe on the disk.

    Until then, and where the block raises, `path` stays as it was. The new file gets the permissions of the old one
    and, where that is allowed, its owner. A link stays, and the file it points to is replaced. What is no regular file,
    such as a pipe, can't be replaced, and is written to; so is /dev/stdout, wherever it leads.

    Args:
        encoding: of text; None: the file takes bytes.

    Raises:
        OSError: it can't be written.
    """
    how: dict[str, Any] = {} if encoding is None else {"encoding": encoding, "newline": ""}
    number = descriptor_of(path)
    if number is not None or (os.path.exists(path) and not os.path.isfile(path)):
        # A duplicate shares the position in the file, so that others who write to it go on behind.
        with open(path if number is None else os.dup(number), "ab" if encoding is None else "a", **how) as file:
            yield file
        return
    place = Path(os.path.realpath(path))
    remove_abandoned(place.parent)
    # Beside it: a rename across disks is not atomic.
    partial = place.with_name(f".{_machine()}-{os.getpid()}-{secrets.token_hex(8)}.partial")
    try:
        with open(partial, "xb" if encoding is None else "x", **how) as file:
            copy_attributes(partial, place)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, place)
        sync_folder(place.parent)
    finally:
        partial.unlink(missing_ok=True)


def descriptor_of(path: str | os.PathLike[str]) -> int | None:
    """Returns the file descriptor that a path such as /dev/stdout stands for, also by links; None: for none."""
    place = os.fspath(path)
    for _ in range(40):  # links may go in a circle
        folder, name = os.path.split(place)
        folder = os.path.realpath(folder)
        if folder in ("/dev/fd", os.path.realpath("/proc/self/fd")) and name.isdecimal():
            return int(name)
        if not os.path.islink(place):
            break
        place = os.path.join(folder, os.readlink(place))
    return None


def sync_folder(folder: Path) -> None:
    """Makes renames and removals in a folder safe on the disk, where the system can do that."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def copy_attributes(path: Path, older: Path) -> None:
    """Gives a file the permissions and, where that is allowed, the owner of the file that it replaces, if any."""
    try:
        found = older.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        return
    if hasattr(os, "chown"):
        with suppress(OSError):
            os.chown(path, found.st_uid, found.st_gid)
    os.chmod(path, stat.S_IMODE(found.st_mode))


def remove_abandoned(folder: Path) -> None:
    """Removes the partial files of processes that were killed while they wrote in this folder."""
    with suppress(OSError):  # a folder that can't be listed
        for name in os.listdir(folder):
            found, path = PARTIAL.fullmatch(name), folder / name
            with suppress(OSError):  # another process was faster
                if found and (_is_dead(found) or time.time() - path.lstat().st_mtime > ABANDONED):
                    path.unlink()


def _machine() -> str:
    """Identifies the namespace of process numbers: this machine and, in Linux, this container."""
    container = ""
    with suppress(OSError):
        container = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {container}".encode()).hexdigest()[:8]


def _is_dead(name: re.Match[str]) -> bool:
    """Tells whether the process that a partial file is named after has ended, as far as can be known here."""
    if name[1] != _machine() or os.name == "nt":  # where os.kill ends what it finds
        return False
    try:
        os.kill(int(name[2]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # such as another user's process
        pass
    return False
