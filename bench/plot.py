"""Puts what was measured where people read it: python bench/plot.py

From the files of bench/results and nothing else it makes the plots compare.svg, tables.svg and population.svg there,
the tables of README.md, docs/performance.md, docs/performance-rows.md, docs/tables.md, docs/from-scikit-learn.md,
docs/populations.md and docs/distributed.md, each between two comments:

    <!-- compare: made by bench/plot.py -->  …  <!-- end of compare -->
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comparison import busy_report, estimator_report, mnist_seconds, population_report, summary
from comparison.peers import NUMPY_ALONE, ON_CPU, OUR_OWN, OURS
from comparison.summary import KINDS, Results, by_kind, geometric_mean, mean_ratio, median_of, times_as_fast
from comparison.tasks import MEASURED
from lib import scaling_report, table_report
from lib.growth_plots import STYLE
from lib.markdown import table as markdown_table
from lib.timing import ranged

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "compare.json"
PLOT = RESULTS.with_suffix(".svg")
PICTURE = PLOT.relative_to(ROOT).as_posix()
TABLES = RESULTS.with_name("tables.json")
POPULATION = RESULTS.with_name("population.json")
SCALING = RESULTS.with_name("scaling.json")

BEGIN, END = "<!-- {}: made by bench/plot.py -->", "<!-- end of {} -->"
"""The comments around a part of a text that is made here; {} is its name."""

COLUMNS = {
    "PyTorch": summary.PYTORCH,
    "JAX": tuple(name for name in ON_CPU if name.startswith("JAX")),
    "scikit-learn": ("scikit-learn, partial_fit",),
    "Keras": ("Keras, model.fit",),
    "onnxruntime": ("onnxruntime",),
    "the fastest": ON_CPU,
}
"""The columns of the table by kind: of several forms the faster one of each row counts."""

table = partial(markdown_table, numbers="---:")

COLOURS = dict(
    zip(
        ON_CPU, ("#f28e2b", "#e15759", "#76b7b2", "#4e79a7", "#b07aa1", "#59a14f", "#9c755f", "#edc948"), strict=True,
    )
)  # fmt: skip


# Text -----------------------------------------------------------------------------------------------------------------


def by_kinds(results: Results) -> str:
    """Makes the table of how many times as fast we are by the kind of row."""
    cells = [
        (named(kind, those), len(those), *(times_as_fast(mean_ratio(those, peers)) for peers in COLUMNS.values()),
         times_as_fast(min(row.ratio for row in those)), percent(geometric_mean([row.share for row in those])))
        for kind, those in by_kind(results, OURS).items()
    ]  # fmt: skip
    heads = ("times as fast as", "rows", *COLUMNS, "the least of the last", "products alone, of their cores' peak")
    return table(heads, cells)


def on_the_whole(results: Results) -> str:
    """Makes the table of how many times as fast we are over all rows, with kernels and without, and says where."""
    standings = [
        (ours, words, summary.Standing.of(those))
        for ours in OUR_OWN
        for words, those in summary.parts(results, ours).items()
    ]
    whole = [
        (f"{ours}: {words}", one.level, one.behind, *map(times_as_fast, (one.best, one.pytorch, one.jitted)))
        for ours, words, one in standings
    ]
    totals = ("on the whole", "rows at least level with the fastest", "rows behind it in every round",
              "times as fast as it", "as PyTorch's better form", "as JAX's jitted step")  # fmt: skip
    return f"{table(totals, whole)}\n\nOn {circumstances(results)}."


def named(kind: str, rows: Sequence[summary.Row]) -> str:
    """A kind in words; those that have none by their networks."""
    if KINDS[kind]:
        return KINDS[kind]
    networks = dict.fromkeys(line(row.task) for row in rows)
    return f"{kind} networks: {'; '.join(networks)}"


def performance(results: Results) -> str:
    """Makes what the page begins with, and which rows are below 1."""
    below = [
        f"- {line}"
        for part in summary.parts(results, OURS).items()
        for line in list(summary.summed_up(*part))[1:]
        if not line.startswith("Where")
    ]
    told = "Rows below 1:\n\n" + "\n".join(below) if below else "No row is below 1."
    picture = f"![How long each takes, in times of ours](../{PICTURE})"
    return "\n\n".join([by_kinds(results), picture, on_the_whole(results), told])


def every_row(results: Results) -> str:
    """Makes the page of all rows."""
    parts = [f"Measured on {circumstances(results)}; µs, medians of 5 to 7 rounds."]
    for way in MEASURED:
        tasks = [task for task in results["contests"] if way in task]
        timed = {name for task in tasks for name in task[way]["us"]}
        if not tasks:
            continue
        names = [name for name in (*OUR_OWN, *ON_CPU) if name in timed]
        heads = (
            "", *names, "products alone", "of their cores' peak", "times the fastest peer",
            f"the same, {NUMPY_ALONE.partition(', ')[2]}",
        )  # fmt: skip
        cells = [
            (c["name"], *(median_of(c[way]["us"].get(n)) for n in names), median_of(c.get("floor_us")),
             percent(c.get("share of the peak", math.nan)), *(best(c, way, ours) for ours in OUR_OWN))
            for c in tasks
        ]  # fmt: skip
        parts += [f"## {way[0].upper()}{way[1:]}, µs a {summary.unit(way)}", table(heads, cells)]
    parts.append("## On the whole, and rows below 1")
    parts += ["\n".join(f"- {line}" for line in lines) for lines in summary.summaries(results)]
    parts.append(summary.disturbances(results))
    refused = [f"- {c['name']}: {name}: {why}" for c in results["contests"] for name, why in c["not timed"].items()]
    parts += ["Not timed:\n\n" + "\n".join(refused)] if refused else []
    parts += [f"Left out: {name}: {why}." for name, why in results["left out"].items()]
    return "\n\n".join(parts)


def mnist(results: Results) -> str:
    """Makes the table of seconds on MNIST."""
    goals = results["seconds to"]
    heads = ("", *(f"seconds to {goal} (epochs)" for goal in goals), "seconds an epoch", "a fit, µs a step")
    fit = {name: us for task in results["contests"] for name, us in task["fit"]["us"].items()}
    cells = [
        (name, *(mnist_seconds.reached(goals[g][name]) for g in goals), ranged(an_epoch), median_of(fit.get(name)))
        for name, an_epoch in results["seconds an epoch"].items()
    ]
    how = f"{results['network']}, {results['activation']}, {results['optimizer']}, B {results['batch']}"
    seeds = f"medians of {len(results['seeds'])} seeds, on {circumstances(results)}"
    return "\n\n".join([table(heads, cells), f"{how}; {seeds}."])


def best(task: Results, way: str, ours: str) -> str:
    """Formats how many times as fast as the fastest peer it is, from the least to the most of the rounds."""
    row = next(iter(summary.rows({"contests": [task]}, ours, way)), None)
    if row is None:
        return "-"
    return ranged(task[way]["others / ours"][ours][row.best])


def circumstances(results: Results) -> str:
    threads = f"{results['threads']} thread{'s' * (results['threads'] != 1)}"
    versions = sorted({version for name, version in results["contenders"].items() if name in ON_CPU})
    ours = sorted({v for name, v in results["contenders"].items() if name not in ON_CPU})
    return (
        f"{results['processor']}, {threads}, {results['system']}, Python {results['versions']['python']}, NumPy "
        f"{results['versions']['numpy']}, {', '.join((*versions, *ours))} ({results['date']})"
    )


def percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.0%}"


def number(us: float) -> str:
    return f"{us:,.{0 if us >= 100 else 1}f}"


def levers(results: Results) -> str:
    """Makes the table of bench/levers.py."""
    heads = ("lever", "predicted: times as fast", "before, µs", "after, µs", "found")
    rows = table(heads, [
        (row["lever"], row["predicted"], *(median_of(row[name]) for name in ("before_us", "after_us")),
         between(row["times as fast"]))
        for row in results["levers"]
    ])  # fmt: skip
    first = "The first network, 784-128-10 with Adam, and its first step, where nothing is compiled yet"
    return f"{rows}\n\n{first}: {between(results['first network, s'])} s."


def products(results: Results) -> str:
    """Makes the tables of bench/blas.py, by dtype: the time of each library, and its share of the peak."""
    found = {dtype: results[key] for dtype, key in (("float32", "products"), ("float64", "float64")) if key in results}
    names = [name for name, row in next(iter(found["float32"].values())).items() if isinstance(row, dict)]
    cells = [
        (f"{network.partition(',')[0]}, B {row['batch']:,}, {dtype}", *(_with_share(row[name]) for name in names))
        for dtype, rows in found.items()
        for network, row in rows.items()
    ]
    fastest = [
        max(row[name]["times as fast as NumPy"] for name in names if name.startswith("MKL"))
        for row in results["products"].values()
        if any(name.startswith("MKL") for name in names)
    ]
    said = f"MKL's best form is {min(fastest):.2f} to {max(fastest):.2f} times as fast as NumPy." if fastest else ""
    heads = ("", *(f"{name}, µs" for name in names))
    about = f"MKL {results['mkl']}, {results['threads']} threads, medians of {results['rounds']} rounds."
    return "\n\n".join([table(heads, cells), f"{said} {about}".strip()])


def _with_share(row: Results) -> str:
    share = row.get("share of the peak")
    return number(row["microseconds"]) + (f" ({share:.0%})" if share else "")


def denormals(results: Results) -> str:
    """Makes the table of bench/denormals.py."""
    heads = ("", "normal, µs", "denormal, µs", "times as long")
    return table(heads, [
        (row["what"], median_of(row["normal_us"]), median_of(row["denormal_us"]), between(row["denormal / normal"]))
        for row in results["rows"]
    ])  # fmt: skip


def growth(results: Results) -> str:
    """Lists what is paid once and the memory of a step, from bench/growth.py."""
    importing, building, points = results["importing"], results["building"], results["memory"]["points"]
    rest, most = max(point["own"] for point in points), max(point["while running"] for point in points)
    return "\n".join(
        [
            f"- Importing the package takes {median_of(importing['beyond_numpy_ms'])} ms beyond NumPy's own "
            f"{median_of(importing['numpy_ms'])} (bound: {importing['bound_ms']}).",
            f"- The first step of {building['network'].count('-')} layers, in a fresh process, takes "
            f"{median_of(building['first_step_ms'])} ms (bound: {building['bound_ms']}), of which the plan is "
            f"{median_of(building['plan_ms'])}.",
            "- What a step allocates when it is built is what its plan says and, for the records of its calls, at most "
            f"{rest:,} bytes more ({len(points)} kinds of steps); while it runs, at most {most:,} bytes, which are "
            "Python's own.",
        ]
    )


def between(spread: Results) -> str:
    median, _, bounds = ranged(spread).partition(" ")
    return f"**{median}** {bounds}"


def put(text: str, name: str, made: str) -> str:
    """A text with what was made between the two comments of that name.

    Raises:
        ValueError: it does not have them.
    """
    begin, end = BEGIN.format(name), END.format(name)
    around = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if len(around.findall(text)) != 1:
        raise ValueError(f"it needs the comments {begin} and {end}, once")
    return around.sub(lambda _: f"{begin}\n\n{made}\n\n{end}", text)


# Plot -----------------------------------------------------------------------------------------------------------------


def draw(results: Results, path: Path) -> None:
    """Plots the time of each peer over ours: a line a kind of task, a point a row."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        _draw(results).savefig(path, metadata={"Date": None})


