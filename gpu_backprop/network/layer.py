"""The base of all layers. They read like the notes: forward is activate ∘ linear, and backward is the same two upside
down.

A layer holds parameters, which are views of the network's flat buffers, and nothing of any batch: that lies in the
plan. Every method appends operations to a plan and returns the buffer in which the result will be.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, cast, overload

import numpy as np

from gpu_backprop.backend.attributes import FixedAttributes
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.errors import InputError, StateError
from gpu_backprop.backend.formula import Activation, Array
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.arrays import fill
from gpu_backprop.network.numbers import number, switch

Factor = float | Mapping[str, float]
"""For all parameters of a layer, or for some by name: "weight", "bias"."""

OF_NETWORK = frozenset(
    {
        "inputs",
        "units",
        "number",
        "models_shape",
        "views",
        "device",
        "random",
        "dropout_rates",
        "unscheduled",
        "norm_limit",
        "changes",
    }
)
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


def _fits(factor: float) -> bool:
    """Tells whether float32 can hold a factor, and what is multiplied by it."""
    return factor == 0 or 1e-30 <= factor <= 1e30


class Factors(NamedTuple):
    """By what a setting of the optimizer is multiplied for W, and for b."""

    weight: float = 1.0
    bias: float = 1.0

    def given(self, name: str, value: Factor) -> Factors:
        """Checks one number for both, or a mapping with one for either, and puts them in place of these."""
        given = value if isinstance(value, Mapping) else dict.fromkeys(self._fields, value)
        if unknown := [key for key in given if key not in self._fields]:
            raise InputError(f"{name} has no {', '.join(map(repr, unknown))}: its keys are 'weight' and 'bias'.")
        accepted = "0 or a number from 1e-30 to 1e30, or a mapping of them such as {'bias': 0}"
        return self._replace(**{key: number(name, one, accepted, _fits) for key, one in given.items()})

    def plain(self, default: Factors) -> Factor:
        """Returns one number, or those that are not the default's; of the default itself, both."""
        if self.weight == self.bias:
            return self.weight
        others = {name: one for name, one in self._asdict().items() if one != getattr(default, name)}
        return MappingProxyType(others or self._asdict())


WEIGHTS_ALONE: Factor = MappingProxyType({"bias": 0.0})
"""What the penalties l1 and l2 act on, unless a layer says otherwise."""


class Training(NamedTuple):
    """Whether and how fast steps change a layer."""

    trainable: bool = True
    learning_rate_factor: Factors = Factors()
    weight_decay_factor: Factors = Factors()
    penalty_factor: Factors = Factors(bias=0.0)

    def plain(self, name: str) -> Factor:
        """Returns the factors of that name, as `Factors.plain` does."""
        return cast(Factors, getattr(self, name)).plain(self._field_defaults[name])

    def describe(self) -> dict[str, Any]:
        """Returns what is not the default, as plain data."""
        told: dict[str, Any] = {} if self.trainable else {"trainable": False}
        for name in self._fields[1:]:
            if getattr(self, name) != self._field_defaults[name]:
                plain = self.plain(name)
                told[name] = dict(plain) if isinstance(plain, Mapping) else plain
        return told


class Changes:
    """How many times an attribute of some layers was set."""

    count = 0


