"""gpu-backprop explain: one minibatch, formula by formula, with the numbers."""

from __future__ import annotations

import argparse
import sys

import gpu_backprop as gb
from gpu_backprop.backend.text_table import terminal_width
from gpu_backprop.commands.building import targets
from gpu_backprop.commands.datasets import prepare
from gpu_backprop.commands.errors import Misuse
from gpu_backprop.commands.evaluate import choose_rows
from gpu_backprop.commands.runs import load_prepared
from gpu_backprop.commands.sources import load_rows


def explain(options: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    from gpu_backprop import explanation

    width = terminal_width(sys.stdout) or 100
    if options.run is None:
        for name in ("rows", "optimizer", "loss", "device"):
            if getattr(options, name) != options.parser.get_default(name):
                raise Misuse(f"--{name} is for a network of your own: give RUN and DATA, or leave it out")
        print(explanation.demo(width=width))
        return 0
    if options.data is None:
        raise Misuse(
            "DATA is missing, from which the minibatch is taken; or leave RUN out as well, to see a built-in network"
        )
    net = load_prepared(options.run, options.device)
    samples = choose_rows(prepare(net.preprocessing, load_rows(options, net.preprocessing)), options.rows)
    trainer = gb.Trainer(net, options.loss, options.optimizer)
    print(explanation.explain(trainer, samples.x, targets(trainer.loss, net, samples), width=width))
    return 0
