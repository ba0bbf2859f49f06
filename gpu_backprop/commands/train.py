"""gpu-backprop train: learn from data, score on held-out rows, write what was learned."""

from __future__ import annotations

import argparse
import logging
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np

import gpu_backprop as gb
from gpu_backprop.backend.communicator import ALONE
from gpu_backprop.backend.errors import DivergedError, InputError, OutOfMemoryError, RankError
from gpu_backprop.commands.again import options_of_before
from gpu_backprop.commands.announcing import printed_log
from gpu_backprop.commands.building import build, choose_encoding, choose_fit_options, read_design, targets
from gpu_backprop.commands.datasets import Samples, TrainTestData, load_train_test
from gpu_backprop.commands.errors import Misuse, RunError
from gpu_backprop.commands.interrupt import StopOnSignal
from gpu_backprop.commands.run_settings import RunSettings, absolute_paths, write_settings
from gpu_backprop.commands.runs import (
    CURVES,
    HISTORY,
    LINES,
    MODEL,
    REPORT,
    RunFolder,
    claim,
    find_folder,
    reopen,
    run_name,
)
from gpu_backprop.commands.scoring import flattery, score, score_out_of_fold, tempered
from gpu_backprop.data.limits import memory_limit
from gpu_backprop.data.messages import counted
from gpu_backprop.recipes import Recipe
from gpu_backprop.training.calibration import predicts_numbers
from gpu_backprop.training.history import History, number

KEPT = 2
"""Checkpoints of a run: should the newest be damaged, there is one more."""


