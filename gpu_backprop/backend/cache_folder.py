"""The folder of a user where what takes time to make, or to find out, is kept from one process to the next."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def cache_folder() -> Path | None:
    """Returns a folder that this user alone can write to; None where there is none and none can be made."""
    wanted = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(wanted if os.path.isabs(wanted) else os.path.expanduser("~/.cache")) / "gpu_backprop"
    if not folder.is_absolute():  # a user without a home
        return None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            folder.chmod(0o700)
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
    except OSError:  # a home that is not there or cannot be written to
        pass
    return None
