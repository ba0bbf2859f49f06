"""What a trainer is made of, as plain data: to tell whether one that goes on is made as the one before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpu_backprop.network.layers import layer_from
from gpu_backprop.training.description import describe_loss, describe_optimizer

OF_TRAINER = "clip_norm", "average"
"""The settings of a trainer itself that may change while it trains, one number or one a member each."""

ELSEWHERE = "inputs", "layers", "dtype", "loss", "optimizer"
"""What of a trainer's description is not told as one of its settings."""

OF_LAYERS = "rate", "trainable", "learning_rate_factor", "weight_decay_factor", "penalty_factor", "max_norm"
"""Those of a layer."""


def describe(trainer: Any) -> dict[str, Any]:
    """Describes the network without its weights, the loss, the optimizer, and how steps are run."""
    numbers = {name: getattr(trainer, name) for name in OF_TRAINER}
    return {
        **trainer.network.architecture(),
        "loss": describe_loss(trainer.loss),
        "optimizer": describe_optimizer(trainer.optimizer),
        "batch_size": trainer.batch_size,
        "one_launch": trainer.one_launch,
        "accumulate": trainer.accumulate,
        **{name: [*value] if isinstance(value, tuple) else value for name, value in numbers.items()},
    }


def settings_told(trainer: Any) -> dict[str, object]:
    """Returns what a reader is told of a trainer besides its network: loss, optimizer, epochs, and settings in use."""
    told = {
        name.replace("_", " "): value
        for name, value in describe(trainer).items()
        if name not in ELSEWHERE and value not in (None, False)
    }
    return {"loss": repr(trainer.loss), "optimizer": repr(trainer.optimizer), "epochs": len(trainer.history)} | told


def shapes(network: Any) -> list[list[int]]:
    """Lists the shapes of what a network learns."""
    return [list(shape) for layer in network.layers for shape in layer.parameter_shapes().values()]


def differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """Yields what differs, a sentence each, between what a checkpoint has and what there is here."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in {**there, **here}:
            yield from differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for place, pair in enumerate(zip(there, here, strict=True)):
            yield from differences(*pair, f"{name}[{place}]")
    elif type(there) is not type(here) or there != here:
        if isinstance(there, list) and isinstance(here, list):
            there, here = f"{len(there)} of them", f"{len(here)}"
        yield f"{name} is {here!s:.200} here, and {there!s:.200} in the checkpoint"


def set_settings(trainer: Any, begun: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Gives a trainer the settings that another one, which began as `begun` says, had at last, as `now` says. What it
    has of its own, because it was made otherwise, it keeps.

    Raises:
        InputError: a setting cannot be what it says.
    """
    own = describe(trainer)
    optimizer, loss = trainer.optimizer, trainer.loss
    named = ("optimizer", optimizer, (*optimizer.settings, "schedule")), ("loss", loss, loss.bounds)
    for kind, target, names in named:
        before, after, mine = (of[kind]["settings"] for of in (begun, now, own))
        for name in names:  # of a schedule, what is not there is None
            if after.get(name) != before.get(name) == mine.get(name):
                setattr(target, name, after.get(name))
    for name in OF_TRAINER:
        if now[name] != begun[name] == own[name]:
            setattr(trainer, name, now[name])
    if len(own["layers"]) == len(begun["layers"]):
        layers = zip(trainer.network.layers, *(of["layers"] for of in (begun, now, own)), strict=True)
        for layer, was, told, mine in layers:
            if not told != was == mine:
                continue
            made_so = layer_from({key: value for key, value in told.items() if key != "schedule"})
            for name in OF_LAYERS:
                if hasattr(layer, name) and getattr(layer, name) != (value := getattr(made_so, name)):
                    setattr(layer, name, value)
