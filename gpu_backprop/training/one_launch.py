"""Training in one launch: an epoch of small networks as one operation, a network a block of the device.

It gives what the ordinary steps give, to rounding. Steps of such networks are so short that launches, and the ways to
the device's memory and back, would take most of the time; here a network stays in the memory of its block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gpu_backprop.backend.block_layout import BlockLayout, DenseShape
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import IDENTITY, Activation, Array
from gpu_backprop.backend.kernel_text import functor_name
from gpu_backprop.backend.operations import EpochOperations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.layers import Dense
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.losses import LOSSES
from gpu_backprop.network.network import Network
from gpu_backprop.training.minibatches import BatchSource, DataSet
from gpu_backprop.training.optimizer import group_factors
from gpu_backprop.training.step import TrainingStep

DTYPES = "float32", "float64"


def check(network: Network, loss: Loss, steps: Mapping[str, Any], **modes: bool | str) -> None:
    """Raises InputError where an epoch cannot run in one launch: it says why, and what can. `steps` are those arguments
    of the trainer that only ordinary steps follow, None where they are not given; `modes` are `graph` and `stream`, as
    the trainer has them."""
    device = network.device
    if not device.trains_epochs_in_one_launch:
        raise _refusal(f"it is for CUDA devices, and this network is on the CPU ({device.reason})")
    for name, mode in modes.items():
        if mode is True:
            raise _refusal(f"an epoch is one launch on data that lie on the device, but {name}=True was given")
    for name, value in steps.items():
        if value is not None:
            raise _refusal(f"only ordinary steps have {name}, but {name}={value} was given")
    if device.dtype.name not in DTYPES:
        raise _refusal(f"the dtype has to be {' or '.join(DTYPES)}, and the network's is {device.dtype.name}")
    named: dict[str, Activation] = {}
    for layer in network.layers:
        if type(layer) is not Dense:
            raise _refusal(f"all layers have to be Dense, but layer {layer.number} is {layer!r}")
        fused = layer is network.last and loss.fused == layer.activation.name
        if layer.activation.rowwise and not fused:
            raise _refusal(
                f"{layer.activation.name} can only be the output's, with {_partner(layer.activation.name)}, but layer "
                f"{layer.number} is {layer!r} and the loss is {loss.name}"
            )
        if fused and loss.operation is not None:
            raise _refusal(f"of the losses with {layer.activation.name}, {loss.name} has no such epoch")
        if named.setdefault(functor_name(layer.activation), layer.activation) != layer.activation:
            raise _refusal(f"two activations are called {layer.activation.name!r}; give one of them another name")
    check_layers(network)
    needs = layout(network, loss).needs
    memory = device.block_memory
    if (total := sum(needs.values())) > memory:
        told = ", ".join(f"{size:,} for {kind}" for kind, size in needs.items())
        raise _refusal(
            f"the network takes {total:,} bytes of a block's memory ({told}), and a block of {device.name} has "
            f"{memory:,}",
            "Use fewer units",
        )


def check_layers(network: Network) -> None:
    """Raises InputError where a layer is set, as may be done at any time, to what an epoch in one launch has not."""
    for layer in network.layers:
        if isinstance(layer, Dense) and layer.max_norm is not None:
            raise _refusal(f"only ordinary steps have max_norm, but layer {layer.number} is {layer!r}")


def check_data(data: BatchSource, loss_every: int | None, scheduled: bool) -> None:
    """Raises InputError where an epoch of these data, or with a schedule, cannot run in one launch."""
    if not isinstance(data, DataSet):
        raise _refusal("the data have to lie on the device, where they do not fit")
    if len(data.sources) > 2:
        raise _refusal("it takes no sample weights, and there are some")
    if loss_every is not None:
        raise _refusal(f"nothing is read before the end of an epoch, but loss_every={loss_every} was given")
    if scheduled:
        raise _refusal(
            "settings are read once an epoch, but the optimizer has a schedule, which changes them in a step"
        )


def _refusal(why: str, instead: str = "Change that") -> InputError:
    return InputError(f"one_launch=True cannot be: {why}. {instead}, or use one_launch=False.")


def _partner(activation: str) -> str:
    return " or ".join(name for name, loss in LOSSES.items() if loss.fused == activation) or "no loss"


def layout(network: Network, loss: Loss) -> BlockLayout:
    """Lays the network out in the memory of a block."""
    places = {(layer.number, name): start for layer, name, _, start in network.places}
    of_z = loss.of_z(network.last.activation) is not None
    layers = []
    for n, layer in enumerate(network.layers, 1):
        f = IDENTITY if of_z and layer is network.last else layer.activation
        layers.append(DenseShape(layer.inputs, layer.units, places[n, "weight"], places.get((n, "bias")), f))
    fused = loss.fused if loss.fused == network.last.activation.name else ""
    return BlockLayout(layers, network.parameters.shape[-1], network.device.master.itemsize, fused)


def build_epoch(step: TrainingStep, data: BatchSource, batch_size: int, total: Array) -> Plan:
    """Builds the plan of an epoch, all minibatches from first rows to new weights: one operation, and the cursor's."""
    network, device, loss = step.network, data.device, step.loss
    optimizer, batch = step.optimizer, min(batch_size, data.rows)
    check_layers(network)
    assert loss.numbers is not None
    plan = Plan(device, training=True)
    network.emit_parameters(plan)
    plan.named("E", total)
    sources = [plan.named(f"data {name}", source) for name, source in zip(("x", "y*"), data.sources, strict=True)]
    order, cursor = plan.named("order", data.permutation), plan.named("cursor", data.cursor)
    (hyper, moments), numbers = optimizer.emit_state(plan), plan.named("numbers", loss.numbers)
    w, g, steps = network.parameters, network.gradients, math.ceil(data.rows / batch)
    plan.phase = "epoch"
    plan.add(
        EpochOperations.train_epoch, f"{steps} × (y, ∇W of {batch} rows, {optimizer.formula}), E = Σe",
        {"w": "parameters", "g": "gradients"}, sources, order, cursor, layout(network, loss), w, g, moments,
        optimizer.rule, hyper, group_factors(plan, network, optimizer.rule),
        loss.of_z(network.last.activation) or loss.formula, numbers, loss.reduction == "mean", total, batch,
    )  # fmt: skip
    data.emit_advance(plan, data.rows)
    return plan.finish()
