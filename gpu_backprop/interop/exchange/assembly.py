"""A network made of what another library's model tells, one module after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.network.arrays import check_finite
from gpu_backprop.network.layers import layer_from
from gpu_backprop.network.network import Network
from gpu_backprop.network.numbers import positive


class Assembly:
    """Layers, as `Layer.describe` describes them, and what their parameters hold, in float32 or float64.

    Args:
        inputs: how many numbers a sample has; None: the first module that knows says it.
    """

    def __init__(self, inputs: int | None = None) -> None:
        self.inputs = self.units = None if inputs is None else positive("inputs", inputs)
        self.layers: list[dict[str, Any]] = []
        self.values: list[dict[str, Array]] = []

    def add(
        self, name: str, layer: Mapping[str, Any], inputs: int | None = None, units: int | None = None, **values: Array
    ) -> None:
        """Appends a layer.

        Args:
            name: what messages call the module.
            inputs, units: how many numbers go in and come out; None: as many as come out of what is before it.
            values: what its parameters hold, by name.
        """
        if inputs is not None:
            if self.units not in (None, inputs):
                raise InputError(f"{name} takes {inputs} numbers, and {self.units} come out of what is before it.")
            self.inputs = self.inputs or inputs
            self.units = units or inputs
        for parameter, array in values.items():
            check_finite(array, f"the {parameter} of {name}")
        self.layers.append(dict(layer))
        self.values.append(values)

    def add_dense(self, name: str, weight: Array, bias: Array | None, **training: Any) -> None:
        """Appends a Dense layer; weight is (inputs, units)."""
        inputs, units = weight.shape
        layer = {"kind": "dense", "units": units, "bias": bias is not None, **training}
        self.add(name, layer, inputs, units, weight=weight, **({} if bias is None else {"bias": bias}))

    def activate(self, activation: str | dict[str, str]) -> None:
        """Applies f to what comes out: in the last layer where it can have one, else in a bias of 0 that stays 0."""
        if activation == "identity":
            return
        if not self._open:
            self.layers.append({"kind": "bias", "trainable": False})
            self.values.append({})
        self.layers[-1]["activation"] = activation

    @property
    def _open(self) -> bool:
        """Whether the last layer can still have an activation."""
        return (
            bool(self.layers) and self.layers[-1]["kind"] in ("dense", "bias") and "activation" not in self.layers[-1]
        )

    def normalize(self, name: str, factors: Array, shifts: Array, dtype: Any) -> None:
        """Multiplies what comes out by factors and adds shifts, each float64 (units,): in the weights of a Dense layer
        that is right before, else in layers of their own, which hold them in `dtype`."""
        if self._open and self.layers[-1]["kind"] == "dense":
            if self.units != len(factors):
                raise InputError(
                    f"{name} takes {len(factors)} numbers, and {self.units} come out of what is before it."
                )
            values = self.values[-1]
            weight, bias = values["weight"] * factors, values.get("bias", 0.0) * factors + shifts
            own = values["weight"].dtype
            self.values[-1] = {"weight": weight.astype(own), "bias": bias.astype(own)}
            self.layers[-1]["bias"] = True
            return
        self.add(name, {"kind": "scale"}, len(factors), weight=factors.astype(dtype))
        self.add(name, {"kind": "bias"}, len(factors), bias=shifts.astype(dtype))

    def network(self, **options: Any) -> Network:
        """Makes the network; `options` are those of `Network`, and unless it is given, dtype is "float64" where a
        parameter has it, else "float32"."""
        if self.inputs is None:
            raise InputError("no module says how many numbers a sample has: give it as inputs=.")
        wide = any(array.dtype == np.float64 for values in self.values for array in values.values())
        options = {"dtype": "float64" if wide else "float32", **options}
        layers = [layer_from(layer) for layer in self.layers]
        network = Network(self.inputs, layers, draw=False, **options)
        if network.models_shape:
            raise InputError(f"seed must be one integer, because a model becomes one network, got {network.seed!r}.")
        for layer, values in zip(network.layers, self.values, strict=True):
            for name, array in values.items():
                check_finite(array, f"the {name} of layer {layer.number}", network.device.master)
                setattr(layer, name, array)
        return network
