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
    from lib.table_learners import OTHER, installed, with_words

    started = time.perf_counter()
    tables = MADE_UP if options.quick else CHOOSING if options.choose else FINAL
    words = tuple(word for key, value in options.set for word in (f"--{key.replace('_', '-')}", value))
    learners = installed()
    if words:
        learners = {OTHER: with_words(*words), **learners}
    chosen = [OTHER] if words else [name for name in learners if options.only is None or name in options.only]
    splits = 1 if options.quick else options.splits
    store = options.store or STORES / (
        "quick.json" if options.quick else "choose.json" if options.choose else "final.json"
    )
    measured: Measured = {} if options.quick or not store.exists() else json.loads(store.read_text(encoding="utf-8"))
    for table in options.tables or tables:
        for seed in range(splits):
            for name in chosen:
                if options.missing and str(seed) in measured.get(table, {}).get(name, {}):
                    continue
                figures = measure(table, seed, learners[name], options.threads)
                measured.setdefault(table, {}).setdefault(name, {})[str(seed)] = figures
                told = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
                print(f"{table}, split {seed}, {name}: {told}", file=sys.stderr, flush=True)
                if name != OTHER:  # other settings are tried, and not kept
                    store.parent.mkdir(parents=True, exist_ok=True)
                    store.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    print(table_report.text({name: measured[name] for name in options.tables or tables if name in measured}, splits))
    if not (options.quick or options.choose or options.tables or options.only or options.set):
        seconds = time.perf_counter() - started
        facts = {"threads": options.threads, "splits": splits, "tables": measured}
        record.write(RESULTS, "python bench/tables.py", seconds, facts)
    return 0


def measure(name: str, seed: int, learner: Any, threads: int) -> dict[str, float]:
    """Lets a learner learn one split, and returns its figures; the time is from the files to the predictions."""
    from lib.real_tables import find, split
    from lib.table_learners import quietly
    from lib.table_scores import score

    with tempfile.TemporaryDirectory() as folder:
        files = split(name, seed, Path(folder))
        started = time.perf_counter()
        predicted = quietly(learner, find(name), files, seed, threads)
        seconds = time.perf_counter() - started
    return {**score(predicted, files.y, files.classes), "seconds": seconds}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", action="store_true", help="the tables for choosing settings")
    parser.add_argument("--quick", action="store_true", help="two tiny tables, one split, whatever is installed")
    parser.add_argument("--splits", type=int, default=5, metavar="N")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--tables", nargs="+", metavar="NAME", help="only these tables")
    parser.add_argument("--only", nargs="+", metavar="LEARNER", help="measure these; the others come from the store")
    parser.add_argument("--missing", action="store_true", help="measure only what is not in the store")
    parser.add_argument("--set", action="append", default=[], type=_setting, metavar="KEY=VALUE",
                        help="an option of gpu-backprop train for ours; nothing of it is kept")  # fmt: skip
    parser.add_argument("--store", type=Path, metavar="FILE")
    return parser.parse_args()


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text} is no KEY=VALUE, such as learning_rate=0.01")
    return key, value


if __name__ == "__main__":
    sys.exit(main())
