"""Parameters to and from JAX: as Flax names them, and as plain lists. Nothing is imported for it: what goes out are
NumPy arrays, which JAX takes as they are, and what comes in are arrays of any library.

A kernel of Flax is (inputs, units), as a weight is here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.interop.exchange.weights import Slots, fill_in, layer_slots, sequential_slots
from gpu_backprop.network.layers import Dense, Scale
from gpu_backprop.network.network import Network

CALLED: Mapping[type, Mapping[str, str]] = {Dense: {"weight": "kernel"}, Scale: {"weight": "scale"}}
"""What flax.linen calls parameters, where that is not what they are called here."""


def to_params(network: Network, *, sequential: bool = False) -> dict[str, dict[str, Array]]:
    """Returns copies of the parameters in the names of flax.linen: {"Dense_0": {"kernel": W, "bias": b}, "Dense_1": …},
    W (inputs, units) and b (units,), each in NumPy. `module.apply({"params": params}, x)` takes them.

    Args:
        sequential: whether the names are those of nn.Sequential, in which each activation is a function of its own
            behind its layer: "layers_0", "layers_2"; else those of a module with @nn.compact, which numbers the layers
            of each kind as they are made.

    Raises:
        InputError: the network has a models axis.
    """
    params: dict[str, dict[str, Array]] = {}
    for name, slot in _slots(network, sequential).items():
        layer, _, parameter = name.partition("/")
        params.setdefault(layer, {})[parameter] = slot.read()
    return params


def to_list(network: Network) -> list[tuple[Array, ...]]:
    """Returns copies of the parameters as a list with a tuple for each layer that has some: [(W, b), (W, b)], W
    (inputs, units) and b (units,), each in NumPy; (W,) of Dense without a bias, (b,) of Bias.

    Raises:
        InputError: the network has a models axis.
    """
    return [tuple(slot.read() for slot in slots.values()) for slots in layer_slots(network)]


def load_params(network: Network, params: Mapping[str, Any] | Sequence[Sequence[Any]]) -> None:
    """Copies parameters into the network, all of them or, where an error is raised, none.

    Args:
        params: in the names of `to_params`, either of both, also under "params" as `module.init` returns them; or a
            list as of `to_list`.

    Raises:
        InputError: a name or a layer is missing or too much, an array has another shape, or holds what is no finite
            number.
    """
    if isinstance(params, Mapping):
        inner = params.get("params", params)
        if not isinstance(inner, Mapping):
            raise InputError(f"params['params'] must be a mapping of layers, got {type(inner).__name__}.")
        flat = {
            f"{layer}/{name}": array
            for layer, arrays in inner.items()
            for name, array in (arrays.items() if isinstance(arrays, Mapping) else [("", arrays)])
        }
        sequential = any(str(layer).startswith("layers_") for layer in inner)
        fill_in(network, _slots(network, sequential), flat, "params")
    elif isinstance(params, (list, tuple)):
        fill_in(network, *_listed(network, params), "params")
    else:
        raise InputError(f"params must be a mapping, or a list of (W, b), got {type(params).__name__}.")


def _slots(network: Network, sequential: bool) -> Slots:
    """Returns the arrays of a network as "Dense_0/kernel", or "layers_0/kernel"."""
    counts: Counter[str] = Counter()
    named = Slots()
    places = [name.partition(".")[0] for name in sequential_slots(network)]
    for slots in layer_slots(network):
        kind = type(next(iter(slots.values())).layer)
        layer = f"layers_{places[len(named)]}" if sequential else f"{kind.__name__}_{counts[kind.__name__]}"
        counts[kind.__name__] += 1
        named |= {f"{layer}/{CALLED.get(kind, {}).get(name, name)}": slot for name, slot in slots.items()}
    return named


def _listed(network: Network, params: Sequence[Sequence[Any]]) -> tuple[Slots, dict[str, Any]]:
    """Returns the arrays of a network, and those of a list, as "params[0][1]"."""
    if wrong := [type(one).__name__ for one in params if not isinstance(one, (list, tuple))]:
        raise InputError(f"params must be a list with (W, b) for each layer, got a {wrong[0]} in it.")
    wanted = {
        f"params[{place}][{number}]": slot
        for place, slots in enumerate(layer_slots(network))
        for number, slot in enumerate(slots.values())
    }
    given = {
        f"params[{place}][{number}]": array
        for place, arrays in enumerate(params)
        for number, array in enumerate(arrays)
    }
    return wanted, given
