"""The parser of the whole command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import cache
from itertools import takewhile
from pathlib import Path

from gpu_backprop import ACTIVATIONS, __version__
from gpu_backprop.arguments import applying, searching, training
from gpu_backprop.arguments.command import Paragraphs, Parser
from gpu_backprop.backend.communicator import ALONE


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; `parser` of the result is that of the command, `given` its words, `parse` this
    function, and `ranks` this process alone. Exits for --help (0) and mistakes (2)."""
    given = list(sys.argv[1:] if argv is None else argv)
    options, unknown = _parser().parse_known_args(given)
    options.given, options.parse, options.ranks = given, parse, ALONE
    _refuse_spaces(given, options)
    if unknown:
        options.parser.refuse(unknown, options)
    return options


def _refuse_spaces(given: list[str], options: argparse.Namespace) -> None:
    """Complain about --layers 64 32, where 32 would be taken for DATA, or for an argument too many."""
    for option, accepted in (("--layers", str.isdecimal), ("--activation", ACTIVATIONS.__contains__)):
        if option in given:
            values = list(takewhile(accepted, given[given.index(option) + 1 :]))
            if len(values) > 1 and not Path(values[1]).exists():
                options.parser.error(f"{option} takes one value, with commas: write {option} {','.join(values)}")


@cache
def _parser() -> Parser:
    """Make the parser of all commands, with their help."""
    top = Parser(
        prog="gpu-backprop",
        description="Train multi-layer perceptrons by back-propagation, on a CPU or a CUDA device.",
        epilog="Begin with `gpu-backprop train`, which needs nothing else; then with a table of your own:\n\n"
        "  gpu-backprop train flowers.csv --target species --out runs/flowers\n"
        "  gpu-backprop predict runs/flowers new.csv\n\n"
        "`gpu-backprop COMMAND --help` explains a command, with examples.",
        formatter_class=Paragraphs,
        allow_abbrev=False,
    )
    top.set_defaults(parser=top)
    top.add_argument("--version", action="version", version=f"gpu-backprop {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    training.add_train(commands)
    searching.add_search(commands)
    applying.add_evaluate(commands)
    applying.add_predict(commands)
    applying.add_export(commands)
    applying.add_serve(commands)
    applying.add_report(commands)
    applying.add_check(commands)
    applying.add_diagnose(commands)
    applying.add_explain(commands)
    applying.add_doctor(commands)
    return top
