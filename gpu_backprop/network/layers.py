"""The layers: Dense, Bias, Scale and Dropout, and the table of all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Activation, Array
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.activations import activation
from gpu_backprop.network.initializers import Initializer, initializer
from gpu_backprop.network.layer import WEIGHTS_ALONE, Factor, Layer
from gpu_backprop.network.numbers import one_a_member, one_or_several, positive, switch
from gpu_backprop.network.own_activations import activation_of_data, spell_activation
from gpu_backprop.network.periodic import Periodic
from gpu_backprop.network.schedules import Followed, check_members, describe
from gpu_backprop.network.schedules import schedule as schedule_of


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
            "ntp" is the neural tangent parametrization of d inputs, for Adam and its kin: W ~ N(0, 1/d), b ~ N(0, 1),
            and the learning rate of W, but not its weight decay, is multiplied by d^(−½), so that one learning rate
            suits all widths.
        trainable: whether steps change W and b.
        learning_rate_factor, weight_decay_factor: ≥ 0, what the optimizer's learning rate and weight decay are
            multiplied by here. A mapping such as {"bias": 0} has a factor for W, for b, or for both.
        penalty_factor: the same of the optimizer's penalties l1 and l2, from which b is exempt unless it has one here.
        max_norm: c > 0, the most that the norm of the weights that lead to a unit may be, without its bias: after each
            step W_j ← W_j·min(1, c/‖W_j‖) (Srivastava et al. 2014, section 5.1). One number, or one a member; None: no
            bound.
    """

    def __init__(
        self, units: int, activation: str | Activation = "identity", *, bias: bool = True,
        init: str | Initializer | None = None, trainable: bool = True, learning_rate_factor: Factor = 1.0,
        weight_decay_factor: Factor = 1.0, penalty_factor: Factor = WEIGHTS_ALONE,
        max_norm: float | Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        self.outputs = positive("units", units)
        self.activation, self.has_bias = _activation(activation), switch("bias", bias)
        self.initializer = initializer(init, self.activation.name)
        self.trainable, self.penalty_factor = trainable, penalty_factor
        self.learning_rate_factor, self.weight_decay_factor = learning_rate_factor, weight_decay_factor
        self.max_norm = max_norm

    @property
    def max_norm(self) -> float | Sequence[float] | None:
        """The most that the norm of the weights that lead to a unit may be; assigning takes effect from the next step
        on, and None, or a number where there was none, from the next epoch or step by hand."""
        return self._max_norm

    @max_norm.setter
    def max_norm(self, value: float | Sequence[float] | None) -> None:
        if value is not None:
            value = one_or_several("max_norm", value, "a finite number > 0", lambda norm: 0 < norm < math.inf)
            if self.number:
                of_members = one_a_member("max_norm", value, self.models_shape)
                if self.norm_limit is not None:
                    self.device.copy_in(self.norm_limit, of_members)
        self._max_norm = tuple(value) if isinstance(value, list) else value

    def __repr__(self) -> str:
        told = ({} if self.has_bias else {"bias": False}) | self._described()
        return f"Dense({self.outputs}, {self.activation.name!r}{_options(told)})"

    def attach(self, number: int, inputs: int, models_shape: tuple[int, ...]) -> None:
        super().attach(number, inputs, models_shape)
        self.units = self.outputs
        self.max_norm = self._max_norm  # whose number is checked

    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"weight": (self.inputs, self.units)} | ({"bias": (self.units,)} if self.has_bias else {})

    def initial(self, name: str, generator: np.random.Generator) -> Array | None:
        if name == "bias":
            return self.initializer.fill_bias(generator, self.units)
        return self.initializer.fill(generator, (self.inputs, self.units))

    def factors(self, name: str) -> tuple[float, float, float]:
        """As of any layer, and that of the learning rate by the initializer's. An update multiplies the weight decay by
        it too, which is taken back here."""
        rate, decay, penalty = super().factors(name)
        by = self.initializer.rate_factor(self.inputs) if name == "weight" else 1.0
        return rate * by, decay / by, penalty

    def describe(self) -> Mapping[str, Any]:
        init, f = self.initializer.spec(), spell_activation(self.activation)
        told = {"kind": "dense", "units": self.outputs, "activation": f, "bias": self.has_bias, "init": init}
        return told | self._described()

    def _described(self) -> dict[str, Any]:
        """Describes how it is trained, where that is not the default, as plain data."""
        norm = [*self._max_norm] if isinstance(self._max_norm, tuple) else self._max_norm
        return self._training.describe() | ({} if norm is None else {"max_norm": norm})

    @property
    def plan_key(self) -> Hashable:
        return self._training, self._max_norm is None

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
        n, x, grad_weight = self.number, plan.saved(self).x, self.gradient_of("weight")
        if grad_weight is not None:
            formula = f"∇W{n} = {plan.name_of(x)}ᵀ@∇z{n}"
            plan.add(Operations.matmul, formula, {}, transposed(x), grad_z, grad_weight)
        if not grad_x:
            return None
        name = self.grad_x_name()
        out = plan.empty(name, (*self.models_shape, *x.shape[-2:]))
        plan.add(Operations.matmul, f"{name} = ∇z{n}@W{n}ᵀ", {}, grad_z, transposed(self.product_weight), out)
        return out

    def limit_norms(self, plan: Plan) -> None:
        """W_j ← W_j·min(1, c/‖W_j‖): of the points in that ball around 0 it is the nearest."""
        if self._max_norm is None or not self.trainable:
            return
        assert self.weight is not None and self.norm_limit is not None
        n, half = self.number, self.views.get("half_weight")
        weight = plan.named(f"W{n}" if half is None else f"W{n} ({self.device.master.name})", self.weight)
        limit = plan.named(f"c{n}", self.norm_limit)
        formula = f"W{n} ← W{n}·min(1, c{n}/‖W{n}‖) by units"
        plan.add(Operations.limit_norms, formula, {}, weight, limit, plan.gradient_factor, half)


