"""Some members of a network with a models axis: as a training of their own, as an ordinary network, or one in the place
of another.

What is one a member lies in an array, a tuple or a list as long as there are members: settings, states, columns of the
history. All else is of all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import InputError, StateError
from gpu_backprop.network.layer import Layer
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.network import Network
from gpu_backprop.network.numbers import one_a_member, scalar
from gpu_backprop.network.schedules import Schedule, Warmup
from gpu_backprop.training.checkpoints.recipe import OF_TRAINER, describe
from gpu_backprop.training.checkpoints.resuming import Resumed
from gpu_backprop.training.checkpoints.running_fit import RunningFit
from gpu_backprop.training.history import History
from gpu_backprop.training.monitor import Monitor
from gpu_backprop.training.optimizer import Optimizer
from gpu_backprop.training.run import Position
from gpu_backprop.training.step import State
from gpu_backprop.training.trainer import Trainer

OF_LAYERS = "rate", "max_norm"
"""The settings of layers that may be one a member, besides schedules."""

STAYS = "random", "running"
"""What of a state is no member's training: its stream of random numbers, and whether it is stopped."""


def take_members(trainer: Trainer, members: Sequence[int]) -> Trainer:
    """Makes a trainer of some members alone, with a network of its own, which goes on as they would have: with their
    parameters, settings, state and history. In a callback's `on_epoch`, the next `fit` of what is returned goes on with
    the fit that runs: it is given the same as that one, but for what is one a member, and counts epochs from its
    beginning. Such a callback has `only_reads = True`, so that all others have seen the epoch.

    Args:
        trainer: of a network with a models axis; nothing of it changes.
        members: their numbers, from 0, in the order in which they are to be; at least one.

    Raises:
        InputError: there is no models axis, or a number is none of a member.
        StateError: an epoch is under way, or the trainer was resumed and has not gone on yet.
    """
    taken = _checked(trainer.network, members)
    fit = trainer.running
    if trainer.resumed is not None or (fit is not None and fit.run.position().done):
        raise StateError("take_members takes what an epoch leaves, and one is under way: call it in on_epoch.")
    rebuild, (network, loss, optimizer, options, state, history) = trainer.__reduce__()
    of = _Members(network, taken)
    options |= {name: of.pick(options[name]) for name in OF_TRAINER}
    state = State(of.pick(state.arrays), of.pick(state.host))
    resumed = None if fit is None else of.resumed(fit)
    parts = of.network(network), of.loss(loss), of.optimizer(optimizer), options, state, of.history(history)
    made: Trainer = rebuild(*parts, resumed)
    made.begun[:] = [describe(made)]
    made.checkpoint_folders.update(trainer.checkpoint_folders)
    return made


def put_members(trainer: Trainer, whole: Trainer, members: Sequence[int]) -> None:
    """Gives a trainer what some of its members have come to, that `take_members` took from it: their state, and the
    settings of their optimizer."""
    state, before = trainer.training_step.state(), whole.training_step.state()
    arrays = {name: whole.device.to_host(array) for name, array in before.arrays.items()}
    for name, array in state.arrays.items():
        arrays[name][members] = trainer.device.to_host(array)
    drawn = dict(zip(members, state.host["shuffling"], strict=True))
    orders = [drawn.get(m, order) for m, order in enumerate(before.host["shuffling"])]
    whole.training_step.load_state(State(arrays, before.host | {"shuffling": orders}))
    for name, value in trainer.optimizer.settings.items():
        if value == whole.optimizer.settings[name]:  # one number for all
            continue
        numbers = one_a_member(name, whole.optimizer.settings[name], whole.network.models_shape).copy()
        numbers[members] = value
        setattr(whole.optimizer, name, numbers.tolist())


def member_network(network: Network, member: int) -> Network:
    """Makes an ordinary network, without a models axis, of one member: with its parameters, its seed, the dropout masks
    to come, and all that it knows of its data and training, but for the intervals, which are of the members' mean.

    Raises:
        InputError: there is no models axis, or no such member.
    """
    (number,) = _checked(network, [member])
    return _Members(network, number).network(network)


