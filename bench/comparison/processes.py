"""Processes that train the same task, of which one works at a time: the others are stopped, not only idle.

Threads of a pool that wait for work look for it all the time, for a while at least, and two pools that do so take each
other's processors.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from comparison.peers import NUMPY_ALONE, ON_CPU, OURS
from comparison.tasks import MEASURED, Check, Predicted

ROOT = Path(__file__).parents[2]

BEFORE = {f"{OURS} before": OURS, f"{OURS} before, NumPy alone": NUMPY_ALONE}
"""The names of the same two in another checkout of this project."""

PATIENCE = 900
"""Seconds that a worker has for an answer unless told otherwise; torch.compile takes long."""

CAN_STOP = hasattr(signal, "SIGSTOP")
"""Otherwise, on Windows, a worker is not stopped while it waits for its next line."""

ALONE = {"GPU_BACKPROP_COMPILER": "none"}
"""Keeps gpu_backprop from compiling anything."""

Turn = dict[str, dict[str, Any]]
"""The measurements of a worker in its turn: of "steps", "epochs", "floor" and the like."""

POOLS = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"


@contextmanager
def on_processors(count: int) -> Iterator[None]:
    """Lets processes that are started within use so many processors, 0: all. They could not choose them themselves: by
    then the threads of NumPy's BLAS would have been started for all."""
    if not count or not hasattr(os, "sched_setaffinity"):
        yield
        return
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(ours)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


def program(checkout: Path) -> Path | None:
    """Finds the program of a worker in a checkout; until bench/comparison was made, it was contend.py."""
    places = (checkout / "bench" / name for name in ("comparison/worker.py", "contend.py"))
    return next((path for path in places if path.exists()), None)


class WorkerError(Exception):
    """Why a worker is not timed."""


