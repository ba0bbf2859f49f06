"""The same training by gpu_backprop, PyTorch, JAX and scikit-learn on a CPU, into bench/results/compare.json.

    python bench/compare.py                     everything; some 20 minutes on two cores
    python bench/compare.py --only "B 64, relu" what has these words in its name; printed, not kept
    python bench/compare.py --only "…" --again  the same, which takes the place of what the results have of it
    python bench/compare.py --quick             two small networks, in seconds; printed, not kept
    python bench/compare.py --mnist FOLDER      seconds to 97 and 98 %, into bench/results/mnist_seconds.json
    python bench/compare.py --before CHECKOUT   this checkout beside another one, without peers; printed, not kept

Each library trains in a process of its own, stopped while another one works. All begin with the same parameters, and
train on the same rows in minibatches of the same size with the same number of threads. First each trains an epoch in
the order of the rows, and one in an order of its own. One that does not reach the loss and the parameters that the
first gives in float64, and in the second about that loss, does other work, and is not timed. Then they take turns, in
several rounds. A turn begins with the first parameters again, and with some steps that are not timed; then it times

- steps: on one minibatch that already lies where it is needed,
- epochs: with a new order each, and with rows gathered for each minibatch; divided by the steps of an epoch; one more
  goes before them and is not timed,
- and of ours also the floor: the matrix products of the step alone.

A ratio is taken within a round. A round in which something else took the processors is repeated, and counted if it
stays so; only Linux tells. `python bench/plot.py` puts the results into README.md and docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from comparison import mnist_seconds, summary, tasks
from comparison.peers import NUMPY_ALONE, ON_CPU, OURS, Task
from comparison.processes import BEFORE, ROOT, Turn, WorkerError, Workers, program, start_workers
from comparison.tasks import ADAM, LOSS_TOLERANCE, PARAMETER_TOLERANCES, SGD, SHUFFLED, TaskSpec
from lib import record
from lib.busy import disturbed, processors
from lib.timing import spread

from gpu_backprop.data.errors import DataError

RESULTS = Path(__file__).parent / "results" / "compare.json"

ROUNDS = 7
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


def statistics(rounds: Sequence[Mapping[str, Turn]]) -> dict[str, Any]:
    """For each way of training, the µs a step of everyone, the time of each peer over ours, ours over the floor, and
    where another checkout trains too, ours over its."""
    found: dict[str, Any] = {}
    names = list(rounds[0])
    floors = [one[OURS]["floor"]["us"] for one in rounds if OURS in one]
    if floors:
        found["floor_us"] = spread(floors)
    for what in summary.WAYS:
        us = {name: [one[name][summary.MEASURED[what]]["us"] for one in rounds] for name in names}

        ours, peers = [n for n in (OURS, NUMPY_ALONE) if n in us], [n for n in ON_CPU if n in us]
        both = {name: now for name, now in BEFORE.items() if {name, now} <= us.keys()}
        found[what] = {
            "us": {name: spread(times) for name, times in us.items()},
            "others / ours": {name: {peer: ratio(us[peer], us[name]) for peer in peers} for name in ours},
            "ours / floor": {name: ratio(us[name], floors) for name in ours if floors},
            **({"now / before": {now: ratio(us[now], us[name]) for name, now in both.items()}} if both else {}),
        }
    return found


def ratio(over: Sequence[float], under: Sequence[float]) -> dict[str, float]:
    return spread([a / b for a, b in zip(over, under, strict=True)], 3)


def measure(spec: TaskSpec, workers: Workers, rounds: int, window: float) -> dict[str, Any]:
    """Trains one task by all workers: what is trained, who trained the same, and how fast."""
    task = spec.task()
    task.save(workers.folder)
    check = tasks.Check.of(task)
    first_epoch, not_timed = workers.load(check)
    names = [name for name in workers.by_name if name not in not_timed]
    kept, counts = in_rounds(names, lambda name: workers.turn(name, window), rounds, workers.threads, not_timed)
    return {
        **described(spec, task),
        "first epoch": {"float64": {"loss": check.loss}, **first_epoch},
        "not timed": not_timed,
        "rounds": {"measured": rounds, **counts},
        **(statistics(kept) if kept and kept[0] else {}),
    }


def described(spec: TaskSpec, task: Task) -> dict[str, Any]:
    c = spec.configuration
    return {
        "name": str(spec),
        "network": "-".join(map(str, c.widths)),
        "batch": c.batch,
        "activation": spec.activation,
        "optimizer": spec.optimizer,
        "loss": "cross entropy" if task.labelled else "half squared error",
        "rows": task.rows,
    }


# Command line ---------------------------------------------------------------------------------------------------------


def arguments_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", action="append", metavar="WORDS", help="tasks whose names have these words; again")
    parser.add_argument("--again", action="store_true", help="put what --only chooses in its place in the results")
    parser.add_argument("--quick", action="store_true", help="two small networks and one round, to see that it runs")
    parser.add_argument("--mnist", type=Path, metavar="FOLDER", help="seconds to an accuracy, on the files of MNIST")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"default: {ROUNDS}")
    parser.add_argument("--window", type=float, default=WINDOW, metavar="S", help=f"default: {WINDOW} s")
    parser.add_argument("--threads", type=int, default=len(processors()), metavar="N", help="default: all processors")
    parser.add_argument("--peers", metavar="PYTHON", help="a Python that has the peers, or none; default: this one")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="a checkout to compare with; --peers: none")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write here what is measured, whatever it is")
    options = parser.parse_args(arguments)
    options.peers = options.peers or (sys.executable if options.before is None else "none")
    if min(options.rounds, options.threads) < 1 or not 0 < options.window < math.inf:
        parser.error("--rounds and --threads must be at least 1, and --window more than 0")
    if options.threads > len(processors()):
        parser.error(f"--threads: this process may use {len(processors())} processors, not {options.threads}")
    if options.before is not None and (options.mnist or program(options.before) is None):
        parser.error(f"--before: {options.before} is not a checkout of this project, or --mnist is given too")
    if options.peers != "none" and shutil.which(options.peers) is None:
        parser.error(f"--peers: {options.peers} is not a program; give a Python, as in --peers .venv/bin/python")
    if options.only and options.mnist:
        parser.error("--only chooses tasks, and --mnist is none of them; give one of the two")
    kept = options.only and not options.quick and options.json is None and options.before is None
    if options.again and not (kept and RESULTS.exists()):
        parser.error("--again takes --only, none of --quick, --json and --before, and results of an earlier run")
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
    return tasks.task_specs(tasks.QUICK if options.quick else tasks.CONFIGURATIONS)


def command(options: argparse.Namespace) -> str:
    """Tells the command as it was given, but for names of files and folders."""
    told = ["--mnist FOLDER"] * (options.mnist is not None) + ["--before CHECKOUT"] * (options.before is not None)
    told += record.told(options) + ["--again"] * options.again
    usual = {"rounds": ROUNDS, "window": WINDOW, "threads": len(processors())}
    told += [f"--{name} {getattr(options, name)}" for name, value in usual.items() if getattr(options, name) != value]
    return " ".join(["python bench/compare.py", *told])


def main(arguments: Sequence[str] | None = None) -> int:
    options, started = arguments_of(arguments), time.perf_counter()
    before = list(BEFORE) if options.before is not None else []
    names = [OURS, *before, NUMPY_ALONE, *(ON_CPU if options.peers != "none" else ())]
    with start_workers(options.peers, options.threads, names, (options.before or ROOT).resolve()) as workers:
        if options.mnist is not None:
            found, path = mnist_seconds.measure(options.mnist, workers, options.quick), mnist_seconds.RESULTS
            lines = mnist_seconds.table(found)
        else:
            found, path = compare(options, workers), RESULTS
            lines = summary.text(found)
        circumstances = {"threads": options.threads, "contenders": workers.versions, "left out": workers.left_out}
    print("\n".join(["", *lines, *(f"left out: {name}: {why}" for name, why in workers.left_out.items())]))
    kept = options.json or (None if options.quick or options.only or before else path)
    if options.again:
        again(json.loads(RESULTS.read_text(encoding="utf-8")), found, command(options), time.perf_counter() - started)
    elif kept is not None:
        record.write(kept, command(options), time.perf_counter() - started, {**circumstances, **found})
        print(f"written to {kept}")
    return 0


def again(before: dict[str, Any], found: dict[str, Any], command: str, seconds: float) -> None:
    """Writes the results of before with some of their tasks replaced, and by which command."""
    fresh = {task["name"]: task for task in found["contests"]}
    before["contests"] = [fresh.get(task["name"], task) for task in before["contests"]]
    earlier = before.pop("again", [])
    head = {key: before.pop(key) for key in ("command", "seconds")}
    before |= {"tolerances": found["tolerances"], "again": [*earlier, {"command": command, "contests": sorted(fresh)}]}
    for key in ("date", "processor", "system", "versions"):
        before.pop(key)
    record.write(RESULTS, head["command"], head["seconds"] + seconds, before)
    print(f"put in its place in {RESULTS}")


def compare(options: argparse.Namespace, workers: Workers) -> dict[str, Any]:
    """Measures all tasks that are wanted."""
    rounds, found = 1 if options.quick else options.rounds, []
    for spec in wanted(options):
        print(f"… {spec}", flush=True)
        found.append(measure(spec, workers, rounds, options.window))
        for name, why in found[-1]["not timed"].items():
            print(f"  {name}: {why}", flush=True)
    return {
        "rounds": rounds,
        "window_s": options.window,
        "settings": {"SGD": {"rate": SGD[0]}, "Adam": dict(zip(("rate", "β₁", "β₂", "ε"), ADAM, strict=True))},
        "tolerances": {"loss": LOSS_TOLERANCE, "distance": PARAMETER_TOLERANCES, "shuffled": SHUFFLED},
        "contests": found,
    }


if __name__ == "__main__":
    sys.exit(main())
