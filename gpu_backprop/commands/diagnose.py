"""gpu-backprop diagnose: what is wrong with a network, its training and its data."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np

import gpu_backprop as gb
from gpu_backprop.commands.building import targets
from gpu_backprop.commands.datasets import Samples, prepare
from gpu_backprop.commands.run_settings import read_settings, read_split
from gpu_backprop.commands.runs import HISTORY, SETTINGS, load_prepared
from gpu_backprop.commands.sources import load_rows


def diagnose(options: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    net = load_prepared(options.run, options.device)
    data = load_rows(options, net.preprocessing)
    samples = prepare(net.preprocessing, data)
    trainer = gb.Trainer(net, options.loss, _optimizer(net, options.optimizer))
    for row in read_history(options.run / HISTORY):
        trainer.history.append(row)
    trainer.history.best_epoch = (net.trained_by or {}).get("best_epoch")
    learned, held_out = (
        None if rows is None else (rows.x, targets(trainer.loss, net, rows)) for rows in _divided(options.run, samples)
    )
    assert learned is not None
    found = trainer.diagnose(*learned, validation=held_out)
    if not options.quiet:
        compared = "" if held_out is None else f", {len(held_out[0]):,} of them held out"
        print(f"{data.source}, {len(samples):,} rows{compared}; {trainer.loss.name}, {trainer.optimizer!r}\n")
        found.describe()
    else:
        print("\n".join(map(str, found.findings)))
    return 0


def _divided(run: Path, samples: Samples) -> tuple[Samples, Samples | None]:
    """Return the rows that a run learned from and those that it held out, where its folder says which these are; else
    all rows and None."""
    if not (run / SETTINGS).exists() or read_settings(run).data[0] != samples.fingerprint():
        return samples, None
    held_out = read_split(run, len(samples))
    if not held_out.any():
        return samples, None
    return samples.take(np.flatnonzero(~held_out)), samples.take(np.flatnonzero(held_out))


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


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read the epochs of a run, where they are there and can be read; values of several networks are lists."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [
                {name: _figures(value) for name, value in row.items() if value} | {"epoch": int(row["epoch"])}
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _figures(text: str) -> float | list[float]:
    if text.startswith("["):
        return [float(part) for part in text.strip("[]").split(",")]
    return float(text)
