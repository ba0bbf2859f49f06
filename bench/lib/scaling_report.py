"""What bench/scaling.py found and what its model says, in Markdown; from its JSON alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from lib.markdown import table as markdown_table
from lib.timing import in_line, ranged

Results = dict[str, Any]
table = partial(markdown_table, numbers="---:")


def line(task: Results) -> str:
    """Tells one network."""
    return in_line(task, f"{task['network']}: µs a step")


def measured(results: Results) -> str:
    """Makes the table of what was measured: a row for each network, minibatch and number of ranks."""
    heads = (
        "", "µs a step", "compute", "sum", "waiting", "one rank / two", "one rank of half the rows / two"
    )  # fmt: skip
    return table(heads, [row for task in results["tasks"] for row in _rows(task)])


def _rows(task: Results) -> Iterator[tuple[str, ...]]:
    for name, us in task["us"].items():
        parts = (f"{task['parts'][name][part]['median']:,.0f}" for part in ("compute", "reduce", "waiting"))
        batch = name.partition(", ")[2]
        strong, weak = (
            ranged(task["one / two"][way]) if name.startswith("2") and way in task["one / two"] else ""
            for way in (f"strong, {batch}", f"weak, {batch}")
        )
        yield f"{task['network']}, {name}", f"{us['median']:,.0f}", *parts, strong, weak


def not_timed(results: Results) -> list[str]:
    """Lists what was not timed, and why."""
    left = [(task["network"], *one) for task in results["tasks"] for one in task["not timed"].items()]
    return ["\n".join(["Not timed:", "", *(f"- {': '.join(one)}" for one in left)])] if left else []


def text(results: Results) -> str:
    """Makes what the terminal shows."""
    timed = [measured(results)] if results["tasks"] else []
    told = [strong(results["model"]), weak(results["model"])] if results.get("model") else []
    return "\n\n".join([*timed, *not_timed(results), *told])


def page(results: Results) -> str:
    """Makes the part of docs/distributed.md of what was measured: where, and the times."""
    tasks = results["tasks"]
    repeated, disturbed = (sum(task["rounds"][what] for task in tasks) for what in ("repeated", "disturbed"))
    apart = max(value for task in tasks for value in task["apart"].values())
    where = (
        f"Measured on {results['processor']}, one thread a rank, {tasks[0]['mpi']}, {results['system']}, Python "
        f"{results['versions']['python']}, NumPy {results['versions']['numpy']}, gpu_backprop "
        f"{results['versions']['gpu_backprop']} ({results['date']}); {tasks[0]['dtype']}, Adam; medians of "
        f"{tasks[0]['rounds']['measured']} rounds, and ratios from the least to the most. Something else was at work "
        f"in {repeated} rounds, which were repeated, and in {disturbed} that stay. After the first epoch the "
        f"parameters of two ranks were those of one, but for {apart:.0e} of what was learned at most."
    )
    return "\n\n".join([where, measured(results), *not_timed(results)])


def strong(model: Results) -> str:
    """Makes the table of a minibatch that more and more GPUs share."""
    heads = (
        "rows of a minibatch", "GPUs", "rows a GPU", "compute, µs", "ring, µs", "tree, µs", "step, µs", "times as fast",
        "efficiency", "at best",
    )  # fmt: skip
    rows = []
    for network in model["networks"]:
        for row in network["strong"]:
            us, faster, gpus = row["us"], row["times as fast"], row["gpus"]
            sums = [f"{us[name]:,.0f}" if gpus > 1 else "" for name in ("ring", "tree")]
            rows.append((
                f"{network['network']}, B {network['batch']:,}", f"{gpus:,}", f"{row['rows']:,}",
                f"{us['compute']:,.0f}", *sums, f"{us['after']:,.0f}", f"{faster['after']:.2f}",
                *(percent(faster[name] / gpus) for name in ("after", "during")),
            ))  # fmt: skip
    return table(heads, rows)


def weak(model: Results) -> str:
    """Makes the table of minibatches that grow with the GPUs."""
    numbers = list(model["networks"][0]["weak"])
    heads = (
        "rows a GPU", *(f"efficiency on {int(n):,} GPUs" for n in numbers),
        *(f"rows a GPU for {percent(model['worth'])} on {int(n):,}" for n in numbers),
    )  # fmt: skip
    return table(heads, [
        (f"{network['network']}, {network['batch']:,} rows", *(percent(network["weak"][n]) for n in numbers),
         *("more than 131,072" if network["enough"][n] is None else f"{network['enough'][n]:,}" for n in numbers))
        for network in model["networks"]
    ])  # fmt: skip


def percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.1g} %"


def model(results: Results) -> str:
    """Makes the part of docs/distributed.md of what the model says."""
    said = results["model"]
    links = "; ".join(
        f"{name}: α = {link['latency_us']:g} µs, β = {link['gigabytes_per_second']:g} GB/s"
        for name, link in said["links"].items()
    )
    what = (
        f"**A model, and no measurement.** {said['device']}, {said['gpus_a_machine']} in a machine; {links}; "
        f"{said['start_us']:g} µs to begin."
    )
    return "\n\n".join([what, strong(said), weak(said)])
