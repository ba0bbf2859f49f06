"""gpu-backprop export: a trained network as a file for other programs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu_backprop.commands.errors import Misuse
from gpu_backprop.commands.runs import MODEL, load_run
from gpu_backprop.commands.sources import load_rows
from gpu_backprop.interop.formats import FORMATS

OPTIONS = {"preprocessing": "--prepared", "coverage": "--interval", "int8": "--int8", "rows": "--rows"}
"""What chooses each setting of an export."""


def export(options: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    name = options.format or _by_ending(options.file)
    settings = _settings(options)
    for setting in settings:
        if setting not in FORMATS[name].settings:
            raise Misuse(f"{OPTIONS[setting]} is not for the format {name}; leave it out")
    if "rows" in settings and not options.int8:
        raise Misuse("--rows are for measuring what --int8 changes; give both")
    if options.data is None and (options.part is not None or options.delimiter is not None):
        raise Misuse("--part, --delimiter: about the rows of --rows; leave them out")
    for given in (options.run, options.run / MODEL, *([] if options.data is None else [Path(options.data)])):
        if options.file.exists() and given.exists() and given.samefile(options.file):
            raise Misuse(f"FILE {options.file} would overwrite {given}, which is read; choose another")
    network = load_run(options.run, "cpu")
    if "rows" in settings:
        if network.preprocessing is None:
            raise Misuse(f"{options.run} does not say how rows of data become numbers; leave --rows out")
        settings["rows"] = load_rows(options, network.preprocessing)
    told = FORMATS[name].export(network, options.file, **settings)
    if told is not None:
        print(told)
    print(f"written to {options.file}")
    return 0


def _by_ending(file: Path) -> str:
    """Return the format that has the ending of a file."""
    for name, known in FORMATS.items():
        if file.suffix.lower() == known.ending:
            return name
    endings = ", ".join(f"{known.ending} ({name})" for name, known in FORMATS.items())
    raise Misuse(f"the ending of {file} is none that is known: {endings}; give it one of these, or choose --format")


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that were asked for; rows as their source."""
    found: Mapping[str, Any] = {
        "preprocessing": False if options.prepared else None,
        "coverage": options.interval,
        "int8": options.int8 or None,
        "rows": options.data,
    }
    return {name: value for name, value in found.items() if value is not None}
