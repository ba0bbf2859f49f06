"""A range test: at which learning rates the loss falls, and where it diverges (Smith 2017, section 3.3)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.lazy_rows import HOST
from gpu_backprop.backend.snapshot import Snapshot
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.figures import new_figure
from gpu_backprop.training.manual_steps import ManualSteps, StepLoss
from gpu_backprop.training.step import State

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOOTHING, DIVERGED = 0.9, 4.0
"""β of smoothed losses, Σ βᵏe/Σ βᵏ over a loss and those k steps before it; and how many times the least of them is
where the test ends."""

SKIPPED, LEAST_STEPS = 10, 20
"""How many steps it takes until smoothed losses are more than chance; and the fewest that a test is made of."""


class RangeTest:
    """What a range test measured; print it.

    Attributes:
        rates: the learning rates that were tried, one a step, up to where the loss diverged.
        losses: float64 (steps,), or (steps, models): the loss of the minibatch before each step, smoothed.
        suggestion: a tenth of the rate at which the loss was least, or one a member; None where it never fell, or that
            is less than what was tried. The best rates are usually there, where the loss falls, and not where it has
            stopped to.
        ended: whether the loss, or that of a member, was least at the end of the range, so that a larger `highest` may
            suggest another rate.
    """

    def __init__(self, rates: Array, losses: Array) -> None:
        self.rates, self.losses = rates, losses
        least = [_least(column) for column in self.losses.reshape(len(rates), -1).T]
        found = [float(rates[k] / 10) if k and rates[k] / 10 >= rates[0] else None for k in least]
        self.suggestion: Any = found if losses.ndim > 1 else found[0]
        self.ended = len(rates) - 1 in least

    def __repr__(self) -> str:
        whose = " of each member" if self.losses.ndim > 1 else ""
        told = ", ".join("none" if rate is None else f"{rate:.2g}" for rate in np.ravel(np.array(self.suggestion)))
        ended = "; the loss was least at the end of the range: try a larger highest" if self.ended else ""
        return f"<RangeTest of {len(self.rates)} rates up to {self.rates[-1]:.2g}; suggestion{whose}: {told}{ended}>"

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draws the loss over the learning rate, a line a member, with the suggestion.

        Args:
            path: an image to write (.png, .svg, .pdf ...). None: a figure of matplotlib.pyplot.

        Raises:
            InputError: the image can't be written.
            MissingExtraError: matplotlib is not installed.
        """
        with new_figure(1, path) as (figure, (axes,)):
            axes.plot(self.rates, self.losses)
            axes.set(xscale="log", xlabel="learning rate", ylabel="loss, smoothed")
            suggested = [rate for rate in np.ravel(np.array(self.suggestion)) if rate is not None]
            for number, rate in enumerate(suggested):
                label = f"suggestion: {rate:.2g}" if len(suggested) == 1 else "suggestions" if not number else None
                axes.axvline(rate, color="black", linewidth=1, linestyle=":", label=label)
            if suggested:
                axes.legend()
        return figure


def run_range_test(
    manual_steps: ManualSteps, data: Samples, batch_size: int, lowest: float, highest: float, steps: int
) -> RangeTest:
    """Makes steps on minibatches of the data, each with a larger learning rate, and undoes them. The caller has the
    network to itself, and has checked all of this."""
    step = manual_steps.step
    device, optimizer = step.device, step.optimizer
    rates, losses, total = np.geomspace(lowest, highest, steps), list[Array](), np.array(0.0)
    batches = _minibatches(data, min(batch_size, data.rows), step.seeds[0], device)
    rate, host, first = optimizer.learning_rate, step.state().host, next(batches)
    before = Snapshot(device, manual_steps.load(first).plan.outputs())
    try:
        for tried, batch in zip(rates.tolist(), chain([first], batches), strict=False):
            optimizer.learning_rate = tried
            replay = manual_steps.load(batch)
            with device.computing():
                replay.run()
            loss = np.asarray(StepLoss(step, manual_steps.total, batch.rows))
            total = SMOOTHING * total + (1 - SMOOTHING) * loss
            losses.append(total / (1 - SMOOTHING ** (len(losses) + 1)))
            if len(losses) > SKIPPED and not (losses[-1] <= DIVERGED * np.fmin.reduce(losses)).any():
                break
    finally:
        optimizer.learning_rate = rate
        before.restore()
        step.load_state(State({}, host))
    return RangeTest(rates[: len(losses)], np.stack(losses))


def _minibatches(data: Samples, rows: int, seed: int, device: Device) -> Iterator[Samples]:
    """Yields minibatches of so many rows, without end, each time through the data in a new order."""
    rng = np.random.default_rng([seed, 2])  # 1 is that of shuffling
    while True:
        order = rng.permutation(data.rows)
        for begin in range(0, data.rows - rows + 1, rows):
            yield _rows(data, order[begin : begin + rows], device)


def _rows(data: Samples, chosen: Array, device: Device) -> Samples:
    with device.current():
        x, target, weights = (
            None if a is None else a[chosen if isinstance(a, HOST) else device.from_host(chosen)]
            for a in (data.x, data.target, data.weights)
        )
    assert x is not None and target is not None
    return Samples(x, target, weights)


def _least(losses: Array) -> int:
    """Returns the step at which smoothed losses are least; 0 where that is the first one that counts."""
    least = int(np.nanargmin(losses[SKIPPED:])) if np.isfinite(losses[SKIPPED:]).any() else 0
    return SKIPPED + least if least else 0
