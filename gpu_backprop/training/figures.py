"""Figures of matplotlib, all in one style."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gpu_backprop.backend.errors import InputError, MissingExtraError, install
from gpu_backprop.backend.whole_file import new_file
from gpu_backprop.display.parallel import choose_lines, place_all, rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES = 4.5, 3.6
"""The size of one panel."""

WIDE = 8.0
"""How wide one with parallel coordinates is."""

DECADES = 50
"""How many times the least the largest number has to be for a logarithmic scale."""

STYLE: Any = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "lines.linewidth": 1.5,
    "legend.frameon": False, "savefig.dpi": 150,
}  # fmt: skip


@contextmanager
def new_figure(
    panels: int, path: str | os.PathLike[str] | None, wide: float = INCHES[0]
) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """Makes a figure of some panels side by side, to be drawn in within the block.

    Args:
        path: the image that is written at the end of the block (.png, .svg, .pdf ...), for which no display is needed.
            None: a figure of matplotlib.pyplot, which a notebook shows as the value of a cell and
            `matplotlib.pyplot.show()` in a window.
        wide: inches of a panel.

    Raises:
        InputError: the image can't be written.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(f"drawing curves needs matplotlib: {install('plot')}") from error
    size = wide * panels, INCHES[1]
    with mpl.rc_context(STYLE):
        if path is not None:
            figure = Figure(figsize=size, layout="constrained")
        else:
            from matplotlib import pyplot

            figure = pyplot.figure(figsize=size, layout="constrained")
            if "inline" in pyplot.get_backend():
                pyplot.close(
                    figure
                )  # a notebook shows all open figures, and then the value of the cell: this one twice
        yield figure, figure.subplots(1, panels, squeeze=False)[0]
        if path is None:
            return
        form = Path(path).suffix[1:] or figure.canvas.get_default_filetype()
        try:
            with new_file(Path(path).with_suffix(f".{form}")) as file:
                figure.savefig(file, format=form)
        except (OSError, ValueError) as error:  # ValueError: a file name ending that matplotlib doesn't know
            raise InputError(f"cannot write the curves to {str(path)!r}: {error}") from error


def spans_decades(drawn: Sequence[npt.ArrayLike]) -> bool:
    """Tells whether the numbers of a panel ask for a logarithmic scale: all that are finite are above 0, and the
    largest is DECADES times the least or more."""
    values = np.concatenate([np.ravel(part) for part in drawn])
    finite = values[np.isfinite(values)]
    return finite.size > 1 and bool(0 < finite.min() <= finite.max() / DECADES)


def draw_parallel(
    axes: Axes, settings: Mapping[str, Sequence[object]], scores: npt.NDArray[Any], score_name: str,
    larger_is_better: bool = False,
) -> None:  # fmt: skip
    """Draws candidates as lines from axis to axis, as `display.parallel.parallel_coordinates` does."""
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("score", ["#d9730d", "#3584c4"])
    placed = place_all(settings, scores, score_name)
    ranks = rank(scores, larger_is_better)
    chosen = choose_lines(ranks).tolist()
    for number in chosen:
        line = {"color": colours(ranks[number]), "linewidth": 3.0 if number == chosen[-1] else 0.8}
        if np.isnan(ranks[number]):
            line = {"color": "grey", "linewidth": 0.8, "linestyle": ":"}
        axes.plot([places.values[number] for places in placed.values()], **line)
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}
    for at, places in enumerate(placed.values()):
        axes.axvline(at, color="black", linewidth=0.8)
        offset, side = ((4, 0), "left") if at == len(settings) else ((-4, 0), "right")
        for tick, text in places.ticks:
            axes.annotate(text, (at, tick), offset, textcoords="offset points", ha=side, va="center", size=8, bbox=box)
    axes.set_xticks(range(len(placed)), [name.replace("_", " ") for name in placed])
    axes.set(yticks=[], ylim=(-0.02, 1.02), xlim=(-0.5, len(settings) + 0.4))
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
