"""The parameter arrays of a network under the names that other libraries have for them, out and in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.network.arrays import as_array, check_finite, check_real
from gpu_backprop.network.layer import Layer
from gpu_backprop.network.layers import Dense
from gpu_backprop.network.network import Network


class Slot(NamedTuple):
    """A parameter array of a layer; `transposed`: elsewhere its axes are the other way round."""

    layer: Layer
    name: str
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that it has elsewhere."""
        shape = self.layer.parameter_shapes()[self.name]
        return shape[::-1] if self.transposed else shape

    @property
    def meaning(self) -> str:
        """Says whose it is, as "the weight of layer 2, Dense(10, 'softmax')"."""
        return f"the {self.name} of layer {self.layer.number}, {self.layer!r}"

    def read(self) -> Array:
        """Returns a copy in NumPy, with the axes that it has elsewhere."""
        array = self.layer.device.to_host(getattr(self.layer, self.name))
        return np.ascontiguousarray(array.T) if self.transposed else array


Slots = dict[str, Slot]
"""By the names that another library has."""


def require_one_model(network: Network) -> None:
    """Raises InputError where a network has a models axis, which other libraries have not."""
    if not isinstance(network, Network):
        raise InputError(f"network must be a gpu_backprop.Network, got {type(network).__name__}.")
    if network.models_shape:
        raise InputError(
            f"the network is {network.models_shape[0]} members side by side, and elsewhere each is a model of its own: "
            "give one of them, population.member(m)."
        )


def layer_slots(network: Network) -> list[Slots]:
    """Returns weight and bias of each layer that has them, by these names."""
    require_one_model(network)
    found = ({name: Slot(layer, name) for name in layer.parameter_shapes()} for layer in network.layers)
    return [slots for slots in found if slots]


def sequential_slots(network: Network, transposed: bool = False) -> Slots:
    """Returns all arrays by the names in a row of modules, "0.weight": each layer is a module, and each activation but
    the identity another one behind it.

    Args:
        transposed: whether the weights of Dense are (units, inputs) there.
    """
    require_one_model(network)
    slots, place = Slots(), 0
    for layer in network.layers:
        for name in layer.parameter_shapes():
            slots[f"{place}.{name}"] = Slot(layer, name, transposed and name == "weight" and isinstance(layer, Dense))
        place += 1 if layer.activation.name == "identity" else 2
    return slots


def fill_in(network: Network, slots: Slots, given: Mapping[str, Any], what: str) -> None:
    """Copies arrays into a network, all of them or, where an error is raised, none.

    Args:
        what: what messages call all that was given.

    Raises:
        InputError: a name is missing or too much, an array has another shape, or holds what is no finite number.
    """
    missing = [name for name in slots if name not in given]
    unknown = [str(name) for name in given if name not in slots]
    if missing or unknown:
        wrong = [f"{_listed(names)} {said}" for names, said in ((missing, "missing"), (unknown, "too much")) if names]
        hint = " Where only names differ, give what you have these." if len(missing) == len(unknown) else ""
        raise InputError(f"{what} must have {_listed(slots)} for this network; {' and '.join(wrong)}.{hint}")
    arrays = {}
    for name, slot in slots.items():
        array = check_real(as_array(given[name], name, network.device), name)
        if array.shape != slot.shape:
            turned = array.shape == slot.shape[::-1] and array.ndim == 2
            hint = f" Its axes are the other way round: give {name} transposed." if turned else ""
            raise InputError(
                f"{name} is {slot.meaning}, and must have the shape {slot.shape}, got {array.shape}.{hint}"
            )
        check_finite(array, name, network.device.master)
        arrays[name] = array
    for name, slot in slots.items():
        network.device.copy_in(getattr(slot.layer, slot.name), arrays[name].T if slot.transposed else arrays[name])


def _listed(names: Any) -> str:
    """Names some, and counts the rest."""
    names, most = list(names), 12
    if not names:
        return "nothing"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
