"""What a network answers on rows whose target is known: confusion matrix, residuals and calibration, for a page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu_backprop.backend.formula import Array
from gpu_backprop.display.charts import Curve, chart
from gpu_backprop.display.html import Html, join, table, tag
from gpu_backprop.network.arrays import on_host
from gpu_backprop.network.samples import Samples
from gpu_backprop.report import confusion_matrix, top_mistakes
from gpu_backprop.training.history import number
from gpu_backprop.training.metrics import LABELS, Residuals, Scores, tasks_of
from gpu_backprop.training.metrics.classes import BINS
from gpu_backprop.training.metrics.residuals import mae, r2, rmse
from gpu_backprop.training.metrics.table import CLASSES
from gpu_backprop.training.trainer import Trainer

WIDEST = 20
"""Classes of a confusion matrix; of more, the most frequent mistakes are listed."""

GOOD, BAD = "26, 127, 55", "207, 34, 46"
"""The colours of right and wrong answers: red, green, blue."""

FEWEST, MOST_BINS = 10, 10
"""Rows in a bin of a calibration curve, where there are that many, and bins."""

MOST_DOTS = 1000
MOST_BARS = 40
"""Of a histogram."""

MOST_OUTPUTS = 6
QUANTILES = 0.05, 0.25, 0.5, 0.75, 0.95

Sections = list[tuple[str, Html]]


def tell_answers(trainer: Trainer, measured: Samples, given: Array) -> Sections:
    """Makes the sections about the answers that one network, or the mean of several, has given for some rows."""
    network, loss = trainer.network, trainer.loss
    target = on_host(measured.target, trainer.device)
    tasks, preprocessing = tasks_of(network, loss), network.preprocessing
    if target.ndim == 1 or ((target == 0) | (target == 1)).all():
        rows = Scores(np, given, target, multi_label=LABELS in tasks)
        if CLASSES in tasks or network.classes is not None:
            return _of_classes(network.classes, rows)
        if rows.multi_label:
            return _of_labels(rows)
    if preprocessing is not None:  # numbers in the units of the data
        given, target = preprocessing.inverse(given), preprocessing.inverse(target, clip=False)
    return _of_numbers(given, target, None if preprocessing is None else preprocessing.target)


def _of_classes(classes: Sequence[object] | None, rows: Scores) -> Sections:
    """One class is right for each row: who was taken for whom, and how sure the network was of it."""
    names = [str(name) for name in classes or range(rows.p.shape[1])]
    matrix = confusion_matrix(rows.labels, rows.answers, len(names))
    sections = [("Confusion matrix", _confusion(matrix, names))]
    if rows.p.min() >= 0 and rows.p.max() <= 1:
        given, right = rows.p.max(axis=1), rows.labels == rows.answers
        curve = (rows.p[:, 1], rows.labels == 1, f"of {names[1]}") if len(names) == 2 else None
        sections.append(("Calibration", _calibration(given, right, "of the class that is given", curve)))
    return sections


def _confusion(matrix: Array, names: Sequence[str]) -> Html:
    rows = matrix.sum(axis=1, keepdims=True)
    share = matrix / np.maximum(rows, 1)
    recall = [(name, f"{own:,}", f"{right / own:.3f}" if own else "-") for name, own, right in zip(
        names, rows[:, 0], matrix.diagonal(), strict=True
    )]  # fmt: skip
    if len(names) > WIDEST:
        mistakes = [(f"{count:,}", names[i], names[j]) for count, i, j in top_mistakes(matrix, 20)]
        listed = table(mistakes, ("rows", "of class", "taken for"), left=3)
        worst = sorted(recall, key=lambda row: row[2])[:20]
        return join([listed, table(worst, ("classes found least often", "rows", "recall"))])
    turned = "turned" if any(len(name) > 4 for name in names) else ""
    head = [tag("th", "true"), *(tag("th", tag("span", name, class_=turned)) for name in names), tag("th", "recall")]
    body = []
    for i, (name, _, right) in enumerate(recall):
        cells = []
        for j, count in enumerate(matrix[i].tolist()):
            shade = f"background: rgba({GOOD if i == j else BAD}, {0.6 * share[i, j]:.2f})"
            cells.append(tag("td", f"{count:,}" if count else "·", class_="right" if i == j else "", style=shade))
        body.append([tag("th", name), *cells, tag("td", right)])
    said = tag("p", "How often each class (row) was taken for which (column).", class_="quiet")
    return join([said, table(body, head, class_="confusion")])


def _calibration(p: Array, right: Array, whose: str, curve: tuple[Array, Array, str] | None = None) -> Html:
    """Compares a probability with how often it is right, drawn in bins of equally many rows. The error is that
    of the metric, whose bins are equally wide.

    Args:
        whose: of what the probability is.
        curve: another probability that is drawn in its place, when it is right, and whose.
    """
    bins = np.ceil(p.astype(np.float64) * BINS).astype(int).clip(1, BINS) - 1
    error = np.abs(np.bincount(bins, right - p.astype(np.float64))).sum() / len(p)
    p, right, drawn_of = (p, right, whose) if curve is None else curve
    order = np.argsort(p, kind="stable")
    parts = np.array_split(order, min(MOST_BINS, max(1, len(p) // FEWEST)))
    found = [(p[part].mean(dtype=np.float64), right[part].mean(), len(part)) for part in parts]
    rows = [
        (f"{p[part[0]]:.3f} to {p[part[-1]]:.3f}", f"{count:,}", f"{mean:.3f}", f"{share:.3f}")
        for part, (mean, share, count) in zip(parts, found, strict=True)
    ]
    mean, share, _ = np.array(found).T
    curves = [
        Curve(np.array([0.0, 1.0]), np.array([0.0, 1.0]), "ideal", "as it should be"),
        Curve(mean, share, "validation"), Curve(mean, share, "validation", "the network", dots=True),
    ]  # fmt: skip
    said = tag("p", f"The probability {whose} is off by {error:.3f} in the mean (expected calibration error).")
    drawn = chart(curves, f"probability {drawn_of}", "share that is right" if curve is None else "share of rows")
    listed = table(rows, ("probability", "rows", "mean", "right" if curve is None else "share"))
    return join([said, tag("div", drawn, listed, class_="charts")])


def _of_labels(rows: Scores) -> Sections:
    """Each output is a yes or no of its own."""
    yes, answer = rows.target > 0.5, rows.y > 0.5
    figures = (each.mean(axis=0).tolist() for each in (yes, answer, rows.right))
    cells = [(k, *(f"{share:.3f}" for share in shares)) for k, shares in enumerate(zip(*figures, strict=True))]
    drawn = _calibration(rows.y.ravel(), yes.ravel(), "of yes, over all labels")
    return [("Labels", table(cells, ("label", "share of yes", "answered yes", "right"))), ("Calibration", drawn)]


def _of_numbers(y: Array, target: Array, column: str | None) -> Sections:
    """Predictions beside what was right, and how far they are apart."""
    y = y.astype(np.float64)
    rows, charts = [], []
    some = np.linspace(0, len(y) - 1, min(len(y), MOST_DOTS)).round().astype(int)
    for k in range(y.shape[1]):
        name = column or ("y" if y.shape[1] == 1 else f"y[{k}]")
        sums, off = Residuals.of(y[:, k : k + 1], target[:, k : k + 1]), y[:, k] - target[:, k]
        figures = *(float(metric(sums)) for metric in (r2, mae, rmse)), *np.quantile(off, QUANTILES).tolist()
        rows.append((name, *map(number, figures)))
        if k < MOST_OUTPUTS:
            true, predicted, ends = target[some, k], y[some, k], np.array([target[:, k].min(), target[:, k].max()])
            ideal = Curve(ends, ends, "ideal", "as it should be")
            charts.append(chart([ideal, Curve(true, predicted, "training", dots=True)], f"{name}, true", "predicted"))
            off_by = Curve(predicted, off[some], "training", dots=True)
            charts.append(chart([off_by], f"{name}, predicted", "predicted − true"))
            charts.append(_histogram(off, f"{name}, predicted − true"))
    head = ("", "R²", "MAE", "RMSE", *(f"{share:.0%}" for share in QUANTILES))
    said = f"The last {len(QUANTILES)} columns are quantiles of predicted − true."
    if len(some) < len(y):
        said += f" {len(some):,} of {len(y):,} rows are drawn."
    return [
        ("Residuals", join([table(rows, head), tag("p", said, class_="quiet"), tag("div", *charts, class_="charts")]))
    ]


def _histogram(values: Array, name: str) -> Html:
    """Draws how many rows have about which value."""
    values = values[np.isfinite(values)]
    bins = np.histogram_bin_edges(values, min(MOST_BARS, max(5, round(len(values) ** 0.5))))
    counts, edges = np.histogram(values, bins)
    steps = np.concatenate([[0], np.repeat(counts, 2), [0]])
    return chart([Curve(np.repeat(edges, 2), steps, "training area")], name, "rows")
