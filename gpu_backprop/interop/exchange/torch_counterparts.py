"""What each module of PyTorch is here, and each layer there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.interop import torch_modules
from gpu_backprop.interop.exchange.assembly import Assembly
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.layer import Layer
from gpu_backprop.network.layers import Bias, Dense, Dropout, Scale
from gpu_backprop.network.own_activations import activation_of_data, spell_activation
from gpu_backprop.network.periodic import Periodic

COUNTERPARTS: Mapping[str, tuple[str, Mapping[str, tuple[Any, ...]]]] = {
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "relu": ("ReLU", {}),
    "leaky_relu": ("LeakyReLU", {"negative_slope": (0.01,)}),
    "elu": ("ELU", {"alpha": (1.0,)}),
    "selu": ("SELU", {}),
    # above its threshold it is z itself, which at 40 is the same in float64, and at 20, the default, to 2e-9
    "softplus": ("Softplus", {"beta": (1.0,), "threshold": (40.0, 20.0)}),
    "softsign": ("Softsign", {}),
    "gelu": ("GELU", {"approximate": ("none",)}),
    "gelu_tanh": ("GELU", {"approximate": ("tanh",)}),
    "silu": ("SiLU", {}),
    "mish": ("Mish", {}),
    "exp": ("Exp", {}),
    "softmax": ("Softmax", {"dim": (-1, 1, None)}),
}
"""The activations: the module that each is, and what its settings may be, the one first that `to_module` gives it."""


def modules_of(layer: Layer) -> Iterator[nn.Module]:
    """Makes the module of a layer, and that of its activation unless it is the identity."""
    match layer:
        case Dense():
            yield nn.Linear(layer.inputs, layer.units, bias=layer.has_bias)
        case Bias():
            yield torch_modules.Bias(layer.inputs)
        case Scale():
            yield torch_modules.Scale(layer.inputs)
        case Periodic():
            numbers, frequencies, columns = layer.parameter_shapes()["weight"]
            yield torch_modules.Periodic(numbers, frequencies, columns - 1)
        case Dropout():
            assert isinstance(layer.rate, float)  # there is no models axis
            yield nn.Dropout(layer.rate)
        case _:
            raise InputError(f"layer {layer.number}, {layer!r}, has no counterpart in PyTorch.")
    name = layer.activation.name
    if name == "identity":
        return
    if layer.activation.expression:
        yield torch_modules.Formula(name, layer.activation.expression, layer.activation.derivative)
        return
    if name not in COUNTERPARTS or ACTIVATIONS.get(name) != layer.activation:
        raise InputError(
            f"the activation of layer {layer.number}, {layer!r}, has no counterpart in PyTorch. Those of "
            f"{', '.join(COUNTERPARTS)} have, and what register_activation makes of an expression; of others, take the "
            "parameters alone, by state_dict."
        )
    kind, settings = COUNTERPARTS[name]
    yield _kind(kind)(**{setting: accepted[0] for setting, accepted in settings.items()})


def _kind(name: str) -> Any:
    return getattr(torch_modules, name, None) or getattr(nn, name)


def flat_modules(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yields the modules in the order in which they are called, each with what messages call it."""
    module = getattr(module, "_orig_mod", module)  # of one that torch.compile has compiled
    called = f"module {name} ({type(module).__name__})" if name else f"the module ({type(module).__name__})"
    if module._forward_hooks or module._forward_pre_hooks:
        raise InputError(
            f"{called} has forward hooks, and what they change cannot be read: remove them, by the remove() of what "
            "registered them."
        )
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        for child, one in module._modules.items():  # named_children leaves out a module that is there again
            yield from flat_modules(one, f"{name}.{child}" if name else child)
    else:
        yield called, module


def take_module(assembly: Assembly, name: str, module: Any, last: bool) -> None:
    """Appends what a module is."""
    kind = type(module)
    if kind.__name__ in TAKEN and kind is _kind(kind.__name__):
        TAKEN[kind.__name__](assembly, name, module)
        return
    found = [row for row, (called, _) in COUNTERPARTS.items() if kind is _kind(called)]
    for row in found:
        if all(getattr(module, setting) in accepted for setting, accepted in COUNTERPARTS[row][1].items()):
            assembly.activate(row)
            return
    if kind is nn.LogSoftmax and module.dim in (-1, 1, None):
        if not last:
            raise InputError(f"{name} must be the last module: here softmax gives probabilities, and not their logs.")
        assembly.activate("softmax")
        return
    if found:
        told = (f"{setting}={accepted[0]!r}" for row in found for setting, accepted in COUNTERPARTS[row][1].items())
        raise InputError(f"{name} is {module!r}, and here it is the one with {' or '.join(told)} alone.")
    accepted = ", ".join(dict.fromkeys([*TAKEN, *(called for called, _ in COUNTERPARTS.values())]))
    raise InputError(
        f"{name} has no counterpart here. A Sequential of {accepted} is taken, with LogSoftmax at its end. What a "
        "forward of your own does cannot be read: give its modules as a Sequential, or make the Network and fill it by "
        "load_state_dict."
    )


