"""The folder of a run: made for a new one, and found again."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import gpu_backprop as gb
from gpu_backprop.backend.communicator import Communicator
from gpu_backprop.backend.device import memory_size
from gpu_backprop.backend.errors import GpuBackpropError, InputError, ModelFileError
from gpu_backprop.backend.folder_lock import FolderLock
from gpu_backprop.backend.whole_file import copy_attributes, remove_abandoned, sync_folder
from gpu_backprop.commands.errors import RunError
from gpu_backprop.training.checkpoints.folder import numbered
from gpu_backprop.training.saving import file_size

FILES = MODEL, HISTORY, LINES, CURVES, REPORT, SETTINGS, SPLIT = (
    "model.safetensors", "history.csv", "history.jsonl", "curves.png", "report.html", "settings.json", "split.npy",
)  # fmt: skip
SEARCHED = TRIALS, SEARCH, SEARCH_PLOT = "trials.csv", "search.html", "search.png"
"""What a search leaves besides."""
OURS = *FILES, *SEARCHED
CHECKPOINTS = "checkpoints"
"""The folder, within that of a run, of what `train --resume` goes on from, until the run is complete."""
NEW = ".new"
"""The folder, within that of an older run, of the run that is to replace it."""

ROOM = 8 << 20
"""Bytes that should be free besides: for history and curves, and for other programs."""
FULL = errno.ENOSPC, errno.EDQUOT
PARENT = Path("runs")


class RunFolder:
    """The folder that a run is written to. An older run in it stays until the new one is complete.

    Attributes:
        path: the folder of the run.
        place: where its files are: that folder, or one within it while that holds an older run.
        lock: no other process writes to the folder until it is closed.
        begun: whether the run was begun before, and goes on.
    """

    def __init__(self, path: Path, lock: ExitStack, replaces: bool = False, begun: bool = False) -> None:
        self.path, self.lock, self.begun = path, lock, begun
        self.place = path / NEW if replaces else path

    def require_room(self, net: gb.Network, checkpoints: int) -> None:
        """Raise InputError where the disk has no room for what the run of a network writes, with so many bytes of
        checkpoints."""
        size, disk = file_size(net), shutil.disk_usage(self.path)
        if disk.free < size + checkpoints + ROOM and disk.total:  # some file systems report 0
            those = f", its checkpoints {memory_size(checkpoints)}" if checkpoints else ""
            raise InputError(
                f"the disk of {str(self.path)!r} has {memory_size(disk.free)} free; the network of this run "
                f"takes {memory_size(size)}{those}, and {memory_size(ROOM)} should be free besides, for its history, "
                "its curves and what others write; make room, or choose a folder on another disk with --out"
                f"{', or give --checkpoint-every never' if checkpoints else ''}"
            )

    def save(self, trainer: gb.Trainer, unfinished: str = "") -> list[str]:
        """Write what was learned, and return the files. If the folder cannot be written any more, write it elsewhere.

        Args:
            unfinished: why the run did not end, in one word, which names its folder beside the older run.

        Raises:
            RunError: it is not where it should be; the message says where it is.
        """
        try:
            if unfinished and self.place != self.path:  # first, because a network in NEW belongs to a complete run
                beside = _new_folder(self.path, unfinished)
                _move(self.place, beside)
                self.place = beside
            self.place.mkdir(parents=True, exist_ok=True)
            try:
                gb.save(self.place / MODEL, trainer, allow_nonfinite=True)
            except ModelFileError as error:
                if unfinished or getattr(error.__cause__, "errno", None) not in FULL or not self.has_checkpoint:
                    raise
                shutil.rmtree(self.checkpoints)  # nothing goes on from a complete run
                gb.save(self.place / MODEL, trainer, allow_nonfinite=True)
        except (OSError, GpuBackpropError) as error:
            raise RunError(f"what was learned is {_save_elsewhere(trainer)}: {error}") from error
        with suppress(InputError):  # the log has warned, and the network is what counts
            trainer.history.to_csv(self.place / HISTORY)
        return [name for name in (MODEL, HISTORY, LINES) if (self.place / name).exists()]

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints are."""
        return self.place / CHECKPOINTS

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is one."""
        return self.checkpoints.is_dir() and bool(numbered(self.checkpoints))

    def finish(self, complete: bool) -> None:
        """Let a complete run, whose checkpoints go, take the place of an older one."""
        if complete:
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        if self.place != self.path / NEW:
            return
        try:
            _replace(self.path)
        except OSError as error:
            raise RunError(f"what was learned is in {self.place}: {error}") from error
        self.place = self.path

    def discard(self) -> None:
        """Remove what was made for a run that did not begin."""
        if self.begun:
            return
        with suppress(OSError):
            _clear(self.place)
            self.lock.close()
            self.place.rmdir()  # fails unless the folder is empty
            self.path.rmdir()


def find_folder(ranks: Communicator, find: Callable[[], RunFolder]) -> RunFolder:
    """Let the first of the ranks find the folder; the others, which write nothing, learn where it is."""
    with ranks.alike():
        folder = None if ranks.rank else find()
    path, replaces = ranks.agree(folder and [str(folder.path), folder.place != folder.path])
    return folder or RunFolder(Path(path), ExitStack(), replaces, begun=True)


def claim(out: Path | None, overwrite: bool, name: str) -> RunFolder:
    """Find, before training, a folder that can be written and holds no other run, or one that may be replaced.

    Args:
        out: the folder that was asked for; None: a new one, runs/NAME-001 or the next number.
        overwrite: whether a run that it holds goes when the new one is complete.
    """
    try:
        folder = _new_folder(PARENT, name) if out is None else out
        folder.mkdir(parents=True, exist_ok=True)
        return _locked(folder, partial(_claim, overwrite=overwrite))
    except OSError as error:
        where = out or PARENT
        raise InputError(f"cannot write in {str(where)!r} ({error.strerror}); choose a folder with --out") from error


def reopen(run: Path) -> RunFolder:
    """Find the folder of a run that is to go on: the run itself, or one within it that was to replace it."""
    try:
        return _locked(run, _reopen)
    except OSError as error:
        raise InputError(f"cannot go on in {str(run)!r} ({error.strerror})") from error


def _locked(folder: Path, find: Callable[[Path, FolderLock], RunFolder]) -> RunFolder:
    lock = FolderLock(folder, "the folder of a run")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
        return find(folder, lock)
    except BaseException:
        lock.close()
        raise


def _claim(folder: Path, lock: FolderLock, overwrite: bool) -> RunFolder:
    remove_abandoned(folder)
    taken = [name for name in (*OURS, CHECKPOINTS) if os.path.lexists(folder / name)]
    if taken and not overwrite:
        raise InputError(
            f"{str(folder)!r} already holds a run ({', '.join(taken)}); choose another --out, or give --overwrite "
            f"to replace it{f', or --resume {folder} to finish it' if CHECKPOINTS in taken else ''}"
        )
    if MODEL not in taken:
        _clear(folder)
        return RunFolder(folder, lock)
    if (folder / NEW).is_symlink():
        (folder / NEW).unlink()
    if (folder / NEW / MODEL).exists():  # complete, and killed before it took the older one's place
        _replace(folder)
    (folder / NEW).mkdir(exist_ok=True)
    _clear(folder / NEW)
    return RunFolder(folder, lock, replaces=True)


def _reopen(folder: Path, lock: FolderLock) -> RunFolder:
    found = RunFolder(folder, lock, replaces=resumable(folder) != folder, begun=True)
    learned = [found.place / name for name in (MODEL, LINES)]
    if not found.has_checkpoint and any(path.exists() and path.stat().st_size for path in learned):
        raise InputError(
            f"{str(folder)!r} holds no checkpoint to go on from: it is complete, or was begun with --checkpoint-every "
            "never"
        )
    remove_abandoned(found.place)
    return found


def resumable(run: Path) -> Path:
    """Return where the settings of a run are that may go on: in its folder, or in that of one that was to replace it
    and was killed."""
    new = run / NEW
    return new if (new / SETTINGS).exists() and not (new / MODEL).exists() else run


def _replace(folder: Path) -> None:
    """Let the new run within a folder take the place of the older one, so that files of both are never mixed."""
    for name in OURS:
        if (folder / NEW / name).exists():
            copy_attributes(folder / NEW / name, folder / name)
    _remove(folder, [name for name in OURS if name != MODEL])
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    _move(folder / NEW, folder)


def _move(source: Path, target: Path) -> None:
    """Move the files of a run. A link in their place is replaced, not followed."""
    for name in (*OURS, CHECKPOINTS):
        if (source / name).exists():
            os.replace(source / name, target / name)
    sync_folder(target)
    with suppress(OSError):
        source.rmdir()


def _remove(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    """Remove all that is a run's."""
    _remove(folder, OURS)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _save_elsewhere(trainer: gb.Trainer) -> str:
    """Write what was learned where temporary files go, or in the user's folder; return where it is."""
    for parent in (tempfile.gettempdir(), os.path.expanduser("~")):
        with suppress(OSError, GpuBackpropError):
            folder = Path(tempfile.mkdtemp(prefix="gpu-backprop-", dir=parent))
            try:
                gb.save(folder / MODEL, trainer, allow_nonfinite=True)
                with suppress(InputError):
                    trainer.history.to_csv(folder / HISTORY)
                return f"in {folder}"
            except GpuBackpropError:
                folder.rmdir()
    return "lost"


