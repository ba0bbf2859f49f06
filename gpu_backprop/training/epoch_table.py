"""Epochs as a table that grows by a line each: the columns that there is room for, and their cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpu_backprop.training.history import cell_text, main_metric

GAP = "  "
HEADS = {"samples_per_second": "samples/s"}
"""What a column is called where it is not by its name in the History."""

LEAST = 9
"""Characters of a column: as many as 1.234e-05 takes, so that columns stay in their places when numbers get small."""

HEAD_EVERY = 20
"""Lines from one head to the next, so that there is one on the screen."""


class EpochTable:
    """The lines of a table of epochs, whose columns stay below each other.

    Args:
        last: the number of the last epoch.
        width: how many characters a line may have.
    """

    def __init__(self, last: int, width: int) -> None:
        self.last, self.width = last, width
        self._layout: list[tuple[str, int]] = []
        self._widths: dict[str, int] = {}
        self._lines = 0

    def head(self, row: Mapping[str, Any]) -> str | None:
        """Chooses the columns for a row; returns the names over them where they have to be said: at first, when a
        column is new or wider, and once in HEAD_EVERY lines."""
        for name in row:
            least = len(f"{self.last}/{self.last}") if name == "epoch" else LEAST
            wide = max(least, len(_head(name)), len(self._cell(name, row)))
            self._widths[name] = max(self._widths.get(name, 0), wide)
        layout = [(name, self._widths[name]) for name in self._columns(row)]
        if layout == self._layout and self._lines % HEAD_EVERY:
            return None
        self._layout, self._lines = layout, 0
        return GAP.join(f"{_head(name):>{width}}" for name, width in layout)

    def line(self, row: Mapping[str, Any]) -> str:
        """Returns the cells of a row below the last head."""
        self._lines += 1
        return GAP.join(f"{self._cell(name, row):>{width}}" for name, width in self._layout)

    def _columns(self, row: Mapping[str, Any]) -> list[str]:
        """Chooses what there is room for, what matters most first, and puts it into the order of the row."""
        metric = main_metric(row) or "loss"
        first = ("epoch", "loss", "val_loss", f"val_{metric}", "samples_per_second", "seconds", metric, "learning_rate")
        ranked = dict.fromkeys([*filter(row.__contains__, first), *row])
        chosen, room = set(), self.width + len(GAP)
        for name in ranked:
            room -= self._widths[name] + len(GAP)
            if room < 0:
                break
            chosen.add(name)
        return [name for name in row if name in chosen or name == "epoch"]

    def _cell(self, name: str, row: Mapping[str, Any]) -> str:
        value = row[name]
        if name == "epoch":
            return f"{value}/{self.last}"
        return cell_text(name, value)


def _head(name: str) -> str:
    return HEADS.get(name, name)