def train(options: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    if options.resume is not None:
        if options.out is not None or options.overwrite:
            raise Misuse("--out, --overwrite: with --resume, the run goes on in its own folder; leave them out")
        run, options = options.resume, options_of_before(options)
        options.resume = run
    design, windows = read_design(options), None if options.resume is None else options.settings.windows
    memory = memory_limit(options.memory_limit)  # which may be that of a run that goes on
    with before_training(), memory, options.ranks.alike():
        data = load_train_test(options, design.any_number, choose_encoding(options), windows)
    recipe, trainer = build(options, design, data.preprocessing, data.training.x)
    with before_training():
        folder = find_folder(options.ranks, lambda: _find_folder(options, data))
    with folder.lock:
        return train_in(folder, options, recipe, trainer, data)


def _find_folder(options: argparse.Namespace, data: TrainTestData) -> RunFolder:
    """Make the folder of a new run, or find that of one that goes on."""
    if options.resume is None:
        return claim(options.out, options.overwrite, run_name(options.data))
    if data.fingerprints != (before := options.settings.data):
        held_out = options.held_out_file or f"the test part of {options.data}"
        other = options.data if data.fingerprints[0] != before[0] else held_out
        raise InputError(
            f"{other} has not the rows that {options.resume} was begun with, so that it can't go on; begin a new run"
        )
    return reopen(options.resume)


def train_in(
    folder: RunFolder, options: argparse.Namespace, recipe: Recipe, trainer: gb.Trainer, data: TrainTestData
) -> int:
    """Train, and write what was learned; return the exit code. Of several ranks, the first one writes."""
    ranks = trainer.communicator
    with before_training(folder), ranks.alike():
        how = choose_fit_options(options, recipe, len(data.training))
        more = options.checkpoint_every is not None and not folder.begun
        if ranks.rank == 0:
            folder.require_room(trainer.network, (KEPT + 1) * _checkpoint_size(trainer) if more else 0)
        if folder.has_checkpoint:
            trainer.resume(folder.checkpoints)
            if recipe.epochs < (done := len(trainer.history)):
                raise Misuse(
                    f"--epochs is {recipe.epochs}, and {counted(done, 'epoch')} of {options.resume} are done: give as "
                    "many at least, or leave it out"
                )
        settings = RunSettings(
            options.given[1:], absolute_paths(options), gb.__version__, data.windows, data.fingerprints
        )
        if ranks.rank == 0:
            write_settings(folder.place, settings, data.split)
        if not options.quiet:
            _introduce(trainer, data, recipe, how["validation_split"])
        x, y = _x_and_y(trainer, data.training)
        apart = bool(how["validation_split"]) or "folds" in how
        if data.held_out is not None and not apart:
            how["validation"] = _x_and_y(trainer, data.held_out)
        if apart and predicts_numbers(trainer.network, trainer.loss):  # not by the rows that it is tested on
            how["callbacks"].append(gb.ConformalIntervals())

    log, when = folder.place / HISTORY, options.checkpoint_every
    checkpoints = [] if when is None else [gb.Checkpoint(folder.checkpoints, keep=KEPT, **when)]
    shown = nullcontext() if options.quiet else printed_log("gpu_backprop", logging.INFO, "stdout")
    with StopOnSignal(trainer, ranks) as signals, shown:
        how |= {"class_weight": options.class_weight, "on_divergence": options.on_divergence}
        how["callbacks"] += [gb.JsonLines(folder.place / LINES), *checkpoints]
        failure = run_to_end(signals, lambda: trainer.fit(x, y, **how, csv=log, progress=not options.quiet))
        history = trainer.history
        alone = failure is not None and ranks.leaves_alone()
        if not alone:
            signals.agree()
        if ranks.rank and failure is None:  # the rest is the first one's
            return signals.code
        unwritten = isinstance(failure, InputError) and checkpoints and not folder.has_checkpoint  # not even the first
        if failure is not None and not history.rows and (unwritten or not history.stopped):  # training has not begun
            folder.discard()
            if unwritten:
                why = f"{reason(failure)} (--checkpoint-every never writes none)"
                raise RunError(f"nothing was trained: {why}") from failure
            raise failure
        if failure is not None and (ranks.rank or not _caused_by_signal(failure, signals)):
            with nullcontext() if alone else ranks.alike():  # they wait until it is saved
                raise failure if ranks.rank else _save_unfinished(failure, trainer, folder)
        trainer.training_step.communicator = ALONE
        unfinished = signals.code and (failure is not None or history.stopped)
        written = folder.save(trainer, "stopped" if unfinished else "")
        result: list[str] = []
        try:
            if not isinstance(failure, KeyboardInterrupt):  # the second signal, which leaves out the rest
                signals.written()
                written += _curves(history, folder.place)
                result, baseline = (_score_folds if "folds" in how else _score_held_out)(trainer, data, options)
                written += _report(trainer, data, options, [*result, baseline], folder.place)
                signals.writing()
        except (KeyboardInterrupt, OSError) as error:
            if not _caused_by_signal(error, signals):
                raise
        finally:
            signals.writing()
            folder.finish(complete=not unfinished)
        with suppress(OSError) if signals.code else nullcontext():
            if history.stopped:
                print(history.stopped)
            elif history.best_epoch is not None and not options.quiet:
                several = isinstance(history.best_epoch, list)
                best = "each member's best epoch" if several else f"epoch {history.best_epoch}"
                print(f"the parameters are those of {best}, whose {recipe.monitor} is the least")
            if history.temperature not in (None, 1.0) and not options.quiet:
                print(f"temperature {number(history.temperature)}: the logits are divided by it")
            print("\n".join([*result, f"written to {folder.place}: {', '.join(written)}"]))
            if folder.place != folder.path:
                print(f"{folder.path} keeps the older run, since this one did not finish")
            if unfinished and checkpoints:
                print(f"to go on: gpu-backprop train --resume {folder.place}")
    return signals.code


def _checkpoint_size(trainer: gb.Trainer) -> int:
    """Estimate how many bytes a checkpoint takes: what a step leaves behind, and the parameters of the best epoch."""
    arrays = [*trainer.training_step.state().arrays.values(), trainer.network.parameters]
    return sum(int(array.nbytes) for array in arrays)


def _caused_by_signal(error: BaseException, signals: StopOnSignal) -> bool:
    """Tell whether a signal caused an error: it may have ended the terminal, or the reader of the output, as well."""
    return isinstance(error, KeyboardInterrupt) or (signals.code != 0 and isinstance(error, OSError))


@contextmanager
def before_training(folder: RunFolder | None = None) -> Iterator[None]:
    """Turn an OSError, even of a closed output, into a RunError, since nothing is trained yet; discard the folder."""
    try:
        yield
    except BaseException as error:
        if folder is not None:
            folder.discard()
        if isinstance(error, OSError):
            raise RunError(f"nothing was trained: {reason(error)}") from error
        raise


def _introduce(trainer: gb.Trainer, data: TrainTestData, recipe: Recipe, validation: float) -> None:
    """Print what is about to be trained, on what, and how."""
    held_out = 0 if data.held_out is None else len(data.held_out)
    print(f"{trainer.network}\n\n{len(data.training):,} {data.things} to learn from, {held_out:,} held out")
    if trainer.network.models_shape:
        (members,) = trainer.network.models_shape
        fold = len(data.training) // members
        print(f"each of {members} networks learns from all but a fold of about {fold:,}, which is its validation data")
    if validation:
        rows = round(validation * len(data.training))
        print(f"of the {len(data.training):,}, {rows:,} are validation {data.things}, which tell the best epoch")
    print(f"\nrecipe {recipe.name}:\n{recipe}\n")
    if data.things != "rows":
        return
    epochs = counted(recipe.epochs, "epoch")
    print(f"{trainer.loss.name}, {trainer.optimizer!r}, {epochs}, {trainer.batch_size} rows a step")
    if data.preprocessing.task == "regression":
        one = np.ones((1, data.preprocessing.outputs))
        if (data.preprocessing.inverse(one, clip=False) != one).any():
            print("while it trains, losses and MAE are in standard deviations of the target")
    print()


def _x_and_y(trainer: gb.Trainer, samples: Samples) -> tuple[object, object]:
    return samples.x, targets(trainer.loss, trainer.network, samples)


def run_to_end(signals: StopOnSignal, fit: Callable[[], object]) -> BaseException | None:
    """Train; return the exception that ended it early, if one did."""
    failure: BaseException | None = None
    try:
        try:
            fit()
        except Exception as error:
            failure = error
        signals.writing()
    except KeyboardInterrupt as error:  # the second signal; no other can come here
        signals.writing()
        failure = error
    return failure


def _save_unfinished(failure: BaseException, trainer: gb.Trainer, folder: RunFolder) -> Exception:
    """Save what was learned until something went wrong; return the error that says what, and where it is."""
    diverged = isinstance(failure, DivergedError)
    try:
        folder.save(trainer, "diverged" if diverged else "unfinished")
        where = folder.place / MODEL
        best = trainer.history.best_epoch
        finite = "The last finite parameters" if best is None else f"The parameters of epoch {best}, the best one,"
        kept = f"{f'{finite} are' if diverged else 'what was learned until then is'} in {where}"
    except RunError as error:
        kept = str(error).rstrip(".")
    if isinstance(failure, DivergedError):
        failure.args = (f"{failure} {kept}.",)
        return failure
    ended = RunError(f"training ended after {counted(len(trainer.history), 'epoch')}: {reason(failure)}; {kept}")
    ended.__cause__ = failure
    return ended


def reason(error: BaseException) -> str:
    """Say in a few words what ended something."""
    if isinstance(error, BrokenPipeError):
        return "standard output was closed"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, (InputError, OutOfMemoryError, RankError)):
        return str(error).rstrip(".")
    return "there is not enough memory" if isinstance(error, MemoryError) else f"{type(error).__name__}: {error}"


