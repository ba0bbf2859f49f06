"""Runs that are killed, disks that are full and checkpoints that are damaged: does training go on to the same bits?

Run it as: python bench/assault/resume.py [--quick]

- Fits in Python are killed by SIGKILL at random moments, at random lines of what writes a checkpoint, and again after
  they went on; commands are killed after random times. Each is resumed until it is complete, and leaves the bits of a
  run that nothing ended.
- Where a disk is full, nothing that was saved is lost, and training goes on with a warning. A folder that can't be
  written is an error before training.
- A checkpoint one byte of which is another one is never loaded as something else: the one before is used, or, where
  there is none, an error says why. One that says something else, with the right digest, is refused or loaded; nothing
  else comes of it.
- Of two processes that write to one folder, the second is refused.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from verdict import asked_quick, report

import gpu_backprop as gb
from gpu_backprop.backend.errors import GpuBackpropError
from gpu_backprop.training.checkpoints.folder import numbered
from gpu_backprop.training.checkpoints.record_file import read_record, write_record

WRITERS = "checkpoint.py", "record_file.py", "whole_file.py", "model_file.py", "folder.py"
"""The files whose lines are moments within the writing of a checkpoint."""

FORMS: dict[str, dict[str, Any]] = {
    "NumPy": {"dtype": "float64"},
    "compiled": {"dtype": "float32"},
    "members": {"dtype": "float32", "seed": [3, 8]},
    "early stopping": {"dtype": "float32", "early_stopping": True},
}
ROWS, EPOCHS, EVERY = 600, 6, 7
RNG = np.random.default_rng(0)
X, LABELS, WEIGHTS = RNG.normal(size=(ROWS, 6)), RNG.integers(0, 3, ROWS), RNG.uniform(0.5, 2, ROWS)
COMMAND = ["train", "--epochs", "40", "--quiet"]
NOBODY = 65534


def main() -> int:
    quick, chance = asked_quick(__doc__), random.Random(0)
    counts: Counter[str] = Counter()
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)  # for nobody, who may not write in it
        for number in range(8 if quick else 50):
            failures += killed(folder, list(FORMS)[number % len(FORMS)], number, chance, counts)
        for _ in range(1 if quick else 10):
            failures += killed_command(folder, chance, counts)
        failures += [*full_disk(folder, counts), *unwritable(folder, counts), *two_processes(folder, counts)]
        failures += [*flipped(folder, 200 if quick else 1000, chance, counts)]
        failures += [*rewritten(folder, 100 if quick else 1000, chance, counts)]
    return report(", ".join(f"{count:,} {what}" for what, count in counts.items()), failures)


# What is trained ------------------------------------------------------------------------------------------------------


def trainer_of(dtype: str, seed: Any = 1, **_: Any) -> gb.Trainer:
    layers = [gb.Dense(12, "tanh"), gb.Dropout(0.2), gb.Dense(3, "softmax")]
    return gb.Trainer(gb.Network(6, layers, dtype=dtype, device="cpu", seed=seed), None, "adam", batch_size=20)


def train(form: dict[str, Any], place: Path, *, every: int = EVERY, callbacks: tuple[Any, ...] = ()) -> gb.Trainer:
    """A fit that goes on from the checkpoints in a folder, if there are any, and writes others."""
    trainer = trainer_of(**form)
    if place.exists() and numbered(place):
        trainer.resume(place)
    how = {"early_stopping": gb.EarlyStopping(patience=2)} if "early_stopping" in form else {}
    checkpoint = gb.Checkpoint(place, every_steps=every)
    trainer.fit(
        X, LABELS, EPOCHS, weights=WEIGHTS, validation=(X[:50], LABELS[:50]), loss_every=9, progress=False,
        callbacks=[checkpoint, *callbacks], **how,
    )  # fmt: skip
    return trainer


def left(trainer: gb.Trainer) -> str:
    """A digest of all that a fit leaves behind, but for times."""
    arrays, host = trainer.training_step.state()
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "samples_per_second")} for row in trainer.history]
    digest = sha256(json.dumps([host, rows, trainer.history.steps, trainer.history.stopped]).encode())
    for name, array in sorted(arrays.items()):
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def in_child(work: Callable[[], object]) -> int:
    """Does something in a child, and returns its exit code, or minus the signal that ended it. This process itself
    trains nothing before, so that no thread of it is missing there."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


_whole: dict[str, str] = {}


def whole(folder: Path, what: str) -> str:
    """What a fit leaves that nothing ends."""
    if what not in _whole:
        out = folder / "whole"
        in_child(lambda: out.write_text(left(train(FORMS[what], folder / f"whole {what}"))))
        _whole[what] = out.read_text()
    return _whole[what]


# Kills ----------------------------------------------------------------------------------------------------------------


