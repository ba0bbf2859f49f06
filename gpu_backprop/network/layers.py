"""The layers: Dense, Bias and Dropout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Activation, Array
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.activations import activation
from gpu_backprop.network.initializers import Initializer, initializer
from gpu_backprop.network.layer import Layer
from gpu_backprop.network.numbers import number, positive, switch


def transposed(matrices: Array) -> Array:
    """Returns a view with the last two axes transposed."""
    return matrices.swapaxes(-1, -2)


class Dense(Layer):
    """y = f(x@W + b): every input reaches every unit (N0, N1, N2, N3).

    Args:
        units: how many outputs, ≥ 1.
        activation: the name of f, see `gpu_backprop.ACTIVATIONS`.
        bias: whether b is there (N2 has none).
        init: the initial W: the name of an initializer, an Initializer, or None for one that suits f. b begins at 0.
    """

    def __init__(
        self, units: int, activation: str | Activation = "identity", *, bias: bool = True,
        init: str | Initializer | None = None,
    ) -> None:  # fmt: skip
        self.outputs = positive("units", units)
        self.activation, self.has_bias = _activation(activation), switch("bias", bias)
        self.initializer = initializer(init, self.activation.name)

    def __repr__(self) -> str:
        return f"Dense({self.outputs}, {self.activation.name!r}" + ("" if self.has_bias else ", bias=False") + ")"

    def attach(self, number: int, inputs: int, models_shape: tuple[int, ...]) -> None:
        super().attach(number, inputs, models_shape)
        self.units = self.outputs

    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"weight": (self.inputs, self.units)} | ({"bias": (self.units,)} if self.has_bias else {})

    def initial(self, name: str, generator: np.random.Generator) -> Array | None:
        return self.initializer.fill(generator, (self.inputs, self.units)) if name == "weight" else None

    def describe(self) -> Mapping[str, Any]:
        init, f = self.initializer.spec(), self.activation.name
        return {"kind": "dense", "units": self.outputs, "activation": f, "bias": self.has_bias, "init": init}

    @property
    def activation_bias(self) -> Array | None:
        return self.bias

    def linear(self, plan: Plan, x: Array) -> Array:
        """z = x@W; b is added with f, in one pass."""
        saved, n = plan.saved(self), self.number
        saved.x = x
        z = plan.empty(f"z{n}", (*self.models_shape, x.shape[-2], self.units))
        plan.add(Operations.matmul, f"z{n} = {plan.name_of(x)}@W{n}", {}, x, self.product_weight, z)
        return z

    def linear_backward(self, plan: Plan, grad_z: Array, grad_x: bool) -> Array | None:
        """z_j = Σᵢ x_i w_ij + b_j, so ∂z_j/∂w_ij = x_i and ∂z_j/∂x_i = w_ij: ∇W = xᵀ@∇z, which sums over the rows, and
        ∇x = ∇z@Wᵀ."""
        assert self.grad_weight is not None
        n, x = self.number, plan.saved(self).x
        formula = f"∇W{n} = {plan.name_of(x)}ᵀ@∇z{n}"
        plan.add(Operations.matmul, formula, {}, transposed(x), grad_z, self.grad_weight)
        if not grad_x:
            return None
        name = self.grad_x_name()
        out = plan.empty(name, (*self.models_shape, *x.shape[-2:]))
        plan.add(Operations.matmul, f"{name} = ∇z{n}@W{n}ᵀ", {}, grad_z, transposed(self.product_weight), out)
        return out


class Bias(Layer):
    """y = f(x + b): a layer with a bias and no weights (N4).

    Args:
        activation: the name of f, see `gpu_backprop.ACTIVATIONS`.
    """

    def __init__(self, activation: str | Activation = "identity") -> None:
        self.activation = _activation(activation)

    def __repr__(self) -> str:
        return f"Bias({self.activation.name!r})"

    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"bias": (self.inputs,)}

    def describe(self) -> Mapping[str, Any]:
        return {"kind": "bias", "activation": self.activation.name}

    def linear(self, plan: Plan, x: Array) -> Array:
        """z = x + b, in a buffer of its own, because the layer below still reads x."""
        assert self.bias is not None
        n = self.number
        z = plan.empty(f"z{n}", (*self.models_shape, *x.shape[-2:]))
        plan.add(Operations.add_bias, f"z{n} = {plan.name_of(x)} + b{n}", {}, x, self.bias, z)
        return z

    def linear_backward(self, plan: Plan, grad_z: Array, grad_x: bool) -> Array | None:
        """z = x + b, so ∂z_j/∂x_j = 1: ∇x = ∇z."""
        return plan.named(self.grad_x_name(), grad_z) if grad_x else None


class Dropout(Layer):
    """While training, each number of x is set to 0 with the probability `rate` and the others are divided by 1 − rate,
    so that the expected value stays (Srivastava et al. 2014); else y = x.

    Args:
        rate: in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        hint = ": the share of the numbers to set to 0"
        self.rate = number("dropout rate", rate, "a number in [0, 1)", lambda rate: 0 <= rate < 1, hint)

    def __repr__(self) -> str:
        return f"Dropout({self.rate:g})"

    def describe(self) -> Mapping[str, Any]:
        return {"kind": "dropout", "rate": self.rate}

    def linear(self, plan: Plan, x: Array) -> Array:
        """y = x ⊙ mask, the mask drawn anew in every step."""
        if not plan.training or self.rate == 0:
            return x
        assert self.random is not None
        saved, n, shape = plan.saved(self), self.number, (*self.models_shape, *x.shape[-2:])
        saved.mask = plan.empty(f"mask{n}", shape)
        y = plan.empty(f"z{n}", shape)
        formula = f"z{n} = {plan.name_of(x)} ⊙ mask{n}"
        plan.add(Operations.dropout, formula, {}, x, self.rate, self.random, y, saved.mask)
        return y

    def linear_backward(self, plan: Plan, grad_z: Array, grad_x: bool) -> Array | None:
        """y = x ⊙ mask, so ∇x = ∇y ⊙ mask, in its place."""
        if not grad_x:
            return None
        n, name = self.number, self.grad_x_name()
        mask = getattr(plan.saved(self), "mask", None)
        if mask is None:
            return plan.named(name, grad_z)
        out = grad_z if plan.fuse else plan.empty(name, grad_z.shape)
        plan.add(Operations.multiply, f"{name} = ∇z{n} ⊙ mask{n}", {"out": name}, grad_z, mask, out)
        return out


LAYERS: Mapping[str, type[Layer]] = {"dense": Dense, "bias": Bias, "dropout": Dropout}


def layer_from(description: Mapping[str, Any]) -> Layer:
    """Makes the layer that `Layer.describe` described."""
    settings = dict(description)
    kind = settings.pop("kind", None)
    if kind not in LAYERS:
        raise InputError(f"unknown layer kind {kind!r}. Known: {', '.join(LAYERS)}.")
    try:
        return LAYERS[kind](**settings)
    except TypeError as error:
        raise InputError(f"a {kind} layer cannot be made of {settings!r}: {error}.") from None


def _activation(spec: str | Activation) -> Activation:
    if isinstance(spec, Initializer):
        raise InputError(f"activation must be a name or an Activation, got the initializer {spec!r}; pass it as init=.")
    return activation(spec)