def _draw(results: Results) -> Figure:
    from matplotlib.figure import Figure

    kinds = by_kind(results, OURS)
    figure = Figure(figsize=(9, 0.9 + 0.45 * len(kinds)), layout="constrained")
    axes = figure.subplots()
    for k, peer in enumerate(ON_CPU):
        points = [
            (row.ratios[peer], y) for y, those in enumerate(kinds.values()) for row in those if peer in row.ratios
        ]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, [at + 0.09 * (k - 3.5) for at in y], "o", ms=3, color=COLOURS[peer], label=peer)
    fastest = [mean_ratio(those, ON_CPU) for those in kinds.values()]
    axes.plot(fastest, range(len(kinds)), "D", ms=6, mfc="none", color="black", label="the fastest, geometric mean")
    axes.axvline(1, color="black", lw=1)
    axes.set_xscale("log")
    axes.set_xlabel("its time / ours", fontsize=8)
    axes.set_yticks(range(len(kinds)), [KINDS[kind] or f"{kind} networks" for kind in kinds])
    axes.tick_params(labelsize=7)
    axes.grid(axis="x", which="both", lw=0.3)
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    return figure


def line(task: Results) -> str:
    layers = task["network"].split("-")
    short = task["network"] if len(layers) < 6 else f"{layers[0]}-{layers[1]}-…-{layers[-1]}"
    return f"{short}, B {task['batch']:,}"


