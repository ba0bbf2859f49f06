"""Steps on minibatches that are given by hand: their plans, and the loss of one."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.plan import forget_oldest
from gpu_backprop.network.arrays import REAL, memory_map
from gpu_backprop.network.samples import Samples, samples
from gpu_backprop.training import memory
from gpu_backprop.training.minibatches import ManualBatch
from gpu_backprop.training.replay import Replay
from gpu_backprop.training.step import TrainingStep

UNKNOWN = (None,) * 5


class ManualSteps:
    """The plans of a trainer's `step`, and the total to which each adds its loss, float64 (..., 3)."""

    def __init__(self, step: TrainingStep, graph: bool | str) -> None:
        self.step, self.graph = step, graph
        self.total = step.device.zeros((*step.network.models_shape, 3), np.float64)
        self._nothing = step.device.zeros(self.total.shape, np.float64)  # there, so that a step need not send zeros
        self._replays: dict[tuple[Any, ...], Replay] = {}
        self._known: dict[tuple[Any, ...] | None, tuple[Any, ...]] = {}

    def minibatch(self, x: Any, y: Any, weights: Any = None) -> Samples:
        """Checks shapes and dtypes of a minibatch, and nothing else. An x of (models, rows, inputs) gives each member
        its own."""
        return samples(self.step.network, self.step.loss, x, y, weights, values=False, per_member=True)

    def run(self, x: Any, y: Any, weights: Any) -> StepLoss:
        """Trains on one minibatch. Where arrays like these go is known from the second time on: their shapes and dtypes
        alone decide whether they are right."""
        step, total = self.step, self.total
        device = step.device
        form = _form(x, y) if weights is None else None
        replay, rows, to_x, to_y, settings = self._known.get(form, UNKNOWN)
        if settings == step.network.plan_key:
            step.network.refresh()
            device.copy_in(to_x, x)
            device.copy_in(to_y, y)
            device.copy_in(total, self._nothing)
        else:
            data = self.minibatch(x, y, weights)
            replay, rows = self.load(data), data.rows
            if form is not None and step.communicator.ranks == 1:
                forget_oldest(self._known)
                to_x, to_y = (ManualBatch.place(replay.plan, name) for name in ("x", "y*"))
                to_y = to_y if y.ndim == data.target.ndim else to_y[..., 0]
                self._known[form] = replay, rows, to_x, to_y, step.network.plan_key
        step.averaging.begin()
        replay.plan.alone(replay.run)
        return StepLoss(step, device.copy(total), rows)

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


def _form(x: Any, y: Any) -> tuple[Any, ...] | None:
    """Returns all that decides whether x and y are right and where they go, besides the settings of layers; None where
    that is more than shapes and dtypes, as of text or of a file."""
    if not type(x) is type(y) is np.ndarray or y.dtype.kind not in REAL:
        return None
    if memory_map(x.base) is not None or memory_map(y.base) is not None:
        return None
    return x.shape, x.dtype.num, y.shape, y.dtype.num


class StepLoss:
    """The loss of one step, still on the device. float() waits for it; np.asarray() gives one loss a member. Of
    several ranks, each has to ask for it."""

    __slots__ = "_rows", "_step", "_total"

    def __init__(self, step: TrainingStep, total: Array, rows: int) -> None:
        self._step, self._total, self._rows = step, total, rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        total = self._step.communicator.add_up(self._step.device.to_host(self._total))
        return np.asarray(self._step.loss.reduce(total, self._rows), dtype)

    def __float__(self) -> float:
        losses = np.asarray(self)
        if losses.ndim:
            raise InputError(f"there are {losses.size} losses, one a member: use np.asarray(loss).")
        return float(losses)

    def __repr__(self) -> str:
        return f"StepLoss({np.asarray(self).tolist()})"

    def __format__(self, spec: str) -> str:
        return format(float(self), spec)
