"""Weights to and from Keras, and networks from its models."""

from __future__ import annotations

import os

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.interop.keras import FUNCTIONS, from_model, load_weights, to_weights

OF_KERAS = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
pytestmark = pytest.mark.filterwarnings(OF_KERAS)  # of its variables, which NumPy is handed as they are

X = np.random.default_rng(5).normal(size=(20, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def keras():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    return pytest.importorskip("keras")


def network(seed=3):
    net = gb.Network(4, [gb.Dense(5, "relu"), gb.Dropout(0.5), gb.Dense(6, "tanh", bias=False), gb.Dense(3)], seed=seed)
    net.layers[0].bias = np.linspace(-1, 1, 5)
    return net


def close(net, model):
    np.testing.assert_allclose(net.predict(X), np.asarray(model(X)), rtol=2e-5, atol=2e-5)


def by_layer(weights):
    return {"dense_7": weights[:2], "dropout": [], "dense_8": weights[2:3], "out": weights[3:]}


@pytest.mark.parametrize("form", [list, tuple, by_layer])
def test_weights_go_there_and_back(form):
    net, twin = network(), network(4)
    weights = to_weights(net)
    assert [array.shape for array in weights] == [(4, 5), (5,), (5, 6), (6, 3), (3,)]
    load_weights(twin, form(weights))
    assert twin.parameters.tobytes() == net.parameters.tobytes()
    weights[0][...] = 7
    assert twin.parameters.tobytes() == net.parameters.tobytes()


WRONG = {
    "missing": (lambda w: w[:4], r"^weights must have weights\[0\], .*; weights\[4\] missing\.$"),
    "too much": (lambda w: [*w, w[0]], r"; weights\[5\] too much\.$"),
    "order": (lambda w: w[::-1], r"^weights\[0\] is the weight of layer 1, .* \(4, 5\), got \(3,\)\.$"),
    "layers": (lambda w: {"dense": w[:2]}, r"^weights has 1 layers with weights, dense, and the network 3\.$"),
    "a layer": (lambda w: by_layer(w) | {"dense_8": w[:2]}, r"; dense_8\[1\] too much\.$"),
    "NaN": (lambda w: [w[0] * np.nan, *w[1:]], r"^20 values are NaN or infinite in weights\[0\]"),
    "an array": (lambda w: {"dense": w[0]}, r"^weights must have a list of arrays for each layer, got dense: nd"),
    "a model": (lambda w: network(), r"^weights must be a list .*, got Network: give model\.get_weights\(\)\.$"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "said"), WRONG.values(), ids=WRONG)
def test_wrong_weights_change_nothing(spoil, said):
    net = network()
    before = net.parameters.tobytes()
    with pytest.raises(gb.InputError, match=said):
        load_weights(net, spoil(to_weights(network(4))))
    assert net.parameters.tobytes() == before


def test_several_members_are_several_models():
    with pytest.raises(gb.InputError, match="members side by side"):
        to_weights(gb.Network(4, [gb.Dense(2)], seed=[0, 1]))


# With Keras itself ----------------------------------------------------------------------------------------------------


@pytest.mark.frameworks
def test_a_model_takes_and_gives_weights(keras):
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((4,)), layers.Dense(5, "relu"), layers.Dropout(0.5),
            layers.Dense(6, "tanh", use_bias=False), layers.Dense(3),
        ]
    )  # fmt: skip
    net, twin = network(), network(4)
    model.set_weights(to_weights(net))
    close(net, model)
    for given in model.get_weights(), {layer.name: layer.get_weights() for layer in model.layers}:
        twin.parameters = 0 * twin.parameters
        load_weights(twin, given)
        assert twin.parameters.tobytes() == net.parameters.tobytes()


@pytest.mark.frameworks
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_activation_of_a_model(keras, name):
    model = keras.Sequential([keras.layers.Dense(5, name, name="first"), keras.layers.Dense(3)])
    model.build((None, 4))
    net = from_model(model)
    assert net.layers[0].activation.name == FUNCTIONS[name]
    close(net, model)


@pytest.mark.frameworks
def test_what_is_taken(keras):
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((2, 2)), layers.Flatten(), layers.BatchNormalization(),
            keras.Sequential([layers.Dense(6), layers.BatchNormalization(scale=False), layers.ReLU()]),
            layers.Dropout(0.25), layers.Dense(5, trainable=False), layers.LeakyReLU(negative_slope=0.01),
            layers.Dense(5), layers.BatchNormalization(center=False), layers.ELU(), layers.Activation("silu"),
            layers.Dense(3, use_bias=False), layers.Softmax(),
        ]
    )  # fmt: skip
    model.set_weights([np.random.default_rng(0).uniform(0.5, 1, w.shape) for w in model.get_weights()])
    net = from_model(model, seed=5)
    told = "[Scale(), Bias('identity'), Dense(6, 'relu'), Dropout(0.25), Dense(5, 'leaky_relu', trainable=False), "
    told += "Dense(5, 'elu'), Bias('silu', trainable=False), Dense(3, 'softmax', bias=False)]"
    assert repr(net.layers) == told
    assert (net.seed, net.dtype) == (5, np.float32)
    np.testing.assert_allclose(net.predict(X), np.asarray(model(X.reshape(-1, 2, 2))), rtol=2e-5, atol=2e-5)


REFUSED = {
    "functional": (lambda k: k.Model(i := k.Input((4,)), k.layers.Dense(2)(i)), r"is a Functional, whose layers"),
    "layer": (lambda k: k.Sequential([k.Input((4, 1)), k.layers.LSTM(2, name="l")]), r"^layer 'l' \(LSTM\) has no"),
    "function": (
        lambda k: k.Sequential([k.Input((4,)), k.layers.Dense(2, lambda z: z, name="d")]),
        r"^the activation of layer 'd' \(Dense\) is <lambda>, which has no counterpart here",
    ),
    "leaky": (
        lambda k: k.Sequential([k.Input((4,)), k.layers.Dense(2, "leaky_relu", name="d")]),
        r"^the activation of layer 'd' \(Dense\) is leaky_relu, which has no counterpart here",
    ),
    "slope": (
        lambda k: k.Sequential([k.Input((4,)), k.layers.Dense(2), k.layers.LeakyReLU(name="a")]),
        r"^layer 'a' \(LeakyReLU\) has negative_slope=0\.3, and here it is 0\.01 alone\.$",
    ),
    "not built": (lambda k: k.Sequential([k.layers.Dense(2, name="d")]), r"^layer 'd' .* has no weights yet: call"),
    "no width": (lambda k: k.Sequential([k.layers.ReLU()]), r"^no module says how many numbers"),
    "no model": (lambda k: [1], r"^model must be a keras\.Sequential, got builtins\.list\.$"),
    "one layer": (lambda k: k.layers.Dense(2), r"^model must be a keras\.Sequential, got keras\..*\.Dense\.$"),
}  # fmt: skip


@pytest.mark.frameworks
@pytest.mark.parametrize(("build", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(keras, build, said):
    with pytest.raises(gb.InputError, match=said):
        from_model(build(keras))