def _new_folder(parent: Path, name: str) -> Path:
    """Make and return the first of NAME-001, NAME-002 ... that does not exist."""
    parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        with suppress(FileExistsError):
            (folder := parent / f"{name}-{number:03}").mkdir()
            break
    return folder


def run_name(source: str) -> str:
    """Name the runs on some data: penguins for data/penguins.csv.gz."""
    stem = Path(source).resolve().name.split(".")[0]
    return re.sub(r"[^\w-]+", "_", stem)[:60].strip("_") or "run"


def load_run(run: Path, device: str) -> gb.Network:
    """Load the network of a run: of its folder, or of a model file."""
    path = run / MODEL if run.is_dir() else run
    if run.is_dir() and not path.exists():
        within = sorted(entry.parent for entry in run.glob(f"*/{MODEL}"))
        hint = f"did you mean {within[-1]}?" if within else "give the folder that `gpu-backprop train` wrote"
        raise ModelFileError(f"{run} holds no {MODEL}; {hint}")
    try:
        return gb.load(path, device=device)
    except InputError:  # trained in 16 bits, which no CPU computes in; any other error is raised again below
        net = gb.load(path, device=device, dtype="float32")
    print(f"note: {path} was trained in 16 bits; here it is worked out in float32", file=sys.stderr)
    return net


def load_prepared(run: Path, device: str) -> gb.Network:
    """Load the network of a run; refuse one that does not know how its data were prepared."""
    net = load_run(run, device)
    if net.models_shape and not net.averaged:
        raise ModelFileError(
            f"{run} holds {net.models_shape[0]} networks side by side, and this needs one: save a single one, or, if "
            "their mean is meant, set net.averaged = True and save it again"
        )
    if net.preprocessing is None:
        raise ModelFileError(
            f"{run} does not say how rows of data become numbers, as a network that `gpu-backprop train` wrote does; "
            "set net.preprocessing in Python and save it again"
        )
    return net