def _score_held_out(trainer: gb.Trainer, data: TrainTestData, options: argparse.Namespace) -> tuple[list[str], str]:
    """Score the network on the rows that were held out; return the result in lines, and what an answer that needs no
    network would score."""
    if data.held_out is None:
        return ["nothing was held out, so nothing was measured"], ""
    scores = score(trainer, data.held_out, options.metrics)
    if not options.quiet:
        print(f"\nheld-out {data.things}, {scores.mistakes}\n" if scores.mistakes else "")
    if not options.quiet and scores.baseline and data.things == "rows":
        print(scores.baseline)
    return [f"test {figure}" for figure in scores.figures], scores.baseline


def _score_folds(trainer: gb.Trainer, data: TrainTestData, options: argparse.Namespace) -> tuple[list[str], str]:
    """Score the members of the network on the folds that they were not trained on, and their mean on what was held out
    besides; return the same as `_score_held_out`."""
    scores, figures = score_out_of_fold(trainer, data.training, options.metrics)
    if not options.quiet:
        print(f"\nall {data.things}, out of fold, {scores.mistakes}\n" if scores.mistakes else "")
    if not options.quiet and scores.baseline and data.things == "rows":
        print(scores.baseline)
    result, baseline = [f"out-of-fold {figure}" for figure in figures] + flattery(trainer), scores.baseline
    if data.held_out is not None:
        of_mean, baseline = _score_held_out(trainer, data, options)
        result += of_mean
    return result, baseline


def _curves(history: History, folder: Path) -> list[str]:
    """Draw the history; return the name of the image, or print why there is none."""
    if not history.rows:
        print(f"no {CURVES}: no epoch was completed")
        return []
    return written_or_said(CURVES, lambda: history.plot(folder / CURVES))


def _report(
    trainer: gb.Trainer, data: TrainTestData, options: argparse.Namespace, remarks: list[str], folder: Path
) -> list[str]:
    """Write the report; return its name, or print why there is none."""
    measured, outputs, how = data.held_out, None, "held out, and measured here"
    if measured is None and options.ensemble is not None:
        measured, how = data.training, "measured here, out of fold"
        outputs, _ = tempered(trainer, trainer.out_of_fold(), measured)
    x, y = (None, None) if measured is None else _x_and_y(trainer, measured)
    facts = {
        "data": options.data, "learned from": f"{len(data.training):,} {data.things}",
        how: f"{0 if measured is None else len(measured):,} {data.things}", "inputs": f"{trainer.network.inputs:,}",
        "task": data.preprocessing.task,
    }  # fmt: skip
    return written_or_said(
        REPORT,
        lambda: gb.write_report(
            folder / REPORT, trainer, x, y, title=f"{run_name(options.data)}: training report", remarks=remarks,
            command=shlex.join(["gpu-backprop", *options.given]), facts={"Data": facts}, outputs=outputs,
        ),
    )  # fmt: skip


def written_or_said(name: str, write: Callable[[], object]) -> list[str]:
    """Write a file; return its name, or print why it is not there."""
    try:
        write()
    except Exception as error:  # drawing may fail in any way, which must not cost the network and its results
        print(f"no {name}: {error}")
        return []
    return [name]
