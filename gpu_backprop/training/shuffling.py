"""Shuffling: the orders in which epochs take their rows, and the thread that draws them ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpu_backprop.backend.device import shuffle_by_numpy
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.threads import threads

SHARED = 1 << 17
"""From so many numbers on, more than a millisecond of drawing, threads share the members out among them."""


class Shuffling:
    """Draws orders of rows, or seeds of such orders: each member's from a generator of its own.

    Inside `working_ahead` a thread can draw the next ones from copies of the generators, while steps run. What it drew
    counts, and the generators move on, when it is taken; if something else was drawn or set before, it is dropped. So
    all numbers, and the states at any time, are those that there would be without it.

    Args:
        shuffle: does what `shuffle_by_numpy` does.
    """

    def __init__(
        self, seeds: Sequence[int], models_shape: tuple[int, ...],
        shuffle: Callable[[np.random.Generator, Array], None] = shuffle_by_numpy,
    ) -> None:  # fmt: skip
        self.models_shape, self._shuffle = models_shape, shuffle
        self._generators = [np.random.default_rng([seed, 1]) for seed in seeds]
        self._states: list[Any] | None = None
        self._twin: Shuffling | None = None
        self._worker: ThreadPoolExecutor | None = None
        self._coming: tuple[list[Any], Future[Any]] | None = None

    @property
    def states(self) -> list[Any]:
        """The states of the generators, a member each: one and the same list until something is drawn or set."""
        if self._states is None:
            self._states = [generator.bit_generator.state for generator in self._generators]
        return self._states

    @states.setter
    def states(self, states: Sequence[Any]) -> None:
        for generator, state in zip(self._generators, states, strict=True):
            generator.bit_generator.state = state
        self._states = None

    def draw_seeds(self) -> list[int]:
        """Draws a seed of an epoch's order for each member."""
        self._states = None
        return [int(generator.integers(1 << 63)) for generator in self._generators]

    def draw_order(self, rows: int | Array, out: Array | None = None) -> Array:
        """Draws a new order of so many rows, int64 (..., rows), each member's own: into `out` where that is given.
        Where members have not all as many, (models,), one with fewer takes some of its own once more."""
        self._states = None
        counts = [rows] * len(self._generators) if isinstance(rows, int) else rows.tolist()
        order: Array = np.empty((*self.models_shape, max(counts)), np.int64) if out is None else out
        drawn = self._generators, order.reshape(len(counts), -1), counts
        if order.size < SHARED or len(counts) == 1:
            list(map(self._fill, *drawn))
        else:
            count = min(len(counts), threads())
            shares = [[each[k::count] for each in drawn] for k in range(count)]
            with ThreadPoolExecutor(count, "gpu_backprop shuffling") as several:
                list(several.map(lambda share: list(map(self._fill, *share)), shares))
        return order

    def _fill(self, generator: np.random.Generator, order: Array, count: int) -> None:
        """Fills an order with so many rows, shuffled, and again in that order until it is full."""
        own = order[:count]
        self._shuffle(generator, own)
        if count < len(order):
            order[count:] = np.resize(own, len(order) - count)

    # Ahead ------------------------------------------------------------------------------------------------------------

    @contextmanager
    def working_ahead(self) -> Iterator[None]:
        """The context in which a thread can work ahead; at its end there is none."""
        self._coming = None  # which another fit, that this one is inside of, would have taken
        with ThreadPoolExecutor(1, "gpu_backprop shuffling") as self._worker:
            try:
                yield
            finally:
                self._worker = self._coming = None

    def work_ahead(self, draw: Callable[[Shuffling], Any]) -> Future[Any] | None:
        """Lets the thread call `draw` with a copy of this, from which it draws; None where no thread can."""
        if self._worker is None:
            return None
        twin = self._twin = self._twin or Shuffling([0] * len(self._generators), self.models_shape, self._shuffle)
        states = self.states

        def work() -> Any:
            twin.states = states
            return draw(twin)

        self._coming = states, self._worker.submit(work)
        return self._coming[1]

    def take(self) -> Any:
        """Returns what `draw` returned, and moves on to where its copy is; None where there is nothing that counts.
        Raises what it raised."""
        coming, self._coming = self._coming, None
        if coming is None or coming[0] is not self._states:
            return None
        drawn = coming[1].result()
        assert self._twin is not None
        self._generators, self._twin._generators = self._twin._generators, self._generators
        self._states = None
        return drawn
