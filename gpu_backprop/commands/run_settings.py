"""settings.json, in the folder of a run: how it was asked for, and what tells its data from others. It is data: a model
file needs none of it."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.whole_file import new_file
from gpu_backprop.commands.runs import SETTINGS, SPLIT
from gpu_backprop.commands.sources import DIGITS

PROGRAM, FORMAT = "gpu_backprop run", 1
DAMAGED = "it is damaged, or of another version of gpu_backprop"
PATHS = "data", "held_out_file"
"""The options that name data."""
LIMIT = 1 << 22
"""Bytes: many times what any command line has."""


class RunSettings(NamedTuple):
    """How a run was asked for.

    Attributes:
        words: what followed `gpu-backprop train`.
        paths: of the data that the options of these names give, absolute.
        version: of this program.
        windows: whether rows were read in windows, from the disk: other rows are held out then.
        data: the fingerprints of its rows, see TrainTestData.
    """

    words: list[str]
    paths: dict[str, str]
    version: str
    windows: bool
    data: list[dict[str, Any]]


def absolute_paths(options: argparse.Namespace) -> dict[str, str]:
    """Return where the data are that the options name."""
    given = {name: getattr(options, name) for name in PATHS}
    return {name: os.path.abspath(path) for name, path in given.items() if path not in (None, DIGITS)}


def write_settings(place: Path, settings: RunSettings, split: Array) -> None:
    """Write them to the folder of a run, and which rows were held out, bool (rows,); each file whole or not at all."""
    with new_file(place / SPLIT) as file:
        np.save(file, split, allow_pickle=False)
    with new_file(place / SETTINGS, "utf-8") as file:
        json.dump({"program": PROGRAM, "format": FORMAT, **settings._asdict()}, file, indent=1)
        file.write("\n")


def read_split(place: Path, rows: int) -> Array:
    """Read which of so many rows were held out; raise InputError where that can't be."""
    path = place / SPLIT
    try:
        split: Array = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise InputError(f"{path} cannot be used: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} cannot be used: {DAMAGED}") from error
    if split.shape != (rows,) or split.dtype != np.bool_:
        raise InputError(f"{path} cannot be used: it is not one truth value for each of {rows:,} rows")
    return split


def read_settings(place: Path) -> RunSettings:
    """Read them; raise InputError where they are not there, damaged or of a newer version."""
    path = place / SETTINGS
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(LIMIT + 1)[:LIMIT])
        if (found.pop("program"), found.pop("format")) != (PROGRAM, FORMAT):
            raise ValueError("of another program or version")
        settings = RunSettings(**found)
        texts = [*settings.words, *settings.paths.values(), settings.version]
        if not isinstance(settings.words, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError("not all text")
        if not isinstance(settings.data[0], dict) or not settings.paths.keys() <= {*PATHS}:
            raise ValueError("without data")
        return settings
    except OSError as error:
        raise InputError(f"{place} does not say how it was trained: {path}: {error.strerror}") from error
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} cannot be used: {DAMAGED}") from error