def killed(folder: Path, what: str, number: int, chance: random.Random, counts: Counter[str]) -> Iterator[str]:
    """A fit that is killed up to three times, at lines that write or after some time."""
    expected, place, out = whole(folder, what), folder / f"fit {number}", folder / "out"
    moments = []
    for _ in range(chance.randint(1, 3)):
        line = chance.randint(1, 1200) if chance.random() < 0.7 else 0
        seconds = chance.uniform(0, 0.25)
        moments.append(f"line {line}" if line else f"{seconds:.3f} s")
        code = in_child(lambda line=line, seconds=seconds: train_and_die(what, place, line, seconds))
        counts["kills of fits"] += code == -signal.SIGKILL
        if code not in (-signal.SIGKILL, 0):
            yield f"{what}, killed at {moments}: exit code {code}"
    counts["fits resumed"] += 1
    code = in_child(lambda: out.write_text(left(train(FORMS[what], place))))
    partial = [path.name for path in place.iterdir() if path.name.endswith(".partial")]
    if code or out.read_text() != expected:
        yield f"{what}, killed at {moments}: exit code {code}, and other bits"
    if partial:
        yield f"{what}, killed at {moments}: {partial} are left"
    shutil.rmtree(place)


def train_and_die(what: str, place: Path, line: int, seconds: float) -> None:
    """A fit that ends by SIGKILL at a line of those that write, or so many seconds after its first step."""
    lines = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        if not frame.f_code.co_filename.endswith(WRITERS):
            return None
        if event == "line":
            lines += 1
            if lines == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    class Timer:
        only_reads = True

        def on_start(self, state: Any) -> None:
            if not line:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
                signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-4))

    if line:
        sys.settrace(trace)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(FORMS[what], place, callbacks=(Timer(),))


def killed_command(folder: Path, chance: random.Random, counts: Counter[str]) -> Iterator[str]:
    """The command, killed after some time and resumed, until it is complete."""
    words = [sys.executable, "-m", "gpu_backprop"]
    straight = folder / "straight"
    if not straight.exists():
        subprocess.run([*words, *COMMAND, "--out", str(straight)], check=True, stdout=subprocess.DEVNULL)
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    given = [*COMMAND, "--out", str(run), "--checkpoint-every", f"{chance.randint(1, 200)}steps"]
    for _ in range(3):
        with subprocess.Popen([*words, *given], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            time.sleep(chance.uniform(0.5, 3))
            child.kill()
            _, said = child.communicate()
        counts["kills of commands"] += child.returncode == -signal.SIGKILL
        if child.returncode not in (0, -signal.SIGKILL):
            yield f"the command {given} ends with {child.returncode}: {said[-300:]}"
        if not (run / "settings.json").exists():
            continue
        given = ["train", "--resume", str(run)]
        if (run / "model.safetensors").exists() and not [*(run / "checkpoints").glob("*.safetensors")]:
            break
    else:
        if not (run / "settings.json").exists():
            given = [*COMMAND, "--out", str(run), "--overwrite"]
        done = subprocess.run([*words, *given], capture_output=True, text=True)
        if done.returncode:
            yield f"the command {given} ends with {done.returncode}: {done.stderr[-300:]}"
    if (run / "model.safetensors").read_bytes() != (straight / "model.safetensors").read_bytes():
        yield "a command that was killed and resumed wrote other bits"


# Disks and folders ----------------------------------------------------------------------------------------------------


def full_disk(folder: Path, counts: Counter[str]) -> Iterator[str]:
    """The disk is full from the second epoch on: at a limit of file sizes, and as a small file system that something
    else fills, where this process may make one."""
    expected, out = whole(folder, "compiled"), folder / "out"

    def limit(place: Path) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))

    def fill(place: Path) -> None:
        with suppress(OSError), open(place.parent / "filler", "wb", buffering=0) as file:
            while True:
                file.write(b"0" * 512)

    def empty(place: Path) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        (place.parent / "filler").unlink(missing_ok=True)

    def work(place: Path, spoil: Callable[[Path], None]) -> None:
        class Full:
            def on_epoch(self, state: Any) -> None:
                if state.epoch == 2:
                    spoil(place)

        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            trainer = train(FORMS["compiled"], place, callbacks=(Full(),))
        empty(place)
        said = [str(one.message) for one in told]
        assert said and all("training goes on" in text for text in said), said
        out.write_text(left(trainer))

    for what, spoil in (("limit of file sizes", limit), ("full file system", fill)):
        mounted = folder / what
        mounted.mkdir()
        if spoil is fill:
            mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "none", str(mounted)]
            if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
                print("not tried: a file system that is full, since this process may not mount one")
                continue
        try:
            if in_child(lambda spoil=spoil, place=mounted / "c": work(place, spoil)) or out.read_text() != expected:
                yield f"{what}: training did not go on as if there was room"
            again = in_child(lambda place=mounted / "c": out.write_text(left(train(FORMS["compiled"], place))))
            if again or out.read_text() != expected:
                yield f"{what}: what was saved before is lost"
        finally:
            if spoil is fill:
                subprocess.run(["umount", str(mounted)], check=True)
        counts[what] += 1


