"""Threads at one network: each reads it with buffers of its own, and one at a time changes it."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu_backprop.backend.device import AnyRows, Device
from gpu_backprop.backend.errors import StateError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.plan import Plan, forget_oldest
from gpu_backprop.network.arrays import whole

if TYPE_CHECKING:
    from gpu_backprop.network.network import Network

BRIEF = "forward", "backward"
"""Changes so short that a thread which wants the same waits; any other change is refused while one is under way."""


class ExclusiveChange:
    """The lock of whatever writes a network's parameters, gradients or state of dropout."""

    def __init__(self) -> None:
        self._lock, self._what = threading.Lock(), ""

    def __call__(self, what: str) -> Any:
        """Returns the lock for the method `what`, which is about to write, for a with statement: no Ctrl-C keeps it
        closed. Raises StateError where another one is at work, in this thread or in another."""
        if self._lock.locked() and not what == self._what in BRIEF:
            raise StateError(
                f"{what} cannot begin: {self._what} is at work on this network, in another thread or further up in "
                "this one, and two would spoil each other's gradients. Wait for its end (trainer.stop() asks fit for "
                "it), or work on net.copy(). predict, forward and evaluate may be called meanwhile."
            )
        self._what, lock = what, self._lock
        return lock


class Reader:
    """Plans for some numbers of rows, and scratch memory of their own: with it one caller at a time reads a network."""

    def __init__(self, network: Network) -> None:
        self.device = network.device.with_own_scratch()
        self.plans: dict[tuple[Any, ...], Eager] = {}
        self.forward: Eager | None = None  # what backward goes on from

    def plan(self, network: Network, rows: int, training: bool) -> Eager:
        key = rows, training, network.plan_key
        found = self.plans.get(key)
        if found is None:
            forget_oldest(self.plans)
            found = self.plans[key] = Eager(network, self.device, rows, training)
        return found

    def predict(self, network: Network, x: Array, batch_size: int, averaged: bool) -> Array:
        """Returns y of x, made of so many rows at once, or of all where they need not be copied."""
        rows, most, any_rows = x.shape[-2], self.device.block, None
        if most and rows:
            most = min(most, batch_size, 1 << (rows - 1).bit_length())
            any_rows = self.plan(network, most, False).any_rows
            if any_rows is not None and rows <= most:
                return any_rows.few(whole(x))
        models_shape = () if averaged else network.models_shape
        y: Array = np.empty((*models_shape, rows, network.outputs), self.device.master)
        if any_rows is not None:
            some = rows if any_rows.takes(x) else batch_size
            for start in range(0, rows, some):
                any_rows(whole(x[start : start + some]), y[start : start + some])
            return y
        for start in range(0, rows, batch_size):
            part = x[..., start : start + batch_size, :]
            eager = self.plan(network, part.shape[-2], False)
            eager.forward(part)
            y[..., start : start + batch_size, :] = self.device.to_host(eager.mean() if averaged else eager.y)
        return y


class Eager:
    """forward and backward as one plan in two phases, so that a caller can stand between them. It does not hold on to
    the network, which holds on to it: memory is free as soon as nobody has the network any more."""

    def __init__(self, network: Network, device: Device, rows: int, training: bool) -> None:
        self.key = network.plan_key
        self.plan = plan = Plan(device, training)
        network.emit_parameters(plan)
        self.x = plan.empty("x", (*network.models_shape, rows, network.inputs))
        self.y = network.emit_forward(plan, self.x)
        network.emit_next_masks(plan)
        self.grad_y: Array | None = None
        self.grad_x: Array | None = None

    @cached_property
    def any_rows(self) -> AnyRows | None:
        """What does forward for any number of rows; None: it is for its own."""
        if self.x.ndim > 2 or not self.plan.operations:
            return None
        return self.plan.device.any_rows(self.plan.calls("forward"), self.x, self.y)

    def forward(self, x: Array) -> None:
        self.plan.device.copy_in(self.x, whole(x))
        self.plan.alone(self.plan.run, "forward")

    def mean(self) -> Array:
        """The mean of y over the members, (batch, outputs), in float64."""
        with self.plan.device.computing():
            mean: Array = self.y.mean(axis=0, dtype=np.float64)
        return mean

    def backward(self, network: Network, grad_y: Array) -> Array:
        device = self.plan.device
        if self.grad_y is None:
            self.plan.phase = "backward"
            self.grad_y = self.plan.empty(f"∇y{network.last.number}", self.y.shape)
            self.grad_x = network.emit_backward(self.plan, self.grad_y, grad_x=True)
        assert self.grad_x is not None
        device.copy_in(self.grad_y, grad_y)
        self.plan.alone(self.plan.run, "backward")
        return device.copy(self.grad_x)
