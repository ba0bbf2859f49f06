"""The base of all optimizers: a rule, its settings, and the state of one network's training.

An optimizer holds its settings in a small float64 buffer on the device, hyper: the step number, then the numbers of its
rule. They may change between steps without a plan being built anew. Each setting may be one number, or one a member.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, TypedDict

import numpy as np

from gpu_backprop.backend.attributes import FixedAttributes
from gpu_backprop.backend.errors import InputError, StateError, choose
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.backend.rule_text import write_formula
from gpu_backprop.backend.suggestions import accepted_arguments, argument_error, suggest_attribute
from gpu_backprop.backend.update_rule import OPTIONAL, UpdateRule
from gpu_backprop.network.network import Network
from gpu_backprop.network.numbers import is_zero, one_a_member, one_or_several
from gpu_backprop.network.schedules import Followed, check_members, describe
from gpu_backprop.network.schedules import schedule as schedule_of

Setting = float | Sequence[float]
Scheduled = str | Followed | Sequence[str | Followed | None] | Mapping[str, Any] | None
PENALTIES = "weight_decay", "l1", "l2"
"""The optional settings of rules that are the user's to give; of 0 they do nothing."""


class Common(TypedDict, total=False):
    """What every optimizer takes by name, besides its own settings."""

    weight_decay: Setting
    l1: Setting
    l2: Setting
    schedule: Scheduled


FINITE: tuple[str, Callable[[Any], bool]] = ("a finite number", math.isfinite)
_AT_LEAST_0: tuple[str, Callable[[Any], bool]] = ("a finite number ≥ 0", lambda v: 0 <= v < math.inf)
_SHARE = ("a number in [0, 1)", lambda v: 0 <= v < 1)
BOUNDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "learning_rate": ("a finite number > 0", lambda v: 0 < v < math.inf),
    "momentum": _SHARE,
    "decay": _SHARE,
    "beta1": _SHARE,
    "beta2": _SHARE,
    "momentum_decay": _AT_LEAST_0,
    "epsilon": ("a finite number ≥ 1e-30", lambda v: 1e-30 <= v < math.inf),  # smaller ones are 0 in float32
    **dict.fromkeys(("weight_decay", "l1", "l2"), _AT_LEAST_0),
    "clip_value": ("a finite number ≥ 1e-30", lambda v: 1e-30 <= v < math.inf),
}
"""What a setting of that name may be, in words and as a test; of another name, FINITE."""

SYMBOLS = {
    "w": "W", "g": "∇W", "gradient": "∇W", "learning_rate": "η", "momentum": "μ", "decay": "ρ", "epsilon": "ε",
    "beta1": "β₁", "beta2": "β₂", "weight_decay": "λ", "velocity": "v", "l1": "λ₁", "l2": "λ₂", "clip_value": "κ",
    "momentum_decay": "ψ", "mu": "μₜ", "mu_next": "μₜ₊₁",
}  # fmt: skip


def symbol(name: str) -> str:
    """Returns what a name of a rule is in formulas: itself, if it has none of SYMBOLS, and x̂ for x_hat."""
    plain = name.removesuffix("_hat")
    return SYMBOLS.get(name, name if plain == name else plain[0] + "\u0302" + plain[1:])


