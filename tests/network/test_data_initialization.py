"""initialize_from_data against what it says: the spread of each z, biases of five rows each, draws by seed."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.network import data_initialization

X = np.random.default_rng(0).normal(3, 2, (60, 4))


def network(*layers, seed=0, dtype="float64"):
    return gb.Network(4, list(layers), seed=seed, dtype=dtype, device="cpu")


def fitted(*layers, x=X, of_draws=None, **form):
    net = network(*layers, **form)
    gb.initialize_from_data(net, x, of_draws)
    return net


LAYERS = [
    gb.Scale(),
    gb.Dense(7, "mish", init="ntp"),
    gb.Dropout(0.5),
    gb.Bias("tanh"),
    gb.Dense(5, "relu"),
    gb.Dense(3),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", [0, [3, 4]], ids=["one", "members"])
def test_each_z_has_the_standard_deviation_1(seed, dtype):
    net, before = fitted(*LAYERS, seed=seed, dtype=dtype), network(*LAYERS, seed=seed, dtype=dtype)
    y = np.broadcast_to(X, (*net.models_shape, *X.shape))
    for layer, old in zip(net.layers, before.layers, strict=True):
        if isinstance(layer, gb.Dense):
            z = y @ layer.weight
            np.testing.assert_allclose(z.std(axis=-2), 1, rtol=1e-4)
            ratio = layer.weight / old.weight  # a positive factor for each unit
            np.testing.assert_allclose(ratio, np.broadcast_to(ratio[..., :1, :], ratio.shape), rtol=1e-4)
            assert (ratio > 0).all()
            assert (-layer.bias >= z.min(axis=-2)).all() and (-layer.bias <= z.max(axis=-2)).all()
        else:
            for name in layer.parameter_shapes():
                np.testing.assert_array_equal(getattr(layer, name), getattr(old, name))
        alone = gb.Network(layer.inputs, [layer], dtype=dtype, device="cpu", seed=seed)
        for name in layer.parameter_shapes():
            setattr(alone.layers[0], name, getattr(layer, name))
        y = alone.forward(y)


def test_a_bias_is_a_mean_of_five_rows_of_its_own():
    """Of one row it is −z of it; of many, such means lie closer together than rows do: Σa² is 1/3 for five shares of
    Exp(1), so that the standard deviation of b is that of z divided by √3."""
    one = fitted(gb.Dense(6), x=X[:1])
    np.testing.assert_allclose(one.forward(X[:1]), 0, atol=1e-12)
    net = fitted(gb.Dense(4000))
    z = X @ net.layers[0].weight
    standard = (net.layers[0].bias + z.mean(axis=0)) / z.std(axis=0)
    assert standard.mean() == pytest.approx(0, abs=0.05)
    assert standard.std() == pytest.approx(1 / np.sqrt(3), rel=0.1)


def test_the_seed_decides_and_a_member_is_as_alone():
    layers = gb.Dense(5, "mish"), gb.Dense(2)
    together = fitted(*layers, seed=[3, 4])
    for member, seed in enumerate([3, 4]):
        np.testing.assert_allclose(together.parameters[member], fitted(*layers, seed=seed).parameters, rtol=1e-12)
    first, again, other = (fitted(*layers, of_draws=seed).parameters for seed in (7, 7, 8))
    assert (first == again).all() and (first != other).any()
    same = fitted(*layers, seed=[3, 3], of_draws=7).layers[0].bias
    assert (same[0] != same[1]).all()


def test_what_stays_as_it_is():
    """Frozen layers, units whose z is the same in all rows, and weights that are 0."""
    frozen = fitted(gb.Dense(3, "tanh", trainable=False), gb.Dense(2))
    np.testing.assert_array_equal(frozen.layers[0].weight, network(gb.Dense(3)).layers[0].weight)
    assert not frozen.layers[0].bias.any() and frozen.layers[1].bias.any()
    constant = fitted(gb.Dense(3), x=np.full((9, 4), 1 / 3))
    np.testing.assert_array_equal(constant.layers[0].weight, network(gb.Dense(3)).layers[0].weight)
    zeros = fitted(gb.Dense(3, init="zeros"))
    assert not zeros.parameters.any()


def test_of_many_rows_some_are_looked_at(monkeypatch):
    monkeypatch.setattr(data_initialization, "ROWS", 20)
    np.testing.assert_array_equal(fitted(gb.Dense(3)).parameters, fitted(gb.Dense(3), x=X[::3]).parameters)


def test_what_is_refused():
    net = network(gb.Dense(3))
    before = net.parameters.copy()
    for x, match in ((X[:, :3], "x has 3 features"), (X[0], "x must have the axes"), (X * np.inf, "infinite in x")):
        with pytest.raises(gb.InputError, match=match):
            gb.initialize_from_data(net, x)
    with pytest.raises(gb.InputError, match="seed must be an integer from 0"):
        gb.initialize_from_data(net, X, -1)
    np.testing.assert_array_equal(net.parameters, before)
