"""What a network makes of the columns, and the rows that it gets most wrong, for a page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu_backprop.display.charts import Curve, bars, chart, picture
from gpu_backprop.display.html import Html, join, table, tag
from gpu_backprop.inspection import REPEATS, ColumnFindings, Dependence, Inspection, WorstRow
from gpu_backprop.report import aligned
from gpu_backprop.training.history import number

MOST_BARS = 20
"""Columns that are drawn with their importance; a table has all of them."""

LONGEST = 40
"""Characters of a value in the table of rows."""

Sections = list[tuple[str, Html]]


def tell_inspection(found: Inspection) -> Sections:
    """Makes the sections about what `inspect_model` found."""
    worst = ("Worst rows", _worst(found))
    if found.columns is None:
        said = (
            "The columns are pixels: one by one they say nothing, so that neither their importance is shown here nor "
        )
        return [("Columns", tag("p", said + "what the network answers as one of them changes.")), worst]
    return [
        ("Permutation importance", _importance(found, found.columns)),
        ("Partial dependence", _dependence(found, found.columns)), worst,
    ]  # fmt: skip


def _importance(found: Inspection, columns: ColumnFindings) -> Html:
    some = f"{columns.rows:,} of the {found.rows:,} rows, chosen at random" if columns.rows < found.rows else (
        f"the {found.rows:,} rows"
    )  # fmt: skip
    said = (
        f"By how much the {_loss_name(found)} of {some}, which is {number(columns.loss)}, rises when the values of a "
        f"column are shuffled among them, so that the column says nothing any more: the mean of {REPEATS} shuffles, "
        "and as a thin line the standard deviation of one to both sides. About 0: the network does without the column."
    )
    caveat = (
        "Of columns that say the same, each looks less important than it is, because the network still has the others."
    )
    top = columns.importances[:MOST_BARS]
    drawn = bars(
        [each.column for each in top], np.array([[each.rise] for each in top]), f"rise of the {found.loss_name}",
        {"": "training"}, spreads=np.array([[each.spread] for each in top]),
    )  # fmt: skip
    figures = aligned([(each.rise, each.spread) for each in columns.importances])
    rows = [(each.column, *written) for each, written in zip(columns.importances, figures, strict=True)]
    listed = table(rows, ("column", f"rise of the {found.loss_name}", "standard deviation"))
    numbers = tag("details", tag("summary", f"the numbers of all {len(rows):,}"), listed)
    return join([tag("p", said), tag("p", caveat, class_="quiet"), tag("div", drawn, class_="charts"), numbers])


def _loss_name(found: Inspection) -> str:
    return f"{found.loss_name}{', in the units of the data,' if found.task == 'regression' else ''}"


def _dependence(found: Inspection, columns: ColumnFindings) -> Html:
    answers = "the probability that it gives" if found.task == "classification" else "what it predicts"
    said = (
        f"How the network's answers follow a column: {answers}, in the mean over {columns.averaged:,} rows, if the "
        "column had the same value in all of them and the others stayed as they are (Friedman 2001). The small lines "
        "on an axis are the deciles of the column: a tenth of the rows is between one and the next."
    )
    caveat = (
        "Where columns go together, some of these rows are such as never occur, and there the curve says what the "
        "network makes of them, not what would be."
    )
    told, outputs = [each for each in columns.dependences if len(each.values)], range(len(columns.outputs))
    together = [list(outputs)] if found.task == "classification" else [[k] for k in outputs]  # what has one unit
    charts = []
    for chosen in together:
        span = [float(end) for each in told for end in (each.y[:, chosen].min(), each.y[:, chosen].max())]
        charts += [_answers(found, columns, each, chosen, span) for each in told]
    return join([tag("p", said), tag("p", caveat, class_="quiet"), tag("div", *charts, class_="charts")])


def _answers(
    found: Inspection, columns: ColumnFindings, one: Dependence, chosen: list[int], span: Sequence[float]
) -> Html:
    """Draws some outputs, over numbers as lines, of categories as bars, all on one scale, so that columns can be
    compared."""
    several, classes = len(chosen) > 1, found.task == "classification"
    kind = "probability" if classes else "prediction"
    name = kind if several else f"{kind}{' of' if classes else ','} {columns.outputs[chosen[0]]}"
    styles = {columns.outputs[k] if several else "": f"series{place}" for place, k in enumerate(chosen, 1)}
    y = one.y[:, chosen]
    if one.values.dtype == object:
        begin = 0.0 if classes else float(columns.mean[chosen[0]])
        drawn = bars(one.values.tolist(), y, name, styles, begin=begin, span=span)
        notes = [] if classes else [f"Bars begin at the mean prediction, {aligned([[begin]])[0][0]}."]
        notes += [f"{one.others:,} less frequent texts are left out."] if one.others else []
        return tag("div", tag("h3", one.column), drawn, *(tag("p", note, class_="quiet") for note in notes))
    curves = [Curve(one.values, y[:, k], style, label) for k, (label, style) in enumerate(styles.items())]
    return tag("div", tag("h3", one.column), chart(curves, one.column, name, rug=one.deciles, y_span=span))


def _worst(found: Inspection) -> Html:
    if not found.worst:
        return tag("p", "The network answers every row rightly.")
    columns = {
        "": [row.place for row in found.worst],
        "true": [", ".join(map(_short, row.true)) for row in found.worst],
        "predicted": [", ".join(map(_short, row.predicted)) for row in found.worst],
    }
    if found.task == "regression":
        columns["predicted − true"] = list(map(_difference, found.worst))
    elif found.worst[0].probability is not None:
        columns["probability"] = [f"{row.probability:.2g}" for row in found.worst]
    if found.worst[0].values:
        columns["columns, the most important first"] = [tag("td", _values(row), class_="values") for row in found.worst]
    drawn = [(row.place, row.pixels) for row in found.worst if row.pixels is not None]
    if drawn:
        columns["image"] = [tag("td", picture(pixels, f"image of {place}")) for place, pixels in drawn]
    head = [name if k < 4 else tag("th", name, class_="values") for k, name in enumerate(columns)]
    what = "squared error" if found.task == "regression" else found.loss_name
    said = (
        f"Of {found.rows:,} rows, those with the largest {what}: either the network is wrong there, or the data are. "
        "They are counted as in the file."
    )
    said += " The probability is that of the true class." if "probability" in columns else ""
    return join([tag("p", said), table(zip(*columns.values(), strict=True), head, left=3, class_="rows")])


def _difference(row: WorstRow) -> str:
    pairs = zip(row.predicted, row.true, strict=True)
    return ", ".join(f"{float(str(predicted)) - float(str(true)):.6g}" for predicted, true in pairs)


def _values(row: WorstRow) -> str:
    return " · ".join(f"{name}: {'missing' if value is None else _short(value)}" for name, value in row.values)


def _short(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
