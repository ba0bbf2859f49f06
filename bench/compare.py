"""The same training by gpu_backprop, PyTorch, JAX and scikit-learn on a CPU, into bench/results/compare.json.

    python bench/compare.py                     everything; some half an hour on two cores
    python bench/compare.py --only "B 64, relu" what has these words in its name; printed, not kept
    python bench/compare.py --only "…" --again  the same, each put into the results as soon as it is measured
    python bench/compare.py --quick             small networks, in a minute; printed, not kept
    python bench/compare.py --mnist FOLDER      fits and seconds to 98 %, into bench/results/mnist_seconds.json
    python bench/compare.py --before CHECKOUT   this checkout beside another one, without peers; printed, not kept

Each library works in a process of its own, stopped while another one works. All begin with the same parameters, and
train on the same rows in minibatches of the same size with the same number of threads. First each trains an epoch in
the order of the rows, and one in an order of its own. One that does not reach the loss and the parameters that the
first gives in float64, and in the second about that loss, does other work, and is not timed; so does one whose
parameters have another dtype, or differ after the steps, or whose validation data after the fit, that are timed later.
With dropout, whose masks every library draws otherwise, the first is trained without, and another one with it, which
has to come to about the loss that masks of NumPy give. Then they take turns, in several rounds. A turn begins with the
first parameters again, and with some steps that are not timed; then it times, as the task has it,

- steps: on one minibatch that already lies where it is needed,
- epochs: with a new order each, and with rows gathered for each minibatch; divided by the steps of an epoch; one more
  goes before them and is not timed,
- steps by hand: each begins with arrays of NumPy,
- a fit: epochs, and after each the validation data are measured,
- predictions: from an array of NumPy to one of NumPy; whose probabilities differ from those in float64 is not timed,
- and of ours also the floor: the matrix products of the step alone, and what the threads that they run on reach when
  they do nothing but multiply and add, as in bench/blas.py.

A ratio is taken within a round. A round in which something else took the processors is repeated, and counted if it
stays so; only Linux tells. `python bench/plot.py` puts the results into README.md and docs/performance.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from comparison import mnist_seconds, summary, tasks
from comparison.peers import NUMPY_ALONE, ON_CPU, OUR_OWN, OURS, Task
from comparison.processes import BEFORE, ROOT, Turn, WorkerError, Workers, program, start_workers
from comparison.tasks import ADAM, MEASURED, SGD, SLOW_SGD, TaskSpec
from lib import record
from lib.busy import disturbed, processors
from lib.timing import median, spread

from gpu_backprop.data.errors import DataError

RESULTS = Path(__file__).parent / "results" / "compare.json"

WINDOW = 0.07
"""Seconds, about, that one timing takes; an epoch is never cut."""

REPEATS = 3
"""How often a round that was disturbed is measured again."""


# Measuring ------------------------------------------------------------------------------------------------------------


def in_rounds(
    names: Sequence[str], turn: Callable[[str], Turn], rounds: int, threads: int, not_timed: dict[str, str],
    repeats: int = REPEATS,
) -> tuple[list[dict[str, Turn]], dict[str, int]]:  # fmt: skip
    """Takes the turns of all rounds; counts those that were repeated, and those that stayed disturbed.

    In every round another one begins. One that fails is noted in not_timed, and is in no round.
    """
    playing, kept, counts = list(names), list[dict[str, Turn]](), {"repeated": 0, "disturbed": 0}
    for k in range(rounds):
        for attempt in range(1 + repeats):
            turns: dict[str, Turn] = {}
            for name in playing[k % len(playing) :] + playing[: k % len(playing)] if playing else []:
                try:
                    turns[name] = turn(name)
                except WorkerError as trouble:
                    not_timed[name] = str(trouble)
            playing = [name for name in playing if name in turns]
            busy = any(disturbed(window, threads) for one in turns.values() for window in one.values())
            if not busy:
                break
            counts["repeated" if attempt < repeats else "disturbed"] += 1
        kept.append(turns)
    return [{name: one[name] for name in playing} for one in kept], counts


def statistics(rounds: Sequence[Mapping[str, Turn]], ways: Sequence[str]) -> dict[str, Any]:
    """For each way, the µs a step of everyone, the time of each peer over ours, ours over the floor, and where another
    checkout trains too, ours over its."""
    found: dict[str, Any] = {}
    names = list(rounds[0])
    floors = [one[OURS]["floor"]["us"] for one in rounds if "floor" in one.get(OURS, ())]
    if floors:
        found["floor_us"] = spread(floors)
    for way in ways:
        us = {name: [one[name][MEASURED[way]]["us"] for one in rounds] for name in names}
        ours, peers = [n for n in OUR_OWN if n in us], [n for n in ON_CPU if n in us]
        both = {name: now for name, now in BEFORE.items() if {name, now} <= us.keys()}
        found[way] = {
            "us": {name: spread(times) for name, times in us.items()},
            "others / ours": {name: {peer: ratio(us[peer], us[name]) for peer in peers} for name in ours},
            "ours / floor": {name: ratio(us[name], floors) for name in ours if floors},
            **({"now / before": {now: ratio(us[now], us[name]) for name, now in both.items()}} if both else {}),
        }
    return found


def ratio(over: Sequence[float], under: Sequence[float]) -> dict[str, float]:
    return spread([a / b for a, b in zip(over, under, strict=True)], 3)


def measure(spec: TaskSpec, task: Task, workers: Workers, rounds: int, window: float) -> dict[str, Any]:
    """Gives one task to all workers: what it is, who did the same, and how fast."""
    task.save(workers.folder)
    check = spec.check(task)
    told, not_timed = workers.load(check, spec.takes_part, spec.ways)
    names = [name for name in told if name not in not_timed]
    turn = partial(workers.turn, ways=spec.ways, window=window)
    kept, counts = in_rounds(names, turn, rounds, workers.threads, not_timed)
    found = statistics(kept, spec.ways) if kept and kept[0] else {}
    return {
        **described(spec, task),
        "first epoch": {"float64": check.described(), **told},
        "not timed": not_timed,
        "rounds": {"measured": rounds, **counts},
        **found,
        **share_of_peak(spec.configuration.flops, kept),
    }


def share_of_peak(flops: int, rounds: Sequence[Mapping[str, Turn]]) -> dict[str, Any]:
    """Where it is known: on how many threads the products alone ran in each round, the most that so many reached in any
    round, in flops a nanosecond, and how much of that the products did, the median of the rounds."""
    floors = [one[OURS]["floor"] for one in rounds if "peak_gflops" in one.get(OURS, {}).get("floor", ())]
    if not floors:
        return {}
    peaks = dict[int, float]()
    for one in floors:
        peaks[one["threads"]] = max(one["peak_gflops"], peaks.get(one["threads"], 0))
    shares = [flops / one["us"] / 1000 / peaks[one["threads"]] for one in floors]
    return {
        "threads in use": [one["threads"] for one in floors],
        "peak_gflops": {str(threads): round(peak, 1) for threads, peak in peaks.items()},
        "share of the peak": median(shares, 3),
    }


def described(spec: TaskSpec, task: Task) -> dict[str, Any]:
    c = spec.configuration
    return {
        "name": str(spec),
        "kind": spec.kind,
        "ways": spec.ways,
        "network": "-".join(map(str, c.widths)),
        "batch": c.batch,
        "activation": spec.activation,
        "optimizer": spec.optimizer,
        "loss": "cross entropy" if task.labelled else "half squared error",
        "rows": task.rows,
        "dtype": spec.dtype,
        "dropout": spec.dropout,
        "weights": spec.weighted,
    }


# Command line ---------------------------------------------------------------------------------------------------------


def arguments_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", action="append", metavar="WORDS", help="tasks whose names have these words; again")
    parser.add_argument("--again", action="store_true", help="put each task in its place in the results at once")
    parser.add_argument("--quick", action="store_true", help="small networks and one round, to see that it runs")
    parser.add_argument("--mnist", type=Path, metavar="FOLDER", help="seconds to an accuracy, on the files of MNIST")
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 7 or 5, as the task has it")
    parser.add_argument("--window", type=float, default=WINDOW, metavar="S", help=f"default: {WINDOW} s")
    parser.add_argument("--threads", type=int, default=len(processors()), metavar="N", help="default: all processors")
    parser.add_argument("--peers", metavar="PYTHON", help="a Python that has the peers, or none; default: this one")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="a checkout to compare with; --peers: none")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write here what is measured, whatever it is")
    options = parser.parse_args(arguments)
    options.peers = options.peers or (sys.executable if options.before is None else "none")
    if min(options.rounds or 1, options.threads) < 1 or options.rounds == 0 or not 0 < options.window < math.inf:
        parser.error("--rounds and --threads must be at least 1, and --window more than 0")
    if options.threads > len(processors()):
        parser.error(f"--threads: this process may use {len(processors())} processors, not {options.threads}")
    if options.before is not None and (options.mnist or program(options.before) is None):
        parser.error(f"--before: {options.before} is not a checkout of this project, or --mnist is given too")
    if options.peers != "none" and shutil.which(options.peers) is None:
        parser.error(f"--peers: {options.peers} is not a program; give a Python, as in --peers .venv/bin/python")
    if options.only and options.mnist:
        parser.error("--only chooses tasks, and --mnist is none of them; give one of the two")
    kept = not options.quick and options.json is None and options.before is None and options.mnist is None
    if options.again and not (kept and RESULTS.exists()):
        parser.error("--again takes none of --quick, --json, --before and --mnist, and results of an earlier run")
    if not wanted(options):
        parser.error("\n  ".join(["--only: no task has these words; there are", *map(str, all_tasks(options))]))
    if options.json is not None and (options.json.is_dir() or not options.json.parent.is_dir()):
        parser.error(f"--json: {options.json} is not a file in a folder that is there")
    if options.mnist is not None:
        try:
            mnist_seconds.images(options.mnist, "test")
        except DataError as error:
            parser.error(f"--mnist: {error}")
    return options


def wanted(options: argparse.Namespace) -> list[TaskSpec]:
    """The tasks that have some of the words of --only in their names; without it all."""
    return record.chosen(all_tasks(options), options.only)


def all_tasks(options: argparse.Namespace) -> Iterator[TaskSpec]:
    return tasks.quick_specs() if options.quick else itertools.chain(tasks.task_specs(), tasks.further_specs())


def command(options: argparse.Namespace) -> str:
    """Tells the command as it was given, but for names of files and folders."""
    told = ["--mnist FOLDER"] * (options.mnist is not None) + ["--before CHECKOUT"] * (options.before is not None)
    told += record.told(options) + ["--again"] * options.again
    usual = {"rounds": None, "window": WINDOW, "threads": len(processors())}
    told += [f"--{name} {getattr(options, name)}" for name, value in usual.items() if getattr(options, name) != value]
    return " ".join(["python bench/compare.py", *told])


def main(arguments: Sequence[str] | None = None) -> int:
    options, started = arguments_of(arguments), time.perf_counter()
    before = list(BEFORE) if options.before is not None else []
    names = [OURS, *before, NUMPY_ALONE, *(ON_CPU if options.peers != "none" else ())]
    names = [name for name in names if options.mnist is None or name in mnist_seconds.CONTENDERS]
    with start_workers(options.peers, options.threads, names, (options.before or ROOT).resolve()) as workers:
        if options.mnist is not None:
            found, path = mnist(options, workers), mnist_seconds.RESULTS
            lines = [*mnist_seconds.table(found), *summary.text(found)]
        else:
            found, path = compare(options, workers), RESULTS
            lines = list(summary.text(found))
        circumstances = {"threads": options.threads, "contenders": workers.versions, "left out": workers.left_out}
    if options.mnist is None and not options.only:
        lines.append("left out: MNIST: a run with --mnist FOLDER trains on it")
    print("\n".join(["", *lines, *(f"left out: {name}: {why}" for name, why in workers.left_out.items())]))
    kept = options.json or (None if options.quick or options.only or options.again or before else path)
    if kept is not None:
        record.write(kept, command(options), time.perf_counter() - started, {**circumstances, **found})
        print(f"written to {kept}")
    return 0


def compare(options: argparse.Namespace, workers: Workers) -> dict[str, Any]:
    """Measures all tasks that are wanted."""
    found = list[dict[str, Any]]()
    for spec in wanted(options):
        print(f"… {spec}", flush=True)
        started = time.perf_counter()
        found.append(measure(spec, spec.task(), workers, rounds(spec, options), options.window))
        for name, why in found[-1]["not timed"].items():
            print(f"  {name}: {why}", flush=True)
        if options.again:
            again(found[-1], workers, command(options), time.perf_counter() - started)
    return {
        "window_s": options.window,
        "settings": {
            "SGD": {"rate": SGD[0], "of few rows": SLOW_SGD[0]},
            "Adam": dict(zip(("rate", "β₁", "β₂", "ε"), ADAM, strict=True)),
        },
        "tolerances": tasks.TOLERANCES,
        "contests": found,
    }


def rounds(spec: TaskSpec, options: argparse.Namespace) -> int:
    return 1 if options.quick else options.rounds or spec.rounds


def mnist(options: argparse.Namespace, workers: Workers) -> dict[str, Any]:
    """Measures on MNIST: seconds to an accuracy, and fits."""
    found = mnist_seconds.measure(options.mnist, workers, options.quick)
    spec, task = mnist_seconds.fit(options.mnist, options.quick)
    print(f"… {spec}", flush=True)
    return {**found, "contests": [measure(spec, task, workers, rounds(spec, options), options.window)]}


def again(fresh: dict[str, Any], workers: Workers, command: str, seconds: float) -> None:
    """Writes the results with one task more, or another time, and by which command."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    by_name = {task["name"]: task for task in [*results["contests"], fresh]}
    order = [str(spec) for spec in itertools.chain(tasks.task_specs(), tasks.further_specs())]
    results["contests"] = [by_name[name] for name in order if name in by_name]
    results["again"] = results.get("again", {}) | {fresh["name"]: command}
    results["contenders"] |= workers.versions
    results |= {"tolerances": tasks.TOLERANCES, "left out": workers.left_out}
    head = {key: results.pop(key) for key in ("command", "seconds")}
    for key in ("date", "processor", "system", "versions"):
        results.pop(key)
    record.write(RESULTS, head["command"], head["seconds"] + seconds, results)


if __name__ == "__main__":
    sys.exit(main())
