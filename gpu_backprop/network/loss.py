"""The base of all losses: the value and gradient of a batch, and how both enter a plan.

e sums over the outputs of a sample (mean_squared_error averages them). A batch counts as the mean Σ w·e / Σ w, with
weights 1 unless given, or with reduction="sum" as Σ w·e. That factor stands in the gradient of the loss and nowhere
else. In float16 the gradient, and not the value, is also multiplied by a scale S (training/loss_scaling.py).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import IDENTITY, LOSS, WEIGHT, Activation, Array, LossFormula
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.layer import Layer
from gpu_backprop.network.numbers import number

FUSED = {"softmax": Operations.softmax_cross_entropy, "sigmoid": Operations.sigmoid_cross_entropy}
"""By output activation, the operation that does it, its loss and the gradients of both."""


@dataclass(frozen=True)
class Loss(ABC):
    """A loss with its settings.

    Attributes:
        reduction: "mean" over the batch, or "sum".
        name: as in the table of losses.
        needs: the output activations that the loss is defined for; empty: all.
        fused: the output activation with which the loss is one operation, see FUSED.
        labels: whether a target may be class numbers.
        low, high: the bounds of target values.
    """

    reduction: str = field(default="mean", kw_only=True)
    name: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    fused: ClassVar[str] = ""
    labels: ClassVar[bool] = False
    low: ClassVar[float] = -math.inf
    high: ClassVar[float] = math.inf

    def __post_init__(self) -> None:
        if self.reduction not in ("mean", "sum"):
            raise InputError(f"reduction must be 'mean' or 'sum', got {self.reduction!r}.")

    def _check_setting(self, name: str, accepted: str, fits: Callable[[float], bool]) -> None:
        """Checks a setting, and makes it a Python float."""
        what = f"{type(self).__name__}'s {name}"
        object.__setattr__(self, name, number(what, getattr(self, name), accepted, fits))

    @property
    @abstractmethod
    def formula(self) -> LossFormula:
        """e and ∂e/∂y for the backend."""

    def of_z(self, f: Activation) -> LossFormula | None:
        """Returns e as a formula of z, where y = f(z) is not precise enough."""
        return None

    def check(self, layer: Layer) -> None:
        """Raises InputError unless the loss is defined for the output of this last layer."""
        if self.needs and layer.activation.name not in self.needs:
            raise InputError(
                f"{self.name} needs an output activation out of {', '.join(self.needs)}, but the last one, {layer!r}, "
                f"has {layer.activation.name}. Use activation={self.needs[0]!r} there, or another loss."
            )

    def gradient(self, plan: Plan, layer: Layer, z: Array, target: Array, weights: Array | None, total: Array) -> Array:
        """Appends y = f(z), e and ∇z = ∂E/∂z of the last layer to the plan; ∇b too. Returns ∇z."""
        scale, scales = self._scale(plan, z, weights, total)
        n = layer.number
        if self.fused == layer.activation.name and plan.fuse:
            argument = f"z{n} + b{n}" if layer.activation_bias is not None else f"z{n}"
            formula = f"∇z{n} = ({self.fused}({argument}) − y*){self._factor(plan, weights)}, E += e"
            plan.add(
                FUSED[self.fused], formula, {"grad_z": f"∇z{n}"},
                z, layer.activation_bias, target, weights, self.formula, scale, scales, z, total,
            )  # fmt: skip
            layer.sum_bias(plan, z)
            return z
        of_z = self.of_z(layer.activation) if plan.fuse else None
        y, name = (layer.activate(plan, z), f"y{n}") if of_z is None else (self._with_bias(plan, layer, z), f"z{n}")
        grad = plan.empty(f"∇{name}", y.shape)
        formula = f"∇{name} = ∂e/∂{name}{self._factor(plan, weights)}, E += e"
        e = of_z or self.formula
        plan.add(Operations.loss_gradient, formula, {}, y, target, weights, e, scale, scales, grad, total)
        if of_z is None:
            return layer.activate_backward(plan, grad)
        layer.sum_bias(plan, grad)
        return grad

    def value(
        self, plan: Plan, layer: Layer, z: Array, target: Array, weights: Array | None, total: Array
    ) -> Array | None:
        """Appends E += Σ w·e only. Returns y, or None where a fused operation needed none."""
        if weights is not None:
            self._normalize_weights(plan, weights, None, total)
        if self.fused == layer.activation.name:
            plan.add(
                FUSED[self.fused], "E += e", {},
                z, layer.activation_bias, target, weights, self.formula, 1.0, None, None, total,
            )  # fmt: skip
            return None
        of_z = self.of_z(layer.activation)
        y = layer.activate(plan, z) if of_z is None else self._with_bias(plan, layer, z)
        formula = of_z or self.formula
        plan.add(Operations.loss_gradient, "E += e", {}, y, target, weights, formula, 1.0, None, None, total)
        if of_z is not None:
            f, n = layer.activation, layer.number
            plan.add(Operations.bias_activate, f"y{n} = {f.name}(z{n})", {"y": f"y{n}"}, y, None, f, y)
        return y

    @staticmethod
    def _with_bias(plan: Plan, layer: Layer, z: Array) -> Array:
        """z + b, in z's place."""
        if layer.activation_bias is not None:
            formula = f"z{layer.number} += b{layer.number}"
            plan.add(Operations.bias_activate, formula, {}, z, layer.activation_bias, IDENTITY, z)
        return z

    def reduce(self, total: Array, rows: int) -> Array:
        """Returns the loss of all that a total, on the host, adds up: Σ w·e / Σ w, w is 1 unless given; or Σ w·e."""
        if self.reduction == "sum":
            return np.asarray(total[..., LOSS])
        weight = total[..., WEIGHT]  # stays 0 where no weights were given
        return np.asarray(total[..., LOSS] / np.where(weight > 0, weight, rows))

    def _scale(self, plan: Plan, z: Array, weights: Array | None, total: Array) -> tuple[float, Array | None]:
        """The factor of the batch: a number, 1/B or 1, and what lies on the device, S, or S/Σw of each step."""
        mean = self.reduction == "mean"
        if weights is None:
            return 1 / z.shape[-2] if mean else 1.0, plan.loss_scale
        if not mean:
            self._normalize_weights(plan, weights, None, total)
            return 1.0, plan.loss_scale
        scales = plan.empty(_scale_over_weight(plan), total.shape[:-1], np.float64)
        self._normalize_weights(plan, weights, scales, total)
        return 1.0, scales

    def _normalize_weights(self, plan: Plan, weights: Array, scales: Array | None, total: Array) -> None:
        """Σw, which also decides whether the optimizer moves: a batch without weight changes nothing."""
        factor = plan.gradient_factor = plan.empty("Σw ≠ 0", total.shape[:-1], np.float64)
        loss_scale = None if scales is None else plan.loss_scale
        formula = f"Σw, {_scale_over_weight(plan)}"
        plan.add(Operations.normalize_weights, formula, {}, weights, loss_scale, factor, scales, total)

    def _factor(self, plan: Plan, weights: Array | None) -> str:
        scale = "" if plan.loss_scale is None else "·S"
        weight, divisor = ("", "/B") if weights is None else ("·w", "/Σw")
        return f"{scale}{weight}{divisor if self.reduction == 'mean' else ''}"


def _scale_over_weight(plan: Plan) -> str:
    return f"{1 if plan.loss_scale is None else 'S'}/Σw"
