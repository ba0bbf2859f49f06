"""Optimizers: one operation over the flat buffers of parameters, gradients and moments.

An optimizer holds its settings in a small float64 buffer on the device, hyper: the step number, the learning rate, then
its own. They may change between steps without a plan being built anew. Each setting may be one number, or one a member.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from gpu_backprop.backend.attributes import FixedAttributes
from gpu_backprop.backend.errors import InputError, StateError, named
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.network import Network
from gpu_backprop.network.numbers import one_a_member, one_or_several, switch

Setting = float | Sequence[float]

_SHARE = ("a number in [0, 1)", lambda v: 0 <= v < 1)
_POSITIVE = ("a finite number > 0", lambda v: 0 < v < math.inf)
BOUNDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "learning_rate": _POSITIVE,
    "momentum": _SHARE,
    "decay": _SHARE,
    "beta1": _SHARE,
    "beta2": _SHARE,
    "epsilon": ("a finite number ≥ 1e-30", lambda v: 1e-30 <= v < math.inf),  # smaller ones are 0 in float32
    "weight_decay": ("a finite number ≥ 0", lambda v: 0 <= v < math.inf),
}
"""What each setting may be, in words and as a test."""

RENAMED = {"w": "parameters"}
"""By the name of the operations' parameter, the name of the buffer that they change."""


class Optimizer(FixedAttributes):
    """An optimizer: its settings, and the state of one network's training.

    Attributes:
        hyper: float64 (..., k) on the device: the step number, then the settings in the order of `names`.
        moments: by name, flat arrays in the layout of the parameters.
    """

    name: ClassVar[str] = ""
    names: ClassVar[tuple[str, ...]] = ("learning_rate",)
    moment_names: ClassVar[tuple[str, ...]] = ()
    hidden: ClassVar[tuple[str, ...]] = ()  # settings that the constructor does not take
    formula: ClassVar[str] = ""
    instead: ClassVar[Mapping[str, str]] = {"lr": "learning_rate", "rate": "learning_rate"}

    def __init__(self, learning_rate: Setting, **settings: Setting) -> None:
        self.settings: dict[str, Any] = {}
        self.network: Network | None = None
        self.hyper: Array | None = None
        self.moments: dict[str, Array] = {}
        for name, value in {"learning_rate": learning_rate, **settings}.items():
            self.settings[name] = self._check(name, value)

    def __repr__(self) -> str:
        given = (f"{k}={v!r}" for k, v in self.settings.items() if k not in self.hidden)
        return f"{type(self).__name__}({', '.join(given)})"

    def _check(self, name: str, value: Any) -> Any:
        accepted, fits = BOUNDS[name]
        return one_or_several(f"{name} of {type(self).__name__}", value, accepted, fits)

    @property
    def learning_rate(self) -> Any:
        """The learning rate; assigning takes effect from the next step on."""
        return self.settings["learning_rate"]

    @learning_rate.setter
    def learning_rate(self, value: Setting) -> None:
        value = self._check("learning_rate", value)
        if self.hyper is not None and self.network is not None:
            rate = one_a_member("learning_rate", value, self.network.models_shape)
            self.network.device.copy_in(self.hyper[..., 1], rate)
        self.settings["learning_rate"] = value

    def bind(self, network: Network) -> Optimizer:
        """Makes a copy of this optimizer with a fresh state for `network`."""
        bound = copy.copy(self)
        bound.open()
        bound.settings, bound.network, device = dict(self.settings), network, network.device
        settings = [one_a_member(name, bound.settings[name], network.models_shape) for name in self.names]
        bound.hyper = device.from_host(np.stack([np.zeros(network.models_shape), *settings], axis=-1))
        size = network.parameters.nbytes
        device.require({f"moments {name}": size for name in self.active_moments()}, f"The state of {self!r}")
        bound.moments = {name: device.zeros(network.parameters.shape, device.master) for name in self.active_moments()}
        bound.close()
        return bound

    def __getstate__(self) -> dict[str, Any]:
        """Its settings: a copy is bound to no network."""
        return {**vars(self), "settings": dict(self.settings), "network": None, "hyper": None, "moments": {}}

    def active_moments(self) -> tuple[str, ...]:
        """Names the moments that these settings need."""
        return self.moment_names

    def update(self, plan: Plan, network: Network) -> None:
        """Appends W ← W − …∇W. Where plan.gate is 0, nothing changes."""
        if self.hyper is None or self.network is not network:
            raise StateError(
                "the optimizer has no state for this network: use optimizer.bind(network).update(plan, network)."
            )
        for name, array in {"hyper": self.hyper, **self.moments}.items():
            plan.named(name, array)
        self.emit(plan, network.parameters, network.gradients, self.hyper, network.half_parameters)

    @abstractmethod
    def emit(self, plan: Plan, w: Array, g: Array, hyper: Array, half_parameters: Array | None) -> None:
        """Appends its operation to the plan."""


