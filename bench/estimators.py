"""MLPClassifier and MLPRegressor beside scikit-learn's at equal settings on a CPU, into bench/results/estimators.json.

    python bench/estimators.py --data FOLDER     everything; FOLDER holds the files of MNIST; a quarter of an hour
    python bench/estimators.py --only "fit"      what has these words in its name, again for more; printed, not kept
    python bench/estimators.py --only "fit" --more   … and put among what the file has
    python bench/estimators.py --quick           some hundred rows, one round, to see that it runs; printed, not kept

Each library works in a process of its own, stopped while the other one works, on the same rows with the same
random_state and the same number of threads. First each does all work once, which is not timed. Who did not go through
as many rows in as many iterations with as many parameters of the same dtype, or comes to another loss, is not timed.
Then they take turns, in several rounds. So that both do as many iterations, none ends early (n_iter_no_change =
max_iter); all else is scikit-learn's default: 100 hidden units, relu, Adam, minibatches of 200. Timed are

- fit, also with early_stopping and with lbfgs; predict on all rows; ten partial_fit of 200 rows each,
- GridSearchCV of 24 candidates × 5 folds on the smallest table, in one process and in two.

A ratio is taken within a round. A round in which something else took the processors is repeated, and counted if it
stays so; only Linux tells, and not of a search in two processes. Scores are those of rows that were held out, of fits
with all defaults but a limit of the iterations; the same seed splits the rows and begins the network in both.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compare import in_rounds, ratio
from comparison import estimator_report, estimator_tasks, estimator_worker
from comparison.estimator_tasks import DTYPES, MODULES, OURS, TABLES, THEIRS, Task, mnist, tasks
from comparison.processes import ROOT, Worker, WorkerError
from lib import record
from lib.busy import processors
from lib.timing import spread

from gpu_backprop.data.errors import DataError
from gpu_backprop.data.idx import read_idx_folder

RESULTS = Path(__file__).parent / "results" / "estimators.json"
ROUNDS = 5
WINDOW = 0.1
"""Seconds, about, that one timing takes; nothing is cut."""

SCORES = "accuracy"
"""What --only takes for the scores."""

Workers = Mapping[str, Worker]


# Measuring ------------------------------------------------------------------------------------------------------------


def start_workers(stack: ExitStack, threads: int) -> Workers:
    """Starts both; they end with the stack."""
    logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    return {
        name: stack.enter_context(closing(Worker(
            name, logs / name, threads=threads, environment={"PYTHONWARNINGS": "ignore"},
            script=Path(estimator_worker.__file__),
        )))
        for name in MODULES
    }  # fmt: skip


def measure(task: Task, workers: Workers, options: argparse.Namespace) -> dict[str, Any]:
    """Lets both do one task: whether they did the same, and how fast."""
    work: dict[str, Any] = {}
    not_timed: dict[str, str] = {}
    for name, worker in workers.items():
        try:
            work[name] = worker.ask("load", folder=folder(options), **asdict(task))
        except WorkerError as trouble:
            not_timed[name] = str(trouble)
        finally:
            worker.pause()
    if not not_timed and (wrong := estimator_tasks.fault(work[OURS], work[THEIRS])):
        not_timed[OURS] = wrong
    found: dict[str, Any] = {**asdict(task), "name": str(task), "work": work, "not timed": not_timed}
    if not_timed:
        return found

    def turn(name: str) -> dict[str, Any]:
        try:
            return workers[name].ask("time", window=options.window)
        finally:
            workers[name].pause()

    kept, counts = in_rounds(list(workers), turn, options.rounds, options.threads, not_timed)
    found["rounds"] = {"measured": options.rounds, **counts}
    if not not_timed:
        ms = {name: [one[name]["call"]["ms"] for one in kept] for name in workers}
        found["ms"] = {name: spread(times, 3) for name, times in ms.items()}
        found["times as fast"] = ratio(ms[THEIRS], ms[OURS])
    return found


def scores(table: str, dtype: str, workers: Workers, options: argparse.Namespace) -> dict[str, Any]:
    """Fits of both, seed by seed: score, iterations and seconds of each."""
    seeds = range(2 if options.quick else TABLES[table].seeds)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for seed in seeds:
        for name, worker in workers.items():
            what = {"table": table, "dtype": dtype, "seed": seed, "quick": options.quick}
            runs[name].append(worker.ask("score", folder=folder(options), **what))
            worker.pause()
    by = {name: [run["score"] for run in of_name] for name, of_name in runs.items()}
    return {
        "table": table, "dtype": dtype, "seeds": len(seeds), "until": TABLES[table].until,
        **estimator_report.compared(by[OURS], by[THEIRS]), "runs": runs,
    }  # fmt: skip


def folder(options: argparse.Namespace) -> str | None:
    return None if options.data is None else str(options.data)


# Command line ---------------------------------------------------------------------------------------------------------


def arguments_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="the IDX files of MNIST, or .gz")
    parser.add_argument("--only", action="append", metavar="WORDS",
                        help=f"tasks whose names have these words, or {SCORES!r}; again")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="few rows and one round, to see that it runs")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"default: {ROUNDS}")
    parser.add_argument("--window", type=float, default=WINDOW, metavar="S", help=f"default: {WINDOW} s")
    parser.add_argument("--threads", type=int, default=len(processors()), metavar="N", help="default: all processors")
    record.add_options(parser)
    options = parser.parse_args(arguments)
    if min(options.rounds, options.threads) < 1 or not 0 < options.window < math.inf:
        parser.error("--rounds and --threads must be at least 1, and --window more than 0")
    if options.threads > len(processors()):
        parser.error(f"--threads: this process may use {len(processors())} processors, not {options.threads}")
    record.check_options(parser, options)
    if options.data is None and not (options.quick or options.only):
        parser.error("--data FOLDER is needed, the files of MNIST; only --quick and --only do without")
    if options.data is not None:
        try:
            read_idx_folder(options.data, "train")
        except DataError as error:
            parser.error(f"--data: {error}")
    if options.quick:
        options.rounds, options.window = 1, 0.001
    if not any(chosen(options)):
        names = map(str, tasks(options.quick, options.data is not None))
        parser.error("\n  ".join(["--only: no task has these words; there are", *names, SCORES]))
    return options


def chosen(options: argparse.Namespace) -> tuple[list[Task], list[tuple[str, str]]]:
    """Returns the tasks to time, and the tables and dtypes to score."""
    timed = list(tasks(options.quick, options.data is not None))
    scored = [
        (name, dtype) for name, table in TABLES.items() for dtype in DTYPES
        if table.seeds and (table.load is not mnist or options.data is not None)
    ]  # fmt: skip
    if options.only is None:
        return timed, scored
    return record.chosen(timed, options.only), scored if SCORES in options.only else []


def command(options: argparse.Namespace) -> str:
    """Tells the command as it was given, but for names of files and folders."""
    told = ["--data FOLDER"] * (options.data is not None)
    told += record.told(options) + ["--more"] * options.more
    usual = {} if options.quick else {"rounds": ROUNDS, "window": WINDOW}
    usual["threads"] = len(processors())
    told += [f"--{name} {getattr(options, name)}" for name, value in usual.items() if getattr(options, name) != value]
    return " ".join(["python bench/estimators.py", *told])


def main(arguments: Sequence[str] | None = None) -> int:
    options, started = arguments_of(arguments), time.perf_counter()
    timed, scored = chosen(options)
    found: dict[str, Any] = {
        "commit": record.git(ROOT, "rev-parse", "--short", "HEAD"), "threads": options.threads,
        "contenders": estimator_worker.VERSIONS, "rounds": options.rounds, "window_s": options.window,
        "grid": estimator_tasks.GRID, "folds": estimator_tasks.FOLDS,
        "tolerances": {"loss": estimator_tasks.LOSS_TOLERANCE, "scores": estimator_tasks.SCORE_TOLERANCE},
        "tasks": [], "accuracy": [],
    }  # fmt: skip
    with ExitStack() as stack:
        workers = start_workers(stack, options.threads)
        for task in timed:
            found["tasks"].append(measure(task, workers, options))
            print(estimator_report.line(found["tasks"][-1]), flush=True)
        for table, dtype in scored:
            found["accuracy"].append(scores(table, dtype, workers, options))
            print(estimator_report.score_line(found["accuracy"][-1]), flush=True)
    seconds = time.perf_counter() - started
    if (before := record.earlier(RESULTS, options)) is not None:
        for part, names in (("tasks", ("name",)), ("accuracy", ("table", "dtype"))):
            rows = {tuple(row[name] for name in names): row for row in [*before[part], *found[part]]}
            found[part] = list(rows.values())
    print("\n" + estimator_report.text(found))
    record.keep(RESULTS, options, command(options), seconds, found, before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
