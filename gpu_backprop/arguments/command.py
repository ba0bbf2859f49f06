"""The parts that commands share: the layout of their help, and the arguments that several of them take."""

from __future__ import annotations

import argparse
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from gpu_backprop import LOSSES, METRICS, OPTIMIZERS
from gpu_backprop.arguments.values import device, metrics, one_of, path, rate, size, source
from gpu_backprop.backend.foreign_names import OPTIONS, meanings
from gpu_backprop.data.messages import nearest

DATA = (
    "DATA is a CSV file (.csv, .tsv, .csv.gz), a Parquet file, an .npz file with x and y, one of two .npy files "
    "NAME_x.npy and NAME_y.npy, or a folder of IDX files such as MNIST's. The word digits stands for 1,797 "
    "handwritten digits of 8×8 pixels that come with this program."
)
RUN = "RUN is the folder that train wrote, or a model.safetensors."

SHARED: Mapping[str, tuple[str, dict[str, Any]]] = {
    "--delimiter": (
        r"the character between the fields of a CSV file, \t for a tab (default: detected)", {"metavar": "C"},
    ),
    "--part": (
        "train or test, of data that have both (default: test)", {"choices": ("train", "test"), "metavar": "PART"},
    ),
    "--memory-limit": (
        "how much memory a file may take once it is decoded, as in 4GB (default: half of the machine's)",
        {"type": size, "metavar": "SIZE"},
    ),
    "--drop-missing-target": ("leave out the rows whose target is missing", {"action": "store_true"}),
    "--metrics": (
        "what to measure besides what suits the task, names with commas between them: "
        f"{', '.join(METRICS)}; the numbers in them may be others",
        {"type": metrics, "default": (), "metavar": "NAMES"},
    ),
    "--device": ("auto, cpu, cuda or cuda:1", {"type": device, "default": "auto", "metavar": "D"}),
    "--distributed": (
        "one of the processes that mpiexec, torchrun or srun has started, on one machine or many, which do this "
        "together: mpiexec -n 4 gpu-backprop …", {"action": "store_true"},
    ),
    "--timeout": (
        "with --distributed, how many seconds one of them waits for the others before all are ended (default: 60)",
        {"type": rate, "metavar": "SECONDS"},
    ),
    "--quiet": ("print only the result", {"action": "store_true"}),
    "--debug": ("show where an error came from, and what the compiler is told", {"action": "store_true"}),
}  # fmt: skip
"""The options that several commands take, with their help."""

FOR_ONE_MORE = {"train": ("target", "to learn this column"), "predict": ("output", "to write to this file")}
"""Of a command, the option for which one argument too many may have been meant, and what for."""


class Paragraphs(argparse.HelpFormatter):
    """Wraps text to the width of the terminal, paragraph by paragraph. Indented ones are commands: of one that does not
    fit, the comment gets a line of its own, and the other lines end with a backslash."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = text.split("\n\n")
        return "\n\n".join(
            "\n".join(_fitting(line, width) for line in part.split("\n")) if part.startswith(" ") else
            textwrap.fill(part, width, break_long_words=False, break_on_hyphens=False)
            for part in parts
        )  # fmt: skip

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _fitting(line: str, width: int) -> str:
    """Wrap an example to at most so many columns."""
    if len(line) <= width:
        return line
    command, _, why = line.partition("  # ")
    together = re.sub(r"(?<=\S) (?!--)", "\xa0", command.rstrip())  # an option and its value
    parts = textwrap.wrap(together, width - 2, subsequent_indent=" " * 6, break_on_hyphens=False)
    return "\n".join(([f"  # {why}"] if why else []) + [" \\\n".join(parts).replace("\xa0", " ")])


class Parser(argparse.ArgumentParser):
    """Complains in one line. Of a command, its own parser complains about what it does not know."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self.color = False  # Python 3.14 would colour the help, by escapes, which are shown here as text

    def error(self, message: str) -> NoReturn:
        """Print what was wrong and where help is, and end with 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} ({self.prog} --help)\n")

    def refuse(self, unknown: Sequence[str], options: argparse.Namespace) -> NoReturn:
        """Complain about arguments, with the option that was meant."""
        first = unknown[0].partition("=")[0]
        meant = self._meant(first).strip() if first.startswith("-") else ""
        name, why = FOR_ONE_MORE.get(options.command, ("", ""))
        if not first.startswith("-") and name and getattr(options, name) is None:
            meant = f"{why}: --{name} {shlex.quote(first)}"
        self.error(f"unrecognized arguments: {' '.join(unknown)}" + (f"; {meant}" if meant else ""))

    def _meant(self, option: str) -> str:
        """Find the option of ours that is called like one, or, of a letter, begins with it."""
        ours = [name for name in self._option_string_actions if name.startswith("--")]
        if len(option) == 2:
            return next((f"did you mean '{name}'?" for name in ours if name[2] == option[1]), "")
        foreign = [*meanings(OPTIONS, option.lstrip("-").replace("_", "-").lower())]
        meant = next((name for name in foreign if name in ours), None)
        return nearest(meant or option, ours) if meant or not foreign else ""


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
            name, help=help, description="\n\n".join(paragraphs), epilog="examples:\n\n" + "\n".join(shown),
            formatter_class=Paragraphs, allow_abbrev=False,
        )  # fmt: skip
        self.parser.set_defaults(parser=self.parser)
        self._group: argparse._ActionsContainer = self.parser

    def under(self, title: str) -> None:
        """Put the arguments that follow under a title."""
        self._group = self.parser.add_argument_group(title)

    def add(self, name: str, help: str, **how: Any) -> None:
        """Add an argument; its default is shown where the help doesn't say it."""
        silent = how.get("action") or how.get("default") is None or "(default: " in help
        self._group.add_argument(name, help=help if silent else f"{help} (default: %(default)s)", **how)

    def add_either(self, *arguments: tuple[str, str, dict[str, Any]]) -> None:
        """Add arguments of which only one may be given."""
        outside, self._group = self._group, self._group.add_mutually_exclusive_group()
        for name, help, how in arguments:
            self.add(name, help, **how)
        self._group = outside

    def share(self, *names: str) -> None:
        """Add options that other commands take as well."""
        for name in names:
            help, how = SHARED[name]
            self.add(name, help, **how)

    def add_run(self, **how: Any) -> None:
        """Add RUN."""
        self.add("run", "the network", type=path, metavar="RUN", **how)

    def add_run_and_data(self, optional: bool = False) -> None:
        """Add RUN and DATA, and how DATA is read."""
        how = {"nargs": "?"} if optional else {}
        self.add_run(**how)
        self.add("data", "the rows", type=source, metavar="DATA", **how)
        self.share("--delimiter", "--part", "--memory-limit")

    def add_loss(self, default: str) -> None:
        """Add --loss; `default` describes the loss that is taken without it."""
        self.add("--loss", f"{', '.join(LOSSES)} (default: {default})", type=one_of("loss", LOSSES), metavar="NAME")

    def add_optimizer(self, default: str | None, otherwise: str = "") -> None:
        """Add --optimizer; `otherwise` says what is taken where there is no default."""
        known = one_of("optimizer", OPTIMIZERS)
        names = f"{', '.join(OPTIMIZERS)} {otherwise}".rstrip()
        self.add("--optimizer", names, type=known, default=default, metavar="NAME")
