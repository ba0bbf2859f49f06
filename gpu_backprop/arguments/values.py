"""Values on the command line: text becomes a value, or an error that says what is accepted."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpu_backprop.backend.errors import InputError, choose
from gpu_backprop.data import DataError
from gpu_backprop.data.categories import BUCKETS
from gpu_backprop.data.cells import composed
from gpu_backprop.data.limits import size_of
from gpu_backprop.data.messages import shown
from gpu_backprop.recipes import read_entries
from gpu_backprop.training.metrics import metric_named


def whole(least: int) -> Callable[[str], int]:
    """Make a reader of whole numbers from `least` on."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,20}", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{shown(text)} is not a whole number of at least {least}")
        return int(text)

    return read


def number(accepted: str, accept: Callable[[float], bool]) -> Callable[[str], float]:
    """Make a reader of the numbers that `accept` takes; `accepted` says which these are."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not accept(value):
            raise argparse.ArgumentTypeError(f"{shown(text)} is not a number {accepted}")
        return value

    return read


def size(text: str) -> int:
    """Read a size in bytes: "4GB", "500 MiB"."""
    try:
        return size_of(text)
    except DataError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


LARGEST_PORT = 65_535
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def interval(text: str) -> dict[str, Any] | None:
    """Read how often something is done, as gpu_backprop.Checkpoint takes it; None: never."""
    if text in ("never", "epoch"):
        return None if text == "never" else {}
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(s|min|h|steps)", text)
    if found and found[2] in UNITS and float(found[1]):
        return {"every_seconds": float(found[1]) * UNITS[found[2]]}
    if found and found[2] == "steps" and found[1].isdecimal() and int(found[1]):
        return {"every_steps": int(found[1])}
    raise argparse.ArgumentTypeError(f"{shown(text)} is not 30s, 10min, 2h, 500steps, epoch, never or the like")


def port(text: str) -> int:
    """Read a port of TCP."""
    if (number := whole(0)(text)) > LARGEST_PORT:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a port; these are 0 to {LARGEST_PORT}")
    return number


def host_name(text: str) -> str:
    """Read the name of a host as a browser sends it: ASCII, without a scheme, a port or a path."""
    if not re.fullmatch(r"[A-Za-z0-9._-]+", text):
        raise argparse.ArgumentTypeError(
            f"{shown(text)} is not the name of a host; give it alone, as in flats.example.com; other letters as xn--…"
        )
    return text


def source(text: str) -> str:
    """Read the name of a file or folder: any text but an empty one, which pathlib takes for the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty, as a variable of the shell that is not set; give a name")
    return text


def path(text: str) -> Path:
    """Read the same as a path."""
    return Path(source(text))


def hashed(text: str) -> tuple[str, int]:
    """Read a column and the number of inputs that it is hashed to: "city=64", or "city" for the usual one."""
    name, equals, number = text.rpartition("=")
    return (composed(name), int(number)) if equals and number.isdecimal() else (composed(text), BUCKETS)


def ordinal(text: str) -> tuple[str, tuple[str, ...]]:
    """Read a column and the order of its texts: "size=small<medium<large"."""
    name, _, order = text.partition("=")
    texts = tuple(part.strip() for part in order.split("<"))
    if not name or len(texts) < 2 or "" in texts:
        raise argparse.ArgumentTypeError(
            f"{shown(text)} is no column with the order of its texts, the least first, as in 'size=small<medium<large'"
        )
    return composed(name), texts


def entry_of_recipe(text: str) -> tuple[str, str]:
    """Read an entry of a recipe and its value: "bias_rate=1"."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not an entry of a recipe with its value, as in bias_rate=1")
    try:
        read_entries({name: value})
    except (InputError, DataError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name, value


def units(text: str) -> list[int]:
    """Read the units of the hidden layers: "128,64", or "none"."""
    if text == "none":
        return []
    try:
        return [whole(1)(part.strip()) for part in text.split(",")]
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; give units as in 300,100, without spaces, or none") from None


def one_of(kind: str, known: Mapping[str, Any]) -> Callable[[str], str]:
    """Make a reader of one of the known names."""

    def read(text: str) -> str:
        try:
            choose(kind, text, known)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error).rstrip(".")) from None
        return text

    return read


def some_of(kind: str, known: Mapping[str, Any]) -> Callable[[str], list[str]]:
    """Make a reader of one or more of the known names, commas between them."""
    read = one_of(kind, known)
    return lambda text: [read(part.strip()) for part in text.split(",")]


def metrics(text: str) -> list[str]:
    """Read names of metrics, commas between them, which may have numbers in them."""
    names = [part.strip() for part in text.split(",")]
    try:
        return [metric_named(name).name for name in names]
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def device(text: str) -> str:
    """Read a device, as Network takes it."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", text):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a device; known: auto, cpu, cuda, cuda:0, cuda:1 ...")
    return text


at_least_0 = number("of at least 0", lambda value: 0 <= value < math.inf)
rate = number("above 0", lambda value: 0 < value < math.inf)
share = number("from 0 to below 1", lambda value: 0 <= value < 1)
between = number("between 0 and 1", lambda value: 0 < value < 1)
