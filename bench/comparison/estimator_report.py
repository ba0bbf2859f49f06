"""What bench/estimators.py found, in Markdown; from its JSON alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from lib.markdown import table as markdown_table
from lib.table_scores import holm
from lib.timing import ranged

from comparison.estimator_tasks import DTYPES, FIT, GOAL, OURS, SEARCHES, THEIRS

FASTER, SEARCHES_FASTER = 2.0, 3.0
"""How many times as fast fits are to be in the geometric mean, and each search."""

LEAST_P = 0.05
"""A p-value below it, corrected for the number of tables, is a difference beyond noise."""

Results = dict[str, Any]
table = partial(markdown_table, numbers="---:")


def compared(ours: Sequence[float], theirs: Sequence[float]) -> Results:
    """Compares scores of the same seeds: means, standard deviations, the mean difference, its standard error, and the
    p-value of the paired t-test."""
    from scipy.stats import ttest_1samp

    apart = np.subtract(ours, theirs)
    return {
        "mean": {OURS: statistics.fmean(ours), THEIRS: statistics.fmean(theirs)},
        "deviation": {OURS: statistics.stdev(ours), THEIRS: statistics.stdev(theirs)},
        "difference": float(apart.mean()),
        "standard error": float(apart.std(ddof=1) / len(apart) ** 0.5),
        "p": float(ttest_1samp(apart, 0.0).pvalue) if apart.any() else 1.0,
    }


def line(task: Results) -> str:
    """Tells one task."""
    if "times as fast" not in task:
        return f"{task['name']}: not timed: " + "; ".join(f"{name}: {why}" for name, why in task["not timed"].items())
    ms = ", ".join(f"{name} {spread['median']:,.1f} ms" for name, spread in task["ms"].items())
    return f"{task['name']}: {ranged(task['times as fast'])} times as fast ({ms})"


def score_line(one: Results) -> str:
    return f"{one['table']}, {one['dtype']}: scores {', '.join(_scores(one))}, p {one['p']:.2f}"


def goals(results: Results) -> str:
    """Makes the table of what was aimed at."""
    return table(("", "aimed at", "found", ""), _goals(results))


def _goals(results: Results) -> Iterator[tuple[str, str, str, str]]:
    ratios = {task["name"]: task["times as fast"]["median"] for task in results["tasks"] if "times as fast" in task}
    kinds = {task["name"]: task for task in results["tasks"]}
    fits = [ratio for name, ratio in ratios.items() if kinds[name]["way"] == FIT and kinds[name]["table"] in GOAL]
    if fits:
        mean = statistics.geometric_mean(fits)
        yield "fit, times as fast in the geometric mean", f"≥ {FASTER:g}", f"{mean:.2f}", _met(mean >= FASTER)
    for way in SEARCHES:
        found = [ratio for name, ratio in ratios.items() if kinds[name]["way"] == way]
        if found:
            low, high = min(found), max(found)
            yield (
                f"{way}, times as fast", f"≥ {SEARCHES_FASTER:g}", f"{low:.2f} to {high:.2f}",
                _met(low >= SEARCHES_FASTER),
            )  # fmt: skip
    if ratios:
        name = min(ratios, key=ratios.__getitem__)
        yield "the slowest of all rows, times as fast", "≥ 1", f"{ratios[name]:.2f} ({name})", _met(ratios[name] >= 1)
    if results["accuracy"]:
        p = holm({f"{one['table']}, {one['dtype']}": one["p"] for one in results["accuracy"]})
        name = min(p, key=p.__getitem__)
        yield (
            "scores apart, least p of the paired t-tests, Holm", f"≥ {LEAST_P:g}", f"{p[name]:.2f} ({name})",
            _met(p[name] >= LEAST_P),
        )  # fmt: skip


def _met(met: bool) -> str:
    return "met" if met else "missed"


def times(results: Results) -> str:
    """Makes the table of all times: a row for each table and way, and three columns for each dtype."""
    by = {(task["table"], task["way"], task["dtype"]): task for task in results["tasks"]}
    heads = ("", *(head for dtype in DTYPES for head in (f"{dtype}: ours, ms", f"{THEIRS}, ms", "times as fast")))
    cells = []
    for name, way in dict.fromkeys((name, way) for name, way, _ in by):
        row = [f"{name}: {way}"]
        for dtype in DTYPES:
            task = by.get((name, way, dtype), {})
            if "times as fast" in task:
                ms = (f"{task['ms'][who]['median']:,.{1 if task['ms'][who]['median'] < 100 else 0}f}"
                      for who in (OURS, THEIRS))  # fmt: skip
                row += [*ms, ranged(task["times as fast"])]
            else:
                row += ["-"] * 3
        cells.append(row)
    return table(heads, cells)


def accuracies(results: Results) -> str:
    """Makes the table of scores, iterations and seconds."""
    heads = (
        "", "seeds", f"score, {OURS}", THEIRS, "difference", "p", f"iterations, {OURS}", THEIRS, f"seconds, {OURS}",
        THEIRS,
    )  # fmt: skip
    cells = []
    for one in results["accuracy"]:
        means = [
            f"{statistics.fmean(run[what] for run in one['runs'][who]):.{digits}f}"
            for what, digits in (("iterations", 1), ("seconds", 2)) for who in (OURS, THEIRS)
        ]  # fmt: skip
        difference = f"{one['difference']:+.4f} ± {one['standard error']:.4f}"
        cells.append((f"{one['table']}, {one['dtype']}", one["seeds"], *_scores(one), difference, f"{one['p']:.2f}",
                      *means))  # fmt: skip
    return table(heads, cells)


def _scores(one: Results) -> list[str]:
    return [f"{one['mean'][who]:.4f} ± {one['deviation'][who]:.4f}" for who in (OURS, THEIRS)]


def not_timed(results: Results) -> list[str]:
    left = [f"- {line(task)}" for task in results["tasks"] if "times as fast" not in task]
    return ["\n".join(["Not timed:", "", *left])] if left else []


def text(results: Results) -> str:
    """Makes what the terminal shows."""
    parts = [goals(results), times(results) if results["tasks"] else "", *not_timed(results)]
    return "\n\n".join(filter(None, [*parts, accuracies(results) if results["accuracy"] else ""]))


def page(results: Results) -> str:
    """Makes the part of docs/from-scikit-learn.md: where, the goals, the times, the scores."""
    repeated, disturbed = (
        sum(task.get("rounds", {}).get(what, 0) for task in results["tasks"]) for what in ("repeated", "disturbed")
    )
    where = (
        f"Measured on {results['processor']}, {results['threads']} threads, {results['system']}, Python "
        f"{results['versions']['python']}, NumPy {results['versions']['numpy']}, scikit-learn "
        f"{results['contenders'][THEIRS]} ({results['date']}); medians of {results['rounds']} rounds, from the least "
        f"to the most. Something else was at work in {repeated} rounds, which were repeated, and in {disturbed} that "
        "stay."
    )
    scores = (
        "Scores on a quarter of the rows, mean ± standard deviation over seeds, each of which splits the rows and "
        "begins the network for both alike; R² of the regression. The limit of the iterations is the default, 200, on "
        "the two small tables, and 10 on the others. p is that of the paired t-test."
    )
    return "\n\n".join([where, goals(results), times(results), *not_timed(results), scores, accuracies(results)])
