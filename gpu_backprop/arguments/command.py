"""What the commands have in common: how their help is laid out, and the arguments that several of them take."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from gpu_backprop import LOSSES
from gpu_backprop.arguments.values import device, one_of
from gpu_backprop.data.messages import nearest

DATA = (
    "DATA is a CSV file (.csv, .tsv, .csv.gz), a Parquet file, an .npz file with x and y, one of two .npy files "
    "NAME_x.npy and NAME_y.npy, or a folder of IDX files such as MNIST's. The word digits stands for 1,797 "
    "handwritten digits of 8×8 pixels that come with this program."
)
RUN = "RUN is the folder that train wrote, or a model.safetensors."


class Paragraphs(argparse.HelpFormatter):
    """Wraps text to the width of the terminal, paragraph by paragraph; those that are indented stay as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = text.split("\n\n")
        return "\n\n".join(part if part.startswith(" ") else textwrap.fill(part, width) for part in parts)


class Parser(argparse.ArgumentParser):
    """Complains in one line. Of a command, its own parser complains about what it does not know."""

    def error(self, message: str) -> NoReturn:
        """Print what was wrong and where help is, and end with 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} ({self.prog} --help)\n")

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Complain about arguments, with the option that was meant."""
        first = unknown[0].partition("=")[0]
        meant = nearest(first, self._option_string_actions).strip() if first.startswith("-") else ""
        self.error(f"unrecognized arguments: {' '.join(unknown)}" + (f"; {meant}" if meant else ""))


class Command:
    """A command's parser, to which arguments are added in the order in which they are likely to be wanted."""

    def __init__(
        self, commands: Any, name: str, help: str, paragraphs: Sequence[str], examples: Sequence[tuple[str, str]]
    ) -> None:
        width = max((len(line) for line, why in examples if why), default=0)
        shown = [
            f"  gpu-backprop {line:{width}}  # {why}" if why else f"  gpu-backprop {line}" for line, why in examples
        ]
        self.parser: Parser = commands.add_parser(
            name,
            help=help,
            description="\n\n".join(paragraphs),
            epilog="examples:\n\n" + "\n".join(shown),
            formatter_class=Paragraphs,
            allow_abbrev=False,
        )
        self.parser.set_defaults(parser=self.parser)
        self._group: argparse._ActionsContainer = self.parser

    def under(self, title: str) -> None:
        """Arguments from here on stand under a title."""
        self._group = self.parser.add_argument_group(title)

    def add(self, name: str, help: str, **how: Any) -> None:
        """Add an argument; its default is told where the help doesn't say it."""
        silent = how.get("action") or how.get("default") is None or "(default: " in help
        self._group.add_argument(name, help=help if silent else f"{help} (default: %(default)s)", **how)

    def add_either(self, *arguments: tuple[str, str, dict[str, Any]]) -> None:
        """Add arguments of which only one may be given."""
        outside, self._group = self._group, self._group.add_mutually_exclusive_group()
        for name, help, how in arguments:
            self.add(name, help, **how)
        self._group = outside


def add_run_and_data(command: Command, optional: bool = False) -> None:
    """RUN and DATA, and how DATA is read."""
    how = {"nargs": "?"} if optional else {}
    command.add("run", "the network", type=Path, metavar="RUN", **how)
    command.add("data", "the rows", metavar="DATA", **how)
    add_delimiter(command)
    parts = {"choices": ("train", "test"), "metavar": "PART"}
    command.add("--part", "train or test, of data that have both (default: test)", **parts)


def add_delimiter(command: Command) -> None:
    """--delimiter."""
    command.add("--delimiter", r"what parts the fields of a CSV file, \t for a tab (default: found out)", metavar="C")


def add_loss(command: Command, default: str) -> None:
    """--loss; the words say what it is by default."""
    command.add("--loss", f"{', '.join(LOSSES)} (default: {default})", type=one_of("loss", LOSSES), metavar="NAME")


def add_device(command: Command) -> None:
    """--device."""
    command.add("--device", "auto, cpu, cuda or cuda:1", type=device, default="auto", metavar="D")


def add_debug(command: Command) -> None:
    """--debug."""
    command.add("--debug", "show where an error came from", action="store_true")


def add_quiet(command: Command) -> None:
    """--quiet."""
    command.add("--quiet", "print only the result", action="store_true")
