"""Command lines as people and scripts get them wrong: options left out, doubled and mixed up, values that are none.
Each must do its work or be refused in words; an error that nobody has foreseen is a failure.

python bench/assault/command_lines.py [--quick]
"""

from __future__ import annotations

import argparse
import io
import os
import random
import shutil
import socket
import sys
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import cache
from pathlib import Path

import numpy as np
from verdict import asked_quick, report
from workers import run_all

os.environ["GPU_BACKPROP_COMPILER"] = "none"  # what is compiled is asked in the same way, and takes seconds

from gpu_backprop.arguments import parser
from gpu_backprop.cli import main as run

resolve = socket.getaddrinfo  # with which no names are looked up
socket.getaddrinfo = lambda host, port, **how: resolve(host, port, **how | {"flags": socket.AI_NUMERICHOST})
with suppress(ImportError):  # without it, serve is refused in words
    import uvicorn

    uvicorn.Server.run = lambda self, sockets: None  # ends at once, and else never

MEMORY = 4 << 30
"""Bytes that a process may address."""

JUNK = (
    "", " ", "-1", "0", "1", "2", "1e999", "nan", "-inf", "1e-320", "0.5", "1,2", ",", "3,,4", "é\u0301", "\u202e",
    "None", "9" * 40, "x" * 400, "../..", "/", "/dev/null", "~", "--", "-", "*", "a", "y", "t", "sgd", "relu", "10GB",
    "true", "mean=1", "t=2", "{}", "[1]",
)  # fmt: skip
"""Values that may stand anywhere."""

SOUND = (
    "1", "2", "3", "8", "0.1", "0.25", "tanh", "relu", "sgd", "adam", "huber", "cross_entropy", "a", "t", "out", "cpu",
    "cosine", "balanced", "1GB", ";", "accuracy", "run", "epoch", "t=4",
    "plain", "small-table", "t=b<a", "numbers=quantile", "scale=0", "optimizer=sgd",
    "d.csv", "127.0.0.1", "learning_rate=0.01,0.1", "layers=2,3:2", "dropout=0..0.5", "batch_size=4..32", "l2=0,0.1",
)  # fmt: skip
"""Values that suit one option or another: an option gets those that it takes."""

DATA = ("d.csv",) * 9 + ("a.npz", "missing.csv", "empty.csv", "letter.csv", "digits.csv", ".", "run")
PLACES = {
    "data": DATA,
    "run": ("run",) * 60 + DATA,
    "file": ("out.onnx", "out.h") * 9 + ("out", "missing/out.h", "run/model.safetensors", *DATA),
}
"""What may stand where a command has no option before it."""

SMALL = ("--layers", "3", "--epochs", "1", "--device", "cpu")
SEARCH = ("--trials", "3", "--folds", "2", "--grid", "activation=tanh,relu")
"""What keeps an attempt short; later options win."""


@cache
def commands() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    (subparsers,) = [a for a in parser._parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return {name: command for name, command in subparsers.choices.items() if name != "doctor"}


def accepted(action: argparse.Action) -> list[str]:
    """The sound values that an option takes."""
    if action.choices:
        return [str(value) for value in action.choices]
    found = []
    for value in SOUND:
        with suppress(ValueError, TypeError, argparse.ArgumentTypeError):
            action.type(value) if callable(action.type) else None
            found.append(value)
    return found


def command_line(chance: random.Random) -> list[str]:
    """The words of an attempt."""
    name = chance.choice(("train", "train", "train", *commands()))
    places = [action.dest for action in commands()[name]._actions if not action.option_strings]
    words = [name, *(chance.choice(PLACES[place]) for place in places)]
    if name in ("train", "search"):
        words += [*SEARCH] * (name == "search")
        words += [*SMALL, "--target", chance.choice(("y", "y", "y", "t", "t", "a", "nothing"))]
    options = [a for a in commands()[name]._actions if a.option_strings and a.dest not in ("help", "debug")]
    for action in chance.sample(options, chance.randint(0, min(4, len(options)))):
        words.append(chance.choice(action.option_strings))
        if action.nargs != 0:
            words.append(chance.choice(accepted(action) if chance.random() < 0.8 else JUNK))
    for _ in range(chance.choice((0, 0, 0, 0, 1))):  # a word too many, one too few, two in the wrong order
        at = chance.randrange(1, len(words) + 1)
        match chance.randrange(3):
            case 0:
                words.insert(at, chance.choice(JUNK))
            case 1:
                del words[max(1, at - 1) : at]
            case _:
                words[at:] = reversed(words[at:])
    return words


def prepare(folder: Path) -> None:
    """Write the files that command lines name, and a run."""
    rng = np.random.default_rng(0)
    rows = [f"{a:.2f},{t},{y}" for a, t, y in zip(rng.normal(size=40), ["u", "v"] * 20, [0, 1, 1, 0] * 10, strict=True)]
    (folder / "d.csv").write_text("\n".join(["a,t,y", *rows]))
    (folder / "letter.csv").write_text("\n".join(["a,t,y", *rows, "1.0,w,2"]))
    (folder / "empty.csv").write_text("")
    (folder / "digits.csv").write_text("0,1,2\n" * 12)
    np.savez(folder / "a.npz", x=rng.normal(size=(40, 2)), y=np.arange(40) % 2)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        run(["train", "d.csv", "--target", "y", *SMALL, "--out", "run"])


def attempt(number: int, folder: Path) -> str:
    """Run a command line in a folder where everything is that it may name."""
    sound, place = folder / "sound", folder / "case"
    if not sound.exists():
        sound.mkdir()
        os.chdir(sound)
        prepare(sound)
    os.chdir(folder)
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(sound, place)
    os.chdir(place)
    words = command_line(random.Random(number))
    out, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors):
        try:
            code = run(words)
        except SystemExit as end:
            code = int(end.code or 0)
    said = errors.getvalue()
    last = said.strip().splitlines()[-1] if said.strip() else ""
    if code not in (0, 1, 2) or "unexpected " in said or "Traceback" in said or (code and len(last) > 1500):
        raise AssertionError(f"{words} ended with {code}: {last}")
    if code and not last:
        raise AssertionError(f"{words} ended with {code} and said nothing")
    return "refused" if code else "read"


def main() -> int:
    attempts = 300 if asked_quick(__doc__) else 3000
    outcomes, failures = run_all(attempt, range(attempts), MEMORY)
    done = f"{outcomes['read']:,} done, {outcomes['refused']:,} refused in words"
    return report(f"{attempts:,} command lines: {done}", failures)


if __name__ == "__main__":
    sys.exit(main())
