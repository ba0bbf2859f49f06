"""What all exports of a network have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.layer import Layer
from gpu_backprop.network.network import Network


def check_exportable(network: Any) -> None:
    """Raises InputError for what is not one network, or the mean of several, and for one that has diverged."""
    if not isinstance(network, Network):
        raise InputError(
            f"network must be a gpu_backprop.Network, got {type(network).__name__}: of a trainer it is "
            "trainer.network, of an estimator estimator.network_, of a population a member, population.member(m)."
        )
    if network.models_shape and not network.averaged:
        raise InputError(
            f"the network is {network.models_shape[0]} networks side by side, and a file holds one: export a member, "
            "population.member(m), or set network.averaged = True if their mean is meant."
        )
    if not np.isfinite(network.device.to_host(network.parameters)).all():
        raise InputError("the network has NaN or infinite parameters, and predicts nothing of use: train it again.")


def class_names(network: Network) -> list[str | int] | None:
    """Returns what the label of a row may be: the names of the classes, or where there are none and the last layer is a
    softmax the numbers of the outputs; None where the outputs are quantities."""
    if network.classes is not None:
        return list(network.classes)
    unnamed = network.preprocessing is None and network.last.activation.name == "softmax"
    return list(range(network.outputs)) if unnamed else None


def known_activation(layer: Layer, known: Mapping[str, Any]) -> str:
    """Returns the name of a layer's activation, which is no expression; raises InputError where it is not among those
    that are known."""
    name = layer.activation.name
    if ACTIVATIONS.get(name) != layer.activation or name not in known:
        raise InputError(
            f"{layer!r} has an activation that is a function of your own, which cannot be exported; these can: "
            f"{', '.join(known)}, and what register_activation makes of an expression."
        )
    return name


def parameter(network: Network, layer: Layer, name: str, dtype: Any) -> Array:
    """Returns a parameter on the host, in some dtype; of several members, what is one number a unit gets an axis for
    the rows."""
    values = network.device.to_host(getattr(layer, name)).astype(dtype)
    by_units = len(layer.parameter_shapes()[name]) == 1 and bool(layer.models_shape)
    return values[:, None, :] if by_units else values
