"""The command gpu-backprop: what is asked for, what went wrong, and the exit code.

Exit codes: 0 done, 1 failed, 2 asked for in a way that can't be understood, 130 ended by Ctrl-C.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType

import gpu_backprop as gb
from gpu_backprop.arguments import parser
from gpu_backprop.backend.errors import DivergedError, GpuBackpropError, InputError, MissingExtraError
from gpu_backprop.data import load_digits, stratified_split
from gpu_backprop.report import accuracy, confusion_matrix, confusion_text
from gpu_backprop.training.history import History

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
MODEL, HISTORY, CURVES = "model.safetensors", "history.csv", "curves.png"
HELD_OUT = 0.2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; argparse itself exits for --help (0) and misuse (2)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that can't show ∇ shows ?, and goes on
    understood = parser()
    options = understood.parse_args(argv)
    if options.command is None:
        understood.print_help(sys.stderr)
        return MISUSED
    try:
        return train(options)
    except (Exception, KeyboardInterrupt) as error:
        if options.debug:
            raise
        return _complain(error)


def train(options: argparse.Namespace) -> int:
    """`gpu-backprop train`: learn the bundled digits, measure on held-out ones, write what was learned."""
    x, labels = load_digits()
    x /= 16
    train_rows, test_rows = stratified_split(labels, HELD_OUT, options.seed)

    net = _network(options)
    trainer = gb.Trainer(net, "cross_entropy", gb.Adam(options.learning_rate), batch_size=options.batch_size)
    folder = _claim(options.out, options.overwrite)
    if not options.quiet:
        print(f"{net}\n\n{len(train_rows)} digits to learn from, {len(test_rows)} held out\n")

    with StopOnInterrupt(trainer) as interrupt:
        try:
            history = trainer.fit(
                x[train_rows],
                labels[train_rows],
                options.epochs,
                validation=(x[test_rows], labels[test_rows]),
                csv=folder / HISTORY,
                progress=not options.quiet,
            )
        except DivergedError as error:
            gb.save(folder / MODEL, net)
            error.args = (f"{error} The last finite parameters are in {folder / MODEL}.",)
            raise

    gb.save(folder / MODEL, net)
    written = [MODEL, HISTORY, *_curves(history, folder)]
    matrix = confusion_matrix(labels[test_rows], net.predict(x[test_rows]).argmax(axis=-1), net.outputs)
    if not options.quiet:
        print(f"\nheld-out digits, how often each (row) was taken for which (column):\n{confusion_text(matrix)}\n")
    if history.stopped:
        print(f"stopped early: {history.stopped}")
    print(f"test accuracy: {accuracy(matrix):.4f}")
    print(f"written to {folder}: {', '.join(written)}")
    return INTERRUPTED if interrupt.asked else 0


def _network(options: argparse.Namespace) -> gb.Network:
    """Pixels, hidden layers with dropout, and a probability for each digit."""
    layers: list[gb.Dense | gb.Dropout] = []
    for units in options.hidden:
        layers.append(gb.Dense(units, "relu"))
        if options.dropout:
            layers.append(gb.Dropout(options.dropout))
    layers.append(gb.Dense(10, "softmax"))
    return gb.Network(64, layers, dtype=options.dtype, device=options.device, seed=options.seed)


def _curves(history: History, folder: Path) -> list[str]:
    """Draw the history; the name of the image, or nothing and a line that says why."""
    if not history.rows:
        print(f"no {CURVES}: no epoch was completed")
        return []
    try:
        history.plot(folder / CURVES)
    except MissingExtraError as error:
        print(f"no {CURVES}: {error}")
        return []
    return [CURVES]


def _claim(out: Path | None, overwrite: bool) -> Path:
    """A folder that can be written and holds no other run; found out before training, not after it."""
    try:
        folder = _new_folder(Path("runs")) if out is None else out
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        where = out or "runs"
        raise InputError(f"cannot write in {str(where)!r} ({error.strerror}); choose a folder with --out") from error
    taken = [name for name in (MODEL, HISTORY, CURVES) if (folder / name).exists()]
    if taken and not overwrite:
        raise InputError(
            f"{str(folder)!r} already holds a run ({', '.join(taken)}); choose another --out, or give --overwrite to "
            "replace it"
        )
    for name in taken:  # at once, so that the folder never holds files of two runs
        (folder / name).unlink()
    return folder


def _new_folder(parent: Path) -> Path:
    """Make and return the first of digits-001, digits-002 ... that does not exist."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / f"digits-{number:03}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


class StopOnInterrupt:
    """While it is open, the first Ctrl-C ends training after the current step and the second ends the program.

    A signal handler belongs to the main thread of a program: elsewhere this does nothing.
    """

    def __init__(self, trainer: gb.Trainer) -> None:
        self._trainer = trainer
        self._main_thread = threading.current_thread() is threading.main_thread()
        self.asked = False

    def __enter__(self) -> StopOnInterrupt:
        if self._main_thread:
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._main_thread:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise SystemExit(INTERRUPTED)
        self.asked = True
        self._trainer.stop()
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"\nCtrl-C: finishing this step, then writing what was learned; again: stop at once\n")


def _complain(error: BaseException) -> int:
    """Say on one line what went wrong; the exit code."""
    message = " ".join(str(error).split())
    if isinstance(error, KeyboardInterrupt):
        message = "interrupted"
    elif not isinstance(error, (GpuBackpropError, OSError, MemoryError)):
        message = f"unexpected {type(error).__name__}: {message} (--debug shows where it came from)"
    print(f"gpu-backprop: {message}", file=sys.stderr)
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
