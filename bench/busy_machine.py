"""Training on a busy machine by gpu_backprop, PyTorch and JAX, into bench/results/busy_machine.json.

    python bench/busy_machine.py                 everything; some three minutes on two cores
    python bench/busy_machine.py --only "784"    networks that have these words in their names; printed, not kept
    python bench/busy_machine.py --quick         small networks, one short round, to see that it runs; printed, not kept

Each library trains in processes of its own, and chooses itself how many threads it takes. In every round it trains

- on a quiet machine,
- beside the same training in a second process,
- beside a compiler that works all the time, or where there is none a process that counts,
- with a quota of half a core: a control group that this program makes, or where it may not, stopped by a signal for
  half of every 100 ms,
- right after products of large matrices by NumPy in the same process, whose threads look for more for a while.

Everybody's time in trouble is divided by his own on the quiet machine of the same round. `python bench/plot.py` puts
the table into docs/performance.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from compare import ratio
from comparison import busy_report, busy_worker
from comparison.busy_report import AFTER, COMPILE, PEERS, QUIET, QUOTA, TROUBLES, TWO
from comparison.processes import Worker, WorkerError
from comparison.tasks import CONFIGURATIONS, QUICK, TaskSpec
from lib import record
from lib.timing import spread

from gpu_backprop.backend.compiled import compiler
from gpu_backprop.backend.kernel_text import source

RESULTS = Path(__file__).parent / "results" / "busy_machine.json"
NETWORKS = "64-64-64-10, B 32", "784-100-10, B 64", "784-512-512-10, B 128"
STEPS = 16
"""Those of an epoch at most: in trouble a step may take a hundred times as long."""

ROUNDS = 3
WINDOW = 0.5
"""Seconds, about, that one timing takes: many turns of the system's scheduler."""

PERIOD = 0.1
"""Seconds in which a quota is spent: Linux's."""

GROUPS = Path("/sys/fs/cgroup")


# Trouble --------------------------------------------------------------------------------------------------------------


@contextmanager
def compiling() -> Iterator[None]:
    """Keeps a compiler at work, again and again, or a process that counts."""
    with tempfile.TemporaryDirectory() as folder:
        count = [sys.executable, "-c", "while True: pass"]
        try:
            (Path(folder) / "text.cpp").write_text("typedef float real;\n" + source("cpu/products.cpp"), "utf-8")
            command = [*compiler.find().command, "-std=c++17", "-O3", "-c", "text.cpp", "-o", "text.o"]
        except compiler.NoCompilerError:
            command = count
        over = threading.Event()

        def work() -> None:
            while not over.is_set():
                with subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL) as process:
                    while process.poll() is None and not over.wait(0.01):
                        pass
                    process.kill()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@contextmanager
def quota_group() -> Iterator[Path | None]:
    """A control group with half a core, of version 2 or 1; None where it cannot be made."""
    group = next(filter(None, map(_made, (GROUPS, GROUPS / "cpu"))), None)
    try:
        yield group
    finally:
        if group is not None:
            time.sleep(0.1)  # until those in it have ended
            group.rmdir()


