"""What ranks agree on between steps: on whether to end is asked for by a signal, a callback or a clock, at a time of
its own on each of them, and all have to end after the same step.

Their hosts do not run further ahead of their devices than by the steps since the agreement before the last one, so that
whoever waits for a device waits for a moment, unless another rank has ended or hangs.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np

from gpu_backprop.backend.communicator import Communicator
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Array
from gpu_backprop.training.step import TrainingStep

EVERY = 0.2
"""Seconds between two agreements: nobody waits longer for the end of a fit, and steps do not feel them."""


class Agreement:
    """When ranks agree: every few steps, as many as take EVERY on the first of them."""

    def __init__(self, communicator: Communicator, device: Device) -> None:
        self._communicator, self._device = communicator, device
        self._mark: Any = None  # of the device, at the agreement before
        self._steps, self._left, self._last = 1, 1, time.perf_counter()

    def comes(self, now: bool = False) -> bool:
        """Counts a step, and tells whether they agree after it; now: they do after each."""
        self._left -= 1
        if self._left > 0 and not now:
            return False
        before, self._mark = self._mark, self._device.mark()
        if before is not None:
            self._device.wait(before)
        if now:
            return True
        took, self._last = time.perf_counter() - self._last, time.perf_counter()
        steps = min(2 * self._steps, max(1, int(self._steps * EVERY / max(took, 1e-9))))
        self._steps = self._left = self._communicator.agree(steps)
        return True


def bring_together(step: TrainingStep, squares: Array) -> None:
    """Gives every rank the state of the first one where Σw² of the parameters, on the host, is no longer the same on
    all: processors of different kinds round a step differently."""
    communicator, device = step.communicator, step.device
    if communicator.ranks == 1 or len(set(communicator.exchange(squares.tobytes()))) == 1:
        return
    if communicator.rank == 0:
        warnings.warn(
            "the ranks have come to different last bits, as processors of different kinds do: after such an epoch, all "
            "go on with the parameters of rank 0",
            RuntimeWarning, stacklevel=7,
        )  # fmt: skip
    for array in step.state().arrays.values():
        found = communicator.exchange(device.to_host(array).tobytes() if communicator.rank == 0 else b"")[0]
        device.copy_in(array, np.frombuffer(found, array.dtype).reshape(array.shape))
    step.network.refresh()
