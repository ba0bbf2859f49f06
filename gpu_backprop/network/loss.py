"""The base of all losses: the value and gradient of a batch, and how both enter a plan.

e sums over the outputs of a sample (mean_squared_error averages them). A batch counts as the mean Σ w·e / Σ w, with
weights 1 unless given, or with reduction="sum" as Σ w·e. That factor stands in the gradient of the loss and nowhere
else. In float16 the gradient, and not the value, is also multiplied by a scale S (training/loss_scaling.py).

The numbers of a loss, such as Huber's delta, lie in a small float64 buffer on the device, one row a member. They may
change between steps without a plan being built anew or a kernel compiled.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from gpu_backprop.backend.attributes import FixedAttributes
from gpu_backprop.backend.errors import InputError, StateError
from gpu_backprop.backend.formula import IDENTITY, LOSS, WEIGHT, Activation, Array, LossFormula
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.layer import Layer
from gpu_backprop.network.network import Network
from gpu_backprop.network.numbers import one_a_member, one_or_several

FUSED = {"softmax": Operations.softmax_cross_entropy, "sigmoid": Operations.sigmoid_cross_entropy}
"""By output activation, the operation that does it, its loss and the gradients of both."""


Bounds = Mapping[str, tuple[str, Callable[[float], bool]]]

Scaling = tuple[float, Array | None]
"""The factor of a batch: a number, 1/B or 1, and what lies on the device, S, or S/Σw of each step."""


@dataclass(unsafe_hash=True)
class Loss(FixedAttributes):
    """A loss with its settings: a record, until it is bound to a network.

    Attributes:
        reduction: "mean" over the batch, or "sum".
        name: as in the table of losses.
        bounds: by name, what each of its numbers may be, in words and as a test. A number may be one, or one a member;
            those of a bound loss can be set, which takes effect from the next step and evaluation on.
        needs: the output activations that the loss is defined for; empty: all.
        fused: the output activation with which the loss is one operation.
        operation, fused_gradient: that one, and ∇z in it, as text of y; None: by the activation, see FUSED.
        optional: which of its numbers may be None.
        labels: whether a target may be class numbers.
        low, high: the bounds of target values.
        network: what it is bound to, or None.
        numbers: where it is bound, float64 (..., 1 + k) on the device: label smoothing, or 0, and those of its formula.
    """

    reduction: str = field(default="mean", kw_only=True)
    network: ClassVar[Network | None] = None
    numbers: ClassVar[Array | None] = None
    name: ClassVar[str] = ""
    bounds: ClassVar[Bounds] = {}
    needs: ClassVar[tuple[str, ...]] = ()
    fused: ClassVar[str] = ""
    operation: ClassVar[Any] = None
    fused_gradient: ClassVar[str] = "{y} − y*"
    optional: ClassVar[tuple[str, ...]] = ()
    labels: ClassVar[bool] = False
    low: ClassVar[float] = -math.inf
    high: ClassVar[float] = math.inf

    def __post_init__(self) -> None:
        if self.reduction not in ("mean", "sum"):
            raise InputError(f"reduction must be 'mean' or 'sum', got {self.reduction!r}.")

    def __setattr__(self, name: str, value: Any) -> None:
        """Checks a number; where the loss is bound, it is copied to the device."""
        network = self.network
        if name in self.bounds and not (value is None and name in self.optional):
            value = one_or_several(self._spelled(name), value, *self.bounds[name])
            value = tuple(value) if isinstance(value, list) else value
            if network is not None:
                one_a_member(self._spelled(name), value, network.models_shape)
        super().__setattr__(name, value)
        if network is not None and self.numbers is not None:
            network.device.copy_in(self.numbers, self.rows(network.models_shape))

    def bind(self, network: Network) -> Self:
        """Makes a copy of this loss with its numbers on the device of `network`, where all plans read them."""
        bound = copy.copy(self)
        bound.open()
        numbers = network.device.from_host(self.rows(network.models_shape))
        vars(bound).update(settable=tuple(self.bounds), numbers=numbers, network=network)
        bound.close()
        return bound

    def __getstate__(self) -> dict[str, Any]:
        """Its settings: a copy is bound to no network."""
        return {name: value for name, value in vars(self).items() if name not in ("settable", "network", "numbers")}

    def rows(self, models_shape: tuple[int, ...]) -> Array:
        """Returns its numbers as kernels take them, on the host: see `numbers`."""
        for name in self.bounds:
            one_a_member(self._spelled(name), getattr(self, name), models_shape)
        smoothing = getattr(self, "label_smoothing", 0.0) if self.formula.smooths else 0.0
        numbers = smoothing, *(getattr(self, name) for name in self.formula.numbers)
        return np.stack([np.broadcast_to(np.asarray(n, np.float64), models_shape) for n in numbers], axis=-1)

    def _spelled(self, name: str) -> str:
        return f"{type(self).__name__}'s {name}"

    @property
    @abstractmethod
    def formula(self) -> LossFormula:
        """e and ∂e/∂y for the backend. Each of its numbers is an attribute of the loss."""

    def of_z(self, f: Activation) -> LossFormula | None:
        """Returns e as a formula of z with the same numbers, where y = f(z) is not precise enough."""
        return None

    def check(self, layer: Layer) -> None:
        """Raises InputError unless the loss is defined for the output of this last layer."""
        if self.needs and layer.activation.name not in self.needs:
            raise InputError(
                f"{self.name} needs an output activation out of {', '.join(self.needs)}, but the last one, {layer!r}, "
                f"has {layer.activation.name}. Use activation={self.needs[0]!r} there, or another loss."
            )

    def suited_to(self, layer: Layer) -> Self:
        """Returns this loss, or a copy of it, as it is for the output of this last layer; see `check`."""
        self.check(layer)
        return self

    def gradient(
        self, plan: Plan, layer: Layer, z: Array, target: Array, weights: Array | None, total: Array,
        scaling: Scaling | None = None,
    ) -> Array:  # fmt: skip
        """Appends y = f(z), e and ∇z = ∂E/∂z of the last layer to the plan; ∇b too. Returns ∇z. `scaling` is that of
        the minibatch that these rows are a part of; None: they are all of it."""
        numbers = self._bound_numbers(plan)
        scale, scales = scaling or self.scale(plan, z.shape[-2], weights, total)
        n = layer.number
        if self.fused == layer.activation.name and plan.fuse:
            argument = f"z{n} + b{n}" if layer.activation_bias is not None else f"z{n}"
            gradient = self.fused_gradient.format(y=f"{self.fused}({argument})")
            formula = f"∇z{n} = ({gradient}){self._factor(plan, weights)}, E += e"
            plan.add(
                self.operation or FUSED[self.fused], formula, {"grad_z": f"∇z{n}"},
                z, layer.activation_bias, target, weights, self.formula, numbers, scale, scales, z, total,
            )  # fmt: skip
            layer.sum_bias(plan, z)
            return z
        of_z = self.of_z(layer.activation) if plan.fuse else None
        y, name = (layer.activate(plan, z), f"y{n}") if of_z is None else (self._with_bias(plan, layer, z), f"z{n}")
        grad = plan.empty(f"∇{name}", y.shape)
        formula = f"∇{name} = ∂e/∂{name}{self._factor(plan, weights)}, E += e"
        e = of_z or self.formula
        plan.add(Operations.loss_gradient, formula, {}, y, target, weights, e, numbers, scale, scales, grad, total)
        if of_z is None:
            return layer.activate_backward(plan, grad)
        layer.sum_bias(plan, grad)
        return grad

    def value(
        self, plan: Plan, layer: Layer, z: Array, target: Array, weights: Array | None, total: Array, *,
        needs_y: bool = False,
    ) -> Array | None:  # fmt: skip
        """Appends E += Σ w·e only. Returns y, or None where a fused operation needed none and `needs_y` is not set."""
        numbers = self._bound_numbers(plan)
        if weights is not None:
            self._normalize_weights(plan, weights, None, total)
        if self.fused == layer.activation.name:
            bias, y = layer.activation_bias, None
            if needs_y:
                f, n = layer.activation, layer.number
                y = plan.empty(f"y{n}", z.shape)
                plan.add(Operations.bias_activate, f"y{n} = {f.name}(z{n} += b{n})", {}, z, bias, f, y)
                bias = None  # z has it now
            plan.add(
                self.operation or FUSED[self.fused], "E += e", {},
                z, bias, target, weights, self.formula, numbers, 1.0, None, None, total,
            )  # fmt: skip
            return y
        of_z = self.of_z(layer.activation)
        y = layer.activate(plan, z) if of_z is None else self._with_bias(plan, layer, z)
        formula = of_z or self.formula
        plan.add(Operations.loss_gradient, "E += e", {}, y, target, weights, formula, numbers, 1.0, None, None, total)
        if of_z is not None:
            f, n = layer.activation, layer.number
            plan.add(Operations.bias_activate, f"y{n} = {f.name}(z{n})", {"y": f"y{n}"}, y, None, f, y)
        return y

    def _bound_numbers(self, plan: Plan) -> Array:
        if self.numbers is None:
            raise StateError(f"{self!r} has no numbers on a device: use loss.bind(network).")
        return plan.named("numbers", self.numbers)

    @staticmethod
    def _with_bias(plan: Plan, layer: Layer, z: Array) -> Array:
        """z + b, in z's place."""
        if layer.activation_bias is not None:
            formula = f"z{layer.number} += b{layer.number}"
            plan.add(Operations.bias_activate, formula, {}, z, layer.activation_bias, IDENTITY, z)
        return z

    def reduce(self, total: Array, rows: int | Array) -> Array:
        """Returns the loss of all that a total, on the host, adds up: Σ w·e / Σ w, w is 1 unless given; or Σ w·e."""
        if self.reduction == "sum":
            return np.asarray(total[..., LOSS])
        weight = total[..., WEIGHT]  # stays 0 where no weights were given
        return np.asarray(total[..., LOSS] / np.where(weight > 0, weight, rows))

    def scale(self, plan: Plan, rows: int, weights: Array | None, total: Array) -> Scaling:
        """Returns the factor of a batch of so many rows, with these weights, which it adds up."""
        mean = self.reduction == "mean"
        if weights is None:
            return 1 / rows if mean else 1.0, plan.loss_scale
        if not mean:
            self._normalize_weights(plan, weights, None, total)
            return 1.0, plan.loss_scale
        scales = plan.empty(_scale_over_weight(plan), total.shape[:-1], np.float64)
        self._normalize_weights(plan, weights, scales, total)
        return 1.0, scales

    def _normalize_weights(self, plan: Plan, weights: Array, scales: Array | None, total: Array) -> None:
        """Σw, which also decides whether the optimizer moves: a batch without weight changes nothing."""
        if plan.communicator.ranks > 1:
            weights, total = self._sum_weights(plan, weights, total)
        counted, plan.gradient_factor = plan.gradient_factor, plan.empty("Σw ≠ 0", total.shape[:-1], np.float64)
        loss_scale = None if scales is None else plan.loss_scale
        formula = f"Σw, {_scale_over_weight(plan)}"
        plan.add(
            Operations.normalize_weights, formula, {},
            weights, loss_scale, counted, plan.gradient_factor, scales, total,
        )  # fmt: skip

    @staticmethod
    def _sum_weights(plan: Plan, weights: Array, total: Array) -> tuple[Array, Array]:
        """Σw over the ranks, which have to know it before the gradient. Returns numbers whose sum it is, and where they
        are to be added up: in the total of the first rank alone, since those of all ranks will be."""
        shape = total.shape
        nothing, sums = plan.named("no sums", plan.device.zeros(shape, np.float64)), plan.empty("Σw", shape, np.float64)
        counts, own = plan.empty("Σw ≠ 0 here", shape[:-1], np.float64), plan.empty("own E", shape, np.float64)
        plan.add(Operations.copy, "Σw = 0", {}, nothing, sums)
        plan.add(Operations.normalize_weights, "Σw of this rank", {}, weights, None, None, counts, None, sums)
        plan.add(Operations.all_reduce, "Σw of all ranks", {}, plan.communicator, sums)
        return sums, total if plan.communicator.rank == 0 else own

    def _factor(self, plan: Plan, weights: Array | None) -> str:
        scale = "" if plan.loss_scale is None else "·S"
        weight, divisor = ("", "/B") if weights is None else ("·w", "/Σw")
        return f"{scale}{weight}{divisor if self.reduction == 'mean' else ''}"


def _scale_over_weight(plan: Plan) -> str:
    return f"{1 if plan.loss_scale is None else 'S'}/Σw"
