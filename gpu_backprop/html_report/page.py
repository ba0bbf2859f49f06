"""A page that tells of a training: one file of HTML, which needs no other and asks no network for anything."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import GpuBackpropError, InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.backend.whole_file import new_file
from gpu_backprop.display.html import Html, folded_table, join, parts_style, table, tag
from gpu_backprop.html_report.answers import tell_answers
from gpu_backprop.html_report.inspected import tell_inspection
from gpu_backprop.inspection import Inspection
from gpu_backprop.network.samples import Samples, samples
from gpu_backprop.network.summary import network_html
from gpu_backprop.training.checkpoints.recipe import settings_told
from gpu_backprop.training.folds import measure_outputs
from gpu_backprop.training.history import (
    NO_METRICS,
    History,
    cell_text,
    draw_column,
    find_best,
    main_metric,
    number,
    tell_result,
)
from gpu_backprop.training.metrics import METRICS, Given
from gpu_backprop.training.streaming import given_rows
from gpu_backprop.training.trainer import Trainer

Facts = dict[str, object]

RUNS, LONGEST_STEP = 5, 0.2
"""How often a step is measured for the table of its operations, and how many seconds it may take to be measured."""

MOST_OPERATIONS = 15


@explain_arguments
def write_report(
    path: str | os.PathLike[str], trainer: Trainer, x: Any = None, y: Any = None, *, title: str = "Training report",
    command: str = "", remarks: Sequence[str] = (), facts: Mapping[str, Mapping[str, object]] | None = None,
    inspection: Inspection | None = None, outputs: Array | None = None,
) -> None:  # fmt: skip
    """Writes a page about a training: results, curves, confusion matrix or residuals, calibration, the network, the
    data, the settings, how long it took, and where. Any browser shows it, in light and in dark; it holds all it needs.

    Args:
        path: the file, such as "report.html"; one already there is replaced when the new one is whole.
        trainer: after its fit.
        x, y: rows that are measured, as `trainer.evaluate` takes them, best such as were not trained on; None: nothing
            is measured, and there is neither confusion matrix nor residuals nor calibration.
        title: what stands at the top.
        command: that made it.
        remarks: sentences below it, such as what the result means.
        facts: by section, such as "Data" or "Settings", more that is known: {"Data": {"file": "flowers.csv"}}.
        inspection: what `inspect_model` found: importance of the columns, partial dependence, and the worst rows.
        outputs: what is measured in the place of what the network predicts for x, such as `trainer.out_of_fold()`.

    Raises:
        InputError: the file can't be written, or x and y can't be measured.
    """
    network, history = trainer.network, trainer.history
    given = {section: dict(more) for section, more in (facts or {}).items()}
    rows = None if x is None else samples(network, trainer.loss, *given_rows(x, y, None), values=True, idle=False)
    measured: dict[str, Any] = {}
    if rows is not None and outputs is not None:
        measured = measure_outputs(network, trainer.loss, _scores(trainer), outputs, rows.on_host(trainer.device))
    elif rows is not None:
        measured = trainer.evaluate(x, y, metrics=_scores(trainer))
    sections: list[tuple[str, Html]] = [("Curves", _curves(history))] if history.rows else []
    if rows is not None and (network.averaged or not network.models_shape):
        sections += tell_answers(trainer, rows, network.predict(rows.x) if outputs is None else outputs)
    if inspection is not None:
        sections += tell_inspection(inspection)
    sections.append(("Network", network_html(network)))
    sections.append(("Data", join([_facts(given.pop("Data", {})), _preparation(trainer)])))
    sections.append(("Settings", _facts(settings_told(trainer) | given.pop("Settings", {}))))
    sections.append(("Time", join([_facts(_times(history)), _operations(trainer, rows)])))
    sections.append(("Environment", _facts(_environment(trainer) | given.pop("Environment", {}))))
    sections += [(name, _facts(more)) for name, more in given.items()]
    write_page(path, title, command, remarks, _tiles(trainer, measured, rows), sections)


def write_page(
    path: str | os.PathLike[str], title: str, command: str, remarks: Sequence[str], tiles: Html,
    sections: Sequence[tuple[str, Html]],
) -> None:  # fmt: skip
    """Writes a page that has what `write_report` says of one."""
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    head = (
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src \'unsafe-inline\'">'),
        tag("title", title), Html(f"<style>{page_style()}</style>"),
    )  # fmt: skip
    body = (
        tag("h1", title), tag("p", f"{when}, gpu_backprop {_version()}", class_="quiet"),
        *([tag("pre", command)] if command else []),
        tiles, *(tag("p", remark) for remark in remarks if remark),
        *(tag("section", tag("h2", name), inside) for name, inside in sections if inside),
    )  # fmt: skip
    page = Html("<!DOCTYPE html>\n") + tag("html", tag("head", *head), tag("body", *body), lang="en") + "\n"
    try:
        with new_file(path, encoding="utf-8") as file:
            file.write(page)
    except OSError as error:
        raise InputError(f"cannot write the report to {str(path)!r}: {error.strerror}") from error


def page_style() -> str:
    """Returns the style sheet of a page: colours, light and dark, headings, tables and charts."""
    return parts_style() + Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def _facts(facts: Facts) -> Html:
    return table(facts.items(), left=2, class_="facts") if facts else Html()


def _scores(trainer: Trainer) -> Sequence[Given] | None:
    """The trainer's metrics, with the log loss in the place of one that is fitted to the rows it is measured on."""
    if trainer.metrics is None:
        return None
    fitted = {name for name, metric in METRICS.items() if metric.fitted}
    return list(dict.fromkeys("log_loss" if metric in fitted else metric for metric in trainer.metrics))


