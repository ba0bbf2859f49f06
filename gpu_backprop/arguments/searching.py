"""The arguments of search."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gpu_backprop.arguments.command import DATA, Command, Parser
from gpu_backprop.arguments.training import add_data, add_folder, add_network, add_source, add_training
from gpu_backprop.arguments.values import (
    at_least_0,
    entry_of_recipe,
    metrics,
    rate,
    share,
    whole,
)
from gpu_backprop.backend.foreign_names import ARGUMENTS, meanings
from gpu_backprop.data.messages import nearest, shown
from gpu_backprop.recipes import PLATEAU

ENTRIES = (
    "layers", "activation", "init", "output_init", "periodic", "periodic_rate", "scale", "bias_rate", "dropout",
    "dropout_schedule", "optimizer", "learning_rate", "beta2", "schedule", "weight_decay", "decay_schedule",
    "batch_size", "label_smoothing",
)  # fmt: skip
"""The entries of a recipe that can be searched: those of which candidates share the data and the epochs."""

OPTIONS: Mapping[str, Callable[[str], Any]] = {
    **dict.fromkeys(("l1", "l2"), at_least_0), **dict.fromkeys(("clip_value", "clip_norm", "max_norm"), rate),
    **dict.fromkeys(("average", "warmup"), share),
}  # fmt: skip
"""The options of train that can be searched and are no entries, with what reads them."""

KNOWN = ", ".join((*ENTRIES, *OPTIONS))

DECADE = 10
"""How many times its low end the high end of a range is, at least, for a logarithmic scale."""

RANGE = re.compile(r"(\d+\.?\d*(?:e[+-]?\d+)?)\.\.(\d*\.?\d+(?:e[+-]?\d+)?)", re.IGNORECASE | re.ASCII)
STRATEGIES = "grid", "random", "sobol", "halving"

EXAMPLES = (
    ("search flowers.csv --target species --grid learning_rate=0.01,0.03,0.1", ""),
    ("search houses.csv --target price --grid layers=64,64:128,256:256:256 --grid dropout=0,0.1,0.3", ""),
    ("search houses.csv --target price --grid learning_rate=1e-3..0.3 --trials 50", "50 that are drawn"),
    ("search --grid layers=64,256 --grid dropout=0,0.2 --folds 3 --epochs 20", "the digits"),
    ("search --grid layers=64,256 --grid dropout=0,0.2 --distributed", "after mpiexec -n 4, torchrun or srun"),
)


class Searched(NamedTuple):
    """A setting that is searched.

    Attributes:
        name: of an entry of a recipe, or an option of train with _ for -.
        values: the candidates, as train is given them; of a range none.
        low, high: of a range.
        whole: whether the numbers of the range are whole ones.
    """

    name: str
    values: tuple[str, ...]
    low: float = 0.0
    high: float = 0.0
    whole: bool = False

    @property
    def logarithmic(self) -> bool:
        """Whether each order of magnitude of the range is as likely, and not each number."""
        return 0 < self.low <= self.high / DECADE

    def words(self, value: str) -> list[str]:
        """Return what gives train one of the candidates."""
        if self.name in ENTRIES:
            return ["--set", f"{self.name}={value}"]
        return [f"--{self.name.replace('_', '-')}", value]


def searched(text: str) -> Searched:
    """Read a setting and its candidates: "learning_rate=0.01,0.1", "layers=64,64:128", "dropout=0..0.5"."""
    name, equals, values = text.partition("=")
    if name not in ENTRIES and name not in OPTIONS:
        meant = next((argument.partition("=")[0] for argument in meanings(ARGUMENTS, name)), name)
        near = nearest(meant, (*ENTRIES, *OPTIONS))
        raise argparse.ArgumentTypeError(f"{shown(name)} is no setting that can be searched; {near}these can: {KNOWN}")
    if not equals or not all(part.strip() for part in values.split(",")):
        raise argparse.ArgumentTypeError(
            f"{shown(text)} lacks a candidate; write {name}=A,B with all that are to be tried, or {name}=LOW..HIGH"
        )
    if (span := RANGE.fullmatch(values)) is not None:
        for end in span.groups():
            _check(name, end)
        low, high = map(float, span.groups())
        if low >= high:
            raise argparse.ArgumentTypeError(f"{shown(text)} is not a range from a low number to a higher one")
        return Searched(name, (), low, high, whole=all(end.isdecimal() for end in span.groups()))
    parts = tuple(part.strip().replace(":", ",") for part in values.split(","))
    for part in parts:
        _check(name, part)
    if twice := {part for part in parts if parts.count(part) > 1}:
        raise argparse.ArgumentTypeError(f"{shown(text)} has {min(twice).replace(',', ':')} more than once")
    return Searched(name, parts)


def score(text: str) -> str:
    """Read the loss, or the name of one metric."""
    if text == "loss":
        return text
    names = metrics(text)
    if len(names) > 1:
        raise argparse.ArgumentTypeError(f"{shown(text)} are several, and the best is chosen by one")
    return names[0]


def _check(name: str, value: str) -> None:
    """Refuse what train would not take."""
    if name in ENTRIES:
        entry_of_recipe(f"{name}={value}")
    else:
        OPTIONS[name](value)
    if (name, value) == ("schedule", PLATEAU):
        raise argparse.ArgumentTypeError("plateau follows what is measured while one network trains; search others")


OWN: Mapping[str, tuple[str, dict[str, Any]]] = {
    "--grid": (
        "a setting that is searched, with its candidates, commas between them; a colon is between the units of two "
        "layers, as in layers=64,64:128. Or with a range, as in learning_rate=1e-4..0.1, from which they are drawn: of "
        f"whole numbers if both ends are, and on a logarithmic scale if the high end is {DECADE} times the low one or "
        f"more. Can be repeated. Settings: {KNOWN}",
        {"action": "append", "default": [], "type": searched, "metavar": "NAME=VALUES"},
    ),
    "--strategy": (
        "grid: all combinations; random: as many as --trials says, drawn at random; sobol: drawn too, but spread "
        "evenly, which needs scipy; halving: of all, or of those that are drawn, only the best third goes on after a "
        "few epochs, and again after three times as many (default: grid, if there are no ranges and --trials are "
        "enough, else random)",
        {"choices": STRATEGIES, "metavar": "HOW"},
    ),
    "--trials": ("the most combinations that are tried", {"type": whole(2), "default": 100, "metavar": "N"}),
    "--folds": (
        "into how many folds the rows are divided: each network learns from all but one, and is measured on that",
        {"type": whole(2), "default": 5, "metavar": "K"},
    ),
    "--seeds": (
        "how many networks each combination has for each fold, with the seeds from --seed on",
        {"type": whole(1), "default": 1, "metavar": "S"},
    ),
    "--score": (
        "what the best has the best of: loss or a metric (default: what train finds the best epoch by)",
        {"type": score, "metavar": "NAME"},
    ),
}
"""The arguments that train has not."""


def add_search(commands: Any) -> None:
    """Add the command."""
    command = Command(
        commands, "search", "find good settings: train hundreds of networks side by side, and keep the best",
        (
            "Train a network for each combination of settings, each on all but one of some folds of the rows in turn, "
            "hundreds of them side by side; show which are the best on the rows that they did not learn from; and "
            "train one with the best settings, as train does. What is not searched is as train has it, and so are the "
            "data: the rows that are held out decide nothing, and the network is measured on them at the end.",
            DATA,
            "A new folder under runs/ gets what train leaves, of the network with the best settings; trials.csv, a "
            "line a candidate; and search.html, with the candidates as lines from setting to setting and the curves of "
            "all networks. Ctrl-C ends the search and keeps what it has found.",
        ),
        EXAMPLES,
    )  # fmt: skip
    add_source(command)
    for name, (told, own) in OWN.items():
        command.add(name, told, **own)
    add_folder(command)
    command.share("--quiet", "--debug")
    add_data(command)
    add_network(command)
    add_training(command)
    command.parser.set_defaults(train_words=train_words)


def train_words(words: Sequence[str]) -> list[str]:
    """Return the words of a command line of search that train takes as well."""
    own = Parser(add_help=False, allow_abbrev=False)
    for name, (_, how) in OWN.items():
        own.add_argument(name, **how)
    return own.parse_known_args(words)[1]
