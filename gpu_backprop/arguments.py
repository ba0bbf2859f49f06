"""What can be typed after gpu-backprop: commands, options, the values they take, and their help."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path

from gpu_backprop import __version__


def parser() -> argparse.ArgumentParser:
    """What can be typed, and the help."""
    top = argparse.ArgumentParser(
        prog="gpu-backprop",
        description="Train multi-layer perceptrons by back-propagation, on a CPU or a CUDA device.",
        epilog="Try `gpu-backprop train`, and `gpu-backprop train --help` for what it can be told.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"gpu-backprop {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    train = commands.add_parser(
        "train",
        help="learn to read handwritten digits",
        description="Learn to read the 1,797 handwritten digits that come with this program (8×8 pixels each), and\n"
        "measure the result on a fifth of them that was held out. Written to a new folder under runs/:\n"
        "model.safetensors (the network), history.csv (a line an epoch, while it runs), curves.png.\n"
        "Ctrl-C ends training early and keeps what was learned.",
        epilog="examples:\n"
        "  gpu-backprop train                              # about a second on a CPU\n"
        "  gpu-backprop train --hidden 512,64 --epochs 90  # a larger network, for longer\n"
        "  gpu-backprop train --seed 1 --out runs/second   # other initial weights, another fifth held out\n"
        "  gpu-backprop train --dtype float64 --device cpu",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_train_options(train)
    return top


def _add_train_options(parser: argparse.ArgumentParser) -> None:
    """The options of `train`, in the order in which they are likely to be wanted."""

    def add(name: str, help: str, **how: object) -> None:
        shown = "" if how.get("action") or how.get("default") is None else " (default: %(default)s)"
        parser.add_argument(name, help=help + shown, **how)  # type: ignore[arg-type]

    add("--out", "folder to write to (default: a new one under runs/)", type=Path, metavar="DIR")
    add("--overwrite", "replace the run that the folder of --out holds", action="store_true")
    add("--epochs", "how often to see every digit", type=_whole(1), default=60, metavar="N")
    add("--batch-size", "digits per step", type=_whole(1), default=32, metavar="B")
    add(
        "--learning-rate",
        "size of a step of Adam",
        type=_number("above 0", lambda value: 0 < value < math.inf),
        default=0.003,
        metavar="R",
    )
    add("--hidden", "units of each hidden layer, as in 128,64", type=_units, default="256", metavar="UNITS")
    add(
        "--dropout",
        "share of hidden units left out of each step",
        type=_number("from 0 to below 1", lambda value: 0 <= value < 1),
        default=0.4,
        metavar="P",
    )
    add(
        "--seed",
        "decides initial weights, shuffling, dropout and what is held out",
        type=_whole(0),
        default=0,
        metavar="S",
    )
    add("--device", "auto, cpu, cuda or cuda:1", type=_device, default="auto", metavar="D")
    add("--dtype", "float32 or float64", choices=("float32", "float64"), default="float32", metavar="T")
    add("--quiet", "print only the result", action="store_true")
    add("--debug", "show where an error came from", action="store_true")


def _whole(least: int) -> Callable[[str], int]:
    """A reader of whole numbers from `least` on."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]+", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return read


def _number(accepted: str, accept: Callable[[float], bool]) -> Callable[[str], float]:
    """A reader of the numbers that `accept` takes; `accepted` says which these are."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not accept(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {accepted}")
        return value

    return read


def _units(text: str) -> list[int]:
    """Units of the hidden layers: "128,64"."""
    return [_whole(1)(part.strip()) for part in text.split(",")]


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a device; known: auto, cpu, cuda, cuda:0, cuda:1 ...")
    return text