class Layer(FixedAttributes):
    """The base of all layers: y = f(z) and its gradient.

    Attributes:
        activation: f.
        weight, bias, grad_weight, grad_bias: views of the network's flat buffers; None where the layer has none.
        inputs, units: how many numbers a sample has on the way in and out; 0 until the layer is part of a network.
        number: 1 for the first layer of its network; its buffers are called z1, y1, ∇W1 …
        symbols: what formulas call each parameter.
        changes: to it and the other layers of its network.
    """

    activation: Activation = ACTIVATIONS["identity"]
    symbols: ClassVar[Mapping[str, str]] = {"weight": "W", "bias": "b"}
    weight, bias, grad_weight, grad_bias = _View(), _View(), _View(), _View()
    views: Mapping[str, Array] = MappingProxyType({})
    device: Device
    inputs = 0
    units = 0
    number = 0
    models_shape: tuple[int, ...] = ()
    random: Array | None = None
    dropout_rates: Array | None = None
    unscheduled: Array | None = None
    norm_limit: Array | None = None
    changes = Changes()
    _training = Training()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        self.changes.count += 1

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

    def symbol(self, name: str) -> str:
        """Returns what formulas call a parameter: "W1" of the first layer's weight."""
        return f"{self.symbols[name]}{self.number}"

    def initial(self, name: str, generator: np.random.Generator) -> Array | None:
        """Draws the initial values of a parameter; None: zeros."""
        return None

    @abstractmethod
    def describe(self) -> Mapping[str, Any]:
        """Describes the layer as plain data, from which `layer_from` makes it again."""

    # Training ---------------------------------------------------------------------------------------------------------

    @property
    def trainable(self) -> bool:
        """Whether steps change W and b; if not, their gradients stay 0, and what a step needs for them alone is left
        out of it. Assigning takes effect from the next epoch, step or forward on. The step number of an optimizer goes
        on meanwhile: Adam takes steps of several η in a layer that is set free late, unless a new Trainer begins."""
        return self._training.trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._set_training(trainable=switch("trainable", value))
        self.clear_frozen()

    @property
    def learning_rate_factor(self) -> Factor:
        """What the learning rate is multiplied by: a number ≥ 0, or a mapping with one for "weight", "bias" or both.
        Assigning takes effect from the next epoch or step on."""
        return self._training.plain("learning_rate_factor")

    @learning_rate_factor.setter
    def learning_rate_factor(self, value: Factor) -> None:
        self._set_factors("learning_rate_factor", value)

    @property
    def weight_decay_factor(self) -> Factor:
        """What the optimizer's weight decay is multiplied by, as `learning_rate_factor`: {"bias": 0} decays no bias."""
        return self._training.plain("weight_decay_factor")

    @weight_decay_factor.setter
    def weight_decay_factor(self, value: Factor) -> None:
        self._set_factors("weight_decay_factor", value)

    @property
    def penalty_factor(self) -> Factor:
        """What the optimizer's penalties l1 and l2 are multiplied by, as `learning_rate_factor`; unless it is given,
        1 for weights and 0 for biases: {"bias": 1} penalizes biases too."""
        return self._training.plain("penalty_factor")

    @penalty_factor.setter
    def penalty_factor(self, value: Factor) -> None:
        self._set_factors("penalty_factor", value)

    def _set_factors(self, name: str, value: Factor) -> None:
        self._set_training(**{name: self._training._field_defaults[name].given(name, value)})

    def _set_training(self, **setting: Any) -> None:
        if not self.parameter_shapes():
            raise InputError(f"{self!r} has no parameters, so that its {', '.join(setting)} would change nothing.")
        self._training = self._training._replace(**setting)

    def clear_frozen(self) -> None:
        """Sets the gradients of a layer that is not trainable to 0, which no plan fills any more."""
        gradients = [view for name, view in self.views.items() if name.startswith("grad_")]
        if gradients and not self.trainable:
            with self.device.current():
                for gradient in gradients:
                    gradient[...] = 0

    def factors(self, name: str) -> tuple[float, float, float]:
        """Returns those of the learning rate, 0 where it is frozen, of the weight decay, and of the penalties, for
        "weight" or "bias"."""
        trainable, *factors = self._training
        rate, decay, penalty = (getattr(one, name) for one in factors)
        return rate if trainable else 0.0, decay, penalty

    def gradient_of(self, name: str) -> Array | None:
        """Returns where ∇W or ∇b goes; None where there is none, or the layer is not trainable."""
        return self.views.get(f"grad_{name}") if self.trainable else None

    @property
    def plan_key(self) -> Hashable:
        """All of its settings that decide what a plan is made of."""
        return self._training

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
        grad_bias = self.gradient_of("bias")
        formula = f"∇z{n} = ∇y{n}{slope}" + (f", ∇b{n} = Σ∇z{n}" if grad_bias is not None else "")
        plan.add(Operations.activation_gradient, formula, {"grad_z": f"∇z{n}"}, grad_y, s, f, grad_z, grad_bias)
        return grad_z

    def sum_bias(self, plan: Plan, grad_z: Array) -> None:
        """∇b = Σ∇z, where nothing else has done it."""
        grad_bias = self.gradient_of("bias")
        if grad_bias is not None:
            formula = f"{plan.name_of(grad_bias)} = Σ{plan.name_of(grad_z)}"
            plan.add(Operations.column_sum, formula, {}, grad_z, grad_bias)

    @abstractmethod
    def linear_backward(self, plan: Plan, grad_z: Array, grad_x: bool) -> Array | None:
        """∇W from ∇z, and ∇x if it is asked for."""

    def limit_norms(self, plan: Plan) -> None:
        """Bounds the norm of the weights that lead to a unit, after an update; most layers bound nothing."""

    def backward(self, plan: Plan, grad_y: Array, grad_x: bool) -> Array | None:
        return self.linear_backward(plan, self.activate_backward(plan, grad_y), grad_x)

    def grad_x_name(self) -> str:
        """∇x is ∇y of the layer below (N0: ∇x → ∇y)."""
        return f"∇y{self.number - 1}" if self.number > 1 else "∇x"
