"""How good the network is that `gpu-backprop train TABLE` makes with nothing else, beside what others make.

Twelve tables are for choosing settings (--choose), twelve others for the figures that are published. Every learner gets
the same rows to learn from, four fifths, as a CSV file, and predicts the others; what it holds out of them is its own
business. All run with their defaults, one after another on each split, on the same number of threads.

    python bench/tables.py                            the final tables, everything; into bench/results/tables.json
    python bench/tables.py --choose --only ours --set learning_rate=0.01 --splits 2
    python bench/tables.py --quick                    two tiny tables, to show that all of it runs

What was measured is kept in a file (--store); learners that --only does not name are taken from there.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "tables.json"
STORES = ROOT / "runs" / "tables"

Measured = dict[str, dict[str, dict[str, dict[str, float]]]]
"""table → learner → split → figures."""


def main() -> int:
    options = _options()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # before any library is loaded
        os.environ[name] = str(options.threads)
    from lib import record, table_report
    from lib.real_tables import CHOOSING, FINAL, MADE_UP
    from lib.table_learners import OTHER, versions

    started = time.perf_counter()
    tables = options.tables or list(MADE_UP if options.quick else CHOOSING if options.choose else FINAL)
    learners, splits = _learners(options), 1 if options.quick else options.splits
    store = None if options.quick else options.store or STORES / ("choose.json" if options.choose else "final.json")
    measured = _kept(store) if store else {}
    if not (options.quick or options.choose):
        for name in MADE_UP:  # what is imported and compiled once counts nowhere
            for learner in learners.values():
                measure(name, 0, learner, options)
    for table in tables:
        for seed in range(splits):
            for name, learner in learners.items():
                of_learner = measured.setdefault(table, {}).setdefault(name, {})
                if options.missing and str(seed) in of_learner:
                    continue
                figures = of_learner[str(seed)] = measure(table, seed, learner, options)
                told = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
                print(f"{table}, split {seed}, {name}: {told}", file=sys.stderr, flush=True)
                if store is not None and name != OTHER:  # settings that are tried are not kept
                    _keep(store, table, name, seed, figures)
    measured = {name: measured[name] for name in tables}
    print(table_report.text(measured, splits))
    if tables == list(FINAL) and OTHER not in learners:
        facts = {"threads": options.threads, "rows": options.rows, "splits": splits, "peers": versions()}
        seconds = time.perf_counter() - started
        record.write(RESULTS, "python bench/tables.py", seconds, {**facts, "tables": measured})
    return 0


def _learners(options: argparse.Namespace) -> dict[str, Any]:
    """Returns what is measured."""
    from lib.table_learners import OTHER, installed, with_words

    words = [*shlex.split(options.words), *(word for entry in options.set for word in ("--set", entry))]
    if words:
        return {OTHER: with_words(*words)}
    learners = installed(*(["--epochs", "20"] if options.quick else []))
    if unknown := set(options.only or ()) - set(learners):
        sys.exit(f"tables.py: no {', '.join(sorted(unknown))} here; there are {', '.join(learners)}")
    return {name: learners[name] for name in options.only or learners}


def measure(name: str, seed: int, learner: Any, options: argparse.Namespace) -> dict[str, float]:
    """Lets a learner learn one split, and returns its figures; the time is from the files to the predictions."""
    from lib.real_tables import find, split
    from lib.table_learners import quietly
    from lib.table_scores import score

    with tempfile.TemporaryDirectory() as folder:
        files = split(name, seed, Path(folder), options.rows)
        started = time.perf_counter()
        predicted = quietly(learner, find(name), files, seed, options.threads)
        seconds = time.perf_counter() - started
    return {**score(predicted, files.y, files.classes), "seconds": seconds}


def _kept(store: Path) -> Measured:
    return json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}


def _keep(store: Path, table: str, learner: str, seed: int, figures: dict[str, float]) -> None:
    """Adds figures to the file, which other processes may have changed meanwhile."""
    measured = _kept(store)
    measured.setdefault(table, {}).setdefault(learner, {})[str(seed)] = figures
    store.parent.mkdir(parents=True, exist_ok=True)
    new = store.with_suffix(".new")
    new.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    new.replace(store)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", action="store_true", help="the tables for choosing settings")
    parser.add_argument("--quick", action="store_true", help="two tiny tables, one split, whatever is installed")
    parser.add_argument("--splits", type=int, default=5, metavar="N")
    parser.add_argument("--rows", type=int, default=10_000, metavar="N", help="at most so many of a table")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--tables", nargs="+", metavar="NAME", help="only these tables")
    parser.add_argument("--only", nargs="+", metavar="LEARNER", help="measure these; the others come from the store")
    parser.add_argument("--missing", action="store_true", help="measure only what is not in the store")
    parser.add_argument("--set", action="append", default=[], metavar="ENTRY=VALUE",
                        help="ours alone, with another value of an entry of the recipe; it is not kept")  # fmt: skip
    parser.add_argument("--words", default="", help='more words of gpu-backprop train: --words="--recipe plain"')
    parser.add_argument("--store", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
