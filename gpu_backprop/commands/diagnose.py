"""gpu-backprop diagnose: what is wrong with a network, its training and its data."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import gpu_backprop as gb
from gpu_backprop.commands.building import targets
from gpu_backprop.commands.datasets import prepare
from gpu_backprop.commands.runs import HISTORY, load_prepared
from gpu_backprop.commands.sources import load_rows


def diagnose(options: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    net = load_prepared(options.run, options.device)
    data = load_rows(options, net.preprocessing)
    samples = prepare(net.preprocessing, data)
    trainer = gb.Trainer(net, options.loss, _optimizer(net, options.optimizer))
    for row in _history(options.run / HISTORY):
        trainer.history.append(row)
    trainer.history.best_epoch = (net.trained_by or {}).get("best_epoch")
    found = trainer.diagnose(samples.x, targets(trainer.loss, net, samples))
    if not options.quiet:
        print(f"{data.source}, {len(samples):,} rows; {trainer.loss.name}, {trainer.optimizer!r}\n")
        found.describe()
    else:
        print("\n".join(map(str, found.findings)))
    return 0


def _optimizer(net: gb.Network, name: str | None) -> gb.Optimizer:
    """Make the optimizer that was asked for, else the one that trained the network, with its settings, else Adam."""
    optimizer = gb.OPTIMIZERS[name or "adam"]()
    if name is None and net.trained_by is not None:
        known = net.trained_by.get("optimizer", {})
        if known.get("name") in gb.OPTIMIZERS:
            optimizer = gb.OPTIMIZERS[known["name"]]()
            for setting, value in known.get("settings", {}).items():
                if setting in optimizer.settings:
                    setattr(optimizer, setting, value)
    return optimizer


def _history(path: Path) -> list[dict[str, float]]:
    """Read the epochs of a run, where they are there and can be read."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [
                {name: float(value) for name, value in row.items() if value} | {"epoch": int(row["epoch"])}
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, KeyError, TypeError):
        return []
