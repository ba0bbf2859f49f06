"""The checkpoints of a folder, numbered in the order in which they were written."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

NAME = re.compile(r"checkpoint-([0-9]{6,12})\.safetensors")


def numbered(folder: Path) -> list[tuple[int, Path]]:
    """Lists them with their numbers, oldest first.

    Raises:
        OSError: the folder can't be read.
    """
    found = ((NAME.fullmatch(name), folder / name) for name in os.listdir(folder))
    return sorted((int(match[1]), path) for match, path in found if match)


def next_path(folder: Path) -> Path:
    """Returns where the next one goes."""
    there = numbered(folder)
    return folder / f"checkpoint-{there[-1][0] + 1 if there else 1:06}.safetensors"


def keep_newest(folder: Path, count: int) -> None:
    """Removes all but the newest."""
    for _, path in numbered(folder)[:-count]:
        with suppress(OSError):
            path.unlink()