class SGD(Optimizer):
    """W ← W − η∇W (N3). With momentum: v ← μv + ∇W, W ← W − ηv (Polyak 1964); with Nesterov's, W ← W − η(∇W + μv)
    (Sutskever et al. 2013, in the form that takes the gradient at W).

    Args:
        learning_rate: η > 0.
        momentum: μ in [0, 1); 0: none.
        nesterov: whether to look ahead; needs momentum.
    """

    name = "sgd"
    names = ("learning_rate", "momentum")
    moment_names = ("velocity",)
    formula = "W ← W − η∇W"

    def __init__(self, learning_rate: Setting = 0.1, momentum: Setting = 0.0, nesterov: bool = False) -> None:
        super().__init__(learning_rate, momentum=momentum)
        self.nesterov = switch("nesterov", nesterov)
        if nesterov and not self.active_moments():
            raise InputError("nesterov=True needs a momentum > 0, such as momentum=0.9.")

    def __repr__(self) -> str:
        return super().__repr__()[:-1] + (", nesterov=True)" if self.nesterov else ")")

    def active_moments(self) -> tuple[str, ...]:
        return self.moment_names if np.any(np.asarray(self.settings["momentum"])) else ()

    def emit(self, plan: Plan, w: Array, g: Array, hyper: Array, half_parameters: Array | None) -> None:
        velocity = self.moments.get("velocity")
        plan.add(
            Operations.sgd, self.formula, RENAMED, w, g, velocity, self.nesterov, hyper, plan.gate, half_parameters
        )


class RMSprop(Optimizer):
    """v ← ρv + (1 − ρ)∇W², W ← W − η∇W/(√v + ε) (Tieleman and Hinton 2012, lecture 6e). Here and in those that follow a
    gradient whose square would leave the dtype (beyond 1e19 in float32) counts as one whose square does not.

    Args:
        learning_rate: η > 0.
        decay: ρ in [0, 1).
        epsilon: ε ≥ 1e-30.
    """

    name = "rmsprop"
    names = ("learning_rate", "decay", "epsilon")
    moment_names = ("v",)
    formula = "v ← ρv + (1 − ρ)∇W², W ← W − η∇W/(√v + ε)"

    def __init__(self, learning_rate: Setting = 0.001, decay: Setting = 0.9, epsilon: Setting = 1e-8) -> None:
        super().__init__(learning_rate, decay=decay, epsilon=epsilon)

    def emit(self, plan: Plan, w: Array, g: Array, hyper: Array, half_parameters: Array | None) -> None:
        plan.add(Operations.rmsprop, self.formula, RENAMED, w, g, self.moments["v"], hyper, plan.gate, half_parameters)


class Adagrad(Optimizer):
    """v ← v + ∇W², W ← W − η∇W/(√v + ε) (Duchi, Hazan and Singer 2011).

    Args:
        learning_rate: η > 0.
        epsilon: ε ≥ 1e-30.
    """

    name = "adagrad"
    names = ("learning_rate", "epsilon")
    moment_names = ("v",)
    formula = "v ← v + ∇W², W ← W − η∇W/(√v + ε)"

    def __init__(self, learning_rate: Setting = 0.01, epsilon: Setting = 1e-10) -> None:
        super().__init__(learning_rate, epsilon=epsilon)

    def emit(self, plan: Plan, w: Array, g: Array, hyper: Array, half_parameters: Array | None) -> None:
        plan.add(Operations.adagrad, self.formula, RENAMED, w, g, self.moments["v"], hyper, plan.gate, half_parameters)


class Adam(Optimizer):
    """m ← β₁m + (1 − β₁)∇W, v ← β₂v + (1 − β₂)∇W², m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ), W ← W − η·m̂/(√v̂ + ε)
    (Kingma and Ba 2015, algorithm 1). The moments are kept without their factors (1 − β).

    Args:
        learning_rate: η > 0.
        beta1, beta2: β₁ and β₂ in [0, 1).
        epsilon: ε ≥ 1e-30.
    """

    name = "adam"
    names = ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay")
    moment_names = ("m", "v")
    hidden: ClassVar[tuple[str, ...]] = ("weight_decay",)
    formula = "m, v, W ← Adam(∇W)"

    def __init__(
        self, learning_rate: Setting = 0.001, beta1: Setting = 0.9, beta2: Setting = 0.999, epsilon: Setting = 1e-8
    ) -> None:
        super().__init__(learning_rate, beta1=beta1, beta2=beta2, epsilon=epsilon)
        self.settings["weight_decay"] = 0.0

    def emit(self, plan: Plan, w: Array, g: Array, hyper: Array, half_parameters: Array | None) -> None:
        m, v, decay = self.moments["m"], self.moments["v"], bool(np.any(np.asarray(self.settings["weight_decay"])))
        plan.add(Operations.adam, self.formula, RENAMED, w, g, m, v, decay, hyper, plan.gate, half_parameters)


class AdamW(Adam):
    """Adam with a decay of the weights beside its gradient step: W ← W − ηλW − η·m̂/(√v̂ + ε)
    (Loshchilov and Hutter 2019, algorithm 2, η their α with a schedule multiplier of 1, λ as in PyTorch scaled by η).

    Args:
        weight_decay: λ ≥ 0; it acts on all parameters, biases too.
    """

    hidden = ()
    formula = "m, v, W ← AdamW(∇W)"

    def __init__(
        self, learning_rate: Setting = 0.001, beta1: Setting = 0.9, beta2: Setting = 0.999, epsilon: Setting = 1e-8,
        weight_decay: Setting = 0.01,
    ) -> None:  # fmt: skip
        super().__init__(learning_rate, beta1, beta2, epsilon)
        self.settings["weight_decay"] = self._check("weight_decay", weight_decay)


OPTIMIZERS: Mapping[str, Callable[[], Optimizer]] = {
    "sgd": SGD,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
    "adam": Adam,
    "adamw": AdamW,
}


def optimizer(spec: str | Optimizer) -> Optimizer:
    """Returns the optimizer that `spec` is, or names, which has its default settings then."""
    found = named("optimizer", spec, Optimizer, OPTIMIZERS)  # type: ignore[type-abstract]
    return found if isinstance(found, Optimizer) else found()
