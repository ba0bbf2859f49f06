"""Settings that follow a schedule."""

from __future__ import annotations

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Array, Calls


def follow_schedule(device: Device, table: Array, position: Array, settings: Array, values: Array) -> Calls:
    pairs, last = values.ndim > settings.ndim, len(table) - 1
    first = values[..., 0] if pairs else values

    def run() -> None:
        np.multiply(settings, table[min(position.item(), last)], first)
        if pairs:
            np.subtract(1, first, values[..., 1])
            np.reciprocal(values[..., 1], values[..., 1])

    yield run
