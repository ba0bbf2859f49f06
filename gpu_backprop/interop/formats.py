"""The table of formats that a network can be exported to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gpu_backprop.interop import c_header, onnx, pytorch


class Format(NamedTuple):
    """One of the formats.

    Attributes:
        ending: that of its files.
        export: writes one, `export(network, path, **settings)`; what it returns, if anything, is worth telling.
        settings: which of the settings of `gpu-backprop export` it takes.
    """

    ending: str
    export: Callable[..., Any]
    settings: tuple[str, ...] = ()


def _write_parameters(network: Any, path: Any) -> str | None:
    """Writes the parameters, and says what is not among them."""
    pytorch.write_safetensors(network, path)
    alone = "it holds the parameters alone, and takes rows as the network's preprocessing makes them"
    return None if network.preprocessing is None else alone


FORMATS: Mapping[str, Format] = {
    "onnx": Format(".onnx", onnx.export, ("preprocessing", "coverage")),
    "c": Format(".h", c_header.export, ("preprocessing", "int8", "rows")),
    "safetensors": Format(".safetensors", _write_parameters),
}
