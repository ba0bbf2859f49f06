"""train --resume: the options of a run that goes on are those that it was begun with."""

from __future__ import annotations

import argparse
import os
from typing import Any

from gpu_backprop.backend.errors import InputError
from gpu_backprop.commands.errors import Misuse
from gpu_backprop.commands.run_settings import read_settings
from gpu_backprop.commands.runs import resumable
from gpu_backprop.commands.sources import DIGITS

FREE = "resume", "epochs", "quiet", "debug", "device", "memory_limit", "checkpoint_every"
"""What may be given beside --resume, and differ from what it was."""

PATHS = "data", "held_out_file"


def options_of_before(options: argparse.Namespace) -> argparse.Namespace:
    """Return the options that the run of --resume was begun with, with those that may be given anew."""
    settings = read_settings(resumable(options.resume))
    try:
        before: argparse.Namespace = options.parse(["train", *settings.words])
    except SystemExit as error:
        raise InputError(f"{options.resume} was begun with options that this version does not take") from error
    for name in PATHS:
        path = getattr(before, name)
        if path is not None and (name, path) != ("data", DIGITS):
            setattr(before, name, os.path.join(settings.folder, path))
    for action in options.parser._actions:
        name, now = action.dest, getattr(options, action.dest, None)
        if not _is_given(action, now, options.given):
            continue
        if name in FREE:
            setattr(before, name, now)
        elif now != (was := getattr(before, name)) and not (name in PATHS and _same_path(now, was)):
            called = action.option_strings[0] if action.option_strings else action.metavar
            raise Misuse(f"{called} is {now}, and was {was} when the run was begun: leave it out, or begin a new run")
    before.given += [] if options.epochs is None else ["--epochs", str(options.epochs)]
    before.settings = settings
    return before


def _is_given(action: argparse.Action, value: Any, words: list[str]) -> bool:
    if action.option_strings:
        return any(word.partition("=")[0] in action.option_strings for word in words)
    return value != action.default or value in words


def _same_path(one: str | None, other: str | None) -> bool:
    return None not in (one, other) and os.path.realpath(str(one)) == os.path.realpath(str(other))
