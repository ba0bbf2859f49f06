"""Many small networks trained at once, by us and by others, on a CPU: bench/results/population.json.

    python bench/population.py                     everything; half an hour on two cores
    python bench/population.py --only "64-64-64"   what has these words in its name, again for more; printed, not kept
    python bench/population.py --only "M 64" --more  … and put among what the file has
    python bench/population.py --quick             a few short epochs, one round, to see that it runs; printed, not kept

Three networks, each of them M times, with Adam; every member has weights, a learning rate and an order of the rows of
its own, and whole epochs are timed, with drawing the orders and gathering the rows. Told is the time of an epoch over
the steps of all its members, "µs a model-step". It takes part

- Population.fit;
- our own solo loop: one network after another, in as many processes as there are cores, of one thread each;
- PyTorch: torch.func.vmap over stacked parameters, Adam written out, with the number of threads that is the fastest;
- JAX: jax.vmap over the members of an epoch whose steps are in lax.scan, jitted.

Each works in processes of its own, stopped while another one works. First each trains an epoch in the order of the
rows: one whose first or last member does not come to the loss that the same comes to in float64 does other work, and is
not timed. Then they take turns, in five rounds, and in three from M 256 on. One whose turn would take more than a
minute at some M, by what it took at the M before, is left out there.

At last, scikit-learn's GridSearchCV over its MLPClassifier in two processes, and PopulationSearchCV over ours, search
the same grid of 60 candidates on the digits, in the same five folds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import estimators
from compare import in_rounds, ratio
from comparison import estimator_tasks, population_report
from comparison.peers import POPULATIONS
from comparison.population_report import OURS, SOLO
from comparison.population_tasks import LOSS_TOLERANCE, PopulationSpec, expected, fault, specs
from comparison.processes import ROOT, Turn, Worker, WorkerError
from lib import record
from lib.busy import processors
from lib.timing import spread

RESULTS = Path(__file__).parent / "results" / "population.json"


ROUNDS, FEW_ROUNDS, MANY = 5, 3, 256
"""Rounds, and those from so many members on."""

WINDOW = 0.1
"""Seconds, about, that one timing takes; an epoch is never cut."""

LIMIT = 60.0
"""Seconds of a turn, at most."""

EPOCHS = 3
"""Of a turn, at least: before those that are timed there are others."""

SEARCH = "search"


# Measuring ------------------------------------------------------------------------------------------------------------


class Contest:
    """All who train the networks.

    Args:
        folder: where they find the task.
        workers: by name; a library that is not installed is taken out.

    Attributes:
        left_out: why, by the name of such a library.
        contenders: the version of each of the others.
    """

    def __init__(self, folder: Path, workers: dict[str, Worker], options: argparse.Namespace) -> None:
        self.folder, self.workers, self.options = folder, workers, options
        self.left_out, self.contenders = dict[str, str](), dict[str, str]()

    def measure(self, spec: PopulationSpec, before: Mapping[str, float]) -> dict[str, Any]:
        """Trains so many of a network by everyone: whether all did the same, and how fast.

        Args:
            before: µs a model-step at the M before, by name.
        """
        task, options, many = spec.task(), self.options, spec.members >= MANY
        seconds = {name: EPOCHS * task.steps * spec.members * us / 1e6 for name, us in before.items()}
        not_timed = {name: f"a turn would take {s:,.0f} s" for name, s in seconds.items() if s > LIMIT}
        task.save(self.folder)
        right = expected(task)
        losses = self._load(right, not_timed)
        playing = [name for name in losses if name not in not_timed]
        rounds = min(options.rounds, FEW_ROUNDS) if many else options.rounds
        kept, counts = in_rounds(playing, self._turn, rounds, options.threads, not_timed)
        us = {name: [one[name]["epochs"]["us"] / spec.members for one in kept] for name in (kept[0] if kept else ())}
        return {
            "name": str(spec), "network": "-".join(map(str, spec.network.widths)), "batch": spec.network.batch,
            "members": spec.members, "steps": task.steps, "loss": {"float64": list(right.values()), **losses},
            "not timed": not_timed, "rounds": {"measured": rounds, **counts},
            "us": {name: spread(times) for name, times in us.items()},
            "others / ours": {name: ratio(us[name], us[OURS]) for name in us if OURS in us and name != OURS},
        }  # fmt: skip

    def _load(self, wanted: Mapping[int, float], not_timed: dict[str, str]) -> dict[str, list[float]]:
        """Lets each train an epoch in the order of the rows: the losses of the members that are looked at."""
        losses = {}
        for name, worker in [(name, worker) for name, worker in self.workers.items() if name not in not_timed]:
            try:
                answer = worker.ask("load", folder=str(self.folder))
            except WorkerError as trouble:
                if str(trouble).startswith("missing"):
                    self.left_out[name] = str(trouble).partition(": ")[2]
                    self.workers.pop(name).close()
                else:
                    not_timed[name] = str(trouble)
                continue
            finally:
                worker.pause()
            self.contenders[name] = answer["version"]
            losses[name] = [answer["loss"][m] for m in wanted]
            if wrong := fault(answer["loss"], wanted):
                not_timed[name] = wrong
        return losses

    def _turn(self, name: str) -> Turn:
        try:
            found: Turn = self.workers[name].ask("time", what=["epochs"], window=self.options.window)
        finally:
            self.workers[name].pause()
        if name == SOLO:  # its own processes are others
            found["epochs"]["others"] = 0.0
        return found


def populations(options: argparse.Namespace) -> dict[str, Any]:
    """Measures what is wanted of the networks."""
    tasks, us = list[dict[str, Any]](), dict[str, dict[str, float]]()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workers = {
            name: stack.enter_context(closing(Worker(
                name, folder / f"log-{k}", threads=options.threads, environment={"JAX_PLATFORMS": "cpu"}
            )))
            for k, name in enumerate(POPULATIONS)
        }  # fmt: skip
        contest = Contest(folder, workers, options)
        for spec in wanted(options):
            before = us.setdefault(str(spec.network), {})
            tasks.append(contest.measure(spec, before))
            before.update({name: spread["median"] for name, spread in tasks[-1]["us"].items()})
            print(population_report.line(tasks[-1]), flush=True)
    return {"contenders": contest.contenders, "left out": contest.left_out, "tasks": tasks}


def search(options: argparse.Namespace) -> dict[str, Any]:
    """Lets both search the same grid: whether they found the same, and how fast."""
    task = estimator_tasks.Task("digits", "float32", estimator_tasks.POPULATION_SEARCH, options.quick)
    with ExitStack() as stack:
        found = estimators.measure(task, estimators.start_workers(stack, options.threads), options)
    print(population_report.search_line(found), flush=True)
    return found


# Command line ---------------------------------------------------------------------------------------------------------


def arguments_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", action="append", metavar="WORDS",
                        help=f"what has these words in its name, or {SEARCH!r}; again")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="short epochs and one round, to see that it runs")
    record.add_options(parser)
    options = parser.parse_args(arguments)
    record.check_options(parser, options)
    options.rounds, options.window = (1, 0.001) if options.quick else (ROUNDS, WINDOW)
    options.threads, options.data = len(processors()), None
    if not wanted(options) and SEARCH not in options.only:
        parser.error(
            "\n  ".join(["--only: nothing has these words; there are", *map(str, specs(options.quick)), SEARCH])
        )
    return options


def wanted(options: argparse.Namespace) -> list[PopulationSpec]:
    return record.chosen(specs(options.quick), options.only)


def command(options: argparse.Namespace) -> str:
    """Tells the command as it was given, but for names of files."""
    return " ".join(["python bench/population.py", *record.told(options), *["--more"] * options.more])


def main(arguments: Sequence[str] | None = None) -> int:
    options, started = arguments_of(arguments), time.perf_counter()
    found: dict[str, Any] = {
        "commit": record.git(ROOT, "rev-parse", "--short", "HEAD"), "threads": options.threads,
        "window_s": options.window, "limit_s": LIMIT, "tolerance": LOSS_TOLERANCE,
        "grid": estimator_tasks.POPULATION_GRID, "folds": estimator_tasks.FOLDS,
        **(populations(options) if wanted(options) else {"contenders": {}, "left out": {}, "tasks": []}),
    }  # fmt: skip
    if not options.only or SEARCH in options.only:
        found["search"] = search(options)
    seconds = time.perf_counter() - started
    if (before := record.earlier(RESULTS, options)) is not None:
        tasks = {task["name"]: task for task in [*before["tasks"], *found["tasks"]]}
        by_name = {part: before[part] | found[part] for part in ("contenders", "left out")}
        found = {"search": before.get("search"), **found, **by_name, "tasks": list(tasks.values())}
    print("\n" + population_report.text(found))
    record.keep(RESULTS, options, command(options), seconds, found, before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
