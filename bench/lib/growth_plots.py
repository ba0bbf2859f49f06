"""The plots of bench/growth.py, from its JSON alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LABELS = {
    "batch": "rows of a minibatch",
    "width": "units of each hidden layer",
    "depth": "hidden layers",
    "rows": "rows of data",
}
RATES = {"batch": "samples_per_second", "width": "gflop_s", "depth": "gflop_s", "rows": "samples_per_second"}
UNITS = {"samples_per_second": "samples a second", "gflop_s": "GFLOP/s"}
STYLE = {
    "svg.fonttype": "none",  # text stays text, and the file small
    "svg.hashsalt": "gpu_backprop",  # the same file from the same figures
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(path: Path) -> list[Path]:
    """growth-NAME.svg beside the JSON for each of its series."""
    import matplotlib as mpl

    measured = json.loads(path.read_text(encoding="utf-8"))
    drawn = []
    with mpl.rc_context(STYLE):
        for name in LABELS:
            drawn.append(path.with_name(f"growth-{name}.svg"))
            _draw(name, measured[name], drawn[-1])
    return drawn


def _draw(name: str, series: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure((5, 3.2), layout="constrained")
    axes, rate = figure.add_subplot(), RATES[name]
    points = series["points"]
    values = [point[name] for point in points]
    steps = [point.get("step", point) for point in points]
    floors = [point.get("floor", series.get("floor")) for point in points]
    told = "an epoch, end to end" if name == "rows" else "a step"
    for style, label, ones in (("o-", told, steps), ("--", "its matrix products alone", floors)):
        middle = [one[rate] for one in ones]
        axes.plot(values, middle, style, label=label, markersize=3, linewidth=1.2)
        low, high = (
            [y * one["us"]["median"] / one["us"][end] for y, one in zip(middle, ones, strict=True)]
            for end in ("most", "least")
        )
        axes.fill_between(values, low, high, alpha=0.2, linewidth=0)
    axes.set(xscale="log", xlabel=LABELS[name], ylabel=UNITS[rate], title=_title(name, points[0], series))
    axes.set_xticks(values[:: 1 + len(values) // 7], [f"{value:,}" for value in values[:: 1 + len(values) // 7]])
    axes.set_xticks([], minor=True)
    if name == "batch":  # over orders of magnitude
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def _title(name: str, point: dict[str, Any], series: dict[str, Any]) -> str:
    network, batch = point.get("network", series.get("network")), point.get("batch", series.get("batch"))
    if name == "batch":
        return network
    inputs, *_, outputs = network.split("-")
    shown = {"width": f"{inputs}-n-n-{outputs}", "depth": f"{inputs}-256-…-256-{outputs}", "rows": network}[name]
    return f"{shown}, batches of {batch:,}"