def copy_member(trainer: Trainer, source: int, destination: int) -> None:
    """Gives a member all that the training of another one has come to: parameters, moments and step of the optimizer,
    average; a member that had diverged goes on, unless the other has too. Its settings, its seed, and its streams of
    random numbers stay its own. In a fit, it is for `on_epoch`.

    Raises:
        InputError: there is no models axis, or no such member.
    """
    step, history = trainer.training_step, trainer.history
    source, destination = _checked(trainer.network, [source, destination])
    for name, array in step.state().arrays.items():
        if name not in STAYS:
            trainer.device.copy_in(array[destination, ...], array[source, ...])
    trainer.network.refresh()
    ended = step.ended.copy()
    ended[destination] = ended[source]
    step.ended = ended
    if history.diverged is not None:
        history.diverged[destination] = history.diverged[source]


def _checked(network: Network, members: Sequence[int]) -> list[int]:
    if not network.models_shape:
        raise InputError("the network has no members: there is no models axis. Make it with a list of seeds.")
    found: list[Any] = [scalar(member) for member in members]
    count = len(network.parameters)
    if not found or not all(type(member) is int and 0 <= member < count for member in found):
        raise InputError(f"members must be numbers from 0 to {count - 1}, at least one, got {members!r}.")
    return found


class _Members:
    """Some members out of all of them: a list of their numbers, or one number, of which a single network is made."""

    def __init__(self, network: Network, taken: list[int] | int) -> None:
        self.taken, self.count = taken, len(network.parameters)

    def pick(self, value: Any) -> Any:
        """Returns what is theirs of a value that may be one a member, and of each that a mapping has."""
        if isinstance(value, Mapping):
            return {name: self.pick(each) for name, each in value.items()}
        array = isinstance(value, np.ndarray) and value.ndim > 0
        if not (array or isinstance(value, (list, tuple))) or len(value) != self.count:
            return value
        if array or isinstance(self.taken, int):
            return value[self.taken]
        return type(value)(value[member] for member in self.taken)

    def schedule(self, of: Any) -> Any:
        """Does the same of a schedule, or of what a function of the user's gives."""
        if isinstance(of, Warmup):
            return replace(of, before=self.schedule(of.before))
        if of is None or isinstance(of, (Schedule, tuple)):
            return self.pick(of)

        @wraps(of)
        def theirs(step: int, steps: int) -> Any:
            given = of(step, steps)
            return self.pick(np.asarray(given)) if np.ndim(given) else given

        return theirs

    def layer(self, layer: Layer) -> Layer:
        taken = copy.copy(layer)
        for name in OF_LAYERS:
            if hasattr(layer, name):
                setattr(taken, name, self.pick(getattr(layer, name)))
        if hasattr(layer, "schedule"):
            taken.schedule = self.schedule(layer.schedule)
        return taken

    def network(self, network: Network) -> Network:
        rebuild, (inputs, layers, form, arrays, known) = network.__reduce__()
        preprocessing, classes, trained_by, averaged, _ = copy.deepcopy(known)
        known = preprocessing, classes, self.pick(trained_by), averaged and not isinstance(self.taken, int), None
        arrays, layers = [self.pick(array) for array in arrays], [self.layer(layer) for layer in layers]
        made: Network = rebuild(inputs, layers, self.pick(form), arrays, known)
        return made

    def loss(self, loss: Loss) -> Loss:
        return replace(loss, **{name: self.pick(getattr(loss, name)) for name in loss.bounds})

    def optimizer(self, optimizer: Optimizer) -> Optimizer:
        taken = copy.copy(optimizer)
        found = {name: self.schedule(one) for name, one in optimizer.schedule.items()}
        taken.schedule = {name: one for name, one in found.items() if one is not None}
        for name, value in optimizer.settings.items():
            setattr(taken, name, self.pick(value))
        return taken

    def history(self, history: History) -> History:
        taken = History()
        for name, value in vars(history).items():
            if name in History.settable:
                rows = name in ("rows", "steps")
                setattr(taken, name, [self.pick(row) for row in value] if rows else self.pick(value))
        return taken

    def resumed(self, fit: RunningFit) -> Resumed:
        """Returns what lets the next fit go on with one that runs, wherever it differs from that."""
        record = {name: value for name, value in fit.record().items() if name not in ("arrays", "position")}
        record["callbacks"] |= {name: self.pick(state) for name, state in fit.callbacks.states(Monitor).items()}
        return Resumed(Path(), record, {}, fit.first, Position(fit.run.position().epoch), force=True)
