"""Scores of a network, and tables of them in plain text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gpu_backprop.data.messages import cells
from gpu_backprop.display.escapes import escaped

Counts = npt.NDArray[np.int64]

LONGEST = 14
"""Characters of a name in a table."""


def confusion_matrix(labels: npt.ArrayLike, predicted: npt.ArrayLike, classes: int) -> Counts:
    """Count how often class i (row) was taken for class j (column).

    Args:
        labels: (n,), the true classes, 0 to classes - 1.
        predicted: (n,), the classes that the network gave.
        classes: how many there are.

    Returns:
        int64 (classes, classes); its sum is n, its diagonal the right answers.
    """
    pairs = np.asarray(labels, np.int64) * classes + np.asarray(predicted, np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def confusion_text(matrix: Counts, names: Sequence[str] | None = None, width: int | None = None) -> str:
    """Write the matrix as a table, with the share of each class that was recognised (recall); a dot stands for 0.

    Where lines may have only `width` characters, and names would make them longer, the columns are numbered instead.
    """
    rows = heads = [shortened(name) for name in (names or range(len(matrix)))]
    text = _confusion_table(matrix, rows, heads)
    if width is not None and cells(text.partition("\n")[0]) > width:
        heads = [str(number) for number in range(1, len(matrix) + 1)]
        text = _confusion_table(matrix, [f"{row} = {head}" for row, head in zip(rows, heads, strict=True)], heads)
    return text


def _confusion_table(matrix: Counts, rows: Sequence[str], heads: Sequence[str]) -> str:
    wide = max(map(cells, [*heads, str(matrix.max(initial=0))])) + 2
    first = max(wide + 2, *map(cells, rows))
    lines = ["true".rjust(first) + "".join(_right(head, wide) for head in heads) + "   recall"]
    for name, row, right in zip(rows, matrix, np.diag(matrix), strict=True):
        recall = f"{right / row.sum():.3f}" if row.any() else "-"
        counts = "".join((str(count) if count else ".").rjust(wide) for count in row)
        lines.append(_right(name, first) + counts + recall.rjust(9))
    return "\n".join(lines)


def _right(text: str, width: int) -> str:
    return " " * (width - cells(text)) + text


def frequent_mistakes(matrix: Counts, names: Sequence[str], most: int = 10) -> str:
    """List the pairs of classes that are confused most often, a line each."""
    pairs = top_mistakes(matrix, most)
    lines = [f"  {count:,}: {shortened(names[i])} taken for {shortened(names[j])}" for count, i, j in pairs]
    return "\n".join(lines) or "  none"


def top_mistakes(matrix: Counts, most: int) -> list[tuple[int, int, int]]:
    """Return (how often, true class, class given) of the pairs that are confused most often."""
    wrong = matrix - np.diag(np.diag(matrix))
    pairs = [divmod(int(place), len(matrix)) for place in np.argsort(-wrong, axis=None, kind="stable")[:most]]
    return [(int(wrong[i, j]), i, j) for i, j in pairs if wrong[i, j]]


def accuracy(matrix: Counts) -> float:
    """Compute the share of right answers."""
    return float(np.trace(matrix) / matrix.sum())


def shortened(name: object) -> str:
    """Write a name on one line, in at most so many characters as a table has room for."""
    text = escaped(" ".join(str(name).split()))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def aligned(rows: Sequence[Sequence[float]]) -> list[list[str]]:
    """Write rows of numbers that stand below each other, all with so many decimals that the largest has four digits."""
    largest = max((abs(value) for row in rows for value in row), default=0.0)
    decimals = max(0, 3 - math.floor(math.log10(largest))) if largest else 0
    return [[f"{value:,.{decimals}f}" for value in row] for row in rows]
