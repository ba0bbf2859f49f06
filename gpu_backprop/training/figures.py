"""Figures of matplotlib, all in one style."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gpu_backprop.backend.errors import InputError, MissingExtraError, install
from gpu_backprop.backend.whole_file import new_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES = 4.5, 3.6
"""The size of one panel."""

DECADES = 50
"""How many times the least the largest number has to be for a logarithmic scale."""

STYLE: Any = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "lines.linewidth": 1.5,
    "legend.frameon": False, "savefig.dpi": 150,
}  # fmt: skip


@contextmanager
def new_figure(panels: int, path: str | os.PathLike[str] | None) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """Makes a figure of some panels side by side, to be drawn in within the block.

    Args:
        path: the image that is written at the end of the block (.png, .svg, .pdf ...), for which no display is needed.
            None: a figure of matplotlib.pyplot, which a notebook shows as the value of a cell and
            `matplotlib.pyplot.show()` in a window.

    Raises:
        InputError: the image can't be written.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(f"drawing curves needs matplotlib: {install('plot')}") from error
    size = INCHES[0] * panels, INCHES[1]
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