def _tiles(trainer: Trainer, measured: Mapping[str, Any], measured_on: Samples | None) -> Html:
    """The figures that matter most."""
    history, preprocessing = trainer.history, trainer.network.preprocessing
    rows = "" if measured_on is None else f" of {measured_on.rows:,} rows"
    if preprocessing is not None and preprocessing.task == "regression":
        rows += ", the target scaled as below"
    smoothed = " with smoothed labels" if np.any(getattr(trainer.loss, "label_smoothing", 0)) else ""
    tiles = [(number(value), f"{name}{smoothed * (name == 'loss')}{rows}") for name, value in measured.items()]
    best = find_best(history)
    if isinstance(best, int):
        tiles.append((str(best), f"best epoch of {len(history)}"))
    if history.rows:
        tiles.append((_duration(sum(row.get("seconds", 0.0) for row in history)), "training"))
    return draw_tiles(tiles)


def draw_tiles(tiles: Sequence[tuple[str, str]]) -> Html:
    """Shows figures, each with what it is."""
    return tag("div", *(tag("div", tag("b", figure), tag("span", name)) for figure, name in tiles), class_="tiles")


def _curves(history: History) -> Html:
    """Loss, metrics and whatever else changed, over the epochs; a line a member."""
    first = ["loss", main_metric(history.columns)]
    names = [name for name in dict.fromkeys([*first, *_others(history)]) if name is not None]
    charts = [draw_column(history, name) for name in names]
    return join([tell_result(history), tag("div", *charts, class_="charts"), _epochs(history)])


def _others(history: History) -> Iterator[str]:
    """The other metrics, and the learning rate where it changed."""
    for column in history.columns:
        name = column.removeprefix("val_")
        if name not in NO_METRICS or (name == "learning_rate" and len({str(rate) for rate in history[name]}) > 1):
            yield name


def _epochs(history: History) -> Html:
    """The rows of the history, of which a long one leaves some out, folded away."""
    every = -(-len(history) // 100)
    columns = history.columns
    rows = [[cell_text(name, row[name]) if name in row else "" for name in columns] for row in history[::every]]
    said = "all epochs" if every == 1 else f"one epoch in {every}"
    return tag("details", tag("summary", f"the numbers of {said}"), table(rows, columns, left=0))


def _preparation(trainer: Trainer) -> Html:
    """What is done to each column before the network sees it."""
    preprocessing = trainer.network.preprocessing
    if preprocessing is None:
        return tag("p", "The network takes its inputs as they are given to it: no preprocessing is stored with it.")
    return folded_table(preprocessing.describe(), ("column", "what the network sees"), "columns")


def _times(history: History) -> Facts:
    if not history.rows:
        return {}
    seconds = np.array([row["seconds"] for row in history if "seconds" in row])
    speeds = np.array([row["samples_per_second"] for row in history if "samples_per_second" in row])
    return {
        "training, all epochs": _duration(float(seconds.sum())),
        "an epoch, the median": _duration(float(np.median(seconds))),
        "an epoch, shortest and longest": f"{_duration(float(seconds.min()))} to {_duration(float(seconds.max()))}",
        "rows a second, the median": f"{np.median(speeds):,.0f}",
    }


def _operations(trainer: Trainer, rows: Samples | None) -> Html:
    """Where a step's time goes, where it is soon measured; it learns nothing."""
    speeds = [row["samples_per_second"] for row in trainer.history[-1:] if "samples_per_second" in row]
    if rows is None or not speeds or trainer.batch_size / speeds[0] > LONGEST_STEP:
        return Html()
    some = min(trainer.batch_size, rows.rows)
    try:
        profile = trainer.profile(rows.x[:some], rows.target[:some], runs=RUNS)
    except GpuBackpropError as error:
        return tag("p", f"Where a step's time goes was not measured: {error}", class_="quiet")
    whole = profile.microseconds or 1.0
    sums = list(profile.by_name().items())[:MOST_OPERATIONS]
    cells = [(name.replace("_", " "), f"{time:,.1f}", f"{time / whole:.0%}") for name, time in sums]
    text = f"One step of {some:,} rows, an operation at a time: {whole:,.0f} µs."
    return join([tag("p", text), table(cells, ("operation", "µs", "share"))])


def _environment(trainer: Trainer) -> Facts:
    device = trainer.device
    return {
        "gpu_backprop": _version(), "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "NumPy": np.__version__, "system": f"{platform.system()}, {platform.machine()}",
        "device": f"{device.name} ({device.reason})", "processors": os.cpu_count(), "threads": device.threads,
    }  # fmt: skip


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _version() -> str:
    from gpu_backprop import __version__  # which is set after this module is imported

    return __version__
