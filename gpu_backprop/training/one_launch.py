"""Training in one launch: an epoch of small networks as one operation, a network a block of the device.

It gives what the ordinary steps give, to rounding. Steps of such networks are so short that launches, and the ways to
the device's memory and back, would take most of the time; here a network stays in the memory of its block. An epoch
that would keep the device for long is cut into several launches.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from gpu_backprop.backend.block_layout import BlockLayout, DenseShape
from gpu_backprop.backend.device import Processors
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import IDENTITY, Activation, Array
from gpu_backprop.backend.kernel_text import functor_name
from gpu_backprop.backend.open_device import open_dry_run
from gpu_backprop.backend.operations import EpochOperations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.layers import Dense
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.losses import LOSSES
from gpu_backprop.network.network import Network
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.launch_model import ordinary_step, resident_step
from gpu_backprop.training.minibatches import BatchSource, DataSet
from gpu_backprop.training.optimizer import group_factors
from gpu_backprop.training.step import TrainingStep

LOG = logging.getLogger("gpu_backprop")

DTYPES = "float32", "float64"


AUTO, CHOSEN = "auto", "chosen"
"""What Trainer(one_launch=) may be besides a bool, and what becomes of it in a fit that it is chosen for."""

GAIN, LEAST_SAVED = 0.8, 1000.0
"""It is chosen where a step takes at most that share of what an ordinary one does, and an epoch is shorter by so many
µs: what is less does not show beside what every epoch costs the host."""

LAUNCH = 50_000.0
"""µs that a launch takes at most by the model; twice as many, should it be wrong, are still no wait."""

UNKNOWN = Processors(1, 2, 1000)
"""What a device that is not known computes with at the least."""

Obstacle = tuple[str, str]
"""Why it cannot be, and what to do instead."""


def check(network: Network, loss: Loss, steps: Mapping[str, Any], **modes: bool | str) -> None:
    """Raises InputError where an epoch cannot run in one launch: it says why, and what can. `steps` are those arguments
    of the trainer that only ordinary steps follow, None where they are not given; `modes` are `graph` and `stream`, as
    the trainer has them."""
    _refuse(_obstacles(network, loss, steps, modes))
    _refuse(_obstacles_of_layers(network))


def _obstacles(
    network: Network, loss: Loss, steps: Mapping[str, Any], modes: Mapping[str, bool | str]
) -> Iterator[Obstacle]:
    """Yields what of a trainer an epoch in one launch has not."""
    device, change = network.device, "Change that"
    if not device.trains_epochs_in_one_launch:
        yield f"it is for CUDA devices, and this network is on the CPU ({device.reason})", change
    for name, mode in modes.items():
        if mode is True:
            yield f"an epoch is one launch on data that lie on the device, but {name}=True was given", change
    for name, value in steps.items():
        if value is not None:
            yield f"only ordinary steps have {name}, but {name}={value} was given", change
    if device.dtype.name not in DTYPES:
        yield f"the dtype has to be {' or '.join(DTYPES)}, and the network's is {device.dtype.name}", change
    named: dict[str, Activation] = {}
    for layer in network.layers:
        if type(layer) is not Dense:
            yield f"all layers have to be Dense, but layer {layer.number} is {layer!r}", change
            return
        fused = layer is network.last and loss.fused == layer.activation.name
        if layer.activation.rowwise and not fused:
            only = f"{layer.activation.name} can only be the output's, with {_partner(layer.activation.name)}"
            yield f"{only}, but layer {layer.number} is {layer!r} and the loss is {loss.name}", change
        if fused and loss.operation is not None:
            yield f"of the losses with {layer.activation.name}, {loss.name} has no such epoch", change
        if named.setdefault(functor_name(layer.activation), layer.activation) != layer.activation:
            yield f"two activations are called {layer.activation.name!r}; give one of them another name", change
    needs, memory = layout(network, loss).needs, device.block_memory
    if (total := sum(needs.values())) > memory:
        told = ", ".join(f"{size:,} for {kind}" for kind, size in needs.items())
        has = f"a block of {device.name} has {memory:,}"
        yield f"the network takes {total:,} bytes of a block's memory ({told}), and {has}", "Use fewer units"


def _obstacles_of_layers(network: Network) -> Iterator[Obstacle]:
    if why := obstacle_of_layers(network):
        yield why, "Change that"


def obstacle_of_layers(network: Network) -> str:
    """Says which layer is set, as may be done at any time, to what an epoch in one launch has not; "": none is."""
    for layer in network.layers:
        if isinstance(layer, Dense) and layer.max_norm is not None:
            return f"only ordinary steps have max_norm, but layer {layer.number} is {layer!r}"
    return ""


def check_data(data: BatchSource, loss_every: int | None, scheduled: bool) -> None:
    """Raises InputError where an epoch of these data, or with a schedule, cannot run in one launch."""
    _refuse(_obstacles_of_data(isinstance(data, DataSet), len(data.sources) > 2, loss_every, scheduled))


def _obstacles_of_data(resident: bool, weighted: bool, loss_every: int | None, scheduled: bool) -> Iterator[Obstacle]:
    change = "Change that"
    if not resident:
        yield "the data have to lie on the device, where they do not fit", change
    if weighted:
        yield "it takes no sample weights, which are there, or which members with fewer rows than others need", change
    if loss_every is not None:
        yield f"nothing is read before the end of an epoch, but loss_every={loss_every} was given", change
    if scheduled:
        why = "settings are read once an epoch, but the optimizer has a schedule, which changes them in a step"
        yield why, change


def _refuse(obstacles: Iterator[Obstacle]) -> None:
    for why, instead in obstacles:
        raise InputError(f"one_launch=True cannot be: {why}. {instead}, or use one_launch=False.")


def decide(
    step: TrainingStep, settings: Any, data: Samples, loss_every: int | None, scheduled: bool, after_steps: bool,
    before: bool | None,
) -> bool | str:  # fmt: skip
    """Decides how the epochs of a fit run: True where one launch was asked for, CHOSEN where "auto" finds that it can
    be and, by the model, is faster, else False. Shapes, settings and the device decide, and nothing that is measured.

    Args:
        settings: of the trainer, a Settings.
        after_steps: whether something is to be called after each step.
        before: what was decided when a fit began that goes on, whose layers may be set otherwise since, and again;
            None: it begins.
    """
    if settings.one_launch != AUTO:
        return bool(settings.one_launch)
    if before is False or after_steps:
        return False
    network, loss, modes = step.network, step.loss, {"graph": settings.graph, "stream": settings.stream}
    obstacles = [
        *islice(_obstacles(network, loss, step.beside_updates(), modes), 1),
        *(_obstacles_of_layers(network) if before is None else ()),
        *_obstacles_of_data(True, data.weights is not None, loss_every, scheduled),
    ]
    if obstacles:
        return False
    ordinary, resident = predict(step, data, settings.batch_size)
    saved = (ordinary - resident) * math.ceil(data.rows / settings.batch_size)
    if before is None and (resident > GAIN * ordinary or saved < LEAST_SAVED):
        return False
    LOG.info(
        "%s: epochs of %s rows run in one launch each, or in some: by the model %.0f µs a step, not %.0f as with "
        "one_launch=False", network.device.name, f"{data.rows:,}", resident, ordinary,
    )  # fmt: skip
    return CHOSEN


def predict(step: TrainingStep, data: Samples, batch_size: int) -> tuple[float, float]:
    """Returns the µs of a step by the model, of an ordinary one and in one launch; (0, ∞) on a device that is not
    known."""
    processors, rows = step.device.processors, min(batch_size, data.rows)
    if processors is None:
        return 0.0, math.inf
    dry_run = open_dry_run(step.device)
    total = dry_run.zeros((*step.network.models_shape, 3), np.float64)
    plan = step.build(DataSet(step.network, data, dry_run), rows, total, device=dry_run)
    return ordinary_step(plan, processors), _resident_step(step, rows, processors)


def rows_of_a_launch(step: TrainingStep, rows: int, batch_size: int) -> int:
    """Returns how many rows of an epoch a launch trains on: whole minibatches, as many as take LAUNCH, shared out
    evenly. It depends on shapes and the device alone, since the last bits of the loss depend on it."""
    batch = min(batch_size, rows)
    steps, micros = math.ceil(rows / batch), _resident_step(step, batch, step.device.processors or UNKNOWN)
    launches = math.ceil(steps / max(1, int(LAUNCH / micros)))
    return math.ceil(steps / launches) * batch


def _resident_step(step: TrainingStep, rows: int, processors: Processors) -> float:
    network = step.network
    found = layout(network, step.loss, len(step.optimizer.rule.moments))
    return resident_step(found, math.prod(network.models_shape), rows, network.device.block_memory, processors)


def _partner(activation: str) -> str:
    return " or ".join(name for name, loss in LOSSES.items() if loss.fused == activation) or "no loss"


def layout(network: Network, loss: Loss, moments: int = 0) -> BlockLayout:
    """Lays the network out in the memory of a block, with so many moments of each parameter if they fit."""
    places = {(layer.number, name): start for layer, name, _, start in network.places}
    of_z = loss.of_z(network.last.activation) is not None
    layers = []
    for n, layer in enumerate(network.layers, 1):
        f = IDENTITY if of_z and layer is network.last else layer.activation
        layers.append(DenseShape(layer.inputs, layer.units, places[n, "weight"], places.get((n, "bias")), f))
    fused = loss.fused if loss.fused == network.last.activation.name else ""
    return BlockLayout(layers, network.parameters.shape[-1], network.device.master.itemsize, fused, moments)


def build_launch(step: TrainingStep, data: BatchSource, batch_size: int, rows: int, total: Array) -> Plan:
    """Builds the plan of the next `rows` rows of an epoch, all their minibatches, from rows to new weights: one
    operation, and the cursor's."""
    network, device, loss = step.network, data.device, step.loss
    optimizer, batch = step.optimizer, min(batch_size, data.rows)
    network.check_trainable()
    _refuse(_obstacles_of_layers(network))
    assert loss.numbers is not None
    plan = Plan(device, training=True)
    network.emit_parameters(plan)
    plan.named("E", total)
    sources = [plan.named(f"data {name}", source) for name, source in zip(("x", "y*"), data.sources, strict=True)]
    order, cursor = plan.named("order", data.permutation), plan.named("cursor", data.cursor)
    (hyper, moments), numbers = optimizer.emit_state(plan), plan.named("numbers", loss.numbers)
    running = None if step.running is None else plan.named("running", step.running)
    w, g, rule = network.parameters, network.gradients, optimizer.rule
    plan.phase = "epoch"
    plan.add(
        EpochOperations.train_epoch,
        f"{math.ceil(rows / batch)} × (y, ∇W of {batch} rows, {optimizer.formula}), E = Σe",
        {"w": "parameters", "g": "gradients"}, sources, order, cursor, layout(network, loss, len(rule.moments)), w, g,
        moments, rule, hyper, group_factors(plan, network, rule), loss.of_z(network.last.activation) or loss.formula,
        numbers, loss.reduction == "mean", total, batch, rows, running,
    )  # fmt: skip
    data.emit_advance(plan, rows)
    return plan.finish()
