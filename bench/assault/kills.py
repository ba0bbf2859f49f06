"""Signals at every moment of `gpu-backprop train`: does a whole run stand in the folder, and is what was learned kept?

Run it as: python bench/assault/kills.py [--quick]

SIGINT, SIGTERM and SIGHUP, one or several, and SIGKILL come while a run is written, replaces an older one, or diverges:
at lines of the program that the seed chooses, among those that train, save and replace, and in whole processes after
times that it chooses. Each time

- the run in the folder is the older one, whole, or the new one, whole; never do files of both stand there;
- of what was learned, the network is in the folder or in one within it, unless the signal was SIGKILL;
- a signal ends the command with 130, 143 or 129, without a traceback, and no partial file is left;
- the run that comes next takes the folder, and removes what SIGKILL left.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from verdict import asked_quick, report

import gpu_backprop as gb
from gpu_backprop import cli, starting
from gpu_backprop.backend.whole_file import new_file
from gpu_backprop.commands.runs import FILES, HISTORY, MODEL

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
TRACED = (
    "cli.py", "train.py", "runs.py", "interrupt.py", "starting.py", "whole_file.py", "saving.py", "model_file.py",
    "history.py", "checkpoint.py", "record_file.py", "folder.py", "run_settings.py",
)  # fmt: skip
"""The files whose lines are moments."""

EPOCHS, OLD_SEED, NEW_SEED = 4, 1, 2
TRAIN = ["train", "t.csv", "--target", "y", "--layers", "8", "--out", "run", "--epochs", str(EPOCHS)]
NEW = [*TRAIN, "--seed", str(NEW_SEED)]
SCENARIOS = {
    "a first run": NEW,
    "a run that replaces another": [*NEW, "--overwrite"],
    "a run that diverges": [*NEW, "--overwrite", "--learning-rate", "1e30"],
}


def main() -> int:
    quick, chosen = asked_quick(__doc__), random.Random(0)
    failures: list[str] = []
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        prepare(folder)
        for what, words in SCENARIOS.items():
            lines = count_lines(folder, what, words)
            for moments in plan(lines, chosen, 12 if quick else 250):
                counts["at lines"] += 1
                failures += attempt(folder, what, words, moments)
        for turn in range(4 if quick else 48):
            counts["in time"] += 1
            number = (*CODES, signal.SIGKILL)[turn % 4]
            what = list(SCENARIOS)[turn // 4 % 2]
            failures += attempt_in_time(folder, what, number, chosen.uniform(0.2, 3.0))
    tried = f"{counts['at lines']:,} runs ended at a line, {counts['in time']:,} after some time"
    return report(tried, failures)


def prepare(folder: Path) -> None:
    """A table, and a run in old/ that others replace."""
    lines = [f"{row}.5,{'pq'[row % 2]}\n" for row in range(60)]
    (folder / "t.csv").write_text("v,y\n" + "".join(lines))
    code, said = run(folder, [*TRAIN, "--seed", str(OLD_SEED)], {})
    assert code == 0, said
    (folder / "run").rename(folder / "old")


def plan(lines: int, chosen: random.Random, attempts: int) -> Iterator[dict[int, int]]:
    """Which signal comes at which line, for each attempt; of some, up to three more come within the next lines."""
    for attempt in range(attempts):
        at, number = chosen.randint(1, lines), (*CODES, signal.SIGKILL)[attempt % 4]
        moments = {at: int(number)}
        if number != signal.SIGKILL and chosen.random() < 0.5:
            for _ in range(chosen.randint(1, 3)):
                at += chosen.randint(1, chosen.choice((3, 100)))
                moments[at] = int(chosen.choice(list(CODES)))
        yield moments


def count_lines(folder: Path, what: str, words: Sequence[str]) -> int:
    """How many moments a run has that nothing ends."""
    place(folder, what)
    code, said = run(folder, words, {})
    assert code == ("diverges" in what), said
    return int((folder / "lines").read_text())


def place(folder: Path, what: str) -> None:
    """Bring the folder into the state before a run."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    if what != "a first run":
        shutil.copytree(folder / "old", folder / "run")