def _take_linear(assembly: Assembly, name: str, module: Any) -> None:
    bias = None if module.bias is None else _array(module.bias)
    assembly.add_dense(name, _array(module.weight).T, bias, **_trained(module))


def _take_bias(assembly: Assembly, name: str, module: Any) -> None:
    bias = _array(module.bias)
    assembly.add(name, {"kind": "bias", **_trained(module)}, len(bias), bias=bias)


def _take_scale(assembly: Assembly, name: str, module: Any) -> None:
    weight = _array(module.weight)
    assembly.add(name, {"kind": "scale", **_trained(module)}, len(weight), weight=weight)


def _take_periodic(assembly: Assembly, name: str, module: Any) -> None:
    weight, bias = _array(module.weight), _array(module.bias)
    numbers, frequencies, columns = weight.shape
    if assembly.units is None:
        raise InputError(f"{name} does not say how many numbers a sample has: give it as inputs=.")
    layer = {"kind": "periodic", "numbers": numbers, "frequencies": frequencies, "units": columns - 1}
    units = assembly.units + numbers * (columns - 1)
    assembly.add(name, layer | _trained(module), assembly.units, units, weight=weight, bias=bias)


def _take_dropout(assembly: Assembly, name: str, module: Any) -> None:
    assembly.add(name, {"kind": "dropout", "rate": module.p})


def _take_batch_norm(assembly: Assembly, name: str, module: Any) -> None:
    if module.training or module.running_mean is None:
        raise InputError(
            f"{name} normalizes each batch by itself, which has no counterpart here; with the averages that it has "
            "learned it is a factor and a shift: call module.eval() first."
        )
    averages = _array(module.running_mean), _array(module.running_var)
    mean, variance = (one.astype(np.float64) for one in averages)
    factors = (1.0 if module.weight is None else _array(module.weight)) / np.sqrt(variance + module.eps)
    shifts = (0.0 if module.bias is None else _array(module.bias)) - mean * factors
    assembly.normalize(name, factors, shifts, averages[0].dtype)


def _take_flatten(assembly: Assembly, name: str, module: Any) -> None:
    if (module.start_dim, module.end_dim) not in ((1, -1), (1, 1)):
        raise InputError(f"{name} is {module!r}, and here rows are flat already: it has to be Flatten().")


def _take_formula(assembly: Assembly, name: str, module: Any) -> None:
    texts = {"name": module.name, "expression": module.expression, "derivative": module.derivative}
    try:
        assembly.activate(spell_activation(activation_of_data(texts)))
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _take_nothing(assembly: Assembly, name: str, module: Any) -> None:
    """Leaves the identity out."""


TAKEN: Mapping[str, Callable[[Assembly, str, Any], None]] = {
    "Linear": _take_linear, "Dropout": _take_dropout, "BatchNorm1d": _take_batch_norm, "Flatten": _take_flatten,
    "Identity": _take_nothing, "Bias": _take_bias, "Scale": _take_scale, "Periodic": _take_periodic,
    "Formula": _take_formula,
}  # fmt: skip
"""What is made of each kind of module, besides activations."""


def _array(tensor: Any) -> Array:
    """Returns a tensor of floats, of any device, as float32 or float64 in NumPy."""
    array: Array = tensor.detach().to("cpu", torch.float64 if tensor.dtype == torch.float64 else torch.float32).numpy()
    return array


def _trained(module: Any) -> dict[str, Any]:
    """Describes which of its parameters are trained, as a layer takes it."""
    frozen = [name for name, one in module.named_parameters() if not one.requires_grad]
    if len(frozen) == len(list(module.parameters())):
        return {"trainable": False}
    return {"learning_rate_factor": dict.fromkeys(frozen, 0.0)} if frozen else {}
