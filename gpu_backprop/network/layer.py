"""The base of all layers. They read like the notes: forward is activate ∘ linear, and backward is the same two upside
down.

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
from gpu_backprop.backend.errors import StateError
from gpu_backprop.backend.formula import Activation, Array
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.arrays import fill

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
