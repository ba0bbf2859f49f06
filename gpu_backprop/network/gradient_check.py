"""Every derived gradient against a central difference, in float64."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import GradientError, InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.plan import Plan
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.losses import loss as loss_of
from gpu_backprop.network.network import Network
from gpu_backprop.network.numbers import number, positive
from gpu_backprop.network.samples import Samples, samples

STEP = 1e-6
"""The step of a difference: rounding (1e-16·E/STEP) and the cut-off series (STEP²) both stay small."""

FINEST = 1e-8
"""The smallest tolerance: about what rounding leaves of a difference of ordinary numbers, 1e-16/STEP, and more."""

SHRINK = (0.1, 0.01)
"""Shorter steps for a place next to a kink: one that does not reach it is right on this side of it."""


@dataclass(frozen=True)
class GradientReport:
    """The result of check_gradients.

    Attributes:
        checked: how many derivatives were compared.
        error: the largest |derived − difference| / max(|derived|, |difference|, floor).
        worst: where that was: "layers[0].weight[3, 1]" or "x[0, 2]".
        derived, difference: the two values there.
        kinks: places on a kink, where f or e has no derivative; they are not compared.
    """

    checked: int
    error: float
    worst: str
    derived: float
    difference: float
    kinks: list[str] = field(default_factory=list)


@explain_arguments
def check_gradients(
    network: Network, loss: str | Loss | None, x: Any, y: Any, weights: Any = None, *,
    tolerance: float = 1e-5, inputs: bool = True, at_most: int | None = 2000,
) -> GradientReport:  # fmt: skip
    """Compares the gradients of a network, ∂E/∂x included, with central differences of its loss on some data.

    Works on a float64 copy of the network, dropout active with masks that stay; layers that are not trainable have no
    gradients to check. Where f or e has a kink (relu at 0, |y − y*| at 0) within a step, a shorter step is tried; a
    place on the kink itself is reported, not compared.

    Args:
        loss, x, y, weights: as for `Trainer` and `Trainer.fit`; a few rows are enough.
        tolerance: the largest error, relative to the derivative; one below a floor is compared with that floor, because
            a difference knows no better: the largest of a thousandth of the largest derivative, E/10000, 1e-8, and what
            rounding leaves of a difference where the loss is computed from large z.
        inputs: whether to check ∂E/∂x too.
        at_most: how many derivatives of each array are checked, chosen at random from a fixed seed; None: all.

    Returns:
        A GradientReport.

    Raises:
        GradientError: some disagree; the message names the worst parameter and both values.
        InputError: what was given does not fit together.
    """
    accepted = f"a number in [{FINEST:g}, 1), because differences tell no more"
    tolerance = number("tolerance", tolerance, accepted, lambda value: FINEST <= value < 1)
    if at_most is not None:
        at_most = positive("at_most", at_most)
    if not isinstance(network, Network):
        raise InputError(f"network must be a gpu_backprop.Network, got {type(network).__name__}.")
    chosen = loss_of(loss, network.last)
    data = samples(network, chosen, x, y, weights, values=True, per_member=True)
    return _Check(network.copy("float64"), chosen, data).run(tolerance, inputs, at_most)


class _Check:
    def __init__(self, network: Network, loss: Loss, data: Samples) -> None:
        self.network, self.device, self.loss, self.rows = network, network.device, loss.bind(network), data.rows
        self.total = self.device.zeros((*network.models_shape, 3))
        self.x = self._for_each_member(data.x, 2)
        target = self._for_each_member(data.target, 1 if data.labelled else 2, data.labelled)
        weights = None if data.weights is None else self._for_each_member(data.weights, 1)
        self.value_plan, self.z = self._forward()
        self.value_plan.phase = "loss"
        self.loss.value(self.value_plan, network.last, self.z, target, weights, self.total)
        self.gradient_plan, z = self._forward()
        grad_z = self.loss.gradient(self.gradient_plan, network.last, z, target, weights, self.total)
        self.grad_x = network.emit_backward(self.gradient_plan, grad_z, start="z", grad_x=True)

    def _for_each_member(self, array: Array, axes: int, labels: bool = False) -> Array:
        """Copies an array, of which these are the last axes, to the device."""
        shape = (*self.network.models_shape, *array.shape[-axes:])
        out = self.device.empty(shape, array.dtype if labels else None)
        self.device.copy_in(out, array)
        return out

    def _forward(self) -> tuple[Plan, Array]:
        plan = Plan(self.device, training=True)
        self.network.emit_parameters(plan)
        plan.named("x", self.x)
        return plan, self.network.emit_forward(plan, self.x, upto="z")

    def value(self) -> float:
        """Computes E, summed over the members."""
        self.device.copy_in(self.total, np.zeros(3))
        with self.device.computing():
            self.value_plan.run()
        return float(self.loss.reduce(self.device.to_host(self.total), self.rows).sum())

    def _rounding(self) -> float:
        """Estimates the rounding error of a difference: a loss of nearly 0 may still be computed from large z."""
        with self.device.computing():
            self.value_plan.run("forward")
        return float(np.finfo(np.float64).eps) * float(np.abs(self.device.to_host(self.z)).max()) / STEP

    def run(self, tolerance: float, inputs: bool, at_most: int | None) -> GradientReport:
        with self.device.computing():
            self.gradient_plan.run()
        named = zip(self.network.places, self.network.parameter_arrays(), strict=True)
        arrays = [(name, p, self.device.to_host(g)) for (layer, *_), (name, p, g) in named if layer.trainable]
        if inputs:
            assert self.grad_x is not None
            arrays.append(("x", self.x, self.device.to_host(self.grad_x)))
        here = self.value()
        if not np.isfinite(here) or not all(np.isfinite(g).all() for _, _, g in arrays):
            raise GradientError(
                f"the loss on this data is {here} and its gradients are not all finite: nothing to compare."
            )
        largest = max((float(np.abs(g).max()) for _, _, g in arrays if g.size), default=0.0)
        floor = max(1e-3 * largest, 1e-4 * abs(here), 1e-8, self._rounding() / tolerance)
        checked, wrong, kinks, worst = 0, 0, [], (0.0, "", 0.0, 0.0)
        generator = np.random.default_rng(0)
        for name, array, derived in arrays:
            places = np.arange(derived.size)
            if at_most is not None and derived.size > at_most:
                places = np.sort(generator.choice(derived.size, at_most, replace=False))
            for place in places:
                at = f"{name}[{', '.join(str(int(i)) for i in np.unravel_index(place, derived.shape))}]"
                g = float(derived.reshape(-1)[place])
                error, difference = self._compare(array, int(place), g, here, floor, tolerance)
                if difference is None:
                    kinks.append(at)
                    continue
                checked += 1
                wrong += error > tolerance
                if error >= worst[0]:
                    worst = error, at, g, difference
        report = GradientReport(checked, *worst, kinks)
        if wrong:
            raise GradientError(
                f"∂E/∂{report.worst}: derived {report.derived:.10g}, central difference {report.difference:.10g} "
                f"(relative error {report.error:.1e}, tolerance {tolerance:.0e}). "
                f"{wrong} of {checked} derivatives disagree; this is the worst."
            )
        return report

    def _compare(
        self, array: Array, place: int, derived: float, here: float, floor: float, tolerance: float
    ) -> tuple[float, float | None]:
        """Computes the relative error and the central difference; None in its place on a kink.

        The slopes on the two sides differ by E″·step where E is smooth, and by a fixed gap on a kink.
        """
        index = np.unravel_index(place, array.shape)
        spot = array[tuple(slice(i, i + 1) for i in index)]
        before = self.device.to_host(spot)
        tried, gaps = [], []
        try:
            for shrink in (1.0, *SHRINK):
                step = STEP * shrink
                above, below = self._value_at(spot, before + step), self._value_at(spot, before - step)
                left, right = (here - below) / step, (above - here) / step
                gap, size = abs(right - left), max(abs(right), abs(left), floor)
                difference = (left + right) / 2
                error = abs(derived - difference) / max(abs(derived), abs(difference), floor)
                tried.append((error, difference))
                gaps.append(gap)
                if error <= tolerance and gap <= 100 * tolerance * size:
                    return error, difference
        finally:
            self.device.copy_in(spot, before)
        margin = tolerance * size
        lasting = gap > max(0.1 * gaps[0], 2 * margin)
        between = min(left, right) - margin <= derived <= max(left, right) + margin
        return (0.0, None) if lasting and between else min(tried)

    def _value_at(self, spot: Array, number: Array) -> float:
        """Computes E with another number in this place of a parameter or x."""
        self.device.copy_in(spot, number)
        return self.value()
