"""What every loss does: its value, the gradient of the batch, and how both enter a plan.

e sums over the outputs of a sample (mean_squared_error averages them). A batch counts as the mean Σ w·e / Σ w, with
weights 1 unless given, or with reduction="sum" as Σ w·e. That factor stands in the gradient of the loss and nowhere
else.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import LOSS, WEIGHT, Array, LossFormula
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.layers import Layer


@dataclass(frozen=True)
class Loss(ABC):
    """A loss with its settings.

    Attributes:
        reduction: "mean" over the batch, or "sum".
        name: as in the table of losses.
        needs: the output activations that the loss is defined for; empty: all.
        fused: the output activation with which one operation does loss, activation and both gradients.
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

    @property
    @abstractmethod
    def formula(self) -> LossFormula:
        """e and ∂e/∂y for the backend."""

    def check(self, layer: Layer) -> None:
        """InputError unless the loss is defined for what this last layer gives."""
        if self.needs and layer.activation.name not in self.needs:
            raise InputError(
                f"{self.name} needs an output activation out of {', '.join(self.needs)}, but the last one, {layer!r}, "
                f"has {layer.activation.name}. Use activation={self.needs[0]!r} there, or another loss."
            )

    def gradient(self, plan: Plan, layer: Layer, z: Array, target: Array, weights: Array | None, total: Array) -> Array:
        """Appends y = f(z), e and ∇z = ∂E/∂z of the last layer to the plan; ∇b too. Returns ∇z."""
        scale, n = self._scale(plan, z, weights, total), layer.number
        ops, bias = plan.device.ops, layer.activation_bias
        if self.fused == layer.activation.name and not plan.keep:
            argument = f"z{n} + b{n}" if bias is not None else f"z{n}"
            name = f"{self.fused}_cross_entropy"
            calls = getattr(ops, name)(plan.device, z, bias, target, weights, self.formula, scale, None, z, total)
            formula = f"∇z{n} = ({self.fused}({argument}) − y*){self._factor(weights)}, E += e"
            plan.loss(name, formula, (z, bias, target, weights, scale), calls, {f"∇z{n}": z, "E": total}, flops=8)
            if layer.grad_bias is not None:
                plan.column_sum(z, layer.grad_bias)
            return z
        y = layer.activate(plan, z)
        grad_y = plan.empty(f"∇y{n}", y.shape)
        calls = ops.loss_gradient(plan.device, y, target, weights, self.formula, scale, grad_y, total)
        formula = f"∇y{n} = ∂e/∂y{n}{self._factor(weights)}, E += e"
        writes = {f"∇y{n}": grad_y, "E": total}
        plan.loss("loss_gradient", formula, (y, target, weights, scale), calls, writes, flops=5)
        return layer.activate_backward(plan, grad_y)

    def value(
        self, plan: Plan, layer: Layer, z: Array, target: Array, weights: Array | None, total: Array
    ) -> Array | None:
        """Appends E += Σ w·e only. Returns y, or None where a fused operation needed none."""
        if weights is not None:
            self._weigh(plan, weights, None, total)
        ops, bias = plan.device.ops, layer.activation_bias
        if self.fused == layer.activation.name:
            name = f"{self.fused}_cross_entropy"
            calls = getattr(ops, name)(plan.device, z, bias, target, weights, self.formula, 1.0, None, None, total)
            plan.loss(name, "E += e", (z, bias, target, weights), calls, {"E": total}, flops=8)
            return None
        y = layer.activate(plan, z)
        calls = ops.loss_gradient(plan.device, y, target, weights, self.formula, 1.0, None, total)
        plan.loss("loss_gradient", "E += e", (y, target, weights), calls, {"E": total}, flops=3)
        return y

    def reduce(self, total: Array, rows: int) -> Array:
        """The loss of all that a total, on the host, has added up: Σ w·e / Σ w, where w is 1 unless given, or Σ w·e."""
        if self.reduction == "sum":
            return np.asarray(total[..., LOSS])
        weight = total[..., WEIGHT]  # stays 0 where no weights were given
        return np.asarray(total[..., LOSS] / np.where(weight > 0, weight, rows))

    def _scale(self, plan: Plan, z: Array, weights: Array | None, total: Array) -> Array | float:
        """The factor of the batch: 1/B, 1/Σw as a buffer that each step fills, or 1."""
        mean = self.reduction == "mean"
        if weights is None:
            return 1 / z.shape[-2] if mean else 1.0
        lead = total.shape[:-1]
        scale = plan.empty("1/Σw", (*lead, 1, 1), plan.device.master) if mean else None
        self._weigh(plan, weights, scale, total)
        return 1.0 if scale is None else scale

    def _weigh(self, plan: Plan, weights: Array, scale: Array | None, total: Array) -> None:
        """Σw, which also decides whether the optimizer moves: a batch without weight changes nothing."""
        plan.gate = plan.empty("Σw", total.shape[:-1], np.float64)
        calls = plan.device.ops.weigh(plan.device, weights, plan.gate, scale, total)
        writes = {"Σw": plan.gate, "1/Σw": scale, "E": total}
        plan.add("weigh", "Σw, 1/Σw", calls, (weights,), writes, weights.size)

    def _factor(self, weights: Array | None) -> str:
        if weights is None:
            return "/B" if self.reduction == "mean" else ""
        return "·w/Σw" if self.reduction == "mean" else "·w"
