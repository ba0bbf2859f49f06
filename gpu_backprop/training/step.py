"""TrainingStep: a network, a loss and an optimizer. One minibatch, from its rows to new weights, is a plan: note N2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from gpu_backprop.backend.communicator import ALONE, Communicator
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.network import Network
from gpu_backprop.training.accumulation import Accumulation
from gpu_backprop.training.averaging import Averaging
from gpu_backprop.training.clipping import Clipping
from gpu_backprop.training.fit_schedule import FollowedSchedule
from gpu_backprop.training.loss_scaling import LossScaling
from gpu_backprop.training.minibatches import BatchSource, ManualBatch
from gpu_backprop.training.optimizer import Optimizer, Setting
from gpu_backprop.training.reduction import Reduction
from gpu_backprop.training.shuffling import Shuffling


class State(NamedTuple):
    """All that a step, and an epoch, leaves for the next one."""

    arrays: dict[str, Array]  # by name, on the device: the very arrays that steps read and write, or copies of them
    host: dict[str, Any]  # what is drawn and counted on the host, as dicts, lists and numbers


class TrainingStep:
    """Builds the steps of one training, and owns what they share.

    Args:
        network, loss, optimizer: the network is trained in place, the others are copied.
        seed: of shuffling and dropout; None: the network's.
        clip_norm, clip_value, average, accumulate, communicator: see `Trainer`.

    Attributes:
        scaling, clipping, accumulation, averaging: of the loss, in float16; of the gradients; of the parameters.
        seeds, shuffling: each member's; and what draws the orders of epochs from them.
        numbers: what messages call the members.
        others: whether other members, which trained with these, have ended without divergence.
    """

    def __init__(
        self, network: Network, loss: Loss, optimizer: Optimizer, seed: int | None = None, *,
        clip_norm: Setting | None = None, clip_value: Setting | None = None, average: Setting | None = None,
        accumulate: int = 1, communicator: Communicator = ALONE,
    ) -> None:  # fmt: skip
        network.check_trainable()
        self.network, self.device, self.loss = network, network.device, loss.bind(network)
        self.optimizer = optimizer.bind(network, **({} if clip_value is None else {"clip_value": clip_value}))
        self.scaling, self.clipping = LossScaling(network), Clipping(network, clip_norm)
        self.accumulation, self.averaging = Accumulation(network, accumulate), Averaging(network, average)
        self.communicator = communicator.on(self.device)
        self.reduction = Reduction(network, self.communicator, self.accumulation.parts)
        self._running: Array | None = None
        if network.models_shape:
            self._running = self.device.from_host(np.ones(network.models_shape))
        self._ended: Array = np.zeros(network.models_shape, np.bool_)
        self.numbers, self.others = np.arange(self._ended.size), False
        self.seeds = network.reseed(seed)
        self.shuffling = Shuffling(self.seeds, network.models_shape, self.device.shuffle)

    def build(
        self, source: BatchSource | ManualBatch, rows: int, total: Array, fuse: bool = True,
        device: Device | None = None, schedule: FollowedSchedule | None = None,
    ) -> Plan:  # fmt: skip
        """Builds the plan of one step.

        Args:
            source: gives x, the targets and the weights.
            rows: of the minibatch, which the ranks share.
            total: float64 (..., 3) on the device, to which the step adds the loss of this rank's rows.
            fuse: False: share no buffers, fuse nothing, and work through the minibatch as a whole.
            device: a DryRunDevice, for a plan to look at; None: the network's.
            schedule: what the settings follow; None: they are as they are set.
        """
        self.network.check_trainable()
        share = self.communicator.share(rows)
        plan = Plan(self.device if device is None else device, True, fuse, self.communicator, share.start)
        self.network.emit_parameters(plan)
        plan.named("E", total)
        if schedule is not None:
            schedule.emit(plan)
        if self.running is not None:
            plan.gradient_factor = plan.named("running", self.running)
        self.scaling.scale(plan)
        for part, scaling in self.accumulation.parts_of(plan, source, self.loss, rows, total):
            x, target, weights = source.emit(plan, part)
            z = self.network.emit_forward(plan, x, upto="z")  # its activation is left to the loss, which may fuse it
            plan.phase = "loss"
            grad_z = self.loss.gradient(plan, self.network.last, z, target, weights, total, scaling)
            plan.phase = "backward"
            self.network.emit_backward(plan, grad_z, start="z")
        self.reduction.emit(plan, rows)
        plan.phase = "update"
        self.scaling.unscale(plan)
        self.clipping.clip(plan)
        self._advance(plan, source.cursor, share.stop - plan.first_row, None if schedule is None else schedule.position)
        self.optimizer.update(plan, self.network)
        self.network.emit_max_norms(plan)
        self.averaging.update(plan)
        return plan.finish()

    def _advance(self, plan: Plan, cursor: Array | None, rows: int, position: Array | None) -> None:
        """Counts the step: the optimizer's is not counted where plan.gradient_factor is 0. It stands before the update,
        which reads its number, so that nothing of the next step but W waits for the update."""
        random, step = self.network.random_step(plan), self.optimizer.step_number(plan)
        counters = {f"cursor += {rows}": cursor, "position += 1": position, "random step += 1": random, "t += 1": step}
        formula = ", ".join(text for text, counter in counters.items() if counter is not None)
        plan.add(Operations.advance, formula, {}, cursor, rows, position, random, step, plan.gradient_factor)

    @property
    def running(self) -> Array | None:
        """Float64 (models,) on the device: 0 of each member that is stopped, of which no step changes anything, else 1.
        None where members cannot be stopped. To assign truth values, one a member, stops some and lets others go on,
        from the next step on, but for those that have `ended`."""
        return self._running

    @running.setter
    def running(self, which: Any) -> None:
        if self._running is None:
            raise InputError("no member can be stopped: there is no models axis.")
        given = np.asarray(which)
        if given.shape != self._running.shape or given.dtype != np.bool_:
            raise InputError(f"running must be {self._running.size} truth values, one a member, got {which!r}.")
        self.device.copy_in(self._running, (given & ~self._ended).astype(np.float64))

    @property
    def ended(self) -> Array:
        """Which members are stopped for the rest of a fit, whatever `running` is assigned, as those that have diverged
        are: truth values (models,) on the host. To assign others stops those, and lets the rest go on."""
        return self._ended

    @ended.setter
    def ended(self, which: Array) -> None:
        if self._running is not None and (which != self._ended).any():
            running = (self.device.to_host(self._running) > 0) | self._ended
            self._ended = which
            self.running = running

    @contextmanager
    def ending_members(self, anew: bool) -> Iterator[None]:
        """The context of a fit, after which all members go on; anew: none of them has ended before."""
        nobody = np.zeros_like(self._ended)
        self.ended = nobody if anew else self._ended
        try:
            yield
        finally:
            self.ended = nobody

    def beside_updates(self) -> dict[str, Any]:
        """Returns what steps do besides the update of an optimizer, by the names that a trainer has for it; None each
        that they do not."""
        parts = None if self.accumulation.parts == 1 else self.accumulation.parts
        ranks = None if self.communicator.ranks == 1 else self.communicator
        own = {"clip_norm": self.clipping.norm, "average": self.averaging.decay, "accumulate": parts}
        return own | {"communicator": ranks}

    @property
    def measured_parameters(self) -> Array:
        """The parameters that count, flat on the device: those that validation measures and the end of a fit keeps.
        They are the network's, or their moving average while there is one."""
        return self.averaging.measured_parameters

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
        if self.averaging.average is not None:
            arrays["average"] = self.averaging.average
        if self.running is not None:
            arrays["running"] = self.running
        scale = {"stuck": scaling.stuck, "last_scale": scaling.last_scale.tolist()}
        host = {"seeds": self.seeds, "shuffling": self.shuffling.states, "loss scaling": scale}
        return State(arrays, {**host, "average": {"begun": self.averaging.begun}, "ended": self._ended.tolist()})

    def load_state(self, state: State) -> None:
        """Copies a state in, from the host or the device; arrays that it lacks stay as they are. The caller has the
        network to itself.
        """
        arrays = self.state().arrays
        for name, array in state.arrays.items():
            self.device.copy_in(arrays[name], array)
        self.network.refresh()
        self.seeds = state.host["seeds"]
        self.shuffling.states = state.host["shuffling"]
        self.averaging.begun, self._ended = state.host["average"]["begun"], np.array(state.host["ended"])
        scaling = state.host["loss scaling"]
        self.scaling.stuck, self.scaling.last_scale = scaling["stuck"], np.array(scaling["last_scale"])