def _made(parent: Path) -> Path | None:
    group, period = parent / f"gpu_backprop-{os.getpid()}", round(PERIOD * 1e6)
    files = {"cpu.max": f"{period // 2} {period}"}
    if parent != GROUPS:
        files = {"cpu.cfs_period_us": str(period), "cpu.cfs_quota_us": str(period // 2)}
    if not (parent / "cgroup.procs").exists():
        return None
    try:
        group.mkdir()
        for file, text in files.items():
            (group / file).write_text(text, "ascii")
    except OSError:
        with suppress(OSError):
            group.rmdir()
        return None
    return group


@contextmanager
def stopped_half_the_time(worker: Worker, group: Path | None) -> Iterator[None]:
    """Does what a quota does where there is no control group."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(PERIOD / 2):
            worker.pause()
            over.wait(PERIOD / 2)
            worker.go_on()

    thread = threading.Thread(target=work)
    if group is None:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if group is None:
            thread.join()


# Measuring ------------------------------------------------------------------------------------------------------------


class Trainings:
    """The processes of one library: one that trains, one beside it, and one with a quota."""

    def __init__(self, name: str, folder: Path, group: Path | None, stack: ExitStack) -> None:
        def start(which: str) -> Worker:
            return stack.enter_context(closing(Worker(
                name, folder / f"log-{name}-{which}", script=Path(busy_worker.__file__),
                environment={"JAX_PLATFORMS": "cpu"},
            )))  # fmt: skip

        self.one, self.other, self.limited = map(start, ("one", "other", "limited"))
        self.group = group
        if group is not None:
            (group / "cgroup.procs").write_text(str(self.limited.pid))

    def begin(self, folder: Path) -> str:
        """Begins a task in all three; the version of the library."""
        for worker in (self.one, self.other, self.limited):
            version = worker.ask("begin", folder=str(folder))["version"]
            worker.pause()
        return str(version)

    def time(self, trouble: str, window: float) -> float:
        """µs a step in trouble."""
        return self._timed()[trouble](window)

    def _timed(self) -> dict[str, Callable[[float], float]]:
        return {QUIET: self._alone, TWO: self._two, COMPILE: self._compile, QUOTA: self._quota, AFTER: self._after}

    def _alone(self, window: float) -> float:
        return _fit(self.one, window)

    def _two(self, window: float) -> float:
        """Of two the mean."""
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(_fit, self.other, window)
            return (_fit(self.one, window) + other.result()) / 2

    def _compile(self, window: float) -> float:
        with compiling():
            return _fit(self.one, window)

    def _quota(self, window: float) -> float:
        with stopped_half_the_time(self.limited, self.group):
            return _fit(self.limited, window)

    def _after(self, window: float) -> float:
        return _fit(self.one, window, products=True)


def _fit(worker: Worker, window: float, **how: bool) -> float:
    try:
        return float(worker.ask("fit", window=window, **how)["us"])
    finally:
        worker.pause()


def measure(spec: TaskSpec, trainings: dict[str, Trainings], folder: Path, options: argparse.Namespace) -> Any:
    """Trains one task by all, in every trouble and round."""
    spec.task().save(folder)
    versions, not_timed = {}, {}
    for name, one in trainings.items():
        try:
            versions[name] = one.begin(folder)
        except WorkerError as trouble:
            not_timed[name] = str(trouble)
    rounds = [
        {trouble: {name: trainings[name].time(trouble, options.window) for name in versions} for trouble in TROUBLES}
        for _ in range(options.rounds)
    ]
    us = {t: {name: [one[t][name] for one in rounds] for name in versions} for t in TROUBLES}
    return {
        "name": str(spec),
        "versions": versions,
        "not timed": not_timed,
        "us": {t: {name: spread(times, 1) for name, times in by.items()} for t, by in us.items()},
        "times quiet": {t: {name: ratio(times, us[QUIET][name]) for name, times in by.items()} for t, by in us.items()},
    }


# Command line ---------------------------------------------------------------------------------------------------------


def arguments_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", action="append", metavar="WORDS", help="networks whose names have these words; again")
    parser.add_argument("--quick", action="store_true", help="small networks and one short round, to see that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write here what is measured, whatever it is")
    options = parser.parse_args(arguments)
    record.check_options(parser, options)
    options.rounds, options.window = (1, 0.05) if options.quick else (ROUNDS, WINDOW)
    return options


def wanted(options: argparse.Namespace) -> list[TaskSpec]:
    known = QUICK if options.quick else [one for one in CONFIGURATIONS if str(one) in NETWORKS]
    chosen = record.chosen(known, options.only)
    return [TaskSpec(replace(one, rows=min(one.rows, STEPS * one.batch)), "tanh", "Adam") for one in chosen]


def main(arguments: Sequence[str] | None = None) -> int:
    options, started, found = arguments_of(arguments), time.perf_counter(), list[Any]()
    with tempfile.TemporaryDirectory() as name, quota_group() as group, ExitStack() as stack:
        trainings = {peer: Trainings(peer, Path(name), group, stack) for peer in PEERS}
        for spec in wanted(options):
            print(f"… {spec}", flush=True)
            found.append(measure(spec, trainings, Path(name), options))
    quota = "a control group" if group is not None else "stopped for half of every 100 ms"
    results = {"rounds": options.rounds, "window_s": options.window, "quota": quota, "networks": found}
    print(busy_report.table_of(results))
    kept = options.json or (None if options.quick or options.only else RESULTS)
    if kept is not None:
        command = " ".join(["python bench/busy_machine.py", *record.told(options)])
        record.write(kept, command, time.perf_counter() - started, results)
        print(f"written to {kept}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