def read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def compared() -> dict[str, Any] | None:
    """Reads what bench/compare.py has measured, its task on MNIST last."""
    if (results := read(RESULTS)) is not None and (mnist := read(mnist_seconds.RESULTS)) is not None:
        results["contests"] += mnist["contests"]
    return results


def parts() -> Iterator[tuple[Path, str, str]]:
    """Makes each part: its file, its name, and its text."""
    page, results = ROOT / "docs" / "performance.md", compared()
    if results is not None:
        yield ROOT / "README.md", "compare", f"{by_kinds(results)}\n\nOn {circumstances(results)}."
        yield page, "compare", performance(results)
        yield page.with_name("performance-rows.md"), "rows", every_row(results)
    if (one := read(mnist_seconds.RESULTS)) is not None:
        yield page, "mnist", mnist(one)
    for name, file, make in (
        ("levers", "levers", levers), ("products", "blas", products), ("denormals", "denormals", denormals),
        ("growth", "growth", growth), ("busy machine", "busy_machine", busy_report.page),
    ):  # fmt: skip
        if (one := read(RESULTS.with_name(f"{file}.json"))) is not None:
            yield page, name, make(one)
    if (one := read(TABLES)) is not None:
        yield ROOT / "docs" / "tables.md", "tables", table_report.page(one)
    if (one := read(RESULTS.with_name("estimators.json"))) is not None:
        yield ROOT / "docs" / "from-scikit-learn.md", "estimators", estimator_report.page(one)
    if (one := read(POPULATION)) is not None:
        yield ROOT / "docs" / "populations.md", "population", population_report.page(one)
    if (one := read(SCALING)) is not None:
        yield ROOT / "docs" / "distributed.md", "scaling", scaling_report.page(one)
        yield ROOT / "docs" / "distributed.md", "scaling model", scaling_report.model(one)


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()  # it takes none, and says so
    if (results := compared()) is None:
        print(f"plot.py: {RESULTS.relative_to(ROOT)} is not there: run python bench/compare.py", file=sys.stderr)
        return 1
    draw(results, PLOT)
    if (tables := read(TABLES)) is not None:
        table_report.draw(tables["tables"], tables["splits"], TABLES.with_suffix(".svg"))
    if (population := read(POPULATION)) is not None:
        population_report.draw(population, POPULATION.with_suffix(".svg"))
    for path, name, made in parts():
        try:
            text = put(path.read_text(encoding="utf-8"), name, made)
        except (OSError, ValueError) as error:
            print(f"plot.py: {path.relative_to(ROOT)}: {error}", file=sys.stderr)
            return 1
        path.write_text(text, encoding="utf-8")
        print(f"written to {path.relative_to(ROOT)}: {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
