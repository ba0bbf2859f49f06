"""Charts as SVG, drawn with the colours of parts.css or of the page that holds them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpu_backprop.display.html import Html, join, tag

Array = npt.NDArray[Any]

WIDTH, HEIGHT = 440, 290
LEFT, RIGHT, TOP, BOTTOM = 58, 22, 12, 44
"""Units of the drawing, and what is left of them for the axes' numbers and names."""

NAMES, BAR, GAP = 150, 13, 9
"""What is left for the names of bars, how thick a bar is, and what is between those of two names."""

LONGEST = 22, 48
"""Characters of a name beside a bar, and along an axis."""

SHADES = 8
"""Greys of a picture, besides white."""

MOST_POINTS, LEAST_POINTS = 2000, 40
"""Points of all curves of a chart together, and of each curve at least; of more, some are left out."""


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
    marked: float | None = None, rug: Array | None = None, y_span: Sequence[float] = (),
) -> Html:  # fmt: skip
    """Draws curves in one frame, with a legend.

    Args:
        logarithmic: whether y has a logarithmic scale.
        whole: whether only whole numbers are written along x.
        marked: an x at which a line stands; the caption says what it is.
        rug: each x at which a small line stands on the axis, to show where rows are.
        y_span: what the axis of y has room for besides, so that charts side by side have one scale.
    """
    x = Axis(np.concatenate([curve.x for curve in curves]).astype(float), LEFT, WIDTH - RIGHT, whole=whole)
    of_y = np.concatenate([*(curve.y for curve in curves), np.array(y_span)]).astype(float)
    y = Axis(of_y, HEIGHT - BOTTOM, TOP, logarithmic)
    inside = [tag("title", f"{y_name} over {x_name}")]
    for tick in x.ticks:
        at = _written(x.place(np.array(tick)))
        inside.append(tag("line", x1=at, x2=at, y1=TOP, y2=HEIGHT - BOTTOM, class_="grid"))
        inside.append(tag("text", tick_text(tick), x=at, y=HEIGHT - BOTTOM + 16, text_anchor="middle"))
    for tick in y.ticks:
        at = _written(y.place(np.array(tick)))
        inside.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="grid"))
        inside.append(tag("text", tick_text(tick), x=LEFT - 7, y=at, dy="0.32em", text_anchor="end"))
    inside.append(
        tag("text", cut(x_name, LONGEST[1]), x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 8, text_anchor="middle")
    )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    inside.append(
        tag("text", cut(y_name, LONGEST[1]), transform=f"translate(12 {middle}) rotate(-90)", text_anchor="middle")
    )
    if marked is not None:
        at = _written(x.place(np.array(marked)))
        inside.append(tag("line", x1=at, x2=at, y1=TOP, y2=HEIGHT - BOTTOM, class_="best"))
    for place in x.place(np.array([]) if rug is None else rug).tolist():
        at = _written(place)
        inside.append(tag("line", x1=at, x2=at, y1=HEIGHT - BOTTOM - 7, y2=HEIGHT - BOTTOM, class_="rug"))
    most = max(LEAST_POINTS, MOST_POINTS // len(curves))
    inside += [_draw(curve, x, y, most) for curve in curves]
    drawing = tag("svg", *inside, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{y_name} over {x_name}")
    legend = _legend({curve.label: curve.style for curve in curves if curve.label})
    if marked is not None:
        legend.append(tag("span", tag("i", class_="best"), f"best: epoch {marked:g}"))
    return tag("figure", drawing, tag("figcaption", *legend))


def bars(
    names: Sequence[str], lengths: Array, value_name: str, styles: Mapping[str, str], *, begin: float = 0.0,
    spreads: Array | None = None, span: Sequence[float] = (),
) -> Html:  # fmt: skip
    """Draws bars from left to right, one below the other, with their names at the left.

    Args:
        lengths: (names, series), where each bar ends.
        value_name: what the axis is called.
        styles: the class in the style sheet of each series, by its label.
        begin: where bars begin.
        spreads: how far to both sides of its end a thin line goes, of the same shape; None: there is none.
        span: what the axis has room for besides.
    """
    series = lengths.shape[1]
    thick = BAR if series == 1 else BAR * 2 / 3
    bottom = TOP + len(names) * (series * thick + GAP)
    spread = np.zeros(lengths.shape) if spreads is None else spreads
    ends = np.concatenate([(lengths - spread).ravel(), (lengths + spread).ravel(), [begin, *span]])
    x = Axis(ends, NAMES, WIDTH - RIGHT)
    told = f"{value_name} of {len(names)}: " + ", ".join(
        f"{name} {' / '.join(f'{value:.4g}' for value in row.tolist())}"
        for name, row in zip(names, lengths, strict=True)
    )
    inside = [tag("title", value_name)]
    zero, every = int(np.abs(x.ticks).argmin()), 1 + (len(x.ticks) > 6)  # there is less room than in other charts
    for tick in x.ticks[zero % every :: every]:
        at = _written(x.place(np.array(tick)))
        inside.append(tag("line", x1=at, x2=at, y1=TOP, y2=_written(bottom), class_="grid"))
        inside.append(tag("text", tick_text(tick), x=at, y=_written(bottom + 16), text_anchor="middle"))
    inside.append(tag("text", cut(value_name, LONGEST[1]), x=(NAMES + WIDTH - RIGHT) / 2, y=_written(bottom + 36),
                      text_anchor="middle"))  # fmt: skip
    start = float(x.place(np.array(begin)))
    for row, name in enumerate(names):
        top = TOP + GAP / 2 + row * (series * thick + GAP)
        middle = _written(top + series * thick / 2)
        inside.append(tag("text", cut(name, LONGEST[0]), x=NAMES - 7, y=middle, dy="0.32em", text_anchor="end"))
        for k, style in enumerate(styles.values()):
            value, wide = float(lengths[row, k]), float(spread[row, k])
            low, end, high = x.place(np.array([value - wide, value, value + wide])).tolist()
            y = top + k * thick
            said = tag("title", f"{name}: {value:.4g}" + (f" ± {wide:.2g}" if spreads is not None else ""))
            inside.append(tag("rect", said, x=_written(min(start, end)), width=_written(abs(end - start)),
                              y=_written(y), height=_written(thick - 1), class_=style))  # fmt: skip
            if spreads is not None:
                at = _written(y + (thick - 1) / 2)
                inside.append(tag("line", x1=_written(low), x2=_written(high), y1=at, y2=at, class_="spread"))
    at = _written(start)
    inside.append(tag("line", x1=at, x2=at, y1=TOP, y2=_written(bottom), class_="begin"))
    drawing = tag("svg", *inside, viewBox=f"0 0 {WIDTH} {_written(bottom + BOTTOM)}", role="img", aria_label=told)
    return tag("figure", drawing, tag("figcaption", *_legend({label: styles[label] for label in styles if label})))


def picture(pixels: Array, told: str) -> Html:
    """Draws an image, (height, width) from 0 to 1, in as many greys as there are SHADES: 0 is the page, 1 its ink."""
    height, width = pixels.shape
    shades = np.round(np.clip(pixels, 0, 1) * SHADES).astype(int)
    inside = [tag("title", told)]
    for shade in range(1, SHADES + 1):
        squares = "".join(f"M{x} {y}h1v1h-1z" for y, x in np.argwhere(shades == shade).tolist())
        if squares:
            inside.append(tag("path", d=squares, fill_opacity=f"{shade / SHADES:g}", class_="ink"))
    return tag("svg", *inside, viewBox=f"0 0 {width} {height}", role="img", aria_label=told, class_="picture")


def _legend(styles: Mapping[str, str]) -> list[Html]:
    return [tag("span", tag("i", class_=style), label) for label, style in styles.items()]


def cut(name: str, most: int) -> str:
    """Shortens a name to so many characters."""
    return name if len(name) <= most else name[: most - 1] + "…"


def _draw(curve: Curve, x: Axis, y: Axis, most: int) -> Html:
    kept = np.arange(0, len(curve.x), -(-len(curve.x) // most)) if curve.dots else _extremes(curve.y, most)
    places = zip(x.place(curve.x[kept]).tolist(), y.place(curve.y[kept]).tolist(), strict=True)
    if curve.dots or len(curve.x) == 1:
        dots = (tag("circle", cx=_written(a), cy=_written(b), r=2.5) for a, b in places if math.isfinite(a + b))
        return tag("g", join(dots), class_=f"{curve.style} dots")
    words, pen = [], "M"
    for a, b in places:
        if math.isfinite(a + b):
            words.append(f"{pen}{_written(a)} {_written(b)}")
        pen = "L" if math.isfinite(a + b) else "M"
    return tag("path", d="".join(words), class_=curve.style)


def _extremes(values: Array, most: int) -> Array:
    """Chooses about so many points of a line, in their order: of each stretch the lowest, the highest and what is not
    finite, so that no peak and no gap is lost, and the last of all."""
    if len(values) <= most:
        return np.arange(len(values))
    kept = {len(values) - 1}
    for begin, end in itertools.pairwise(np.linspace(0, len(values), most // 2 + 1).astype(int).tolist()):
        stretch = values[begin:end]
        finite = np.isfinite(stretch)
        if finite.any():
            low, high = np.where(finite, stretch, np.inf).argmin(), np.where(finite, stretch, -np.inf).argmax()
            kept |= {begin + int(low), begin + int(high)}
        if not finite.all():
            kept.add(begin + int(finite.argmin()))
    return np.array(sorted(kept))


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


def tick_text(value: float) -> str:
    """Writes a number as it stands beside an axis."""
    if 1e4 <= abs(value) < 1e9:  # in full they would not fit beside an axis
        return f"{value / 1e6:.6g}M" if abs(value) >= 1e6 else f"{value / 1e3:.6g}k"
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.6g}"


def _written(place: float | Array) -> str:
    return f"{float(place):.1f}"
