"""gpu-backprop evaluate and check: the score of a trained network on data, and whether its gradients are right."""

from __future__ import annotations

import argparse

import numpy as np

import gpu_backprop as gb
from gpu_backprop.backend.errors import GradientError
from gpu_backprop.backend.formula import Array
from gpu_backprop.commands.building import targets
from gpu_backprop.commands.datasets import Samples, prepare, split, stored_samples, warn
from gpu_backprop.commands.errors import Misuse
from gpu_backprop.commands.run_settings import read_settings, read_split
from gpu_backprop.commands.runs import MODEL, SETTINGS, load_prepared
from gpu_backprop.commands.scoring import score
from gpu_backprop.commands.sources import DIGITS, drop_missing_target, load_rows
from gpu_backprop.data.row_blocks import larger_than_memory
from gpu_backprop.data.stored_rows import open_rows
from gpu_backprop.training.history import number
from gpu_backprop.training.metrics import choose_metrics

BATCH = 1024


def evaluate(options: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    net = load_prepared(options.run, options.device)
    if options.data != DIGITS and larger_than_memory(options.data):
        rows = open_rows(
            options.data, preprocessing=net.preprocessing, delimiter=options.delimiter, part=options.part or "train",
            drop_missing_target=options.drop_missing_target,
        )  # fmt: skip
        source, samples = options.data, stored_samples(rows)
    else:
        data = load_rows(options, net.preprocessing)
        if options.drop_missing_target:
            data = drop_missing_target(data, net.preprocessing.target)
        source, samples = data.source, prepare(net.preprocessing, data)
    samples, which = _choose(options, net, samples, source)
    trainer = gb.Trainer(net, options.loss, batch_size=BATCH)
    choose_metrics(options.metrics, net, trainer.loss)  # for its errors
    loss = trainer.evaluate(samples.x, targets(trainer.loss, net, samples))["loss"]
    scores = score(trainer, samples, options.metrics)
    if not options.quiet:
        print(f"{source}, {which}\n")
        if scores.mistakes:
            print(f"{scores.mistakes}\n")
        if scores.baseline:
            print(scores.baseline)
        print(f"{trainer.loss.name}: {number(loss)}")
    print("\n".join(scores.figures))
    return 0


def _choose(options: argparse.Namespace, net: gb.Network, samples: Samples, source: str) -> tuple[Samples, str]:
    """Return the rows to measure, and say which these are: of those that the run was trained on, as its folder says,
    the ones that it held out."""
    run = options.run if options.run.is_dir() else options.run.parent
    everything = f"all {len(samples):,} rows"
    if not (run / SETTINGS).exists() or run / MODEL not in (options.run, options.run / MODEL):
        if options.held_out is None:
            return samples, everything
        seed = net.seed if isinstance(net.seed, int) else net.seed[0]
        samples = samples.take(split(samples.y, options.held_out, seed, source)[1])
        asked = f"--held-out {options.held_out:g} --seed {seed}"
        return samples, f"the {len(samples):,} rows that training with {asked} held out"
    known, found = read_settings(run).data, samples.fingerprint()
    if found != known[0]:
        if options.held_out is not None:
            raise Misuse(f"--held-out: {source} has not the rows that {run} was trained on, and held some out of")
        if found in known:
            return samples, f"{everything}, all of which {run} held out"
        warn(
            f"{source} is not, row for row, what {run} was trained on: all of its rows are measured, and {run} may "
            "have learned from some of them"
        )
        return samples, everything
    held_out = read_split(run, len(samples))
    rows = np.flatnonzero(held_out)
    if options.held_out is not None and len(rows) != round(options.held_out * len(samples)):
        raise Misuse(
            f"--held-out {options.held_out:g}: {run} held out {len(rows):,} of these {len(samples):,} rows, and has "
            "learned from the others; leave the option out"
        )
    if options.all_rows or not len(rows):
        return samples, f"{everything}, {len(samples) - len(rows):,} of which {run} learned from"
    return samples.take(rows), f"the {len(rows):,} rows that {run} held out"


def check(options: argparse.Namespace) -> int:
    """Run the command; return the exit code. Raise GradientError where a gradient is wrong.

    Each row has the target of another: what a network has learned well leaves gradients that are all but 0, where
    rounding hides what is to be compared, and the derivation holds for any target.
    """
    net = load_prepared(options.run, options.device)
    data = load_rows(options, net.preprocessing)
    samples = choose_rows(prepare(net.preprocessing, data), options.rows)
    samples = Samples(samples.x, np.roll(samples.y, 1, axis=0))
    loss = gb.Trainer(net, options.loss).loss
    found = gb.check_gradients(
        net, loss, samples.x, targets(loss, net, samples), tolerance=options.tolerance, at_most=options.at_most
    )
    if not found.checked:
        raise GradientError(
            f"none of {len(found.kinks):,} derivatives could be compared: to a tolerance of {options.tolerance:g}, a "
            "function has a kink at every one of them; give a larger --tolerance"
        )
    if not options.quiet:
        what = f"{loss.name} of {len(samples)} rows of {data.source}, each with another row's target, in float64"
        print(
            f"{net}\n\n{what}\nlargest relative difference {found.error:.1e}, at {found.worst}: derived "
            f"{found.derived:.10g}, central difference {found.difference:.10g}"
        )
        if found.kinks:
            print(f"not compared, because a function has a kink there: {len(found.kinks):,}")
    print(f"gradients agree: {found.checked:,} derivatives checked, ∂E/∂x included")
    return 0


def choose_rows(samples: Samples, most: int) -> Samples:
    """Choose a few rows from all over the data."""
    if len(samples) <= most:
        return samples
    rows: Array = np.linspace(0, len(samples) - 1, most).round().astype(int)
    return samples.take(rows)
