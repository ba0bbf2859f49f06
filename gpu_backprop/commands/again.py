"""The options that a run was begun with: train --resume goes on with them, report reads its data by them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_backprop.backend.errors import InputError
from gpu_backprop.commands.errors import Misuse
from gpu_backprop.commands.run_settings import PATHS, RunSettings, read_settings
from gpu_backprop.commands.runs import resumable

FREE = (
    "resume", "epochs", "quiet", "debug", "device", "distributed", "timeout", "memory_limit", "checkpoint_every",
    *PATHS,
)  # fmt: skip
"""What may be given beside --resume, and differ from what it was: data may have been moved, and are looked at."""


def options_of_before(options: argparse.Namespace) -> argparse.Namespace:
    """Return the options that the run of --resume was begun with, with those that may be given anew."""
    settings = read_settings(resumable(options.resume))
    before = options_of(settings, options.resume, options.parse)
    vars(before).update(settings.paths)
    for action in options.parser._actions:
        name, now = action.dest, getattr(options, action.dest, None)
        if not _is_given(action, now, options.given):
            continue
        if name in FREE:
            setattr(before, name, now)
        elif now != (was := getattr(before, name)):
            called = action.option_strings[0] if action.option_strings else action.metavar
            raise Misuse(f"{called} is {now}, and was {was} when the run was begun: leave it out, or begin a new run")
    before.set = _without_epochs(before)
    before.given += [] if options.epochs is None else ["--epochs", str(options.epochs)]
    before.settings, before.ranks = settings, options.ranks
    return before


def options_of(
    settings: RunSettings, run: Path, parse: Callable[[list[str]], argparse.Namespace]
) -> argparse.Namespace:
    """Return the options that a run was begun with, its data as they were named then."""
    try:
        options = parse(["train", *settings.words])
    except SystemExit as error:
        raise InputError(f"{run} was begun with options that this version does not take") from error
    options.set = _without_epochs(options)
    return options


def _without_epochs(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Return what --set says, less its epochs where --epochs was given later, with --resume."""
    return [entry for entry in options.set if options.epochs is None or entry[0] != "epochs"]


def _is_given(action: argparse.Action, value: Any, words: list[str]) -> bool:
    if action.option_strings:
        return any(word.partition("=")[0] in action.option_strings for word in words)
    return value != action.default or value in words
