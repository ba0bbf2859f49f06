"""gpu-backprop train: learn from data, measure on held-out rows, write what was learned."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

import gpu_backprop as gb
from gpu_backprop.backend.errors import DivergedError, GpuBackpropError, InputError, OutOfMemoryError
from gpu_backprop.commands.building import build_network, build_trainer, design, suitable_epochs, targets
from gpu_backprop.commands.errors import RunError
from gpu_backprop.commands.interrupt import INTERRUPTED, StopOnInterrupt
from gpu_backprop.commands.judging import judge
from gpu_backprop.commands.lessons import Lesson, Samples, prepare_lesson
from gpu_backprop.commands.runs import CURVES, HISTORY, MODEL, claim, run_name
from gpu_backprop.data.messages import counted
from gpu_backprop.training.history import History


def train(options: argparse.Namespace) -> int:
    """Run the command; the exit code."""
    wanted = design(options)
    with _before_training():
        lesson = prepare_lesson(options, scale_target=wanted.any_number)
    net = build_network(options, wanted, lesson.preprocessing)
    trainer = build_trainer(options, wanted, net, len(lesson.training))
    epochs = options.epochs or suitable_epochs(len(lesson.training))
    folder = claim(options.out, options.overwrite, run_name(options.data))
    if not options.quiet:
        with _before_training(folder):
            _introduce(trainer, lesson, epochs)

    with StopOnInterrupt(trainer) as interrupt, _log_shown(not options.quiet):
        history = _fit(trainer, lesson, epochs, folder, options.quiet)

    gb.save(folder / MODEL, net)
    written = [MODEL, HISTORY, *_curves(history, folder)]
    result = ["nothing was held out, so nothing was measured"]
    if lesson.held_out is not None:
        verdict = judge(net, lesson.held_out)
        result = [f"test {figure}" for figure in verdict.figures]
        if not options.quiet:
            print(f"\nheld-out {lesson.things}, {verdict.mistakes}\n" if verdict.mistakes else "")
        if not options.quiet and verdict.baseline and lesson.things == "rows":
            print(verdict.baseline)
    if history.stopped:
        print(f"stopped early: {history.stopped}")
    print("\n".join(result))
    print(f"written to {folder}: {', '.join(written)}")
    return INTERRUPTED if interrupt.asked else 0


@contextmanager
def _before_training(folder: Path | None = None) -> Iterator[None]:
    """Where nobody reads on, a command that has done its work ends well; this one hasn't begun. The folder goes."""
    try:
        yield
    except OSError as error:
        if folder is not None:
            _give_back(folder)
        raise RunError(f"nothing was trained: {_reason(error)}") from error


class _Printed(logging.Handler):
    """Prints, so that lines come out above a progress bar, which takes sys.stdout's place while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), flush=True)


@contextmanager
def _log_shown(shown: bool) -> Iterator[None]:
    """Prints what the package's logger says: where the data are, and how steps are run."""
    handler, logger = _Printed(), logging.getLogger("gpu_backprop")
    level = logger.level
    if shown:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _introduce(trainer: gb.Trainer, lesson: Lesson, epochs: int) -> None:
    """What is about to be trained, on what, and how."""
    held_out = 0 if lesson.held_out is None else len(lesson.held_out)
    print(f"{trainer.network}\n\n{len(lesson.training):,} {lesson.things} to learn from, {held_out:,} held out\n")
    if lesson.things != "rows":
        return
    print(f"{trainer.loss.name}, {trainer.optimizer!r}, {epochs} epochs, {trainer.batch_size} rows a step")
    if lesson.preprocessing.task == "regression":
        one = np.ones((1, lesson.preprocessing.outputs))
        if (lesson.preprocessing.inverse(one) != one).any():
            print("while it trains, losses and MAE are in standard deviations of the target")
    print()


def _fit(trainer: gb.Trainer, lesson: Lesson, epochs: int, folder: Path, quiet: bool) -> History:
    """Train; whatever ends it, what was learned until then is saved."""

    def pair(samples: Samples) -> tuple[object, object]:
        return samples.x, targets(trainer.loss, trainer.network, samples)

    validation = None if lesson.held_out is None else pair(lesson.held_out)
    try:
        return trainer.fit(
            *pair(lesson.training), epochs, validation=validation, csv=folder / HISTORY, progress=not quiet
        )
    except DivergedError as error:
        gb.save(folder / MODEL, trainer.network)
        error.args = (f"{error} The last finite parameters are in {folder / MODEL}.",)
        raise
    except Exception as error:
        if isinstance(error, (InputError, OutOfMemoryError)) and not (folder / HISTORY).exists():  # nothing was trained
            _give_back(folder)
            raise
        where = f"training ended after {counted(len(trainer.history), 'epoch')}"
        raise RunError(f"{where}: {_reason(error)}; {_rescue(trainer.network, folder)}") from error


def _give_back(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()  # which only an empty folder lets happen


def _reason(error: Exception) -> str:
    if isinstance(error, BrokenPipeError):
        return "standard output was closed"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, (InputError, OutOfMemoryError)):
        return str(error).rstrip(".")
    return "there is not enough memory" if isinstance(error, MemoryError) else f"{type(error).__name__}: {error}"


def _rescue(net: gb.Network, folder: Path) -> str:
    try:
        gb.save(folder / MODEL, net, allow_nonfinite=True)
    except GpuBackpropError as error:
        return f"what was learned is lost, because {error}"
    return f"what was learned until then is in {folder / MODEL}"


def _curves(history: History, folder: Path) -> list[str]:
    """Draw the history; the name of the image, or nothing and a line that says why."""
    if not history.rows:
        print(f"no {CURVES}: no epoch was completed")
        return []
    try:
        history.plot(folder / CURVES)
    except Exception as error:  # whatever is wrong with drawing, the network and its results are not lost for it
        print(f"no {CURVES}: {error}")
        return []
    return [CURVES]
