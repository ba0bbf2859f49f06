"""The flat buffers of a network: parameters in one, gradients in another; a layer's arrays are views of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gpu_backprop.backend.device import ALIGNMENT, Device
from gpu_backprop.backend.formula import Array, Call
from gpu_backprop.network.layer import Layer

Place = tuple[Layer, str, tuple[int, ...], int]
"""A parameter array: its layer, its name, the shape in one model, and where it begins."""


class FlatBuffers:
    """Each array of a layer begins at a multiple of 256 bytes; what lies between is 0.

    Attributes:
        places: where each parameter array lies.
        parameters, gradients: (*models_shape, length), in the master dtype of the device.
        half_parameters: in a 16-bit network the parameters in its dtype, which products read; else None.
        copying: the calls that copy the parameters there.
    """

    def __init__(self, layers: Sequence[Layer], models_shape: tuple[int, ...], device: Device) -> None:
        self.models_shape, self.device = models_shape, device
        self.places: list[Place] = []
        step, length = ALIGNMENT // device.master.itemsize, 0
        for layer in layers:
            for name, shape in layer.parameter_shapes().items():
                self.places.append((layer, name, shape, length))
                length += -(-math.prod(shape) // step) * step
        count = math.prod(models_shape) * length
        needs = dict.fromkeys(("parameters", "gradients"), count * device.master.itemsize)
        if device.dtype != device.master:
            needs[f"parameters ({device.dtype.name})"] = count * device.dtype.itemsize
        device.require(needs, "The network")
        self.parameters = device.zeros((*models_shape, length), device.master)
        self.gradients = device.zeros((*models_shape, length), device.master)
        self.half_parameters: Array | None = None
        self.copying: tuple[Call, ...] = ()
        if device.dtype != device.master:
            self.half_parameters = device.zeros((*models_shape, length))
            self.copying = tuple(device.ops.copy(device, self.parameters, self.half_parameters))
        for layer, name, shape, start in self.places:
            layer.own(name, self._view(self.parameters, shape, start), device)
            layer.own(f"grad_{name}", self._view(self.gradients, shape, start), device)
            if name == "weight" and self.half_parameters is not None:
                layer.own("half_weight", self._view(self.half_parameters, shape, start), device)

    def draw(self, seeds: Sequence[int]) -> None:
        """Draws each member's weights in float64 on the host, so that every device and dtype begins alike."""
        host = np.zeros((len(seeds), self.parameters.shape[-1]))
        for member, seed in zip(host, seeds, strict=True):
            generator = np.random.default_rng([seed, 0])
            for layer, name, shape, start in self.places:
                values = layer.initial(name, generator)
                if values is not None:
                    member[start : start + math.prod(shape)] = values.ravel()
        self.device.copy_in(self.parameters, host.reshape(self.parameters.shape))

    def _view(self, flat: Array, shape: tuple[int, ...], start: int) -> Array:
        return flat[..., start : start + math.prod(shape)].reshape(*self.models_shape, *shape)


def group_factors(places: Sequence[Place], length: int, device: Device, penalized: bool) -> Array | None:
    """Returns what the learning rate (row 0), the weight decay (row 1) and the penalties (row 2) are multiplied by in
    each 256 bytes of a member's parameters: float64 (3, blocks), on the host. The learning rate's is 0 where a layer is
    not trainable. None where all that are read are 1; those of penalties are where there are some."""
    if all(set(layer.factors(name)[: 2 + penalized]) == {1} for layer, name, _, _ in places):
        return None
    step = ALIGNMENT // device.master.itemsize
    factors = np.ones((3, length // step))
    for layer, name, shape, start in places:
        end = start + math.prod(shape)
        factors[:, start // step : -(-end // step)] = np.vstack(layer.factors(name))
    return factors
