"""What bench/population.py found, in Markdown and drawn; from its JSON alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.growth_plots import STYLE
from lib.markdown import table as markdown_table
from lib.timing import in_line, ranged

from comparison import estimator_report
from comparison.estimator_tasks import OURS as OUR_ESTIMATORS
from comparison.estimator_tasks import THEIRS
from comparison.peers import POPULATIONS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OURS, SOLO, PYTORCH, JAX = POPULATIONS
COLOURS = dict(zip(POPULATIONS, ("#000000", "#b07aa1", "#f28e2b", "#76b7b2"), strict=True))

AT = 64
"""The number of members of the goals."""

MOST_US = {"8-32-32-2": 6.0, "64-64-64-10": 15.0}
TIMES_JAX = {"8-32-32-2": 3.0, "64-64-64-10": 3.0, "30-256-256-1": 1.0}
LEAST_MEMBERS, SEARCH_FASTER = 4, 10.0
"""From how many members on no solo loop is to be faster, and how many times as fast the search is to be."""

Results = dict[str, Any]
table = partial(markdown_table, numbers="---:")


def line(task: Results) -> str:
    """Tells one task."""
    return in_line(task, f"{task['name']}: µs a model-step", 1)


def search_line(found: Results) -> str:
    """Tells the search: how fast, how good, and what was chosen."""
    if "times as fast" not in found:
        return estimator_report.line(found)
    ours, theirs = (found["work"][name] for name in (OUR_ESTIMATORS, THEIRS))
    there = theirs["scores"][ours["best_index"]]
    chosen = "they choose the same candidate"
    if ours["best"] != theirs["best"]:
        chosen = (
            f"they choose other candidates: scikit-learn's is {_told(theirs['best'])}, and of ours, "
            f"{_told(ours['best'])}, it says {there:.4f}"
        )
    means = " and ".join(f"{sum(one['scores']) / len(one['scores']):.4f}" for one in (ours, theirs))
    best = " and ".join(f"{max(one['scores']):.4f}" for one in (ours, theirs))
    return (
        f"{estimator_report.line(found)}. The mean score of all candidates is {means}, that of the best {best}, ours "
        f"first; {chosen}."
    )


def _told(parameters: Results) -> str:
    return ", ".join(f"{name} {value}" for name, value in parameters.items())


def goals(results: Results) -> str:
    """Makes the table of what was aimed at."""
    rows = ((what, aimed, found, "met" if met else "missed") for what, aimed, found, met in _goals(results))
    return table(("", "aimed at", "found", ""), rows)


def _goals(results: Results) -> Iterator[tuple[str, str, str, bool]]:
    at = {task["network"]: task for task in results["tasks"] if task["members"] == AT and OURS in task["us"]}
    for network, most in MOST_US.items():
        if network in at:
            us = at[network]["us"][OURS]["median"]
            yield f"{network}, M {AT}, µs a model-step", f"≤ {most:g}", f"{us:,.1f}", us <= most
    for network, least in TIMES_JAX.items():
        if network in at and JAX in (ratios := at[network]["others / ours"]):
            ratio = ratios[JAX]["median"]
            yield f"{network}, M {AT}, times as fast as jax.vmap", f"≥ {least:g}", f"{ratio:.2f}", ratio >= least
    solo = {
        task["name"]: task["others / ours"][SOLO]["median"]
        for task in results["tasks"] if task["members"] >= LEAST_MEMBERS and SOLO in task["others / ours"]
    }  # fmt: skip
    if solo:
        name = min(solo, key=solo.__getitem__)
        least = f"{solo[name]:.2f} ({name})"
        yield f"from M {LEAST_MEMBERS} on, times as fast as our solo loop", "≥ 1", least, solo[name] >= 1
    if "times as fast" in (results.get("search") or {}):
        ratio = results["search"]["times as fast"]["median"]
        yield "search of 60 candidates, times as fast", f"≥ {SEARCH_FASTER:g}", f"{ratio:.1f}", ratio >= SEARCH_FASTER


def times(results: Results) -> str:
    """Makes the table of all times, a row for each network and M."""
    names = [name for name in POPULATIONS if name not in results["left out"]]
    peers = [name for name in names if name != OURS]
    heads = ("", *(f"{name}, µs" for name in names), *(f"times as fast as {name}" for name in peers))
    return table(heads, [
        (task["name"], *(f"{task['us'][name]['median']:,.1f}" if name in task["us"] else "-" for name in names),
         *(ranged(task["others / ours"][name]) if name in task["others / ours"] else "-" for name in peers))
        for task in results["tasks"]
    ])  # fmt: skip


def not_timed(results: Results) -> list[str]:
    """Lists who was not timed where, and why."""
    left = [f"- {task['name']}: {name}: {why}" for task in results["tasks"] for name, why in task["not timed"].items()]
    missing = [f"- {name}: {why}" for name, why in results["left out"].items()]
    return ["\n".join(["Not timed:", "", *missing, *left])] if missing or left else []


def text(results: Results) -> str:
    """Makes what the terminal shows."""
    search = [search_line(results["search"])] if results.get("search") else []
    timed = [times(results)] if results["tasks"] else []
    return "\n\n".join([goals(results), *timed, *not_timed(results), *search])


def page(results: Results) -> str:
    """Makes the part of docs/populations.md: where, the goals, the plot, the times, the search."""
    versions = ", ".join(filter(None, results["contenders"].values()))
    rounds = [task["rounds"] for task in results["tasks"]]
    repeated, disturbed = (sum(one[what] for one in rounds) for what in ("repeated", "disturbed"))
    where = (
        f"Measured on {results['processor']}, {results['threads']} threads, {results['system']}, Python "
        f"{results['versions']['python']}, NumPy {results['versions']['numpy']}, {versions} ({results['date']}); µs a "
        f"model-step, medians of {max(one['measured'] for one in rounds)} rounds, of many members "
        f"{min(one['measured'] for one in rounds)}, and ratios from the least to the most. Something else was at work "
        f"in {repeated} rounds, which were repeated, and in {disturbed} that stay."
    )
    plot = "![Model-steps a second by the number of members](../bench/results/population.svg)"
    search = [f"**The search.** {search_line(results['search'])}"] if results.get("search") else []
    return "\n\n".join([where, goals(results), plot, times(results), *not_timed(results), *search])


def draw(results: Results, path: Path) -> None:
    """Plots the model-steps a second against M, a panel for each network."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        _draw(results).savefig(path, metadata={"Date": None})


def _draw(results: Results) -> Figure:
    from matplotlib.figure import Figure

    networks = list(dict.fromkeys((task["network"], task["batch"]) for task in results["tasks"]))
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, network in zip(figure.subplots(1, len(networks), squeeze=False)[0], networks, strict=True):
        tasks = [task for task in results["tasks"] if (task["network"], task["batch"]) == network]
        for name, colour in COLOURS.items():
            points = [(task["members"], 1e6 / task["us"][name]["median"]) for task in tasks if name in task["us"]]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", ms=3, lw=1.2, color=colour, label=name)
        axes.set(xscale="log", yscale="log", xlabel="members", title=f"{network[0]}, B {network[1]}")
        members = [task["members"] for task in tasks]
        axes.set_xticks(members, [f"{m:,}" for m in members], fontsize=7)
        axes.set_xticks([], minor=True)
        axes.grid(which="both", alpha=0.3, linewidth=0.5)
    figure.axes[0].set_ylabel("model-steps a second")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    return figure
