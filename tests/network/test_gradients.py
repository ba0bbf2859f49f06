"""Every derived gradient against central differences: the whole grid of activations, losses and layers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import gpu_backprop as gb

SETTINGS = [
    *gb.LOSSES.values(),
    gb.Huber(delta=0.2),
    gb.Quantile(0.9),
    gb.CrossEntropy(label_smoothing=0.2),
    gb.Focal(0.5),
]


def output_for(loss, activation):
    """The activation itself where the loss is defined for it, else one that it is defined for."""
    return activation if not loss.needs or activation in loss.needs else loss.needs[0]


def targets(loss, shape, rng):
    """Numbers that the loss takes; never so close to an output that a kink lies between."""
    match loss.name:
        case "cross_entropy" | "focal":
            return rng.dirichlet(np.ones(shape[-1]), shape[:-1])
        case "binary_cross_entropy":
            return rng.uniform(0, 1, shape)
        case "poisson":
            return rng.poisson(2.0, shape).astype(float)
        case _:
            return rng.normal(0, 1, shape)


def draw_biases(net, rng):
    """And factors, which are 1 otherwise."""
    for layer in net.layers:
        if isinstance(layer, gb.Scale):
            layer.weight[...] = rng.normal(0, 1, layer.weight.shape)
        if layer.bias is not None:
            layer.bias[...] = rng.normal(0, 0.5, layer.bias.shape)


def check(net, loss, x, y, weights=None):
    report = gb.check_gradients(net, loss, x, y, weights, at_most=None)
    assert report.checked > 0 and report.error <= 1e-5
    return report


# The grid -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", gb.ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_the_grid(activation, bias):
    """As a hidden activation and as that of the outputs, under every loss, weighted and not."""
    rng = np.random.default_rng(0)
    for loss in SETTINGS:
        layers = [gb.Dense(3, activation, bias=bias), gb.Dense(2, output_for(loss, activation), bias=bias)]
        net = gb.Network(2, layers, dtype="float64", seed=1)
        draw_biases(net, rng)
        x, y = rng.normal(0, 1, (4, 2)), targets(loss, (4, 2), rng)
        report = check(net, loss, x, y)
        assert report.kinks == [] and report.checked == 2 * 3 + 3 * 2 + 4 * 2 + 5 * bias
        check(net, loss, x, y, rng.uniform(0, 3, 4))


@pytest.mark.parametrize("activation", gb.ACTIVATIONS)
def test_bias_and_dropout_layers(activation):
    """N4's Bias layers below and above, and masks between them."""
    rng = np.random.default_rng(0)
    for loss in SETTINGS:
        layers = [
            gb.Bias(activation),
            gb.Dense(4, "tanh", bias=False),
            gb.Scale(),
            gb.Dropout(0.3),
            gb.Bias(output_for(loss, activation)),
        ]
        net = gb.Network(3, layers, dtype="float64", seed=1)
        draw_biases(net, rng)
        check(net, loss, rng.normal(0, 0.5, (4, 3)), targets(loss, (4, 4), rng))


@pytest.mark.parametrize("loss", SETTINGS, ids=repr)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reductions_and_weights(loss, reduction):
    rng = np.random.default_rng(0)
    loss = dataclasses.replace(loss, reduction=reduction)
    net = gb.Network(3, [gb.Dense(4, "tanh"), gb.Dense(2, output_for(loss, "tanh"))], dtype="float64")
    x, y = rng.normal(0, 1, (5, 3)), targets(loss, (5, 2), rng)
    for weights in (None, [1, 2, 0, 0.5, 10], [0, 0, 1, 0, 0], [0] * 5):
        if weights == [0] * 5:
            assert gb.check_gradients(net, loss, x, y, weights).error == 0  # nothing counts, nothing moves
        else:
            check(net, loss, x, y, weights)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_class_labels(smoothing):
    rng = np.random.default_rng(0)
    net = gb.Network(3, [gb.Dense(4, "tanh"), gb.Dense(5, "softmax")], dtype="float64")
    check(net, gb.CrossEntropy(label_smoothing=smoothing), rng.normal(0, 1, (6, 3)), rng.integers(0, 5, 6))


def test_saturated_outputs():
    """Where y has rounded to 0 or 1, the fused gradients are still those of the loss."""
    for output, y in (("softmax", [1, 0, 1]), ("sigmoid", [[0, 1], [1, 0], [0, 1]])):
        net = gb.Network(2, [gb.Bias(output)], dtype="float64")
        report = check(net, None, 60 * np.array([[1.0, -1], [-1, 1], [1, -1]]), y)
        assert report.kinks == []


# Any shape ------------------------------------------------------------------------------------------------------------


@st.composite
def problems(draw):
    """A network of one to four layers, one of them at least with parameters, with data that fit."""
    activations, widths = st.sampled_from(list(gb.ACTIVATIONS)), st.integers(1, 5)
    dense = st.builds(gb.Dense, widths, activations, bias=st.booleans())
    others = st.builds(gb.Bias, activations), st.just(gb.Scale()), st.just(gb.Dropout(0.4))
    layers = draw(st.lists(st.one_of(dense, *others), max_size=3))
    loss = draw(st.sampled_from(SETTINGS))
    output = output_for(loss, draw(activations))
    layers.append(draw(st.one_of(st.just(gb.Bias(output)), st.builds(gb.Dense, widths, st.just(output)))))
    assume(sum(layer.activation.name == "exp" for layer in layers) <= 1)  # exp of exp is soon infinite
    seed = draw(st.integers(0, 2**32))
    net = gb.Network(draw(widths), layers, dtype="float64", seed=draw(st.sampled_from([seed, [seed, seed + 1]])))
    rng = np.random.default_rng(seed)
    draw_biases(net, rng)
    rows = (*(net.models_shape if draw(st.booleans()) else ()), draw(st.integers(1, 4)))
    x, y = rng.uniform(-1, 1, (*rows, net.inputs)), targets(loss, (*rows, net.outputs), rng)
    return net, loss, x, y, rng.uniform(0, 2, rows) if draw(st.booleans()) else None


@given(problems())
def test_any_network(problem):
    net, loss, x, y, weights = problem
    gb.check_gradients(net, loss, x, y, weights, at_most=30)
