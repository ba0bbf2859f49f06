"""max_norm: the weights that lead to a unit, scaled into a ball after each step."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

import gpu_backprop as gb

RNG = np.random.default_rng(4)
X, LABELS = RNG.normal(size=(12, 6)), np.arange(12) % 3


def network(seed=2, dtype="float64", max_norm=0.6, **options):
    layers = [gb.Dense(5, "tanh", max_norm=max_norm, **options), gb.Dense(3, "softmax")]
    return gb.Network(6, layers, dtype=dtype, device="cpu", seed=seed)


def norms(layer):
    return np.linalg.norm(np.asarray(layer.weight, float), axis=-2)


@pytest.mark.parametrize("seed", [2, [2, 3]])
def test_a_step_with_the_bound_is_one_without_and_then_the_scaling(seed):
    bounded, plain = (gb.Trainer(net, optimizer=gb.SGD(0.5)) for net in (network(seed), network(seed, max_norm=None)))
    for trainer in (bounded, plain):
        trainer.step(X, LABELS)
    wanted = plain.network.layers[0].weight * np.minimum(1, 0.6 / norms(plain.network.layers[0]))[..., None, :]
    np.testing.assert_allclose(bounded.network.layers[0].weight, wanted, rtol=1e-14)
    np.testing.assert_array_equal(bounded.network.layers[0].bias, plain.network.layers[0].bias)
    np.testing.assert_array_equal(bounded.network.layers[1].weight, plain.network.layers[1].weight)
    assert (norms(bounded.network.layers[0]) <= 0.6 * (1 + 1e-15)).all() and (
        norms(plain.network.layers[0]) > 0.6
    ).any()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_products_read_is_bounded_too(dtype, half_on_a_cpu):
    net = network(dtype=dtype)
    gb.Trainer(net, optimizer=gb.SGD(0.5), batch_size=4).fit(X, LABELS, 3, progress=False)
    assert (norms(net.layers[0]) <= 0.6 * (1 + 1e-6)).all()
    np.testing.assert_array_equal(net.layers[0].product_weight, net.layers[0].weight.astype(dtype))


def test_it_can_be_set_and_taken_away():
    net = network([2, 3])
    trainer, layer = gb.Trainer(net, optimizer=gb.SGD(0.5)), net.layers[0]
    layer.max_norm = [0.2, 0.4]
    trainer.step(X, LABELS)
    assert (norms(layer).max(axis=-1) <= np.array([0.2, 0.4]) * (1 + 1e-15)).all() and layer.max_norm == (0.2, 0.4)
    layer.max_norm = None
    for _ in range(20):
        trainer.step(X, LABELS)
    assert (norms(layer).max(axis=-1) > 0.4).all()
    assert "limit_norms" not in {operation.name for operation in trainer.plan().operations}


def test_nothing_is_bounded_where_nothing_moves():
    """In a layer that is not trainable, and in a step in which nothing counts."""
    for net, weights in ((network(trainable=False), np.ones(12)), (network(), np.zeros(12))):
        before = net.layers[0].weight.copy()
        assert norms(net.layers[0]).max() > 0.6
        gb.Trainer(net).step(X, LABELS, weights)
        np.testing.assert_array_equal(net.layers[0].weight, before)


def test_it_is_part_of_the_architecture(tmp_path):
    net = network([2, 3], max_norm=[0.5, 2.0])
    assert "max_norm=[0.5, 2.0]" in str(net) and "max_norm=3.0" in repr(gb.Dense(5, max_norm=3))
    gb.save(tmp_path / "net.safetensors", net)
    for other in (
        gb.Network.from_architecture(net.architecture(), "cpu"), net.copy(), copy.deepcopy(net),
        gb.load(tmp_path / "net.safetensors", device="cpu"),
    ):  # fmt: skip
        assert other.layers[0].max_norm == (0.5, 2.0) and other.layers[1].max_norm is None
        gb.Trainer(other, optimizer=gb.SGD(1.0)).step(X, LABELS)
        assert (norms(other.layers[0]).max(axis=-1) <= np.array([0.5, 2.0]) * (1 + 1e-15)).all()


def test_what_cannot_be():
    for value in (0, -1, math.inf, math.nan, "3", True, [1.0, 0]):
        with pytest.raises(gb.InputError, match="max_norm must be a finite number > 0"):
            gb.Dense(5, max_norm=value)
    with pytest.raises(gb.InputError, match="max_norm must be one number, got"):
        network(max_norm=[1.0, 2.0])
    with pytest.raises(gb.InputError, match="one number, or 2, one a member"):
        network([1, 2]).layers[0].max_norm = [1.0, 2.0, 3.0]
