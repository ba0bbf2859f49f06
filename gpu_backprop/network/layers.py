"""Layers read like the notes: forward is activate ∘ linear, and backward is the same two upside down.

A layer holds parameters, which are views of the network's flat buffers, and nothing of any batch: that lies in the
plan. Every method appends operations to a plan and returns the buffer in which the result will be.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, overload

import numpy as np

from gpu_backprop.backend.attributes import FixedAttributes
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.errors import InputError, StateError
from gpu_backprop.backend.formula import Activation, Array
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.activations import ACTIVATIONS, activation
from gpu_backprop.network.arrays import fill
from gpu_backprop.network.initializers import Initializer, initializer
from gpu_backprop.network.numbers import number, positive, switch


def transposed(matrices: Array) -> Array:
    """Returns a view with the last two axes transposed."""
    return matrices.swapaxes(-1, -2)


OF_NETWORK = frozenset({"inputs", "units", "number", "models_shape", "views", "device", "random"})
"""The attributes that a layer gets with its place in a network."""


class _View:
    """An array of a layer: None until a network owns the layer, then a view of a flat buffer of the network. Assigning
    copies the values in, so that it stays one."""

    def __set_name__(self, owner: type[Layer], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, layer: None, owner: type[Layer]) -> _View: ...
    @overload
    def __get__(self, layer: Layer, owner: type[Layer]) -> Array | None: ...
    def __get__(self, layer: Layer | None, owner: type[Layer]) -> Array | _View | None:
        return self if layer is None else layer.views.get(self.name)

    def __set__(self, layer: Layer, values: Any) -> None:
        view = layer.views.get(self.name)
        if view is None:
            raise StateError(f"{layer!r} has no {self.name}, or is not part of a network yet: set it on net.layers[i].")
        fill(view, values, self.name, layer.device)


class Layer(FixedAttributes):
    """The base of all layers: y = f(z) and its gradient.

    Attributes:
        activation: f.
        weight, bias, grad_weight, grad_bias: views of the network's flat buffers; None where the layer has none.
        inputs, units: how many numbers a sample has on the way in and out; 0 until the layer is part of a network.
        number: 1 for the first layer of its network; its buffers are called z1, y1, ∇W1 …
    """

    activation: Activation = ACTIVATIONS["identity"]
    weight, bias, grad_weight, grad_bias = _View(), _View(), _View(), _View()
    views: Mapping[str, Array] = MappingProxyType({})
    device: Device
    inputs = 0
    units = 0
    number = 0
    models_shape: tuple[int, ...] = ()
    random: Array | None = None

    @property
    def product_weight(self) -> Array:
        """W as the products read it: in a 16-bit network a copy of `weight` in its dtype, see `Network.refresh`."""
        return self.views.get("half_weight", self.views["weight"])

    def attach(self, number: int, inputs: int, models_shape: tuple[int, ...]) -> None:
        """Takes a place in a network."""
        self.open()
        self.number, self.inputs, self.units, self.models_shape = number, inputs, inputs, models_shape
        self.views = {}

    def own(self, name: str, view: Array, device: Device) -> None:
        """Receives a view of a flat buffer."""
        self.views, self.device = {**self.views, name: view}, device

    def __getstate__(self) -> dict[str, Any]:
        """Returns the settings only: a copy is part of no network."""
        return {name: value for name, value in vars(self).items() if name not in OF_NETWORK}

    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Returns the shape of each parameter of one model, by attribute name."""
        return {}

    def initial(self, name: str, generator: np.random.Generator) -> Array | None:
        """Draws the initial values of a parameter; None: zeros."""
        return None

    @abstractmethod
    def describe(self) -> Mapping[str, Any]:
        """Describes the layer as plain data, from which `layer_from` makes it again."""

    # Forward ----------------------------------------------------------------------------------------------------------

    @abstractmethod
    def linear(self, plan: Plan, x: Array) -> Array:
        """z of x."""

    @property
    def activation_bias(self) -> Array | None:
        """The bias that activate still has to add."""
        return None

    def activate(self, plan: Plan, z: Array) -> Array:
        """y = f(z + b), in z's place where f′ is written in y."""
        saved, f, bias, n = plan.saved(self), self.activation, self.activation_bias, self.number
        apart = f.reads == "z" or not plan.fuse
        y = plan.empty(f"y{n}", z.shape) if apart else z
        saved.z, saved.y = z, y
        if apart or bias is not None or f.numpy_value is not None:
            argument = f"z{n}" if bias is None else f"z{n} + b{n}"
            formula = f"y{n} = {argument}" if f.name == "identity" else f"y{n} = {f.name}({argument})"
            plan.add(Operations.bias_activate, formula, {"y": f"y{n}"}, z, bias, f, y)
        elif plan.name_of(y).startswith("z"):  # a layer that passes its input on has no buffer of its own to name
            plan.named(f"y{n}", y)
        return y

    def forward(self, plan: Plan, x: Array) -> Array:
        return self.activate(plan, self.linear(plan, x))

    # Backward ---------------------------------------------------------------------------------------------------------

    def activate_backward(self, plan: Plan, grad_y: Array) -> Array:
        """∇z = ∇y ⊙ f′, because ∂y_j/∂z_j = f′(z_j) and the others are 0; softmax: ∇z = ∇y·∂f/∂z (N4).
        ∇b = Σ∇z over the rows, because ∂z_j/∂b_j = 1 in every row. ∇z takes ∇y's place."""
        saved, f, n = plan.saved(self), self.activation, self.number
        if plan.fuse and not f.reads:  # ∇z is ∇y
            self.sum_bias(plan, plan.named(f"∇z{n}", grad_y))
            return grad_y
        s = {"y": saved.y, "z": saved.z, "": None}[f.reads]
        grad_z = grad_y if plan.fuse else plan.empty(f"∇z{n}", grad_y.shape)
        slope = f"·∂{f.name}/∂z{n}" if f.rowwise else f" ⊙ {f.name}′({f.reads}{n})" if f.reads else ""
        formula = f"∇z{n} = ∇y{n}{slope}" + (f", ∇b{n} = Σ∇z{n}" if self.grad_bias is not None else "")
        names = {"grad_z": f"∇z{n}"}
        plan.add(Operations.activation_gradient, formula, names, grad_y, s, f, grad_z, self.grad_bias)
        return grad_z

    def sum_bias(self, plan: Plan, grad_z: Array) -> None:
        """∇b = Σ∇z, where nothing else has done it."""
        if self.grad_bias is not None:
            formula = f"{plan.name_of(self.grad_bias)} = Σ{plan.name_of(grad_z)}"
            plan.add(Operations.column_sum, formula, {}, grad_z, self.grad_bias)

    @abstractmethod
    def linear_backward(self, plan: Plan, grad_z: Array, grad_x: bool) -> Array | None:
        """∇W from ∇z, and ∇x if it is asked for."""

    def backward(self, plan: Plan, grad_y: Array, grad_x: bool) -> Array | None:
        return self.linear_backward(plan, self.activate_backward(plan, grad_y), grad_x)

    def grad_x_name(self) -> str:
        """∇x is ∇y of the layer below (N0: ∇x → ∇y)."""
        return f"∇y{self.number - 1}" if self.number > 1 else "∇x"


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
