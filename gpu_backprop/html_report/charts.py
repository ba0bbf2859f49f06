"""Charts as SVG within a page, drawn with the colours of its style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpu_backprop.backend.formula import Array
from gpu_backprop.html_report.html import Html, join, tag

WIDTH, HEIGHT = 440, 290
LEFT, RIGHT, TOP, BOTTOM = 58, 22, 12, 44
"""Units of the drawing, and what is left of them for the axes' numbers and names."""

MOST_POINTS = 1500
"""Points of a curve; of more, some are left out, as evenly as it goes."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Points, and how they are drawn.

    Attributes:
        x, y: (n,); where one is not finite, the line has a gap.
        style: the class in the style sheet.
        label: of the legend; empty: none.
        dots: whether points are drawn instead of a line.
    """

    x: Array
    y: Array
    style: str
    label: str = ""
    dots: bool = False


class Axis:
    """The numbers along one side of a chart.

    Args:
        values: what is to be shown.
        begin, end: where it lies in the drawing.
        whole: only whole numbers are written.
    """

    def __init__(self, values: Array, begin: float, end: float, logarithmic: bool = False, whole: bool = False) -> None:
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        if low == high:
            low, high = (low / 2, low * 2) if logarithmic else (low - (abs(low) or 1) / 2, low + (abs(low) or 1) / 2)
        self.begin, self.end, self.logarithmic = begin, end, logarithmic
        self.ticks = _powers(low, high) if logarithmic else _rounds(low, high, whole)
        if logarithmic:
            low, high = low / 1.1, high * 1.1
        elif not whole:
            low, high = self.ticks[0], self.ticks[-1]
        self.low, self.high = low, high

    def place(self, values: Array) -> Array:
        """Returns where numbers lie in the drawing."""
        low, high = self.low, self.high
        with np.errstate(all="ignore"):
            if self.logarithmic:
                values, low, high = np.log(values), math.log(low), math.log(high)
            place: Array = self.begin + (values - low) / (high - low) * (self.end - self.begin)
        return place


def chart(
    curves: Sequence[Curve], x_name: str, y_name: str, *, logarithmic: bool = False, whole: bool = False,
    marked: float | None = None,
) -> Html:  # fmt: skip
    """Draws curves in one frame, with a legend.

    Args:
        logarithmic: whether y has a logarithmic scale.
        whole: whether only whole numbers are written along x.
        marked: an x at which a line stands; the caption says what it is.
    """
    x = Axis(np.concatenate([curve.x for curve in curves]).astype(float), LEFT, WIDTH - RIGHT, whole=whole)
    y = Axis(np.concatenate([curve.y for curve in curves]).astype(float), HEIGHT - BOTTOM, TOP, logarithmic)
    inside = []
    for tick in x.ticks:
        at = _written(x.place(np.array(tick)))
        inside.append(tag("line", x1=at, x2=at, y1=TOP, y2=HEIGHT - BOTTOM, class_="grid"))
        inside.append(tag("text", _tick(tick), x=at, y=HEIGHT - BOTTOM + 16, text_anchor="middle"))
    for tick in y.ticks:
        at = _written(y.place(np.array(tick)))
        inside.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="grid"))
        inside.append(tag("text", _tick(tick), x=LEFT - 7, y=at, dy="0.32em", text_anchor="end"))
    inside.append(tag("text", x_name, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 8, text_anchor="middle"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    inside.append(tag("text", y_name, transform=f"translate(12 {middle}) rotate(-90)", text_anchor="middle"))
    if marked is not None:
        at = _written(x.place(np.array(marked)))
        inside.append(tag("line", x1=at, x2=at, y1=TOP, y2=HEIGHT - BOTTOM, class_="best"))
    inside += [_draw(curve, x, y) for curve in curves]
    drawing = tag("svg", *inside, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{y_name} over {x_name}")
    named = {curve.label: curve.style for curve in curves if curve.label}
    legend = [tag("span", tag("i", class_=style), label) for label, style in named.items()]
    if marked is not None:
        legend.append(tag("span", tag("i", class_="best"), f"best: epoch {marked:g}"))
    return tag("figure", drawing, tag("figcaption", *legend))


def _draw(curve: Curve, x: Axis, y: Axis) -> Html:
    step = -(-len(curve.x) // MOST_POINTS)
    places = zip(x.place(curve.x[::step]).tolist(), y.place(curve.y[::step]).tolist(), strict=True)
    if curve.dots or len(curve.x) == 1:
        dots = (tag("circle", cx=_written(a), cy=_written(b), r=2.5) for a, b in places if math.isfinite(a + b))
        return tag("g", join(dots), class_=f"{curve.style} dots")
    words, pen = [], "M"
    for a, b in places:
        if math.isfinite(a + b):
            words.append(f"{pen}{_written(a)} {_written(b)}")
        pen = "L" if math.isfinite(a + b) else "M"
    return tag("path", d="".join(words), class_=curve.style)


def _rounds(low: float, high: float, whole: bool) -> list[float]:
    """Returns four to nine round numbers, 1, 2 or 5 times a power of ten apart, that span the range, or, of whole ones,
    lie in it."""
    size = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = max(size * next(f for f in (5, 2, 1) if size * f <= (high - low) / 4 or f == 1), 1.0 if whole else 0.0)
    first, last = (math.ceil(low / step), math.floor(high / step)) if whole else (
        math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    )  # fmt: skip
    return [k * step for k in range(first, last + 1)]


def _powers(low: float, high: float) -> list[float]:
    """Returns 1, 2 and 5 times each power of ten in the range, or where these are many the powers alone."""
    powers = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    all_of_them = [f * power for power in powers for f in (1, 2, 5) if low <= f * power <= high]
    alone = [power for power in powers if low <= power <= high]
    return all_of_them if len(all_of_them) <= 8 else alone[:: -(-len(alone) // 8)]


def _tick(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.3g}"


def _written(place: float | Array) -> str:
    return f"{float(place):.1f}"
