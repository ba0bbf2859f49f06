"""Steps on minibatches that are fed by hand: their plans, and the loss of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.network.arrays import as_array
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.network import Network
from gpu_backprop.network.samples import Samples, samples
from gpu_backprop.training import memory
from gpu_backprop.training.minibatches import ManualBatch
from gpu_backprop.training.replay import Replay

if TYPE_CHECKING:
    from gpu_backprop.training.trainer import Trainer

KEPT = 8
"""How many plans are kept: one for each number of rows, the oldest forgotten first."""


class ManualSteps:
    """The plans of a trainer's `step`, and what they share. It does not hold the trainer, which holds it.

    Attributes:
        total: what a step adds its loss to, float64 (..., 3).
    """

    def __init__(self, network: Network) -> None:
        device = network.device
        self.total = device.zeros((*network.models_shape, 3), np.float64)
        self._nothing = device.zeros(self.total.shape, np.float64)  # there, so that a step need not send zeros
        self._replays: dict[tuple[int, bool, bool, bool], Replay] = {}

    def replay(self, trainer: Trainer, rows: int, labelled: bool, weighted: bool, keep: bool = False) -> Replay:
        """The plan of a step of so many rows."""
        key = (rows, labelled, weighted, keep)
        if key not in self._replays:
            while len(self._replays) >= KEPT:
                del self._replays[next(iter(self._replays))]
            feed = ManualBatch(trainer.network, labelled, weighted)
            memory.require_step(trainer, feed, rows, keep)
            self._replays[key] = Replay(trainer.build_step(feed, rows, self.total, keep), trainer.graph)
        return self._replays[key]

    def load(self, trainer: Trainer, data: Samples, keep: bool = False) -> Replay:
        """The plan of a step on this minibatch, with the minibatch in its buffers and a total of 0."""
        replay = self.replay(trainer, data.rows, data.labelled, data.weights is not None, keep)
        trainer.network.refresh()
        ManualBatch.load(replay.plan, data)
        trainer.device.copy_in(self.total, self._nothing)
        return replay


def minibatch(trainer: Trainer, x: Any, y: Any, weights: Any = None) -> Samples:
    """What a step is fed with: only shapes and dtypes are checked. An x of (models, rows, inputs) gives each member its
    own."""
    network, x = trainer.network, as_array(x, "x", trainer.device)
    models_shape = network.models_shape if x.ndim == 3 else ()
    return samples(network, trainer.loss, x, y, weights, values=False, models_shape=models_shape)


class StepLoss:
    """The loss of one step, still on the device. float() waits for it; np.asarray() gives one loss a member."""

    def __init__(self, loss: Loss, device: Device, total: Array, rows: int) -> None:
        self._loss, self._device, self._total, self._rows = loss, device, total, rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self._loss.reduce(self._device.to_host(self._total), self._rows), dtype)

    def __float__(self) -> float:
        losses = np.asarray(self)
        if losses.ndim:
            raise InputError(f"there are {losses.size} losses, one a member: use np.asarray(loss).")
        return float(losses)

    def __repr__(self) -> str:
        return f"StepLoss({np.asarray(self).tolist()})"

    def __format__(self, spec: str) -> str:
        return format(float(self), spec)
