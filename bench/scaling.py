"""One and two ranks of MPI that train the same network on this machine: bench/results/scaling.json.

    python bench/scaling.py                        everything; ten minutes on two cores
    python bench/scaling.py --only "30-64-64-1"    what has these words in its name, again for more; printed, not kept
    python bench/scaling.py --only model --more    … and put among what the file has
    python bench/scaling.py --quick                a small network, few steps, to see that it runs; printed, not kept

Each rank is a process of one thread. Two ranks are all that is measured, since two cores are all there is: they share
the memory and its bandwidth, and no network lies between them. Each network is trained with a minibatch of B and with
one of 2B rows: of two ranks that share B rows each does half of the work (strong scaling), of two that share 2B each
does what one does alone (weak scaling). In every round all of them are started once, one after the other.

- µs a step are those of whole epochs of Trainer.fit, with drawing the order and all that ranks agree on: the median of
  the epochs.
- Its parts are measured after that, in further epochs, step by step: to compute; to wait, in a barrier that the
  measurement puts before the sum over the ranks; and to reduce, the sum's own time then. Told are the medians of the
  steps, and of them the mean of the ranks.

What two ranks have learned after the first epoch is compared with what one has: where the parameters differ by more
than rounding, it is not timed. The part "model" is no measurement: what a model says of 8, 64 and 1,024 GPUs, which see
bench/lib/scaling_model.py.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from compare import REPEATS, in_rounds, ratio
from comparison.processes import POOLS, ROOT, Turn, WorkerError
from lib import record, scaling_model, scaling_report
from lib.busy import Clocks, processors
from lib.rank import PARTS
from lib.timing import spread

RESULTS = Path(__file__).parent / "results" / "scaling.json"

ROUNDS = 5
RANKS = 1, 2

TOLERANCE = 1e-3
"""How far the parameters of two ranks may be from those of one, by the norm of what was learned: Adam divides by the
root of squares, so where a gradient is about 0, rounding decides about a step of the learning rate."""

PATIENCE = 300
"""Seconds that the ranks have."""

MODEL = "model"


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        batch: B; 2B is trained too.
        batches: of an epoch.
        epochs: that are timed.
    """

    widths: tuple[int, ...]
    batch: int
    loss: str
    batches: int
    epochs: int

    def __str__(self) -> str:
        return f"{self.network}, B {self.batch}"

    @property
    def network(self) -> str:
        return "-".join(map(str, self.widths))

    @property
    def batch_sizes(self) -> tuple[int, int]:
        return self.batch, 2 * self.batch

    def task(self, batch: int) -> str:
        """What a rank is told."""
        given = {"widths": self.widths, "batch": batch, "loss": self.loss}
        return json.dumps({**given, "batches": self.batches, "epochs": self.epochs})


CASES = (
    Case((30, 64, 64, 1), 64, "half_squared_error", batches=64, epochs=50),
    Case((784, 300, 10), 128, "cross_entropy", batches=16, epochs=15),
    Case((784, 2048, 2048, 10), 512, "cross_entropy", batches=2, epochs=4),
)


def cases(quick: bool) -> tuple[Case, ...]:
    """What is measured; in short a small one, a few steps."""
    return (replace(CASES[0], batches=4, epochs=1),) if quick else CASES


# Measuring ------------------------------------------------------------------------------------------------------------


def name_of(ranks: int, batch: int) -> str:
    return f"{ranks} rank{'s' * (ranks > 1)}, B {batch}"


