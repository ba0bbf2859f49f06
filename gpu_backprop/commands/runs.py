"""The folder of a run: made for a new one, and found again."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import gpu_backprop as gb
from gpu_backprop.backend.errors import InputError, ModelFileError

MODEL, HISTORY, CURVES = "model.safetensors", "history.csv", "curves.png"
PARENT = Path("runs")


def claim(out: Path | None, overwrite: bool, name: str) -> Path:
    """A folder that can be written and holds no other run; found out before training, not after it.

    Args:
        out: the folder that was asked for; None: a new one, runs/NAME-001 or the next number.
        overwrite: whether a run that it holds goes.
    """
    try:
        folder = _new_folder(PARENT, name) if out is None else out
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        where = out or PARENT
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


def _new_folder(parent: Path, name: str) -> Path:
    """Make and return the first of NAME-001, NAME-002 ... that does not exist."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / f"{name}-{number:03}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def run_name(source: str) -> str:
    """What the runs on some data are called: penguins for data/penguins.csv.gz."""
    stem = Path(source).resolve().name.split(".")[0]
    return re.sub(r"[^\w-]+", "_", stem)[:60].strip("_") or "run"


def load_run(run: Path, device: str) -> gb.Network:
    """The network of a run: of its folder, or of a model file."""
    path = run / MODEL if run.is_dir() else run
    if run.is_dir() and not path.exists():
        within = sorted(entry.parent for entry in run.glob(f"*/{MODEL}"))
        hint = f"did you mean {within[-1]}?" if within else "give the folder that `gpu-backprop train` wrote"
        raise ModelFileError(f"{run} holds no {MODEL}; {hint}")
    try:
        return gb.load(path, device=device)
    except InputError:  # trained in 16 bits, which a CPU does not work in; any other mistake is found again below
        net = gb.load(path, device=device, dtype="float32")
    print(f"note: {path} was trained in 16 bits; here it is worked out in float32", file=sys.stderr)
    return net


def load_prepared(run: Path, device: str) -> gb.Network:
    """The network of a run, that also knows how its data were prepared."""
    net = load_run(run, device)
    if net.lead:
        raise ModelFileError(f"{run} holds {net.lead[0]} networks side by side, and this needs one; save a single one")
    if net.preprocessing is None:
        raise ModelFileError(
            f"{run} does not say how rows of data become numbers, as a network that `gpu-backprop train` wrote does; "
            "set net.preprocessing in Python and save it again"
        )
    return net
