"""Copies of what a run changes, on its device, to go back to."""

from __future__ import annotations

from collections.abc import Mapping

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Array


class Snapshot:
    """Copies of some arrays, as they were when it was made or last taken.

    Args:
        arrays: by name, on the device.

    Attributes:
        copies: of each, by name.
    """

    def __init__(self, device: Device, arrays: Mapping[str, Array]) -> None:
        self._device, self._arrays = device, dict(arrays)
        self.copies = {name: device.copy(array) for name, array in arrays.items()}

    def take(self) -> None:
        """Copies all arrays again."""
        for name, array in self._arrays.items():
            self._device.copy_in(self.copies[name], array)

    def restore(self) -> None:
        """Copies all arrays back."""
        for name, array in self._arrays.items():
            self._device.copy_in(array, self.copies[name])
