"""What each member of a population has of its own: a dict a member, read into what a network and a trainer take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.suggestions import accepted_arguments, argument_error
from gpu_backprop.network.layer import Layer
from gpu_backprop.network.layers import Dropout
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.network import Network
from gpu_backprop.network.numbers import number, one_or_several
from gpu_backprop.training.optimizer import Optimizer

Settings = Mapping[str, Any]

SCALE: tuple[str, Callable[[Any], bool]] = ("a finite number > 0", lambda v: 0 < v < np.inf)
"""What an initial_scale may be."""

OF_TRAINER: Mapping[str, float] = {"clip_norm": np.inf, "average": 0.0}
"""The arguments of a Trainer that members may have, and what one that has none gets."""

UNSET: Mapping[str, float] = {"weight_decay": 0.0, "l1": 0.0, "l2": 0.0, "clip_value": 1e30}
"""The settings of an optimizer that need not be there, and what does nothing."""

SHAPE = "layers", "batch_size", "optimizer"
"""What all members have in common, and a search may try several of."""

OTHERS = "seed", "schedule", "dropout", "initial_scale", "class_weight"
"""What a member may have besides numbers of the optimizer, the loss and the trainer."""


class MemberSettings(NamedTuple):
    """The settings of all members, sorted by what takes them.

    Attributes:
        optimizer, loss: with numbers one a member.
        trainer: arguments of Trainer, by name.
        dropout: the rates of each Dropout layer, one a member; None: those of the layers.
        scales: by what each member's initial weights are multiplied; None: by nothing.
        class_weights: one a member, as `Trainer.fit` takes them; None: no member has any.
    """

    optimizer: Optimizer
    loss: Loss
    trainer: dict[str, Any]
    dropout: list[list[float]] | None
    scales: list[float] | None
    class_weights: list[Any] | None

    def apply(self, network: Network) -> None:
        """Gives a network, newly drawn, what it has of the settings."""
        if self.dropout is not None:
            layers = [layer for layer in network.layers if isinstance(layer, Dropout)]
            for layer, rates in zip(layers, self.dropout, strict=True):
                layer.rate = rates
        if self.scales is not None:
            for name, array, _ in network.parameter_arrays():
                if name.endswith("weight"):
                    host = network.device.to_host(array)
                    scales = np.asarray(self.scales).reshape(-1, *[1] * (host.ndim - 1))
                    network.device.copy_in(array, (host * scales).astype(host.dtype))


def read_seeds(given: Any) -> list[int]:
    """Returns the seed of each member; raises InputError where the settings are no dicts, one a member."""
    if isinstance(given, Mapping) or not isinstance(given, Sequence) or isinstance(given, str):
        raise InputError(f"settings must be a list of dicts, one a member, got {type(given).__name__} {given!r:.200}.")
    if not given:
        raise InputError("settings is an empty list: a population needs at least one member, such as {'seed': 0}.")
    for m, one in enumerate(given):
        if not isinstance(one, Mapping):
            raise InputError(f"settings of member {m} must be a dict, got {type(one).__name__} {one!r:.200}.")
    return [one.get("seed", 0) for one in given]


def read_settings(
    given: Sequence[Settings], layers: Sequence[Layer], optimizer: Optimizer, loss: Loss
) -> MemberSettings:
    """Sorts the settings of members; raises InputError where one has a name that nothing takes."""
    known = dict.fromkeys((*OTHERS, *OF_TRAINER, *optimizer.settings, *UNSET, *loss.bounds))
    for m, one in enumerate(given):
        unknown = [name for name in one if name not in known]
        if shape := [name for name in unknown if name in SHAPE]:
            raise InputError(
                f"settings of member {m}: members that train side by side have the same {shape[0]}, which is an "
                f"argument of Population. gb.search tries several, those of one {shape[0]} after those of another."
            )
        if takes := [name for name in unknown if name in accepted_arguments(type(optimizer))]:
            made = f"optimizer=gb.{type(optimizer).__name__}({takes[0]}=...)"
            raise InputError(f"settings of member {m}: {optimizer!r} has no {takes[0]}. Give {made} first.")
        if unknown:
            raise InputError(f"settings of member {m}: {argument_error(type(optimizer), unknown, known)}")
    names = dict.fromkeys(name for one in given for name in one)
    set_or_not = {**UNSET, **optimizer.settings}
    numbers: dict[str, Any] = {
        name: [one.get(name, set_or_not[name]) for one in given] for name in names if name in set_or_not
    }
    more: dict[str, Any] = {}
    if "schedule" in names:
        schedules = [one.get("schedule", optimizer.schedule) or {} for one in given]
        by_name = [one if isinstance(one, Mapping) else {"learning_rate": one} for one in schedules]
        followed = dict.fromkeys(name for one in by_name for name in one)
        more = {"schedule": {name: [one.get(name) for one in by_name] for name in followed}}
    of_loss: dict[str, Any] = {
        name: [one.get(name, getattr(loss, name)) for one in given] for name in names if name in loss.bounds
    }
    return MemberSettings(
        optimizer.with_settings(**numbers, **more) if numbers or more else optimizer,
        replace(loss, **of_loss) if of_loss else loss,
        {
            name: [unset if one.get(name) is None else one[name] for one in given]
            for name, unset in OF_TRAINER.items()
            if name in names
        },
        _dropout(given, layers) if "dropout" in names else None,
        _scales(given) if "initial_scale" in names else None,
        [one.get("class_weight") for one in given] if "class_weight" in names else None,
    )


def _dropout(given: Sequence[Settings], layers: Sequence[Layer]) -> list[list[float]]:
    """Returns the rates of each Dropout layer, one a member."""
    own = [layer.rate for layer in layers if isinstance(layer, Dropout)]
    if not own:
        raise InputError(
            "dropout is a setting of a member, but there is no Dropout among the layers: put Dropout(0.1) where it is "
            "to act, and give each member its own rate."
        )
    rates = []
    for m, one in enumerate(given):
        rate = one_or_several(f"dropout of member {m}", one.get("dropout", own), *Dropout.BOUNDS)
        if isinstance(rate, list) and len(rate) != len(own):
            raise InputError(
                f"dropout of member {m} must be one number, or {len(own)}, one for each Dropout, got {rate}."
            )
        rates.append(rate if isinstance(rate, list) else [rate] * len(own))
    return [list(of_layer) for of_layer in zip(*rates, strict=True)]


def _scales(given: Sequence[Settings]) -> list[float]:
    scales = [one.get("initial_scale", 1.0) for one in given]
    return [number(f"initial_scale of member {m}", scale, *SCALE) for m, scale in enumerate(scales)]