def unwritable(folder: Path, counts: Counter[str]) -> Iterator[str]:
    """A folder in which nobody may write."""
    place = folder / "read-only"
    place.mkdir(mode=0o555)

    def work() -> None:
        trainer = trainer_of("float32")
        trainer.fit(X, LABELS, 1, progress=False)  # which imports all there is to import
        if os.getuid() == 0:
            os.setuid(NOBODY)
        before = trainer.network.parameters.tobytes()
        for where in (place, place / "new"):
            said = ""
            try:
                trainer.fit(X, LABELS, 1, progress=False, callbacks=[gb.Checkpoint(where)])
            except gb.InputError as error:
                said = str(error)
            assert "cannot write checkpoints" in said and "Permission denied" in said, said
        assert trainer.network.parameters.tobytes() == before and len(trainer.history) == 1

    if in_child(work):
        yield "a read-only folder is not refused before training"
    counts["read-only folder"] += 1


def two_processes(folder: Path, counts: Counter[str]) -> Iterator[str]:
    """A second fit, and a second command, in the folder of one that runs."""
    place, run = folder / "both", folder / "both runs"

    def try_again() -> None:
        try:
            train(FORMS["NumPy"], place)
        except gb.InputError as error:
            os._exit(7 if "another process" in str(error) else 8)

    class Second:
        def on_epoch(self, state: Any) -> None:
            assert state.epoch > 1 or in_child(try_again) == 7

    if in_child(lambda: train(FORMS["NumPy"], place, callbacks=(Second(),))):
        yield "two fits in one folder: the second was not refused, or the first did not go on"
    words = [sys.executable, "-m", "gpu_backprop", "train", "--quiet", "--overwrite", "--out", str(run)]
    with subprocess.Popen(
        [*words, "--epochs", "100000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as first:
        while first.poll() is None and not (run / "history.csv").exists():
            time.sleep(0.05)
        second = subprocess.run([*words, "--epochs", "1"], capture_output=True, text=True)
        first.send_signal(signal.SIGTERM)
        first.wait()
    if second.returncode != 1 or "is being written to by another process" not in second.stderr:
        yield f"two commands in one folder: the second ends with {second.returncode}: {second.stderr[-300:]}"
    if first.returncode != 143:
        yield f"two commands in one folder: the first ends with {first.returncode}"
    counts["pairs of processes"] += 2


# Damage ---------------------------------------------------------------------------------------------------------------


def flipped(folder: Path, count: int, chance: random.Random, counts: Counter[str]) -> Iterator[str]:
    """Checkpoints one byte of which is another one, alone and with an older one beside them."""
    place, alone = folder / "flips", folder / "alone"
    in_child(lambda: train(FORMS["NumPy"], place, every=50))
    alone.mkdir()
    trainer, paths = trainer_of("float64"), [path for _, path in numbered(place)]
    newest, sound, meant = paths[-1], paths[-1].read_bytes(), {}
    for path in paths[-2:]:
        trainer.resume(path)
        meant[path] = left(trainer)
    for number in range(count):
        data, at = bytearray(sound), chance.randrange(len(sound))
        data[at] ^= chance.randrange(1, 256)
        where = alone if number % 4 == 0 else place
        (where / newest.name).write_bytes(data)
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                trainer.resume(where)
        except gb.ModelFileError:
            counts["flipped bytes, refused"] += 1
            if where == place:
                yield f"byte {at}: the older checkpoint was not used"
            continue
        found = left(trainer)
        if told and where == place and found == meant[paths[-2]]:
            counts["flipped bytes, fallen back from"] += 1
        elif not told and found == meant[newest]:  # as white space in the header
            counts["flipped bytes, without a meaning"] += 1
        else:
            yield f"byte {at}: loaded as something else, {[str(one.message) for one in told]}"


ODD = (None, True, -1, 0, 7, 2**70, 1.5, -1e308, float("nan"), "", "x", [], [1], {}, {"a": 1})
"""What stands in the place of another value."""


def rewritten(folder: Path, count: int, chance: random.Random, counts: Counter[str]) -> Iterator[str]:
    """Checkpoints that say something else in a place, and have the right digest."""
    path = numbered(folder / "flips")[0][1]
    trainer, sound, other = trainer_of("float64"), read_record(path), folder / path.name
    for _ in range(count):
        record = deepcopy(sound)
        where = spoil(record, chance)
        write_record(other, record, trainer.device)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trainer.resume(other)
            counts["rewritten, read"] += 1
        except GpuBackpropError:
            counts["rewritten, refused"] += 1
        except Exception as error:
            yield f"rewritten at {where}: {type(error).__name__}: {error}"


def spoil(value: Any, chance: random.Random) -> str:
    """Puts something odd in a random place of nested dicts and lists; returns where."""
    key = chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
    inner = value[key]
    if isinstance(inner, (dict, list)) and inner and chance.random() < 0.8:
        return f"{key}.{spoil(inner, chance)}"
    if isinstance(value, dict) and chance.random() < 0.2:
        del value[key]
        return f"{key}, gone"
    value[key] = np.zeros(chance.choice(((), (2,), (3, 3)))) if chance.random() < 0.2 else deepcopy(chance.choice(ODD))
    return str(key)


if __name__ == "__main__":
    sys.exit(main())
