"""Scoring a network on rows whose target is known."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np

import gpu_backprop as gb
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.text_table import terminal_width
from gpu_backprop.commands.datasets import Samples
from gpu_backprop.data.messages import cells, counted, shown
from gpu_backprop.report import accuracy, confusion_matrix, confusion_text, frequent_mistakes, mean_absolute_error, r2
from gpu_backprop.training.history import number

WIDEST_TABLE = 20
"""Classes; of more, the most frequent mistakes are listed instead."""


@dataclass(frozen=True)
class Scores:
    """The scores of a network.

    Attributes:
        figures: results, as in "accuracy: 0.9778".
        mistakes: which class was taken for which.
        baseline: the score of an answer that needs no network, and what follows; for quantities it is R² = 0.
    """

    figures: list[str]
    mistakes: str = ""
    baseline: str = ""


def score(net: gb.Network, samples: Samples) -> Scores:
    """Compute accuracy and mistakes, or R² and the mean absolute error in the units of the data."""
    y = net.predict(samples.x)
    if samples.y.ndim == 1:
        names = [str(name) for name in net.classes or range(net.outputs)]
        matrix = confusion_matrix(samples.y, labels(y), len(names))
        return Scores([f"accuracy: {accuracy(matrix):.4f}"], _mistakes(matrix, names), _baseline(matrix, names))
    true, predicted = (net.preprocessing.inverse(values) for values in (samples.y, y))
    return Scores([f"R²: {r2(true, predicted):.4f}", f"MAE: {number(mean_absolute_error(true, predicted))}"])


def labels(y: Array) -> Array:
    """Return the label of each row: its largest output, or whether the only one is above ½."""
    return y.argmax(axis=-1) if y.shape[-1] > 1 else (y[..., 0] > 0.5).astype(np.int64)


def _baseline(matrix: Array, names: list[str]) -> str:
    """Say how often the most frequent class is right, and whether the network does better than always giving it."""
    often, rows = matrix.sum(axis=1), matrix.sum()
    share, right = often.max() / rows, accuracy(matrix)
    doubt = math.sqrt(share * (1 - share) / rows)  # the standard error of such a share
    conclusion = "the network does better" if right > share else "the network does worse"
    if abs(right - share) <= doubt:
        conclusion = f"the network does no better than chance allows for with {counted(int(rows), 'row')}"
    return f"always answering {shown(names[often.argmax()])} would be right for {share:.4f}: {conclusion}"


def _mistakes(matrix: Array, names: list[str]) -> str:
    width = terminal_width(sys.stdout)
    table = confusion_text(matrix, names, width)
    if len(names) > WIDEST_TABLE or (width is not None and cells(table.partition("\n")[0]) > width):
        return f"the most frequent mistakes:\n{frequent_mistakes(matrix, names)}"
    return f"how often each class (row) was taken for which (column):\n{table}"
