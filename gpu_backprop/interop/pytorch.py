"""Networks to and from PyTorch: as modules, as state dicts, and as safetensors files that it reads.

The files need no PyTorch, and everything else imports it when it is called. What goes over are layers and parameters;
how they were initialized and trained, the optimizer's moments, the preprocessing and the names of classes stay here.
Weights are (inputs, units) here and (units, inputs) there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gpu_backprop.backend.errors import InputError, MissingExtraError, ModelFileError
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.interop.exchange.assembly import Assembly
from gpu_backprop.interop.exchange.tensor_file import read_tensor_file
from gpu_backprop.interop.exchange.weights import fill_in, require_one_model, sequential_slots
from gpu_backprop.network.network import Network
from gpu_backprop.training.model_file import write_tensors

if TYPE_CHECKING:
    import torch

# Out ------------------------------------------------------------------------------------------------------------------


def to_module(network: Network) -> torch.nn.Sequential:
    """Makes a module that computes what the network computes, on the CPU and in its float32 or float64.

    Each layer becomes a module, Linear for Dense, and each activation but the identity another one. Bias, Scale,
    Periodic, "exp" and what register_activation makes, which torch.nn has not, are modules of
    gpu_backprop.interop.torch_modules. The parameters of layers that are not trainable have requires_grad=False.

    Raises:
        InputError: an activation is a function of your own and no expression, or the network has a models axis.
        MissingExtraError: PyTorch is not installed.
    """
    require_one_model(network)
    torch = _torch()
    from gpu_backprop.interop.exchange.torch_counterparts import modules_of

    with torch.device("meta"):  # no weights are drawn, which would turn PyTorch's generator
        module = torch.nn.Sequential(*(made for layer in network.layers for made in modules_of(layer)))
    module.load_state_dict(state_dict(network), assign=True)
    for name, slot in sequential_slots(network).items():
        module.get_parameter(name).requires_grad_(slot.layer.factors(slot.name)[0] > 0)
    return module


def state_dict(network: Network) -> dict[str, torch.Tensor]:
    """Returns copies of the parameters as tensors on the CPU, by the names that they have in `to_module(network)`:
    "0.weight", (units, inputs), and "0.bias", (units,), of the first layer, and so on.

    Raises:
        InputError: the network has a models axis.
        MissingExtraError: PyTorch is not installed.
    """
    torch = _torch()
    return {name: torch.from_numpy(slot.read()) for name, slot in sequential_slots(network, True).items()}


def write_safetensors(network: Network, path: str | os.PathLike[str]) -> None:
    """Writes the parameters to a file, whole or not at all, in the names and shapes of `state_dict`: what
    safetensors.torch.load_file reads, Sequential.load_state_dict takes. Its metadata have the architecture, as JSON.

    `gpu_backprop.save` writes more, and what `gpu_backprop.load` reads; this is for others. It needs no PyTorch.

    Args:
        network: without a models axis.
        path: of the file, which is replaced if it is there.

    Raises:
        InputError: the network has a models axis.
        ModelFileError: the file cannot be written there.
    """
    tensors = {name: slot.read() for name, slot in sequential_slots(network, True).items()}
    try:
        write_tensors(path, tensors, {"format": "pt", "architecture": json.dumps(network.architecture())})
    except OSError as error:
        raise ModelFileError(
            f"cannot write the parameters to {os.fspath(path)}: {error.strerror}; give a path in a folder that exists "
            "and can be written."
        ) from error


# In -------------------------------------------------------------------------------------------------------------------


def load_state_dict(network: Network, state_dict: Mapping[str, Any]) -> None:
    """Copies parameters into the network, all of them or, where an error is raised, none.

    Args:
        state_dict: tensors or arrays by the names and in the shapes of `state_dict(network)`, on any device.

    Raises:
        InputError: a name is missing or too much, an array has another shape, or holds what is no finite number.
    """
    if not isinstance(state_dict, Mapping):
        raise InputError(
            f"state_dict must be a mapping of tensors, got {type(state_dict).__name__}: give module.state_dict()."
        )
    given = {name: _on_host(value) if hasattr(value, "detach") else value for name, value in state_dict.items()}
    fill_in(network, sequential_slots(network, True), given, "state_dict")


def read_safetensors(path: str | os.PathLike[str], network: Network) -> None:
    """Copies the parameters of a file into the network, all of them or, where an error is raised, none: of one that
    `write_safetensors` wrote, or that safetensors.torch.save_file wrote of such a state dict. It needs no PyTorch.

    Args:
        path: of the file.
        network: what gets them; its layers are those that the file is of.

    Raises:
        ModelFileError: there is no such file, or it is not such a file; the message says which.
        InputError: its names or shapes are not those of the network, or it holds what is no finite number.
    """
    slots = sequential_slots(network, True)
    fill_in(network, slots, read_tensor_file(path), os.fspath(path))


@explain_arguments
def from_module(module: torch.nn.Module, inputs: int | None = None, **options: Any) -> Network:
    """Makes a network that computes what a module computes in eval mode.

    Args:
        module: a Sequential, in which others may be, of Linear, of the modules of activations, of Dropout, BatchNorm1d,
            Flatten and Identity; or one of these alone. LogSoftmax may be the last one, and becomes softmax, whose
            outputs are the probabilities themselves; BatchNorm1d, in eval mode, becomes a part of the Linear before it,
            or layers of its own. An activation that follows no Linear gets a Bias layer that stays 0.
        inputs: how many numbers a sample has; None: the first module that knows says it.
        options: dtype, device, tf32 and seed, as of `Network`; unless it is given, dtype is "float64" where a parameter
            has it, else "float32", which holds float16 and bfloat16 exactly.

    Raises:
        InputError: a module has no counterpart here, or holds what is no finite number; the message names it.
        MissingExtraError: PyTorch is not installed.
    """
    torch = _torch()
    from gpu_backprop.interop.exchange.torch_counterparts import flat_modules, take_module

    if not isinstance(module, torch.nn.Module):
        raise InputError(f"module must be a torch.nn.Module, got {type(module).__name__}.")
    if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        raise InputError("module lies on the device meta, where tensors hold no numbers: load its parameters first.")
    assembly, flat = Assembly(inputs), list(flat_modules(module, ""))
    for place, (name, one) in enumerate(flat):
        take_module(assembly, name, one, last=place == len(flat) - 1)
    return assembly.network(**options)


def _on_host(tensor: Any) -> Any:
    """Returns a tensor without its gradient in the host's memory, where NumPy can read it."""
    plain = tensor.detach()
    return plain if plain.is_meta else (plain.float() if str(plain.dtype) == "torch.bfloat16" else plain).cpu()


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("modules and tensors of PyTorch need PyTorch: pip install torch") from error
    return torch