class Bias(Layer):
    """y = f(x + b): a layer with a bias and no weights (N4).

    Args:
        activation: the name of f, see `gpu_backprop.ACTIVATIONS`.
        trainable, learning_rate_factor, weight_decay_factor, penalty_factor: as of `Dense`.
    """

    def __init__(
        self, activation: str | Activation = "identity", *, trainable: bool = True,
        learning_rate_factor: Factor = 1.0, weight_decay_factor: Factor = 1.0,
        penalty_factor: Factor = WEIGHTS_ALONE,
    ) -> None:  # fmt: skip
        self.activation, self.trainable, self.penalty_factor = _activation(activation), trainable, penalty_factor
        self.learning_rate_factor, self.weight_decay_factor = learning_rate_factor, weight_decay_factor

    def __repr__(self) -> str:
        return f"Bias({self.activation.name!r}{_options(self._training.describe())})"

    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"bias": (self.inputs,)}

    def describe(self) -> Mapping[str, Any]:
        return {"kind": "bias", "activation": spell_activation(self.activation), **self._training.describe()}

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


class Scale(Layer):
    """y = x ⊙ s: every input times a factor of its own, which is learned and begins at 1. In front of the first Dense
    layer it weighs the columns of a table (Holzmüller et al. 2024, RealMLP, where its learning rate is 6 times that of
    the others).

    The parameter s is `weight`, (inputs,). Of s it is 1 that changes nothing, while weight decay and penalties pull it
    to 0, where its input is left out: they choose inputs, and {"weight": 0} keeps them from it.

    Args:
        trainable, learning_rate_factor, weight_decay_factor, penalty_factor: as of `Dense`.
    """

    symbols: ClassVar[Mapping[str, str]] = {"weight": "s"}

    def __init__(
        self, *, trainable: bool = True, learning_rate_factor: Factor = 1.0, weight_decay_factor: Factor = 1.0,
        penalty_factor: Factor = WEIGHTS_ALONE,
    ) -> None:  # fmt: skip
        self.trainable, self.penalty_factor = trainable, penalty_factor
        self.learning_rate_factor, self.weight_decay_factor = learning_rate_factor, weight_decay_factor

    def __repr__(self) -> str:
        return f"Scale({_options(self._training.describe()).removeprefix(', ')})"

    @property
    def product_weight(self) -> Array:
        """s as it is kept, in a 16-bit network too: as a bias, it is no operand of a product."""
        return self.views["weight"]

    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"weight": (self.inputs,)}

    def initial(self, name: str, generator: np.random.Generator) -> Array | None:
        return np.ones(self.inputs)

    def describe(self) -> Mapping[str, Any]:
        return {"kind": "scale", **self._training.describe()}

    def linear(self, plan: Plan, x: Array) -> Array:
        """z = x ⊙ s, in a buffer of its own, because ∇s reads x."""
        n, plan.saved(self).x = self.number, x
        z = plan.empty(f"z{n}", x.shape)
        plan.add(Operations.scale_columns, f"z{n} = {plan.name_of(x)} ⊙ s{n}", {}, x, self.product_weight, z)
        return z

    def linear_backward(self, plan: Plan, grad_z: Array, grad_x: bool) -> Array | None:
        """z_j = x_j s_j, so ∂z_j/∂s_j = x_j and ∂z_j/∂x_j = s_j: ∇s = Σ x ⊙ ∇z over the rows, and ∇x = ∇z ⊙ s, in ∇z's
        place."""
        n, s, name, grad_s = self.number, self.product_weight, self.grad_x_name(), self.gradient_of("weight")
        out = None if not grad_x else grad_z if plan.fuse else plan.empty(name, grad_z.shape)
        x, formula = plan.saved(self).x, f"{name} = ∇z{n} ⊙ s{n}"
        if grad_s is not None:
            told = f"∇s{n} = Σ {plan.name_of(x)} ⊙ ∇z{n}" + (f", {formula}" if grad_x else "")
            names = {"grad_x": name} if grad_x else {}
            factors = s if grad_x else None
            plan.add(Operations.scale_columns_gradient, told, names, x, grad_z, factors, out, grad_s)
        elif out is not None:
            plan.add(Operations.scale_columns, formula, {"z": name}, grad_z, s, out)
        return out


