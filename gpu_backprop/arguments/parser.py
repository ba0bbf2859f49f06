"""The whole of what can be typed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from gpu_backprop import __version__
from gpu_backprop.arguments import applying, machine, training
from gpu_backprop.arguments.command import Paragraphs, Parser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What was typed; its `parser` is that of the command. Exits for --help (0), and where it makes no sense (2)."""
    options, unknown = _parser().parse_known_args(argv)
    if unknown:
        options.parser.refuse(unknown)
    return options


def _parser() -> Parser:
    """What can be typed, and the help."""
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
    applying.add_evaluate(commands)
    applying.add_predict(commands)
    applying.add_check(commands)
    applying.add_explain(commands)
    machine.add_doctor(commands)
    return top
