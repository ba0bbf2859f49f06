"""How good a network is on rows whose target is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import gpu_backprop as gb
from gpu_backprop.backend.formula import Array
from gpu_backprop.commands.lessons import Samples
from gpu_backprop.report import accuracy, confusion_matrix, confusion_text, frequent_mistakes, mean_absolute_error, r2
from gpu_backprop.training.history import number

WIDEST_TABLE = 20
"""Classes; of more, the most frequent mistakes are told instead."""


@dataclass(frozen=True)
class Verdict:
    """What a network's answers are worth.

    Attributes:
        figures: results, as in "accuracy: 0.9778".
        mistakes: which class was taken for which.
        baseline: what an answer that needs no network would be worth; of quantities, that is R² = 0.
    """

    figures: list[str]
    mistakes: str = ""
    baseline: str = ""


def judge(net: gb.Network, samples: Samples) -> Verdict:
    """Accuracy and mistakes, or R² and the mean absolute error in the units of the data."""
    y = net.predict(samples.x)
    if samples.y.ndim == 1:
        names = [str(name) for name in net.classes or range(net.outputs)]
        matrix = confusion_matrix(samples.y, labels(y), len(names))
        frequent = matrix.sum(axis=1)
        baseline = (
            f"always answering {names[frequent.argmax()]!r} would be right for {frequent.max() / len(samples):.4f}"
        )
        return Verdict([f"accuracy: {accuracy(matrix):.4f}"], _mistakes(matrix, names), baseline)
    true, predicted = (net.preprocessing.inverse(values) for values in (samples.y, y))
    return Verdict([f"R²: {r2(true, predicted):.4f}", f"MAE: {number(mean_absolute_error(true, predicted))}"])


def labels(y: Array) -> Array:
    """The label of each row: its largest output, or whether the only one is above ½."""
    return y.argmax(axis=-1) if y.shape[-1] > 1 else (y[..., 0] > 0.5).astype(np.int64)


def _mistakes(matrix: Array, names: list[str]) -> str:
    if len(names) > WIDEST_TABLE:
        return f"what was most often taken for what:\n{frequent_mistakes(matrix, names)}"
    return f"how often each (row) was taken for which (column):\n{confusion_text(matrix, names)}"
