"""What bench/tables.py found, in Markdown, and the plot of the ranks; from its JSON alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from lib.growth_plots import STYLE
from lib.markdown import table as markdown_table
from lib.real_tables import find
from lib.table_learners import BOOSTING, ENSEMBLE, OURS, REALMLP, SCIKIT_LEARN
from lib.table_scores import SHIFT, holm, mean_ranks, ranks, shifted_mean, signed_rank

MEASURES = {
    "error": "error", "log_loss": "log loss", "calibration": "calibration error", "rmse": "RMSE/σ", "loss": "loss",
    "seconds": "seconds",
}  # fmt: skip
"""The figures of a learner; "loss" is the log loss of classes and RMSE/σ of quantities, which all tables have."""

Means = dict[str, dict[str, dict[str, float]]]
"""table → learner → measure → mean over the splits."""

Rows = dict[str, list[float]]

table = partial(markdown_table, numbers="---:")


def means(measured: dict[str, Any], splits: int) -> Means:
    """Averages over the splits; a learner that lacks one of them on a table is left out there, and a table without
    any as well."""
    seeds = [str(seed) for seed in range(splits)]
    found = {
        name: {
            learner: _mean([figures[seed] for seed in seeds])
            for learner, figures in learners.items()
            if all(seed in figures for seed in seeds)
        }
        for name, learners in measured.items()
    }
    return {name: of_table for name, of_table in found.items() if of_table}


def _mean(splits: list[dict[str, float]]) -> dict[str, float]:
    mean = {measure: fmean(split[measure] for split in splits) for measure in splits[0]}
    return mean | {"loss": mean["rmse"] if "rmse" in mean else mean["log_loss"]}


def learners_of(found: Means) -> list[str]:
    """Names the learners, ours first."""
    names = dict.fromkeys(learner for of_table in found.values() for learner in of_table)
    return sorted(names, key=lambda name: not name.startswith("ours"))


def of_both(found: Means, measure: str, *learners: str) -> Rows:
    """Returns a measure of some learners, of the tables where all of them have it."""
    tables = [one for one in found.values() if all(measure in one.get(learner, ()) for learner in learners)]
    return {learner: [one[learner][measure] for one in tables] for learner in learners}


def every_table(found: Means) -> str:
    """Makes the table of all figures: of classes the log loss and the error, of quantities RMSE/σ."""
    names = learners_of(found)
    cells = []
    for name, of_table in found.items():
        least = min(figures["loss"] for figures in of_table.values())
        row = [name]
        for learner in names:
            figures = of_table.get(learner)
            if figures is None:
                row.append("-")
                continue
            loss = f"{figures['loss']:.3f}"
            error = f" ({100 * figures['error']:.1f} %)" if find(name).classes else ""
            row.append((f"**{loss}**" if figures["loss"] == least else loss) + error)
        cells.append(row)
    return table(("log loss (error), or RMSE/σ", *names), cells)


def ratios(found: Means) -> str:
    """Makes the table of ours over each other learner, and of other settings of ours over ours."""
    names = learners_of(found)
    lines: list[tuple[str, ...]] = []
    for place, ours in enumerate(name for name in names if name.startswith("ours")):
        lines += _over(found, [(ours, other) for other in names[place + 1 :]])
    return table(HEADS, lines)


HEADS = ("", *MEASURES.values(), "less loss on", "p, Holm", "most loss")


def _over(found: Means, pairs: list[tuple[str, str]]) -> Iterator[tuple[str, ...]]:
    """Yields of each pair the ratios of the shifted geometric means, wins, the p-value, and the worst table."""
    losses = {pair: of_both(found, "loss", *pair) for pair in pairs}
    losses = {pair: both for pair, both in losses.items() if both[pair[0]]}
    p = holm({pair: signed_rank(both[pair[0]], both[pair[1]]) for pair, both in losses.items()})
    for (ours, other), both in losses.items():
        wins = sum(a < b for a, b in zip(both[ours], both[other], strict=True))
        worst, most = max(_each(found, ours, other), key=lambda one: one[1])
        yield (
            f"{ours} / {other}", *(_ratio(found, measure, ours, other) for measure in MEASURES),
            f"{wins} of {len(both[ours])}", f"{p[ours, other]:.3f}", f"{most:.2f} ({worst})",
        )  # fmt: skip


def _ratio(found: Means, measure: str, ours: str, other: str) -> str:
    both = of_both(found, measure, ours, other)
    return f"{shifted_mean(both[ours]) / shifted_mean(both[other]):.3f}" if both[ours] else "-"


def _each(found: Means, ours: str, other: str) -> Iterator[tuple[str, float]]:
    """Yields of each table how many times the loss of another one ours is."""
    for name, of_table in found.items():
        if ours in of_table and other in of_table:
            yield name, (of_table[ours]["loss"] + SHIFT) / (of_table[other]["loss"] + SHIFT)


def places(found: Means) -> str:
    """Makes the table of mean ranks and of times."""
    names = learners_of(found)
    rows = {measure: of_both(found, measure, *names) for measure in MEASURES if measure != "seconds"}
    cells = []
    by_measure = {measure: mean_ranks(values) for measure, values in rows.items() if any(values.values())}
    for name in names:
        times = of_both(found, "seconds", name)[name]
        cells.append((name, *(f"{one[name]:.2f}" for one in by_measure.values()),
                      f"{shifted_mean(times):.2f}", f"{sum(times):.1f}"))  # fmt: skip
    heads = ("mean rank by", *(MEASURES[measure] for measure in by_measure), "seconds, geometric mean", "all tables")
    return table(heads, cells)


def text(measured: dict[str, Any], splits: int) -> str:
    """Makes what the terminal shows: every table, ours over the others, and the ranks."""
    found = means(measured, splits)
    return "\n\n".join([every_table(found), ratios(found), places(found)])


GOALS = (
    (OURS, REALMLP, "error", 1.00), (OURS, REALMLP, "log_loss", 0.88), (OURS, REALMLP, "rmse", 1.00),
    (OURS, REALMLP, "seconds", 0.5),
    (ENSEMBLE, REALMLP, "error", 0.96), (ENSEMBLE, REALMLP, "log_loss", 0.82), (ENSEMBLE, REALMLP, "rmse", 0.96),
    (ENSEMBLE, REALMLP, "seconds", 4.0),
    (OURS, SCIKIT_LEARN, "log_loss", 0.85), (OURS, SCIKIT_LEARN, "rmse", 0.85), (OURS, BOOSTING, "log_loss", 1.00),
)  # fmt: skip
"""Ours, another, a measure, and what their ratio should be at most."""


def goals(found: Means) -> str:
    """Makes the table of what was aimed at."""
    cells = []
    for ours, other, measure, most in GOALS:
        both = of_both(found, measure, ours, other)
        if both[ours]:
            ratio = shifted_mean(both[ours]) / shifted_mean(both[other])
            cells.append((f"{ours} / {other}", MEASURES[measure], f"{most:.2f}", f"{ratio:.3f}", _met(ratio <= most)))
    if wins := list(_each(found, OURS, BOOSTING)):
        share = sum(ratio < 1 for _, ratio in wins) / len(wins)
        cells.append((f"{OURS} / {BOOSTING}", "less loss on", "half of them", f"{share:.0%}", _met(share >= 0.5)))
    if worst := list(_each(found, OURS, SCIKIT_LEARN)):
        name, most = max(worst, key=lambda one: one[1])
        cells.append((f"{OURS} / {SCIKIT_LEARN}", "loss of any", "1.05", f"{most:.2f} ({name})", _met(most <= 1.05)))
    return table(("", "", "at most", "found", ""), cells)


def _met(met: bool) -> str:
    return "met" if met else "missed"


def page(results: dict[str, Any]) -> str:
    """Makes the part of docs/tables.md: the goals, ours over the others, the ranks, every table, and where."""
    found, versions = means(results["tables"], results["splits"]), results["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in results["peers"].items())
    where = (
        f"Measured on {results['processor']}, {results['threads']} threads, {results['system']}, Python "
        f"{versions['python']}, NumPy {versions['numpy']}, {packages} ({results['date']}); means of "
        f"{results['splits']} splits."
    )
    plot = "![The rank of each learner on each table, and its mean](../bench/results/tables.svg)"
    return "\n\n".join([where, goals(found), ratios(found), plot, places(found), every_table(found)])


def draw(measured: dict[str, Any], splits: int, path: Path) -> None:
    """Plots each learner's rank by loss: a small point for each table, a large one for the mean."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    found = means(measured, splits)
    values = of_both(found, "loss", *learners_of(found))
    of_table, mean = ranks(values), mean_ranks(values)
    names = sorted(mean, key=mean.__getitem__)
    with mpl.rc_context(STYLE):
        figure = Figure((6, 0.5 + 0.4 * len(names)), layout="constrained")
        axes = figure.add_subplot()
        for at, name in enumerate(names):
            colour = "#e15759" if name.startswith("ours") else "#4e79a7"
            axes.plot(of_table[name], [at] * len(of_table[name]), "o", ms=9, color=colour, alpha=0.12, mew=0)
            axes.plot(mean[name], at, "o", ms=6, color=colour)
            axes.annotate(f"{mean[name]:.2f}", (mean[name], at), (0, 6), textcoords="offset points", ha="center")
        axes.set(yticks=range(len(names)), yticklabels=names, xticks=range(1, len(names) + 1))
        axes.set_xlabel("rank by log loss or RMSE/σ; 1 is the best of a table")
        axes.invert_yaxis()
        axes.grid(axis="x", lw=0.3)
        figure.savefig(path, metadata={"Date": None})
