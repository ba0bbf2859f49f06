"""A page that tells of a search: its candidates, the curves of all members, and which candidate is the best."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np

from gpu_backprop.backend.formula import Array
from gpu_backprop.display.charts import Curve, chart
from gpu_backprop.display.html import Html, folded_table, table, tag
from gpu_backprop.display.parallel import columns_that_differ, parallel_coordinates
from gpu_backprop.html_report.page import draw_tiles, write_page
from gpu_backprop.training.figures import spans_decades
from gpu_backprop.training.history import MOST_CURVES, number
from gpu_backprop.training.search_result import SearchResult, Trial, trial_cells


def write_search_report(
    path: str | os.PathLike[str], result: SearchResult, *, title: str, command: str, remarks: Sequence[str]
) -> None:
    """Writes a page about a search, of which a candidate at least has trained for an epoch.

    Args:
        path: the file; one already there is replaced when the new one is whole.
        title: what stands at the top.
        command: that made it.
        remarks: sentences below it.

    Raises:
        InputError: the file can't be written.
    """
    trials = result.trials
    best = trials[0]
    tiles = [
        (number(best["score"]), f"{result.metric} of the best candidate, ± {number(best['std'])}"),
        (f"{len(trials):,}", "candidates"), (f"{sum(len(trial['scores']) for trial in trials):,}", "networks"),
        (f"{best['epochs']:,}", "epochs of the best candidate, the mean"),
    ]  # fmt: skip
    settings = columns_that_differ([trial["settings"] for trial in trials])
    scores = np.array([trial["score"] for trial in trials])
    sections = [
        ("The best candidate", table(best["settings"].items(), left=2, class_="facts")),
        ("Candidates", parallel_coordinates(settings, scores, result.metric, result.larger_is_better)),
        ("Curves", tag("div", _curves(result, best), class_="charts")),
        ("All candidates", _table(result.metric, trials)),
    ]
    write_page(path, title, command, remarks, draw_tiles(tiles), sections)


def _curves(result: SearchResult, best: Trial) -> Html:
    """The metric of each member over the epochs; those of the best candidate are thick."""
    members = [*_members(result)]
    others = [values for candidate, values in members if candidate != best["number"]]
    thick = [values for candidate, values in members if candidate == best["number"]]
    thin = others[:: max(1, -(-len(others) // MOST_CURVES))]
    curves = [_curve(values, "thin", "another candidate") for values in thin]
    curves += [_curve(values, "thick", "the best candidate") for values in thick]
    name = result.metric.replace("_", " ")
    return chart(curves, "epoch", name, whole=True, logarithmic=spans_decades([curve.y for curve in curves]))


def _members(result: SearchResult) -> Iterator[tuple[int, Array]]:
    """Yields the number of the candidate and the metric after each epoch, of each member."""
    for part in result.parts:
        values = part.values(result.metric) if len(part.history) else np.empty((0, 0, 0))
        for k, stopped in zip(range(values.shape[1]), part.stopped, strict=False):
            for member in values[: stopped or None, k].T:
                yield part.numbers[k], member


def _curve(values: Array, width: str, label: str) -> Curve:
    style = "training" if width == "thick" else "validation"
    return Curve(np.arange(1.0, len(values) + 1), values, f"{style} {width}", label)


def _table(metric: str, trials: Sequence[Trial]) -> Html:
    names = [*trials[0]["settings"]]
    rows = [[str(place), *trial_cells(trial), _remark(trial)] for place, trial in enumerate(trials, 1)]
    return folded_table(rows, ["", *names, metric, "±", "epochs", ""], "candidates", left=len(names) + 1)


def _remark(trial: Trial) -> str:
    if trial["diverged"]:
        return "diverged"
    return f"stopped after epoch {trial['stopped']}" if trial["stopped"] else ""
