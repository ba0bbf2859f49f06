"""Steps on minibatches that are given by hand: their plans, and the loss of one."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_backprop.backend.communicator import ALONE, Communicator
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.plan import forget_oldest
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.samples import Samples, samples
from gpu_backprop.training import memory
from gpu_backprop.training.minibatches import ManualBatch
from gpu_backprop.training.replay import Replay
from gpu_backprop.training.step import TrainingStep


class ManualSteps:
    """The plans of a trainer's `step`, and the total to which each adds its loss, float64 (..., 3)."""

    def __init__(self, step: TrainingStep, graph: bool | str) -> None:
        self.step, self.graph = step, graph
        self.total = step.device.zeros((*step.network.models_shape, 3), np.float64)
        self._nothing = step.device.zeros(self.total.shape, np.float64)  # there, so that a step need not send zeros
        self._replays: dict[tuple[Any, ...], Replay] = {}

    def minibatch(self, x: Any, y: Any, weights: Any = None) -> Samples:
        """Checks shapes and dtypes of a minibatch, and nothing else. An x of (models, rows, inputs) gives each member
        its own."""
        return samples(self.step.network, self.step.loss, x, y, weights, values=False, per_member=True)

    def replay(self, rows: int, labelled: bool, weighted: bool, fuse: bool = True) -> Replay:
        """Returns the plan of a step of so many rows, of the network as its layers are set now."""
        key = (rows, labelled, weighted, fuse, self.step.network.plan_key)
        if key not in self._replays:
            forget_oldest(self._replays)
            batch = ManualBatch(self.step.network, labelled, weighted)
            memory.require_step(self.step, batch, rows, self.total, self.graph, fuse)
            self._replays[key] = Replay(self.step.build(batch, rows, self.total, fuse), self.graph)
        return self._replays[key]

    def load(self, data: Samples, fuse: bool = True) -> Replay:
        """Returns the plan of a step on this minibatch, with the minibatch in its buffers and a total of 0."""
        facts = {"rows": data.rows, "with labels": data.labelled, "with weights": data.weights is not None}
        self.step.communicator.check_same(facts)
        replay = self.replay(data.rows, data.labelled, data.weights is not None, fuse)
        self.step.network.refresh()
        ManualBatch.load(replay.plan, data)
        self.step.device.copy_in(self.total, self._nothing)
        return replay


class StepLoss:
    """The loss of one step, still on the device. float() waits for it; np.asarray() gives one loss a member. Of
    several ranks, each has to ask for it."""

    def __init__(
        self, loss: Loss, device: Device, total: Array, rows: int, communicator: Communicator = ALONE
    ) -> None:  # fmt: skip
        self._loss, self._device, self._total, self._rows = loss, device, total, rows
        self._communicator = communicator

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        total = self._communicator.add_up(self._device.to_host(self._total))
        return np.asarray(self._loss.reduce(total, self._rows), dtype)

    def __float__(self) -> float:
        losses = np.asarray(self)
        if losses.ndim:
            raise InputError(f"there are {losses.size} losses, one a member: use np.asarray(loss).")
        return float(losses)

    def __repr__(self) -> str:
        return f"StepLoss({np.asarray(self).tolist()})"

    def __format__(self, spec: str) -> str:
        return format(float(self), spec)
