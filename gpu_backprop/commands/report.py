"""gpu-backprop report: the page about a run, written anew, with what its network makes of the columns of the data."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import numpy as np

import gpu_backprop as gb
from gpu_backprop.backend.errors import InputError, ModelFileError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.text_table import columns
from gpu_backprop.commands.again import options_of
from gpu_backprop.commands.building import build_trainer, choose_recipe, read_design, targets
from gpu_backprop.commands.datasets import Samples, prepare
from gpu_backprop.commands.diagnose import read_history
from gpu_backprop.commands.errors import Misuse
from gpu_backprop.commands.run_settings import RunSettings, read_settings, read_split
from gpu_backprop.commands.runs import CHECKPOINTS, HISTORY, MODEL, REPORT, SETTINGS, load_prepared, resumable, run_name
from gpu_backprop.commands.scoring import flattery, score, tempered
from gpu_backprop.commands.sources import DIGITS, Data, drop_missing_target, has_test_part, load_rows
from gpu_backprop.data.messages import counted
from gpu_backprop.data.row_blocks import larger_than_memory
from gpu_backprop.inspection import Inspection
from gpu_backprop.network.samples import samples as check_samples
from gpu_backprop.report import aligned, shortened
from gpu_backprop.training.calibration import divide_logits
from gpu_backprop.training.folds import choose_folds
from gpu_backprop.training.history import number

SHOWN = 10
"""Columns in the summary on the terminal; the page has all."""


def report(options: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    if options.data is None and (options.part is not None or options.delimiter is not None):
        raise Misuse("--part, --delimiter: about the rows of --data; RUN knows how its own are read; leave them out")
    net = _load_network(options)
    settings = read_settings(options.run)
    before = options_of(settings, options.run, options.parse)
    data = _load_data(options, before, settings, net)
    samples = prepare(net.preprocessing, data, before.ignore)
    rows, which, out_of_fold = _choose(options, settings, before, samples, data.source)
    out = options.out or options.run / REPORT
    _refuse_inputs(out, [options.run / MODEL, *map(Path, settings.paths.values()), Path(options.data or out.parent)])

    measured, trainer = samples.take(rows), _trainer(options.run, net, before, settings)
    x, y, folds, outputs = measured.x, targets(trainer.loss, net, measured), None, None
    if out_of_fold:  # as training chose them
        checked = check_samples(net, trainer.loss, x, y, None, values=True)
        folds = choose_folds(before.ensemble, net, checked, trainer.training_step.seeds[0])
        outputs, temperature = tempered(trainer, net.predict_members(x)[folds, np.arange(len(x))], measured)
        if temperature != 1:
            divide_logits(net, np.array(temperature))  # so that the inspection asks members that are as sure
    found = gb.inspect_model(net, data, rows, folds=folds)
    scores = score(trainer, measured, before.metrics, outputs)
    remarks = [f"Measured here: {which}.", *scores.figures, scores.baseline]
    if out_of_fold:
        remarks += flattery(trainer)
    if (options.run / CHECKPOINTS).exists():
        remarks.append("The training was stopped before its end.")
    gb.write_report(
        out, trainer, x, y, outputs=outputs, title=f"{run_name(before.data)}: report",
        command=shlex.join(["gpu-backprop", "train", *settings.words]), remarks=remarks, inspection=found,
        facts={"Data": {"data": options.data or before.data, "measured here": which, "task": net.preprocessing.task}},
    )  # fmt: skip
    if not options.quiet:
        print(f"{data.source}, {which}\n{found.loss_name}: {number(found.loss)}\n")
    print("\n".join([*_summary(found), f"written to {out}"]))
    return 0


def _load_network(options: argparse.Namespace) -> gb.Network:
    """Load the network of a run that was trained to its end, or stopped by hand."""
    run: Path = options.run
    if run.is_file():
        raise ModelFileError(f"{run} is a file; give the folder that `gpu-backprop train` wrote, which knows its data")
    if not (run / MODEL).exists() and (resumable(run) / SETTINGS).exists():
        raise ModelFileError(
            f"{run} holds no {MODEL} yet, because its training is not done; to go on: gpu-backprop train --resume {run}"
        )
    return load_prepared(run, options.device)


def _load_data(options: argparse.Namespace, before: argparse.Namespace, settings: RunSettings, net: gb.Network) -> Data:
    """Load the rows of --data, or of the run: those of the other file or part that it held out, if there is one."""
    where = settings.paths.get("held_out_file") or settings.paths.get("data", before.data)
    if options.data is None and where != DIGITS and not Path(where).exists():
        raise InputError(f"{where}, with the rows of {options.run}, is not there; if it was moved, name it with --data")
    given = argparse.Namespace(data=options.data or where, delimiter=options.delimiter, part=options.part)
    if options.data is None:
        given.delimiter = before.delimiter
        if len(settings.data) == 1 and where != DIGITS:
            given.part = "train" if has_test_part(where) else None
    if given.data != DIGITS and larger_than_memory(given.data):
        raise InputError(
            f"{given.data} takes more memory than it may, and its columns are looked at as they are in the file; name "
            "a file with some of its rows with --data, or give a larger --memory-limit"
        )
    data = load_rows(given, net.preprocessing)
    return drop_missing_target(data, net.preprocessing.target) if before.drop_missing_target else data


def _choose(
    options: argparse.Namespace, settings: RunSettings, before: argparse.Namespace, samples: Samples, source: str
) -> tuple[Array, str, bool]:
    """Choose the rows that the run held out, else all; return their indices, say which these are, and whether each is
    to be answered by the member of an ensemble that has not learned from it."""
    known, found, run = settings.data, samples.fingerprint(), options.run
    everything, whole = np.arange(len(samples)), f"all {counted(len(samples), 'row')}"
    if found == known[0]:
        held_out = np.flatnonzero(read_split(run, len(samples)))
        if len(held_out):
            return held_out, f"the {counted(len(held_out), 'row')} that {run} held out", False
        if before.ensemble is not None:
            return everything, f"{whole}, each answered by the member of {run} that did not learn from it", True
        why = "it learned from them, and looks better than it is"
        return everything, f"{whole}, because {run} held none of them out: {why}", False
    if found == known[-1]:
        return everything, f"{whole}, all of which {run} held out", False
    if options.data is None:
        raise InputError(
            f"{source} is not any more, row for row, what {run} was trained on; name a file with these rows with "
            "--data, or one with others that have the target"
        )
    return everything, f"{whole}, which are not those of {run}: it may have learned from some of them", False


def _trainer(run: Path, net: gb.Network, before: argparse.Namespace, settings: RunSettings) -> gb.Trainer:
    """Build the trainer of the run again, with its history."""
    learned = settings.data[0]["rows"] - np.count_nonzero(read_split(run, settings.data[0]["rows"]))
    design = read_design(before)
    recipe = choose_recipe(before, design, net.preprocessing, learned)
    trainer = build_trainer(before, design, recipe, net, learned)
    for row in read_history(run / HISTORY):
        trainer.history.append(row)
    for name in ("best_epoch", "temperature"):
        setattr(trainer.history, name, (net.trained_by or {}).get(name))
    return trainer


def _refuse_inputs(out: Path, read: list[Path]) -> None:
    """Refuse to overwrite what the report is made from."""
    for path in read:
        if out.exists() and path.exists() and out.samefile(path):
            raise Misuse(f"--out {out} would overwrite {path}, which is read; choose another")


def _summary(found: Inspection) -> list[str]:
    """Write the most important columns as a table."""
    if found.columns is None:
        return ["the columns are pixels, of which none says anything by itself", ""]
    head = "column", f"rise of the {found.loss_name} when it is shuffled", "±"
    top = found.columns.importances[:SHOWN]
    figures = aligned([(each.rise, each.spread) for each in top])
    rows = [(shortened(each.column), *written) for each, written in zip(top, figures, strict=True)]
    left = len(found.columns.importances) - len(top)
    return [*columns([head, *rows], 1), *([f"and {counted(left, 'more column')}"] if left else []), ""]