class Optimizer(FixedAttributes):
    """An optimizer: a rule and its settings. Bound to a network, it has the state of its training too.

    An optimizer of your own is Optimizer(rule, 0.01), or a subclass whose constructor calls
    super().__init__(rule, learning_rate=...).

    Every optimizer takes, besides its own settings,

    - weight_decay, λ: W ← (1 − ηλ)W beside the step, decoupled from it (Loshchilov and Hutter 2019); it acts on biases
      too, unless a layer's weight_decay_factor says otherwise.
    - l2, l1: penalties on the weights, whose slopes are added to the gradient: ∇W + l2·W + l1·sign(W), of
      E + ½·l2·ΣW² + l1·Σ|W|. PyTorch calls l2 weight_decay, but for AdamW. Biases are exempt, unless a layer's
      penalty_factor says otherwise. The loss that is reported stays that of the data alone.

    Each is there if it is given and not 0, and costs nothing if it is not. With `Trainer(clip_value=...)` the gradient
    is clipped before.

    Args:
        rule: how a step changes a parameter.
        learning_rate: the one setting that may be given by its place, as well as by its name.
        schedule: by what factor the learning rate is multiplied at each step of a fit: a name of SCHEDULES, a Schedule,
            or a function of (step, steps); or a list of them, one a member, where None is no schedule; or a mapping of
            such, by the names of settings. It can be set, from the next fit on. Steps are counted from 0 over all fits
            of a trainer, as epochs are, each with as many as in this fit; `steps` is where this fit will end.
            `Trainer.step` takes the settings as they are.
        settings: numbers of the rule that are not its defaults, and of those above, each one number or one a member.
            Each can be set as an attribute too, also between steps, as in trainer.optimizer.learning_rate = 0.01: it
            takes effect from the next step on.

    Raises:
        InputError: a setting is none of the rule's, or cannot be what is given; at any time before a step.

    Attributes:
        rule: as given.
        settings: all of them, by name, to read.
        hyper: float64 (..., 1 + settings) on the device: the step number, then the settings in the order of the rule,
            which a schedule may have changed.
        unscheduled: float64 (..., settings) on the device: the settings as they are set.
        moments: by name, flat arrays in the layout of the parameters.
    """

    instead: ClassVar[Mapping[str, str]] = {
        **{name: f"it when an optimizer is made, as in Adam(0.001, {name}=0.0001)" for name in PENALTIES},
        "clip_value": "Trainer(clip_value=1.0): it is decided when a trainer is made",
    }

    def __init__(
        self, rule: UpdateRule, *learning_rate: Setting, schedule: Scheduled = None, **settings: Setting
    ) -> None:
        if not isinstance(rule, UpdateRule):
            raise InputError(f"rule must be an UpdateRule, got {type(rule).__name__} {rule!r}.")
        for name in rule.settings:
            if hasattr(Optimizer, name) or name in ("network", "hyper", "unscheduled"):
                raise InputError(
                    f"update rule {rule.name!r}: a setting cannot be called {name!r}, as an Optimizer has one."
                )
        self._rule, self._settings, self.settable = rule, dict[str, Any](), (*rule.settings,)
        self.network: Network | None = None
        self.hyper: Array | None = None
        self.unscheduled: Array | None = None
        self._moments: Array | None = None
        by_place = dict(zip(("learning_rate",), learning_rate, strict=False))
        if len(learning_rate) > 1 or by_place.keys() & settings.keys():
            raise InputError(
                f"{rule.name} takes one learning rate by its place or its name, got {learning_rate!r:.80} by place; "
                f"give the others by name: {', '.join(rule.settings)}."
            )
        self._take({**rule.settings, **by_place, **settings})
        self.schedule = schedule

    def _take(self, given: Mapping[str, Setting]) -> None:
        """Takes settings, those of OPTIONAL too, which the rule then has; a penalty of 0 is none."""
        known = {**self.rule.settings, **OPTIONAL}
        if unknown := [name for name in given if name not in known]:
            accepted = dict.fromkeys((*accepted_arguments(type(self)), *self.rule.settings, *PENALTIES, "schedule"))
            raise argument_error(type(self), unknown, accepted)
        own = self.rule.settings
        settings = {k: v for k, v in given.items() if k in own or k not in PENALTIES or not is_zero(v)}
        self._rule = rule = self.rule.with_settings(*(name for name in OPTIONAL if name in settings))
        self._settings, self.settable = {}, (*rule.settings,)
        self._settings = {name: self._check(name, settings[name]) for name in rule.settings}
        rule.check_settings(self._settings)

    def close(self) -> None:
        if "_rule" not in vars(self):
            raise InputError(f"the constructor of {type(self).__name__} must call super().__init__(rule, **settings).")
        super().close()

    @property
    def rule(self) -> UpdateRule:
        """How a step changes a parameter."""
        return self._rule

    @property
    def settings(self) -> Mapping[str, Any]:
        """By name, each one number or one a member. To change one, set the attribute of its name."""
        return MappingProxyType(self._settings)

    @property
    def schedule(self) -> Mapping[str, Followed]:
        """The schedules, by the names of the settings that follow them; a tuple where there is one a member."""
        return MappingProxyType(self._schedule)

    @schedule.setter
    def schedule(self, value: Scheduled) -> None:
        given = value if isinstance(value, Mapping) else {} if value is None else {"learning_rate": value}
        for name in given:
            if name in OPTIONAL and name not in self.rule.settings:
                said = f"{name} of {self.rule.name} is not set, and a schedule is a factor on what is"
                raise InputError(f"{said}: give {self.instead[name]}.")
            choose(f"setting of {self.rule.name}", name, self.rule.settings)
        found = {name: schedule_of(one) for name, one in given.items()}
        if (network := self.network) is not None:
            for name, one in found.items():
                check_members(f"the schedule of {name} of {type(self).__name__}", one, network.models_shape)
        self._schedule = found

    @property
    def name(self) -> str:
        """What the optimizer is called: as in OPTIMIZERS, or as its rule."""
        return self.rule.name

    def __repr__(self) -> str:
        told = self.describe() | ({"schedule": dict(self.schedule)} if self.schedule else {})
        given = ", ".join(f"{name}={value!r}" for name, value in told.items() if name != "name")
        kind = type(self).__name__
        return f"{kind}({given})" if kind != "Optimizer" else f"Optimizer({self.rule.name}, {given})"

    def describe(self) -> dict[str, Any]:
        """Describes it as plain data: its name, its settings and what schedules they follow."""
        settings = {name: [*value] if isinstance(value, tuple) else value for name, value in self.settings.items()}
        schedules = {name: describe(one) for name, one in self.schedule.items()}
        return {"name": self.name, **settings, **({"schedule": schedules} if schedules else {})}

    def _check(self, name: str, value: Any) -> Any:
        accepted, fits = BOUNDS.get(name, FINITE)
        kind = type(self).__name__ if type(self) is not Optimizer else self.rule.name
        found = one_or_several(f"{name} of {kind}", value, accepted, fits)
        if found == []:
            raise InputError(f"{name} of {kind} must be {accepted}, or one a member, got [].")
        return tuple(found) if isinstance(found, list) else found  # where setting one of them is no silent nothing

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.settings]

    def __getattr__(self, name: str) -> Any:
        settings = vars(self).get("_settings", {})
        if name in settings:
            return settings[name]
        hint = f" Its settings are {', '.join(settings)}." if settings else ""
        raise AttributeError(
            f"{type(self).__name__} has no attribute {name!r}.{suggest_attribute(type(self), name)}{hint}"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in vars(self).get("_settings", ()):
            super().__setattr__(name, value)
            return
        value = self._check(name, value)
        self.rule.check_settings(self._settings | {name: value})
        if self.hyper is not None and self.unscheduled is not None and self.network is not None:
            place, numbers = [*self.rule.settings].index(name), one_a_member(name, value, self.network.models_shape)
            for array in (self.hyper[..., 1 + place], self.unscheduled[..., place]):
                self.network.device.copy_in(array, numbers)
        self._settings[name] = value

    @property
    def moments(self) -> dict[str, Array]:
        """By name, flat arrays in the layout of the parameters; none before it is bound."""
        return {} if self._moments is None else dict(zip(self.rule.moments, self._moments, strict=True))

    @property
    def formula(self) -> str:
        """What a step does, as the authors of the rule wrote it."""
        lines = [*self.rule.lines_for()]
        of_g = {"g": "g"} if lines[0][0] == "g" else {}

        def name_of(name: str) -> str:
            return of_g.get(name) or symbol(name)

        return ", ".join(f"{name_of(name)} {sign} {write_formula(text, name_of)}" for name, sign, text in lines)

    def with_settings(self, *, schedule: Scheduled = None, **settings: Any) -> Optimizer:
        """Makes a copy of this optimizer, bound to no network, with other settings, or more."""
        made = copy.copy(self)
        vars(made).update(self.__getstate__())
        made.open()
        made._take({**self.settings, **settings})
        if schedule is not None:
            made.schedule = schedule
        made.close()
        return made

    def bind(self, network: Network, **settings: Any) -> Optimizer:
        """Makes a copy of this optimizer with a fresh state for `network`, and with other settings, or more."""
        bound = self.with_settings(**settings)
        bound.open()
        bound.network, device = network, network.device
        bound.schedule = bound.schedule  # whose number is checked
        columns = [one_a_member(name, value, network.models_shape) for name, value in bound.settings.items()]
        hyper = np.stack([np.zeros(network.models_shape), *columns], axis=-1)
        bound.hyper, bound.unscheduled = device.from_host(hyper), device.from_host(hyper[..., 1:].copy())
        if count := len(self.rule.moments):
            device.require({"moments": count * network.parameters.nbytes}, f"The state of {self!r}")
            bound._moments = device.zeros((count, *network.parameters.shape), device.master)
        bound.close()
        return bound

    def unschedule(self) -> None:
        """Puts all settings back to what they are set to, after a fit."""
        assert self.network is not None and self.hyper is not None and self.unscheduled is not None
        self.network.device.copy_in(self.hyper[..., 1:], self.unscheduled)

    def __getstate__(self) -> dict[str, Any]:
        """Its settings: a copy is bound to no network."""
        unbound = dict.fromkeys(("network", "hyper", "unscheduled", "_moments"))
        return {**vars(self), "_settings": dict(self.settings), **unbound}

    def update(self, plan: Plan, network: Network) -> None:
        """Appends the step of all parameters; where plan.gradient_factor is 0, nothing changes. It is the one that
        `step_number` says, see Operations.advance."""
        if self.network is not network:
            raise StateError(
                "the optimizer has no state for this network: use optimizer.bind(network).update(plan, network)."
            )
        hyper, moments = self.emit_state(plan)
        scaled = plan.loss_scale is not None
        formula = "g = ∇W/S, " + self.formula.replace("∇W", "g") if scaled else self.formula
        plan.add(
            Operations.update, formula, {"w": "parameters"},
            network.parameters, network.gradients, moments, self.rule, hyper, plan.gradient_factor,
            group_factors(plan, network, self.rule), network.half_parameters,
        )  # fmt: skip

    def step_number(self, plan: Plan) -> Array:
        """Returns the number of the step, which is counted before `update` reads it."""
        assert self.hyper is not None
        return plan.named("t", self.hyper[..., 0])

    def emit_state(self, plan: Plan) -> tuple[Array, Array | None]:
        """Tells the plan the names of hyper and moments, and returns both."""
        assert self.hyper is not None
        return plan.named("hyper", self.hyper), None if self._moments is None else plan.named("moments", self._moments)


def group_factors(plan: Plan, network: Network, rule: UpdateRule) -> Array | None:
    """Brings the network's table of factors for its blocks of parameters to the plan's device; None: all that the rule
    reads are 1."""
    table = network.group_factors(rule.penalizes)
    if table is None:
        return None
    return plan.named("groups", plan.device.from_host(table, plan.device.master))
