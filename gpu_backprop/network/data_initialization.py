"""Initial weights and biases that suit the data that the network will see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.out_of_memory import release_on_oom
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.arrays import check_features, check_finite
from gpu_backprop.network.layers import Dense
from gpu_backprop.network.network import Network, one_seed

ROWS, POINTS = 10_000, 5
"""The most rows that are looked at, and of how many a bias is made."""

CONSTANT = 1e-5
"""The standard deviation of z, beside its largest |z|, up to which z counts as the same in all rows."""


@release_on_oom
def initialize_from_data(network: Network, x: Any, seed: int | None = None) -> None:
    """Fits the weights of a network that has not learned yet to data, from the first layer to the last: each z_j of a
    Dense layer then has the standard deviation 1 over the rows, and is 0 somewhere among them (Holzmüller et al. 2024,
    RealMLP).

    W_j ← W_j/std(x@W_j), where that is not constant, and b_j = −Σₖ aₖ z_j(xₖ) of five rows xₖ drawn for each unit, with
    aₖ from Exp(1), divided by their sum. Layers that are not trainable, and other kinds, stay as they are and pass the
    data on; so does dropout. Each member of a models axis has draws of its own.

    Args:
        network: as it was made; what it has learned would be lost.
        x: (rows, inputs), or (models, rows, inputs) where there is a models axis, as it will be trained on. At most
            10,000 rows are looked at, evenly spread.
        seed: ≥ 0, of the draws; None: that of the network.

    Raises:
        InputError: x does not fit, or has numbers that are not finite.
        StateError: the network is being trained.
    """
    device, models_shape = network.device, network.models_shape
    x = check_features(x, network.inputs, device, (), models_shape)
    x = x[..., :: math.ceil(x.shape[-2] / ROWS), :]
    check_finite(x, "x", network.dtype)
    network_seeds = [network.seed] if isinstance(network.seed, int) else network.seed
    words = (
        [[own] for own in network_seeds] if seed is None else [[one_seed(seed), m] for m in range(len(network_seeds))]
    )
    generators = [np.random.default_rng([*own, 3]) for own in words]  # others of [seed, 0], [seed, 1] and [seed, 2]
    with network.exclusively("initialize_from_data"):
        for layer in network.layers:
            plan = Plan(device, training=False)
            network.emit_parameters(plan)
            below = plan.empty("below", (*models_shape, x.shape[-2], layer.inputs))
            device.copy_in(below, x)
            z = layer.linear(plan, below)
            if isinstance(layer, Dense) and layer.trainable:
                _run(network, plan)
                _fit(layer, device.to_host(z).astype(np.float64), generators)
            y = layer.activate(plan, z)
            _run(network, plan)
            x = y


def _run(network: Network, plan: Plan) -> None:
    network.refresh()
    with network.device.computing():
        plan.run()


def _fit(layer: Dense, z: Array, generators: Sequence[np.random.Generator]) -> None:
    """Scales the columns of W by what z = x@W is, float64 (..., rows, units), and then draws b."""
    assert layer.weight is not None
    deviation, size = z.std(axis=-2), np.abs(z).max(axis=-2)
    factors = 1 / np.where(deviation > CONSTANT * size, deviation, 1.0)
    layer.weight = layer.device.to_host(layer.weight) * factors[..., None, :]
    if layer.bias is not None:
        z *= factors[..., None, :]
        rows, units = z.shape[-2:]
        drawn = []
        for one, generator in zip(z.reshape(-1, rows, units), generators, strict=True):
            shares = generator.exponential(size=(POINTS, units))
            points = np.take_along_axis(one, generator.integers(rows, size=(POINTS, units)), axis=0)
            drawn.append(-(points * shares).sum(axis=0) / shares.sum(axis=0))
        layer.bias = np.reshape(drawn, layer.bias.shape)
