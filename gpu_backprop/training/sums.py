"""Sums that runs form on the device, all in one buffer: one copy, and one wait, brings them to the host."""

from __future__ import annotations

import math

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Array


class Sums:
    """Float64 arrays by name, each of the shape given for it, which are views of one buffer on the device."""

    def __init__(self, device: Device, **shapes: tuple[int, ...]) -> None:
        self._device, self._shapes = device, shapes
        self._buffer = device.zeros((sum(map(math.prod, shapes.values())),), np.float64)
        self._nothing = device.zeros(self._buffer.shape, np.float64)  # there, so that nothing need be sent
        self._arrays = self._split(self._buffer)

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def clear(self) -> None:
        """Sets all to 0."""
        self._device.copy_in(self._buffer, self._nothing)

    def read(self) -> dict[str, Array]:
        """Reads all of them, by name; the one wait for the device."""
        return self._split(self._device.to_host(self._buffer))

    def _split(self, buffer: Array) -> dict[str, Array]:
        arrays, start = {}, 0
        for name, shape in self._shapes.items():
            arrays[name] = buffer[start : start + math.prod(shape)].reshape(shape)
            start += math.prod(shape)
        return arrays
