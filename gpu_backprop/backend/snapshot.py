"""Copies of what a run changes, on its device, to go back to: of all members, or of some of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Array, Call


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
        for call in self._copying:
            call()

    @cached_property
    def _copying(self) -> tuple[Call, ...]:
        pairs = [(self.copies[name], array) for name, array in self._arrays.items()]
        return tuple(call for pair in pairs for call in self._device.copying(*pair))

    def restore(self) -> None:
        """Copies all arrays back."""
        for name, array in self._arrays.items():
            self._device.copy_in(array, self.copies[name])

    def load(self, copies: Mapping[str, Array]) -> None:
        """Takes what another one held of the same arrays, on the host or the device."""
        for name, copy in self.copies.items():
            self._device.copy_in(copy, copies[name])

    def copy_members(self, other: Snapshot, members: Array) -> None:
        """Copies what another one holds of some members, (models,) or () as the axes in front of every array are."""
        for name, copy in self.copies.items():
            copy_members(self._device, members, other.copies[name], copy)

    def restore_members(self, members: Array) -> None:
        """Copies all arrays of some members back."""
        for name, array in self._arrays.items():
            copy_members(self._device, members, self.copies[name], array)


def copy_members(device: Device, members: Array, source: Array, destination: Array) -> None:
    """Copies the rows of some members, (models,), or, where there is no such axis and `members` is (), all or none."""
    for member in np.argwhere(members):
        place: tuple[Any, ...] = (*member.tolist(), ...)
        device.copy_in(destination[place], source[place])