def run(folder: Path, words: Sequence[str], moments: dict[int, int]) -> tuple[int, str]:
    """Run the command in a child, to which signals come at some lines; its exit code, and what it printed."""
    said = folder / "said"
    child = os.fork()
    if not child:
        with open(said, "w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        os.chdir(folder)
        gb.History.plot = plot  # type: ignore[method-assign, assignment]
        starting.catch(lambda number, frame: os._exit(starting.exit_code(number)))  # as the command does at its start
        lines = 0

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal lines
            if not frame.f_code.co_filename.endswith(TRACED) or "gpu_backprop" not in frame.f_code.co_filename:
                return None
            if event == "line":
                lines += 1
                if lines in moments:
                    os.kill(os.getpid(), moments[lines])
            return trace

        sys.settrace(trace)
        code = cli.main(words)
        sys.settrace(None)
        Path("lines").write_text(str(lines))
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.read_text()


def plot(history: gb.History, path: Path) -> None:
    """Stands for the curves, which take longer to draw than all else."""
    with new_file(path) as file:
        file.write(f"{history.rows}".encode())


def attempt(folder: Path, what: str, words: Sequence[str], moments: dict[int, int]) -> Iterator[str]:
    """What is wrong after signals at these lines."""
    place(folder, what)
    code, said = run(folder, words, moments)
    name = f"{what}, signals by line {moments}: exit code {code}"
    killed = signal.SIGKILL in moments.values()
    right = {-signal.SIGKILL} if killed else {CODES[signal.Signals(number)] for number in moments.values()}
    if "diverges" in what:
        right.add(1)
    if code not in right:
        yield f"{name}; {said[-300:]}"
    yield from judged(folder, what, name, said, killed)


def attempt_in_time(folder: Path, what: str, number: signal.Signals, seconds: float) -> Iterator[str]:
    """What is wrong after a signal to a whole process, so many seconds after its start."""
    place(folder, what)
    words = [sys.executable, "-m", "gpu_backprop", *SCENARIOS[what], "--epochs", "3000"]
    with (
        open(folder / "said", "w") as output,
        subprocess.Popen(words, cwd=folder, stdout=output, stderr=output) as child,
    ):
        time.sleep(seconds)
        child.send_signal(number)
        code = child.wait()
    said, began = (folder / "said").read_text(), (folder / "run").exists() and "epochs" in (folder / "said").read_text()
    name = f"{what}, {number.name} after {seconds:.2f} s: exit code {code}"
    right = {-number, 0} if number == signal.SIGKILL or not began else {CODES[number], 0}
    if code not in right | {CODES.get(number, 0)}:
        yield f"{name}; {said[-300:]}"
    yield from judged(folder, what, name, said if began else "", number == signal.SIGKILL, epochs=None)


def judged(folder: Path, what: str, name: str, said: str, killed: bool, epochs: int | None = EPOCHS) -> Iterator[str]:
    """What is wrong with the folder."""
    old, here = folder / "old", folder / "run"
    files = {path.relative_to(here).as_posix() for path in here.rglob("*") if path.is_file()}
    if "Traceback" in said:
        yield f"{name}: a traceback; {said[-500:]}"
    if not killed and any(path.endswith(".partial") or path.startswith(".new") for path in files):
        yield f"{name}: {sorted(files)} are left"
    models = {path: gb.load(here / path) for path in files if path.endswith(MODEL)}  # an error where one is torn
    new = {path for path, net in models.items() if net.seed == NEW_SEED}
    if what != "a first run":
        if MODEL not in models:
            yield f"{name}: the older run is gone"
        elif MODEL in new:
            if "diverges" in what:
                yield f"{name}: a diverged run took the older one's place"
            history = here / (HISTORY if HISTORY in files else f".new/{HISTORY}")
            if epochs is not None and rows(history) != epochs:
                yield f"{name}: a run of {rows(history)} epochs took the older one's place"
        else:
            others = [n for n in FILES if n != MODEL]
            mixed = [n for n in others if n in files and (here / n).read_bytes() != (old / n).read_bytes()]
            missing = [n for n in FILES if n not in files]
            if mixed or (missing and f".new/{MODEL}" not in files):
                yield f"{name}: of the older run, {missing} are missing and {mixed} are not its own"
    learned = [path for path in files if path.endswith(HISTORY) and rows(here / path) and not same(here / path, old)]
    if learned and not new and not killed:
        yield f"{name}: what was learned is lost; {sorted(files)}; {said[-300:]}"
    if killed:
        code, said = run(folder, [*NEW, "--overwrite"], {})
        left = {path.name for path in here.iterdir()} - {*FILES, "diverged-001"}
        if code or left or gb.load(here / MODEL).seed != NEW_SEED:
            yield f"{name}: the next run ends with {code} and leaves {left}; {said[-300:]}"


def rows(path: Path) -> int:
    """The epochs of a history."""
    return max(0, path.read_text().count("\n") - 1) if path.exists() else 0


def same(path: Path, old: Path) -> bool:
    """Whether a history is the older run's."""
    return path.read_bytes() == (old / HISTORY).read_bytes()


if __name__ == "__main__":
    sys.exit(main())
