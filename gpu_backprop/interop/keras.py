"""Weights to and from Keras, whatever its back end, and networks from its models. Keras is not imported for it.

A kernel of Keras is (inputs, units), as a weight is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.interop.exchange.assembly import Assembly
from gpu_backprop.interop.exchange.weights import fill_in, layer_slots
from gpu_backprop.network.network import Network

FUNCTIONS: Mapping[str, str] = {
    "linear": "identity", "exponential": "exp",
    **{
        name: name
        for name in (
            "sigmoid", "tanh", "relu", "elu", "selu", "softplus", "softsign", "gelu", "silu", "mish", "softmax",
        )
    },
}  # fmt: skip
"""The functions of keras.activations with their defaults, and what they are here; its leaky_relu has another slope."""

MODULES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ReLU": ("relu", {"max_value": None, "negative_slope": 0.0, "threshold": 0.0}),
    "LeakyReLU": ("leaky_relu", {"negative_slope": 0.01}),
    "ELU": ("elu", {"alpha": 1.0}),
    "Softmax": ("softmax", {"axis": -1}),
}
"""The layers of Keras that are activations: what they are here, and with which settings."""


def to_weights(network: Network) -> list[Array]:
    """Returns copies of the parameters, each in NumPy, in the order of `model.get_weights()`: kernel (inputs, units)
    and bias (units,) of one layer after the other. `model.set_weights` of a Sequential of the same layers takes them.

    Raises:
        InputError: the network has a models axis.
    """
    return [slot.read() for slots in layer_slots(network) for slot in slots.values()]


def load_weights(network: Network, weights: Sequence[Any] | Mapping[str, Sequence[Any]]) -> None:
    """Copies weights into the network, all of them or, where an error is raised, none.

    Args:
        weights: a list, `model.get_weights()`; or a mapping with the list of each layer by a name of any kind, in the
            order of the layers: {layer.name: layer.get_weights() for layer in model.layers}.

    Raises:
        InputError: there are more or fewer than the network has, one has another shape, or holds what is no finite
            number.
    """
    found = layer_slots(network)
    if isinstance(weights, Mapping):
        if wrong := [
            f"{name}: {type(one).__name__}" for name, one in weights.items() if not isinstance(one, (list, tuple))
        ]:
            raise InputError(f"weights must have a list of arrays for each layer, got {wrong[0]}.")
        layers = {name: arrays for name, arrays in weights.items() if len(arrays)}
        if len(layers) != len(found):
            raise InputError(
                f"weights has {len(layers)} layers with weights, {', '.join(map(str, layers))}, and the network "
                f"{len(found)}."
            )
        named = {f"{name}[{k}]": array for name, arrays in layers.items() for k, array in enumerate(arrays)}
        wanted = {
            f"{name}[{k}]": slot
            for name, slots in zip(layers, found, strict=True)
            for k, slot in enumerate(slots.values())
        }
    elif isinstance(weights, (list, tuple)):
        named = {f"weights[{k}]": array for k, array in enumerate(weights)}
        wanted = {f"weights[{k}]": slot for k, slot in enumerate(slot for slots in found for slot in slots.values())}
    else:
        raise InputError(
            f"weights must be a list or a mapping of lists, got {type(weights).__name__}: give model.get_weights()."
        )
    fill_in(network, wanted, named, "weights")


@explain_arguments
def from_model(model: Any, inputs: int | None = None, **options: Any) -> Network:
    """Makes a network that computes what `model.predict` computes.

    Args:
        model: a keras.Sequential, in which others may be, of Dense, Activation, ReLU, LeakyReLU, ELU, Softmax, Dropout,
            BatchNormalization, Flatten and InputLayer. BatchNormalization becomes a part of the Dense before it, or
            layers of its own.
        inputs: how many numbers a sample has; None: the first layer that knows says it.
        options: dtype, device, tf32 and seed, as of `Network`; unless it is given, dtype is "float64" where a weight
            has it, else "float32".

    Raises:
        InputError: a layer has no counterpart here, or holds what is no finite number; the message names it.
    """
    if not _is_keras(model) or not hasattr(model, "layers"):
        raise InputError(f"model must be a keras.Sequential, got {type(model).__module__}.{type(model).__name__}.")
    assembly = Assembly(inputs)
    for layer in _flat(model):
        called = f"layer {layer.name!r} ({type(layer).__name__})"
        if not _is_keras(layer) or type(layer).__name__ not in (*TAKEN, *MODULES):
            raise InputError(
                f"{called} has no counterpart here. A Sequential of {', '.join([*TAKEN, *MODULES])} is taken; of "
                "others take the weights, by load_weights."
            )
        if type(layer).__name__ in TAKEN:
            TAKEN[type(layer).__name__](assembly, called, layer)
        else:
            activation, settings = MODULES[type(layer).__name__]
            for name, value in settings.items():
                if (given := getattr(layer, name)) != value:
                    raise InputError(f"{called} has {name}={given!r}, and here it is {value!r} alone.")
            assembly.activate(activation)
    return assembly.network(**options)


def _is_keras(thing: Any) -> bool:
    return type(thing).__module__.partition(".")[0] == "keras"


def _flat(model: Any) -> Iterator[Any]:
    """Yields the layers in the order in which they are called."""
    if type(model).__name__ != "Sequential":
        raise InputError(
            f"{model.name!r} is a {type(model).__name__}, whose layers may be connected in any way: give a Sequential "
            "of them, or make the Network and fill it by load_weights."
        )
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _flat(layer)
        else:
            yield layer


def _take_dense(assembly: Assembly, name: str, layer: Any) -> None:
    if not layer.built:
        raise InputError(f"{name} has no weights yet: call model.build((None, inputs)) first.")
    kernel, *bias = layer.get_weights()
    assembly.add_dense(name, _wide(kernel), _wide(bias[0]) if bias else None, **_trained(layer))
    _activate(assembly, name, layer)


def _activate(assembly: Assembly, name: str, layer: Any) -> None:
    function = layer.activation
    called = getattr(function, "__name__", str(function))
    if called not in FUNCTIONS or not getattr(function, "__module__", "").startswith("keras."):
        raise InputError(
            f"the activation of {name} is {called}, which has no counterpart here. {', '.join(FUNCTIONS)} have."
        )
    assembly.activate(FUNCTIONS[called])


def _take_dropout(assembly: Assembly, name: str, layer: Any) -> None:
    if layer.noise_shape is not None:
        raise InputError(f"{name} has noise_shape={layer.noise_shape!r}, and here it drops each number by itself.")
    assembly.add(name, {"kind": "dropout", "rate": layer.rate})


def _take_batch_normalization(assembly: Assembly, name: str, layer: Any) -> None:
    if not layer.built:
        raise InputError(f"{name} has no weights yet: call model.build((None, inputs)) first.")
    arrays = [_wide(array) for array in layer.get_weights()]
    given = iter(array.astype(np.float64) for array in arrays)
    scale = next(given) if layer.scale else 1.0
    shift = next(given) if layer.center else 0.0
    mean, variance = given
    factors = scale / np.sqrt(variance + layer.epsilon)
    assembly.normalize(name, factors, shift - mean * factors, arrays[0].dtype)


def _take_nothing(assembly: Assembly, name: str, layer: Any) -> None:
    """Leaves out what changes nothing where rows are flat."""


TAKEN: Mapping[str, Callable[[Assembly, str, Any], None]] = {
    "Dense": _take_dense, "Activation": _activate, "Dropout": _take_dropout,
    "BatchNormalization": _take_batch_normalization, "Flatten": _take_nothing, "InputLayer": _take_nothing,
}  # fmt: skip
"""What is made of each kind of layer, besides those that are activations."""


def _wide(array: Array) -> Array:
    """Returns an array as float32 or float64."""
    return array if array.dtype == np.float64 else np.asarray(array, np.float32)


def _trained(layer: Any) -> dict[str, Any]:
    return {} if layer.trainable else {"trainable": False}
