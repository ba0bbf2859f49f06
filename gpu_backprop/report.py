"""Saying how good a classifier is, in plain text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


def confusion_matrix(labels: npt.ArrayLike, predicted: npt.ArrayLike, classes: int) -> Counts:
    """How often class i (row) was taken for class j (column).

    Args:
        labels: (n,), the true classes, 0 to classes - 1.
        predicted: (n,), the classes that the network gave.
        classes: how many there are.

    Returns:
        int64 (classes, classes); its sum is n, its diagonal the right answers.
    """
    pairs = np.asarray(labels, np.int64) * classes + np.asarray(predicted, np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def confusion_text(matrix: Counts, names: Sequence[str] | None = None) -> str:
    """The matrix as a table, with the share of each class that was recognised (recall); a dot stands for 0."""
    names = [str(index) for index in range(len(matrix))] if names is None else list(names)
    width = max(len(text) for text in [*names, str(matrix.max(initial=0))]) + 2
    lines = ["true".rjust(width + 2) + "".join(name.rjust(width) for name in names) + "   recall"]
    for name, row, right in zip(names, matrix, np.diag(matrix), strict=True):
        recall = f"{right / row.sum():.3f}" if row.any() else "-"
        cells = "".join((str(count) if count else ".").rjust(width) for count in row)
        lines.append(name.rjust(width + 2) + cells + recall.rjust(9))
    return "\n".join(lines)


def accuracy(matrix: Counts) -> float:
    """The share of right answers."""
    return float(np.trace(matrix) / matrix.sum())