class Dropout(Layer):
    """While training, each number of x is set to 0 with the probability `rate` and the others are divided by 1 − rate,
    so that the expected value stays (Srivastava et al. 2014); else y = x.

    Args:
        rate: in [0, 1), or a sequence of them, one a member.
        schedule: by what factor the rate is multiplied at each step of a fit, as of an Optimizer; or a list of them,
            one a member.
    """

    BOUNDS: ClassVar[tuple[str, Callable[[Any], bool]]] = ("a number in [0, 1)", lambda rate: 0 <= rate < 1)

    def __init__(self, rate: float | Sequence[float], *, schedule: Any = None) -> None:
        self.rate, self.schedule = rate, schedule

    @property
    def rate(self) -> float | Sequence[float]:
        """The share of the numbers that are set to 0; assigning takes effect from the next step on."""
        return self._rate

    @rate.setter
    def rate(self, value: float | Sequence[float]) -> None:
        rate = one_or_several("dropout rate", value, *self.BOUNDS, ": the share of the numbers to set to 0")
        if self.number:
            of_members = one_a_member("dropout rate", rate, self.models_shape)
            if self.dropout_rates is not None and self.unscheduled is not None:
                self.device.copy_in(self.dropout_rates, np.stack([of_members, 1 / (1 - of_members)], axis=-1))
                self.device.copy_in(self.unscheduled, of_members)
        self._rate = tuple(rate) if isinstance(rate, list) else rate  # where setting one of them is no silent nothing

    @property
    def schedule(self) -> Followed | None:
        """What the rate is multiplied by; assigning takes effect from the next fit on."""
        return self._schedule

    @schedule.setter
    def schedule(self, value: Any) -> None:
        found = None if value is None else schedule_of(value)
        if self.number and found is not None:
            check_members("the schedule of a dropout rate", found, self.models_shape)
        self._schedule = found

    @property
    def active(self) -> bool:
        """Whether any rate is more than 0."""
        return any(self._rate) if isinstance(self._rate, tuple) else self._rate > 0

    @property
    def plan_key(self) -> Hashable:
        return self.active

    def attach(self, number: int, inputs: int, models_shape: tuple[int, ...]) -> None:
        super().attach(number, inputs, models_shape)
        self.rate, self.schedule = self._rate, self._schedule  # whose numbers are checked

    def __repr__(self) -> str:
        rates = ", ".join(f"{rate:g}" for rate in np.atleast_1d(self._rate))
        followed = "" if self.schedule is None else f", schedule={self.schedule!r}"
        return f"Dropout({f'[{rates}]' if isinstance(self._rate, tuple) else rates}{followed})"

    def describe(self) -> Mapping[str, Any]:
        followed = {} if self.schedule is None else {"schedule": describe(self.schedule)}
        return {"kind": "dropout", "rate": list(self._rate) if isinstance(self._rate, tuple) else self._rate} | followed

    def linear(self, plan: Plan, x: Array) -> Array:
        """y = x ⊙ mask, the mask drawn anew in every step."""
        if not plan.training or not self.active:
            return x
        assert self.random is not None and self.dropout_rates is not None
        saved, n, shape = plan.saved(self), self.number, (*self.models_shape, *x.shape[-2:])
        saved.mask = plan.empty(f"mask{n}", shape)
        y = plan.empty(f"z{n}", shape)
        formula = f"z{n} = {plan.name_of(x)} ⊙ mask{n}"
        plan.add(Operations.dropout, formula, {}, x, self.dropout_rates, self.random, y, saved.mask, plan.first_row)
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


LAYERS: Mapping[str, type[Layer]] = {
    "dense": Dense,
    "bias": Bias,
    "scale": Scale,
    "dropout": Dropout,
    "periodic": Periodic,
}


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


def _options(told: Mapping[str, Any]) -> str:
    """Writes settings as the further arguments of a call."""
    return "".join(f", {name}={value!r}" for name, value in told.items())


def _activation(spec: str | Activation | Mapping[str, Any]) -> Activation:
    if isinstance(spec, Initializer):
        raise InputError(f"activation must be a name or an Activation, got the initializer {spec!r}; pass it as init=.")
    return activation_of_data(spec) if isinstance(spec, Mapping) else activation(spec)
