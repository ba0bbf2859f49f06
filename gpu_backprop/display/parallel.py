"""Parallel coordinates: an axis for each setting and one for the score, and a line through all of them for each
candidate (Inselberg 1985, "The plane with parallel coordinates")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpu_backprop.display.charts import Array, Axis, cut, tick_text
from gpu_backprop.display.html import Html, tag

APART, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 130, 300, 74, 90, 34, 14
"""Units of the drawing: from one axis to the next, its height, and what is left of it for names and numbers."""

DECADE = 10
"""How many times the least the largest number has to be for a logarithmic scale."""

FEW = 7
"""Up to so many different numbers of a setting are told as they are; of more, round ones beside the axis."""

MOST_LINES = 300
"""Lines that are drawn; of more candidates, the best is among them."""

LONGEST = 16, 24, 11
"""Characters of a name above an axis, above the last one, and of a text beside one."""


class Places(NamedTuple):
    """Where values lie on an axis that goes from 0 to 1.

    Attributes:
        values: (n,); NaN of what is not on the axis.
        ticks: where a text stands, and the text.
    """

    values: Array
    ticks: list[tuple[float, str]]


def columns_that_differ(candidates: Sequence[Mapping[str, object]]) -> dict[str, list[object]]:
    """Returns the settings that are not the same in all candidates, by name, with the value of each; "" of what one has
    not. Seeds are left out: they are no choice."""
    names = dict.fromkeys(name for one in candidates for name in one if name != "seed")
    columns = {name: [one.get(name, "") for one in candidates] for name in names}
    return {name: values for name, values in columns.items() if len({str(value) for value in values}) > 1}


def place_on_axis(values: Sequence[object], few: int = FEW) -> Places:
    """Places numbers by their size, on a logarithmic scale where they span a decade; up to `few` different ones, and
    any other values, one above the other."""
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return _one_above_the_other(list(map(str, values)), list(dict.fromkeys(map(str, values))))
    numbers = np.array(values, np.float64)
    finite = np.unique(numbers[np.isfinite(numbers)])
    if len(finite) == len(np.unique(numbers)) <= few:
        return _one_above_the_other(
            [tick_text(number) for number in numbers.tolist()], [*map(tick_text, finite.tolist())]
        )
    axis = Axis(numbers, 0, 1, logarithmic=finite.size > 1 and bool(0 < finite[0] <= finite[-1] / DECADE))
    ticks = zip(axis.place(np.array(axis.ticks)).tolist(), map(tick_text, axis.ticks), strict=True)
    return Places(np.where(np.isfinite(numbers), axis.place(numbers), np.nan), [*ticks])


def _one_above_the_other(texts: Sequence[str], different: Sequence[str]) -> Places:
    places = {text: (k + 0.5) / len(different) for k, text in enumerate(different)}
    return Places(np.array([places[text] for text in texts]), [(place, text) for text, place in places.items()])


def place_all(settings: Mapping[str, Sequence[object]], scores: Array, score_name: str) -> dict[str, Places]:
    """Places the values of all axes, the scores last, and always by their size."""
    placed = {name: place_on_axis(values) for name, values in settings.items()}
    return placed | {score_name: place_on_axis(scores.tolist(), few=0)}


def rank(scores: Array, larger_is_better: bool) -> Array:
    """Returns how good each score is among all, from 0, the worst, to 1; NaN of one that is not finite."""
    good = np.where(np.isfinite(scores), scores if larger_is_better else -scores, np.nan)
    different = np.unique(good[np.isfinite(good)])
    return np.where(np.isnan(good), np.nan, np.searchsorted(different, good) / max(1, len(different) - 1))


def choose_lines(ranks: Array) -> Array:
    """Chooses the lines to be drawn, at most MOST_LINES, the best one last, so that it lies above the others."""
    order = np.argsort(-ranks, kind="stable")  # where NaN comes last
    return order[:: max(1, -(-len(order) // MOST_LINES))][::-1]


def parallel_coordinates(
    settings: Mapping[str, Sequence[object]], scores: Array, score_name: str, larger_is_better: bool = False
) -> Html:
    """Draws candidates as lines from axis to axis, coloured by the rank of their score; the best one is thick. The line
    of a candidate whose score is not finite ends before the last axis.

    Args:
        settings: by name, the value of each candidate.
        scores: (candidates,)
        score_name: what the last axis is called.
        larger_is_better: whether a large score is a good one.
    """
    axes = place_all(settings, scores, score_name)
    width, bottom = LEFT + APART * (len(axes) - 1) + RIGHT, HEIGHT - BOTTOM
    at = [LEFT + APART * k for k in range(len(axes))]
    ranks = rank(scores, larger_is_better)
    chosen = choose_lines(ranks)
    heights = np.array([bottom + places.values * (TOP - bottom) for places in axes.values()])
    inside = [tag("title", f"{score_name} of {len(scores):,} candidates")]
    inside += [tag("line", x1=place, x2=place, y1=TOP, y2=bottom, class_="axis") for place in at]
    for number in chosen.tolist():
        points = [f"{x} {y:.1f}" for x, y in zip(at, heights[:, number].tolist(), strict=True) if np.isfinite(y)]
        told = ", ".join(f"{name} {values[number]}" for name, values in settings.items())
        title = tag("title", f"{score_name} {scores[number]:.5g}: {told}")
        how: dict[str, Any] = {"class_": "failed"}
        if np.isfinite(ranks[number]):
            how = {"class_": "scored", "style": f"--good: {ranks[number]:.0%}"}
        if number == chosen[-1] and np.isfinite(ranks[number]):
            how["class_"] = "scored thick"
        inside.append(tag("path", title, d="M" + "L".join(points), **how))
    for place, (name, placed) in zip(at, axes.items(), strict=True):
        above = cut(name, LONGEST[place == at[-1]])
        inside.append(tag("text", above, x=place, y=TOP - 14, text_anchor="middle", class_="name"))
        for tick, text in placed.ticks:
            y = f"{bottom + tick * (TOP - bottom):.1f}"
            x, anchor = (place + 6, "start") if place == at[-1] else (place - 6, "end")
            inside.append(tag("text", cut(text, LONGEST[2]), x=x, y=y, dy="0.32em", text_anchor=anchor))
    told = f"{score_name} of {len(scores):,} candidates over {', '.join(settings)}"
    style = f"min-width: {width * 0.8:.0f}px; max-width: {width * 1.3:.0f}px"  # narrower, the page moves it
    drawing = tag("svg", *inside, viewBox=f"0 0 {width} {HEIGHT}", role="img", aria_label=told, style=style)
    legend = [
        tag("span", tag("i", class_="scored thick", style="--good: 100%"), "the best"),
        tag("span", tag("i", class_="scored", style="--good: 90%"), "good"),
        tag("span", tag("i", class_="scored", style="--good: 0%"), "bad"),
    ]
    if np.isnan(ranks).any():
        legend.append(tag("span", tag("i", class_="failed"), f"without a {score_name}"))
    if len(chosen) < len(scores):
        legend.append(tag("span", f"{len(chosen):,} of {len(scores):,} candidates are drawn"))
    return tag("figure", tag("div", drawing, class_="wide"), tag("figcaption", *legend), class_="parallel")
