"""The layers of a network as a table: of text where it is printed, of HTML in notebooks and reports."""

from __future__ import annotations

import math
from typing import Any

from gpu_backprop.backend.text_table import columns
from gpu_backprop.display.html import Html, join, table, tag
from gpu_backprop.network.layer import Layer

HEADS = "", "layer", "in", "out", "parameters"


def network_text(network: Any) -> str:
    """Returns a line a layer, and below them one of the whole."""
    return "\n".join([*columns([HEADS, *map(_row, network.layers)], 2), _whole(network)])


def network_html(network: Any) -> Html:
    """Returns the same as HTML."""
    return join([table(map(_row, network.layers), HEADS, left=2), tag("p", _whole(network))])


def _row(layer: Layer) -> tuple[str, ...]:
    count = sum(math.prod(shape) for shape in layer.parameter_shapes().values())
    return str(layer.number), repr(layer), str(layer.inputs), str(layer.units), f"{count:,}"


def _whole(network: Any) -> str:
    total = sum(math.prod(shape) for _, _, shape, _ in network.places)
    models = f"{network.models_shape[0]} models of " if network.models_shape else ""
    kept = "" if network.half_parameters is None else f" (kept in {network.device.master.name})"
    kept += " (products in TF32)" if network.device.tf32 else ""
    where = f"on {network.device.name} ({network.device.reason})"
    return f"{models}{total:,} parameters, {network.dtype.name}{kept}, {where}"
