"""Scores: what a network gave for each row of a data set, beside what was right, where metrics are worked out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np

from gpu_backprop.backend.formula import Array

UNITS = 2.0**61
"""What weights are made to add up to, as integers."""


class Scores:
    """The outputs of one network for all rows of a data set, and their targets, in the arrays of one array module.

    Args:
        xp: the array module, numpy or cupy.
        y: the outputs, (rows, outputs).
        target: labels (rows,), or numbers or probabilities (rows, outputs).
        weights: (rows,), ≥ 0 and not all 0; None: 1.
        multi_label: whether each output is a yes or no of its own; else classes exclude each other, and a single output
            is the probability of the second of two.
        quantile: of the quantile loss, where that is the loss.
    """

    def __init__(
        self, xp: Any, y: Array, target: Array, weights: Array | None = None, *, multi_label: bool = False,
        quantile: float | None = None,
    ) -> None:  # fmt: skip
        self.xp, self.y, self.target, self.multi_label, self.quantile = xp, y, target, multi_label, quantile
        self.weights = None if weights is None else weights.astype(np.float64)

    def on_host(self, to_host: Callable[[Array], Array]) -> Scores:
        """The same in NumPy arrays."""
        weights = None if self.weights is None else to_host(self.weights)
        return Scores(np, to_host(self.y), to_host(self.target), weights, multi_label=self.multi_label)

    def mean(self, values: Array) -> float:
        """The weighted mean over the rows, of (rows,)."""
        if self.weights is None:
            return float(values.mean(dtype=np.float64))
        return float((values * self.weights).sum() / self.weights.sum())

    @cached_property
    def units(self) -> Array:
        """The weights as int64, whose sums are exact in any order: a scan on CUDA adds up in an order of its own."""
        if self.weights is None:
            units: Array = self.xp.ones(len(self.y), np.int64)
        else:
            units = self.xp.rint(self.weights * (UNITS / self.weights.sum())).astype(np.int64)
        return units

    # Classes ----------------------------------------------------------------------------------------------------------

    @cached_property
    def p(self) -> Array:
        """The probability of each class, (rows, classes)."""
        p: Array = self.y if self.y.shape[1] > 1 else self.xp.concatenate([1 - self.y, self.y], axis=1)
        return p

    @cached_property
    def labels(self) -> Array:
        """The class of each row; of a row of probabilities the likeliest."""
        if self.target.ndim == 1:
            return self.target
        two = self.target.shape[1] == 1
        labels: Array = (self.target[:, 0] > 0.5).astype(np.int64) if two else self.target.argmax(axis=1)
        return labels

    @cached_property
    def answers(self) -> Array:
        """The class that the network gives each row, the first of equals."""
        answers: Array = self.p.argmax(axis=1)
        return answers

    @cached_property
    def p_of_label(self) -> Array:
        """The probability of the right class, (rows,)."""
        p: Array = self.xp.take_along_axis(self.p, self.labels[:, None], axis=1)[:, 0]
        return p

    # Labels, several of which may be right ----------------------------------------------------------------------------

    @cached_property
    def right(self) -> Array:
        """Whether each label is answered rightly, (rows, outputs)."""
        right: Array = (self.y > 0.5) == (self.target > 0.5)
        return right

    @property
    def every_right(self) -> Array:
        """Whether all labels of a row are, (rows,)."""
        rows: Array = self.xp.all(self.right, axis=1)
        return rows

    def each_label(self) -> Iterator[Scores]:
        """Yields the scores of each label by itself: a question of two classes."""
        for k in range(self.y.shape[1]):
            yield Scores(self.xp, self.y[:, k : k + 1], self.target[:, k : k + 1], self.weights)

    # Both -------------------------------------------------------------------------------------------------------------

    @cached_property
    def counts(self) -> tuple[Array, Array, Array]:
        """Σw, for each class or label, of the rows that are of it and were taken for it, that are of it, and that were
        taken for it."""
        if self.multi_label:
            truth, answer = self.target > 0.5, self.y > 0.5
            each = 1.0 if self.weights is None else self.weights[:, None]
            hit, true, taken = ((rows * each).sum(axis=0) for rows in (truth & answer, truth, answer))
            return hit, true, taken
        right = self.labels == self.answers
        w = None if self.weights is None else self.weights[right]
        return (
            self.sums_by(self.labels[right], w), self.sums_by(self.labels, self.weights),
            self.sums_by(self.answers, self.weights),
        )  # fmt: skip

    def sums_by(self, group: Array, values: Array | None, groups: int | None = None) -> Array:
        """Adds up the values of each group, or counts its rows; always in the same order, which bincount with weights
        has not on CUDA."""
        groups = self.p.shape[1] if groups is None else groups
        if values is None or self.xp is np:
            sums: Array = self.xp.bincount(group, values, groups)
        else:
            sums = self.xp.stack([self.xp.where(group == k, values, 0.0).sum() for k in range(groups)])
        return sums

    def one_against_rest(self) -> Iterator[tuple[Array, Array]]:
        """Yields for each class or label whether a row is of it, and its output; of two classes for the second only."""
        if self.multi_label:
            yield from ((self.target[:, k] > 0.5, self.y[:, k]) for k in range(self.y.shape[1]))
        else:
            classes = self.p.shape[1]
            yield from ((self.labels == k, self.p[:, k]) for k in range(int(classes == 2), classes))
