"""A lock on a folder, for one process at a time. The system lets go of it when the process ends, however it does."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

from gpu_backprop.backend.errors import InputError

BUSY = errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK

LOCK = ".lock"
"""The file that Windows locks, which locks no folders."""


class FolderLock(ExitStack):
    """Holds a folder from the moment it is made until it is closed.

    A file system without locks, as some that are shared by machines, is trusted to have one user.

    Raises:
        InputError: another process holds it, or another lock of this one.
        OSError: the folder can't be opened.
    """

    def __init__(self, folder: Path, what: str) -> None:
        super().__init__()
        if sys.platform == "win32":
            number = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
            self.callback(_remove, folder / LOCK)
        else:
            number = os.open(folder, os.O_RDONLY)
        self.callback(os.close, number)
        try:
            _lock(number)
        except OSError as error:
            if error.errno in BUSY:
                self.close()
                raise InputError(
                    f"{str(folder)!r} is being written to by another process: {what} is for one at a time. Choose "
                    "another folder, or wait for it."
                ) from None


def _lock(number: int) -> None:
    """Locks an open file, or raises OSError."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove(path: Path) -> None:
    with suppress(OSError):  # another process has it open
        path.unlink()