class Ranks:
    """Starts the ranks of a case, and keeps what they have learned last, by name."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.folder = case, folder
        self.learned: dict[str, tuple[Any, Any]] = {}
        self.found: dict[str, dict[str, Any]] = {}
        self.ways = {name_of(r, batch): (r, batch) for batch in case.batch_sizes for r in RANKS}

    def turn(self, name: str) -> Turn:
        """Runs it: what the ranks have measured, and whether something else was at work.

        Raises:
            WorkerError: they failed.
        """
        ranks, batch = self.ways[name]
        file, begun = self.folder / "parameters.npz", Clocks.now()
        self.found[name] = found = launch(ranks, self.case.task(batch), file)
        window = Clocks.now().since(begun)
        with np.load(file, allow_pickle=False) as arrays:
            self.learned[name] = arrays["before"], arrays["after"]
        return {"fit": {"us": found["us"], **window}, "parts": {**found["parts"], **window}}

    def apart(self) -> dict[str, float]:
        """How far what two ranks have learned is from what one has, in parts of it."""
        told = {}
        for batch in self.case.batch_sizes:
            one, two = (self.learned.get(name_of(ranks, batch)) for ranks in RANKS)
            if one is not None and two is not None:
                told[f"B {batch}"] = float(np.linalg.norm(two[1] - one[1]) / np.linalg.norm(one[1] - one[0]))
        return told


def launch(ranks: int, task: str, file: Path) -> dict[str, Any]:
    """Starts so many ranks, and returns what they found."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if (mpiexec := shutil.which("mpiexec", path=beside)) is None:
        raise WorkerError("there is no mpiexec: pip install mpi4py mpich")
    words = [mpiexec, "-n", str(ranks), sys.executable, "-m", "lib.rank", task, str(file)]
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, **dict.fromkeys(POOLS, "1"), "PYTHONPATH": path}
    try:
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise WorkerError(f"it took longer than {PATIENCE} s") from None
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise WorkerError(f"it ended with status {done.returncode}: {said[-1]}")
    return dict(json.loads(lines[-1]))


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Measures one and two ranks, with B and 2B."""
    not_timed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        ranks = Ranks(case, Path(folder))
        kept, counts = in_rounds(
            list(ranks.ways), ranks.turn, options.rounds, options.threads, not_timed, options.repeats
        )
    apart = ranks.apart()
    not_timed |= {f"2 ranks, {b}": f"it learns something else, by {d:.1e}" for b, d in apart.items() if d > TOLERANCE}
    names = [name for name in (kept[0] if kept else ()) if name not in not_timed]
    us = {name: [one[name]["fit"]["us"] for one in kept] for name in names}
    small, large = case.batch_sizes
    pairs = {
        **{f"strong, B {batch}": (name_of(1, batch), name_of(2, batch)) for batch in case.batch_sizes},
        f"weak, B {large}": (name_of(1, small), name_of(2, large)),
    }
    described = next((found["described"] for found in ranks.found.values()), {})
    return {
        "name": str(case), "network": case.network, **described, "batch": small,
        "batches": case.batches, "epochs": case.epochs,
        "mpi": next((found["mpi"] for found in ranks.found.values()), ""),
        "apart": apart, "not timed": not_timed, "rounds": {"measured": options.rounds, **counts},
        "us": {name: spread(times) for name, times in us.items()},
        "parts": {
            name: {part: spread([one[name]["parts"][part] for one in kept]) for part in PARTS} for name in names
        },
        "one / two": {what: ratio(us[a], us[b]) for what, (a, b) in pairs.items() if a in us and b in us},
    }  # fmt: skip


# Command line ---------------------------------------------------------------------------------------------------------


def arguments_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", action="append", metavar="WORDS",
                        help=f"what has these words in its name, or {MODEL!r}; again")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="few steps and one round, to see that it runs")
    record.add_options(parser)
    options = parser.parse_args(arguments)
    record.check_options(parser, options)
    options.rounds, options.repeats = (1, 0) if options.quick else (ROUNDS, REPEATS)
    options.threads = len(processors())
    if not wanted(options) and MODEL not in options.only:
        names = [*map(str, cases(options.quick)), MODEL]
        parser.error("\n  ".join(["--only: nothing has these words; there are", *names]))
    return options


def wanted(options: argparse.Namespace) -> list[Case]:
    return record.chosen(cases(options.quick), options.only)


def command(options: argparse.Namespace) -> str:
    """Tells the command as it was given, but for names of files."""
    return " ".join(["python bench/scaling.py", *record.told(options), *["--more"] * options.more])


def main(arguments: Sequence[str] | None = None) -> int:
    options, started = arguments_of(arguments), time.perf_counter()
    found: dict[str, Any] = {
        "commit": record.git(ROOT, "rev-parse", "--short", "HEAD"), "threads": options.threads, "tasks": [],
    }  # fmt: skip
    for case in wanted(options):
        found["tasks"].append(measure(case, options))
        print(scaling_report.line(found["tasks"][-1]), flush=True)
    if not options.only or MODEL in options.only:
        found["model"] = scaling_model.predict()
    seconds = time.perf_counter() - started
    if (before := record.earlier(RESULTS, options)) is not None:
        tasks = {task["name"]: task for task in [*before["tasks"], *found["tasks"]]}
        found = {"model": before.get("model"), **found, "tasks": list(tasks.values())}
    print("\n" + scaling_report.text(found))
    record.keep(RESULTS, options, command(options), seconds, found, before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
