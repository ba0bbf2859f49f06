"""Periodic: embeddings of numbers by cosines of learned frequencies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.layer import WEIGHTS_ALONE, Factor, Layer
from gpu_backprop.network.numbers import positive

SIGMA = 0.1
"""The standard deviation of the first frequencies, in turns for each unit of x: RealMLP's."""


class Periodic(Layer):
    """Each of the first inputs x_i becomes (e_i1 … e_i,units, x_i), and the others follow as they are: with
    u_h = 2π·w_ih·x_i + b_ih, e_i = Aᵢᵀ·cos u + a_i (Gorishniy et al. 2022, in the form PBLD of Holzmüller et al. 2024).
    A network learns functions that bend, jump or come back from e with fewer steps than from x.

    `weight` is (numbers, frequencies, 1 + units), (w, A) of each number and frequency; `bias` (numbers, frequencies +
    units), (b, a) of each number. At first w ~ N(0, 0.1²), b ~ U(−π, π), and A, a ~ U(±1/√frequencies): inputs are
    expected to be of about the size of 1.

    Args:
        numbers: how many of the inputs are embedded, the first ones; None: all of them.
        frequencies: how many cosines of each, ≥ 1.
        units: how many combinations of these each number becomes besides itself, ≥ 1.
        trainable, learning_rate_factor, weight_decay_factor, penalty_factor: as of `Dense`. RealMLP has a learning
            rate factor of 0.1.
    """

    def __init__(
        self, numbers: int | None = None, frequencies: int = 16, units: int = 3, *, trainable: bool = True,
        learning_rate_factor: Factor = 1.0, weight_decay_factor: Factor = 1.0, penalty_factor: Factor = WEIGHTS_ALONE,
    ) -> None:  # fmt: skip
        self.numbers = None if numbers is None else positive("numbers", numbers)
        self.frequencies, self.embedding = positive("frequencies", frequencies), positive("units", units)
        self.trainable, self.penalty_factor = trainable, penalty_factor
        self.learning_rate_factor, self.weight_decay_factor = learning_rate_factor, weight_decay_factor

    def __repr__(self) -> str:
        (_, numbers), *told = ((name, value) for name, value in self.describe().items() if name != "kind")
        first = [] if numbers is None else [repr(numbers)]
        return f"Periodic({', '.join([*first, *(f'{name}={value!r}' for name, value in told)])})"

    def attach(self, number: int, inputs: int, models_shape: tuple[int, ...]) -> None:
        super().attach(number, inputs, models_shape)
        if self._embedded > inputs:
            raise InputError(
                f"layer {number} is {self!r}, but it has {inputs} inputs: numbers must be at most that, or None for "
                "all of them."
            )
        self.units = inputs + self._embedded * self.embedding

    @property
    def _embedded(self) -> int:
        return self.inputs if self.numbers is None else self.numbers

    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        numbers, frequencies = self._embedded, self.frequencies
        return {"weight": (numbers, frequencies, 1 + self.embedding), "bias": (numbers, frequencies + self.embedding)}

    def initial(self, name: str, generator: np.random.Generator) -> Array | None:
        shape, bound = self.parameter_shapes()[name], 1 / math.sqrt(self.frequencies)
        values = generator.uniform(-bound, bound, shape)
        if name == "weight":
            values[..., 0] = generator.normal(0, SIGMA, shape[:-1])
        else:
            values[:, : self.frequencies] = generator.uniform(-math.pi, math.pi, (shape[0], self.frequencies))
        return values

    def describe(self) -> Mapping[str, Any]:
        told = {"kind": "periodic", "numbers": self.numbers, "frequencies": self.frequencies, "units": self.embedding}
        return told | self._training.describe()

    # Forward and backward ---------------------------------------------------------------------------------------------

    def linear(self, plan: Plan, x: Array) -> Array:
        """z = (e, x) of each number, and the other inputs."""
        n, saved = self.number, plan.saved(self)
        saved.x = x
        z = plan.empty(f"z{n}", (*self.models_shape, x.shape[-2], self.units))
        formula = f"z{n} = (cos(2π·{plan.name_of(x)}·w{n} + b{n})·A{n} + a{n}, {plan.name_of(x)})"
        weight, bias = self._parameters(plan)
        plan.add(Operations.periodic, formula, {}, x, weight, bias, z)
        return z

    def activate_backward(self, plan: Plan, grad_y: Array) -> Array:
        """y is z, and its bias is no sum of it: ∇z = ∇y."""
        return plan.named(f"∇z{self.number}", grad_y)

    def sum_bias(self, plan: Plan, grad_z: Array) -> None:
        """∇b comes with ∇W."""

    def linear_backward(self, plan: Plan, grad_z: Array, grad_x: bool) -> Array | None:
        """Of one number, with g = ∇e and γ the gradient of the x beside it: e_k = a_k + Σ_h A_hk·cos u_h, so ∇a = g and
        ∇A = cos u·gᵀ. ∂e_k/∂u_h = −A_hk·sin u_h, so ∇u = δ = −sin u ⊙ (A·g); u_h = 2π·w_h·x + b_h, so ∇b = δ,
        ∇w = 2π·x·δ and ∇x = γ + 2π·Σ_h w_h·δ_h. The rows add up. cos u and sin u are worked out anew, which takes no
        longer than to keep and read them."""
        n, x = self.number, plan.saved(self).x
        weight, bias = self._parameters(plan)
        grad_weight, grad_bias = self.gradient_of("weight"), self.gradient_of("bias")
        if grad_weight is not None and grad_bias is not None:
            formula = f"∇W{n}, ∇b{n} = Σ∇z{n}·∂z{n}/∂(W{n}, b{n})"
            plan.add(Operations.periodic_gradient, formula, {}, x, weight, bias, grad_z, grad_weight, grad_bias)
        if not grad_x:
            return None
        name = self.grad_x_name()
        out = plan.empty(name, (*self.models_shape, *x.shape[-2:]))
        formula = f"{name} = ∇z{n}·∂z{n}/∂{plan.name_of(x)}"
        plan.add(Operations.periodic_gradient_x, formula, {}, x, weight, bias, grad_z, out)
        return out

    def _parameters(self, plan: Plan) -> tuple[Array, Array]:
        """W and b in the master dtype, also of a 16-bit network: a rounded w would turn by w·x·2⁻¹¹ turns too far."""
        assert self.weight is not None and self.bias is not None
        if "half_weight" in self.views:
            plan.named(f"W{self.number} ({self.device.master.name})", self.weight)
        return self.weight, self.bias