class Worker:
    """A process in which one of `peers.CLASSES` trains: it runs worker.py.

    Args:
        name: its name there.
        log: a file for what it prints to stderr.
        python: an interpreter that has the library.
        threads: how many processors it may use; 0: all.
        environment: variables that it finds set, besides ours.
        checkout: of this project, whose program and package it runs.
        patience: seconds that it has for an answer.
        script: another program to run, which takes a name too.
    """

    def __init__(
        self, name: str, log: Path, *, python: str = sys.executable, threads: int = 0,
        environment: Mapping[str, str] | None = None, checkout: Path = ROOT, patience: float | None = None,
        script: Path | None = None,
    ) -> None:  # fmt: skip
        self.name, self.patience = name, patience
        pools = dict.fromkeys(POOLS, str(threads)) if threads else {}
        # JAX would take three quarters of a CUDA device's memory for itself
        environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", **pools, **(environment or {})}
        paths = [str(checkout / "bench"), str(checkout), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        self._log = log.open("w+", encoding="utf-8")
        with on_processors(threads):
            self._process = subprocess.Popen(
                [python, str(script or program(checkout)), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=self._log, text=True, env=environment, start_new_session=CAN_STOP,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, **what: Any) -> dict[str, Any]:
        """Sends a command and gives the answer.

        Raises:
            WorkerError: it is missing, it failed, or it has ended.
        """
        assert self._process.stdin
        self.go_on()
        with suppress(BrokenPipeError):  # then there is no answer
            self._process.stdin.write(json.dumps({"do": do, **what}) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        """Reads the next line of JSON."""
        assert self._process.stdout
        killer = threading.Timer(self.patience or PATIENCE, self._process.kill)
        killer.start()
        try:
            line = next((line for line in self._process.stdout if line.startswith("{")), "")
        finally:
            killer.cancel()
        if not line:
            status = self._process.wait()
            self._log.seek(0)
            lines = self._log.read().strip().splitlines() or ["it said nothing"]
            raise WorkerError(f"it ended with status {status}: {lines[-1]}")
        answer: dict[str, Any] = json.loads(line)
        for kind, words in (("missing", "missing"), ("failed", "it failed")):
            if kind in answer:
                raise WorkerError(f"{words}: {answer[kind]}")
        return answer

    def pause(self) -> None:
        """Stops it, with all that it has started, until it is asked again."""
        self._signal("SIGSTOP")

    def go_on(self) -> None:
        self._signal("SIGCONT")

    def _signal(self, name: str) -> None:
        if CAN_STOP and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, getattr(signal, name))

    def close(self) -> None:
        """Ends it."""
        self._signal("SIGKILL")
        self._process.kill()
        with suppress(BrokenPipeError):
            self._process.communicate()
        self._log.close()


class Workers:
    """All workers, each started and stopped.

    Args:
        folder: where they find the task.
        python: an interpreter that has the peers.
        threads: how many processors each may use.
        names: those of `peers.CLASSES` and of BEFORE.
        before: the checkout of those of BEFORE.

    Attributes:
        left_out: why, by the name of a peer that is not installed.
        versions: by name, once a task was loaded.
    """

    def __init__(self, folder: Path, python: str, threads: int, names: Sequence[str], before: Path = ROOT) -> None:
        self.folder, self.threads = folder, threads
        self.left_out, self.versions = dict[str, str](), dict[str, str]()
        self.by_name: dict[str, Worker] = {}
        for k, name in enumerate(names):
            trains = BEFORE.get(name, name)
            self.by_name[name] = Worker(
                trains, folder / f"log-{k}", python=python if name in ON_CPU else sys.executable, threads=threads,
                environment={"JAX_PLATFORMS": "cpu", **(ALONE if trains == NUMPY_ALONE else {})},
                checkout=before if name in BEFORE else ROOT,
            )  # fmt: skip

    def load(
        self, check: Check | Predicted | None = None, takes_part: Callable[[str], bool] = lambda name: True,
        ways: Sequence[str] = (),
    ) -> tuple[dict[str, Any], dict[str, str]]:  # fmt: skip
        """Gives the task of the folder to each that takes part: what it told of its first epoch or its outputs, and why
        some are not timed. A peer that is not installed is left out from then on.

        Args:
            ways: of MEASURED, those in which it is timed later. An older checkout is not asked to show them.
        """
        told, errors = {}, {}
        for k, name in enumerate(filter(takes_part, list(self.by_name))):
            worker, into = self.by_name[name], self.folder / f"after-{k}.npz"
            what: dict[str, Any] = {"folder": str(self.folder), "into": str(into)}
            if isinstance(check, Check) and name not in BEFORE:
                what["ways"] = [MEASURED[way] for way in ways]
            try:
                answer = worker.ask(check.command if check else "load", **what)
            except WorkerError as error:
                errors[name] = str(error)
                if str(error).startswith("missing"):
                    self.left_out[name] = errors.pop(name).partition(": ")[2]
                    self.by_name.pop(name).close()
                continue
            finally:
                worker.pause()
            self.versions[name] = answer["version"]
            if check is not None:
                told[name], fault = check.checked(answer, into)
                if fault:
                    errors[name] = fault
        return told, errors

    def turn(self, name: str, ways: Sequence[str], window: float) -> Turn:
        """Takes one worker's turn, in which it alone runs, and of ours the floor of its steps too."""
        worker, what = self.by_name[name], [MEASURED[way] for way in ways]
        try:
            return worker.ask("time", what=what + ["floor"] * (name == OURS and "steps" in what), window=window)
        finally:
            worker.pause()

    def close(self) -> None:
        for worker in self.by_name.values():
            worker.close()


@contextmanager
def start_workers(python: str, threads: int, names: Sequence[str], before: Path = ROOT) -> Iterator[Workers]:
    """Workers in a folder of their own. They end with this block, also where this process is told to end."""
    handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            closing(Workers(Path(folder), python, threads, names, before)) as workers,
        ):
            yield workers
    finally:
        signal.signal(signal.SIGTERM, handler)
