"""TrainingStep: a network, a loss and an optimizer. One minibatch, from its rows to new weights, is a plan: note N2."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.network import Network
from gpu_backprop.training.fit_schedule import FollowedSchedule
from gpu_backprop.training.loss_scaling import LossScaling
from gpu_backprop.training.minibatches import BatchSource, ManualBatch
from gpu_backprop.training.optimizer import Optimizer, Setting


class State(NamedTuple):
    """All that a step, and an epoch, leaves for the next one."""

    arrays: dict[str, Array]  # by name, on the device: the very arrays that steps read and write, or copies of them
    host: dict[str, Any]  # what is drawn and counted on the host, as dicts, lists and numbers


class TrainingStep:
    """Builds the steps of one training, and owns what they share: the network, trained in place; copies of the loss and
    the optimizer; the scaling of the loss, in float16. The seed is that of shuffling and dropout; None: the network's.
    Gradients are clipped to ±clip_value; None: they are not.

    Attributes:
        seeds: of shuffling, each member's.
    """

    def __init__(
        self, network: Network, loss: Loss, optimizer: Optimizer, seed: int | None = None,
        clip_value: Setting | None = None,
    ) -> None:  # fmt: skip
        network.check_trainable()
        self.network, self.device, self.loss = network, network.device, loss.bind(network)
        self.optimizer = optimizer.bind(network, **({} if clip_value is None else {"clip_value": clip_value}))
        self.scaling = LossScaling(network)
        self.seeds = network.reseed(seed)
        self._shuffling = [np.random.default_rng([s, 1]) for s in self.seeds]

    def build(
        self, source: BatchSource | ManualBatch, rows: int, total: Array, fuse: bool = True,
        device: Device | None = None, schedule: FollowedSchedule | None = None,
    ) -> Plan:  # fmt: skip
        """Builds the plan of one step.

        Args:
            source: gives x, the targets and the weights.
            total: float64 (..., 3) on the device, to which the step adds its loss.
            fuse: False: share no buffers and fuse nothing.
            device: a DryRunDevice, for a plan to look at; None: the network's.
            schedule: what the settings follow; None: they are as they are set.
        """
        self.network.check_trainable()
        plan = Plan(self.device if device is None else device, training=True, fuse=fuse)
        self.network.emit_parameters(plan)
        plan.named("E", total)
        if schedule is not None:
            schedule.emit(plan)
        x, target, weights = source.emit(plan, rows)
        z = self.network.emit_forward(plan, x, upto="z")  # its activation is left to the loss, which may fuse it
        plan.phase = "loss"
        self.scaling.scale(plan)
        grad_z = self.loss.gradient(plan, self.network.last, z, target, weights, total)
        plan.phase = "backward"
        self.network.emit_backward(plan, grad_z, start="z")
        plan.phase = "update"
        self.scaling.unscale(plan)
        self.optimizer.update(plan, self.network)
        self.network.emit_next_masks(plan)
        if schedule is not None:
            schedule.emit_advance(plan)
        source.emit_advance(plan, rows)
        return plan

    def state(self) -> State:
        """Returns all that the next step reads of the steps before it. Settings, such as the learning rate, are none of
        it, nor is what `Network.refresh` derives from the parameters.
        """
        network, optimizer, scaling = self.network, self.optimizer, self.scaling
        assert optimizer.hyper is not None
        arrays = {"parameters": network.parameters, "random": network.random, "step": optimizer.hyper[..., 0]}
        arrays |= optimizer.moments
        if scaling.state is not None:
            arrays["loss scaling"] = scaling.state
        scale = {"stuck": scaling.stuck, "last_scale": scaling.last_scale.tolist()}
        return State(arrays, {"seeds": self.seeds, "shuffling": self.shuffling(), "loss scaling": scale})

    def load_state(self, state: State) -> None:
        """Copies a state in, from the host or the device; arrays that it lacks stay as they are. The caller has the
        network to itself.
        """
        arrays = self.state().arrays
        for name, array in state.arrays.items():
            self.device.copy_in(arrays[name], array)
        self.network.refresh()
        self.seeds = state.host["seeds"]
        for rng, drawn in zip(self._shuffling, state.host["shuffling"], strict=True):
            rng.bit_generator.state = drawn
        scaling = state.host["loss scaling"]
        self.scaling.stuck, self.scaling.last_scale = scaling["stuck"], np.array(scaling["last_scale"])

    def shuffling(self) -> list[Any]:
        """Returns the states of the generators from which orders of rows are drawn, a member each."""
        return [rng.bit_generator.state for rng in self._shuffling]

    def draw_seeds(self) -> list[int]:
        """Draws a seed of an epoch's order for each member, from what `draw_order` draws from."""
        return [int(rng.integers(1 << 63)) for rng in self._shuffling]

    def draw_order(self, rows: int) -> Array:
        """Draws a new order of so many rows, int64 (..., rows): each member's own."""
        orders = [rng.permutation(rows) for rng in self._shuffling]
        return np.stack(orders).reshape(*self.network.models_shape, rows)
