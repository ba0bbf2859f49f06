"""Network: one flat buffer, forward and backward by hand, predict, and what it says of itself."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpu_backprop as gb
from gpu_backprop.backend.device import ALIGNMENT
from gpu_backprop.backend.plan import KEPT_PLANS, Plan

LAYERS = [gb.Dense(5, "tanh"), gb.Bias("gelu"), gb.Dropout(0.5), gb.Dense(3, "softmax", bias=False)]


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape)


def network(**settings):
    return gb.Network(4, LAYERS, **{"dtype": "float64", **settings})


def address(array):
    return array.__array_interface__["data"][0]


# The flat buffers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, [0, 1, 2]], ids=["one", "members"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_views_of_two_flat_buffers(dtype, seed):
    net = network(dtype=dtype, seed=seed)
    models_shape = net.models_shape
    assert models_shape == (() if seed == 0 else (3,))
    assert net.dtype == net.parameters.dtype == net.gradients.dtype == np.dtype(dtype)
    assert net.parameters.shape == net.gradients.shape and net.parameters.ndim == 1 + len(models_shape)
    shapes = [
        (net.layers[0].weight, net.layers[0].grad_weight, (4, 5)),
        (net.layers[0].bias, net.layers[0].grad_bias, (5,)),
        (net.layers[1].bias, net.layers[1].grad_bias, (5,)),
        (net.layers[3].weight, net.layers[3].grad_weight, (5, 3)),
    ]
    covered = np.zeros(net.parameters.shape, int)
    for parameter, gradient, shape in shapes:
        for view, flat in ((parameter, net.parameters), (gradient, net.gradients)):
            assert view.shape == (*models_shape, *shape) and np.shares_memory(view, flat)
            members = view if models_shape else view[None]
            assert all(address(member) % ALIGNMENT == 0 for member in members)
        assert address(parameter) - address(net.parameters) == address(gradient) - address(net.gradients)
        start = (address(parameter) - address(net.parameters)) // net.dtype.itemsize
        covered[..., start : start + math.prod(shape)] += 1
    assert covered.max() == 1  # no two views overlap
    assert (net.parameters[covered == 0] == 0).all() and (covered == 0).any()  # padding is zero

    net.parameters[...] = 7
    net.gradients[...] = 8
    assert (net.layers[3].weight == 7).all() and (net.layers[1].grad_bias == 8).all()
    net.layers[0].bias[...] = 9
    assert (net.parameters == 9).sum() == 5 * math.prod(models_shape)


def test_backward_leaves_the_padding_zero():
    net = network()
    net.gradients[...] = 0
    net.forward(numbers(7, 4))
    net.backward(numbers(7, 3))
    views = [g for _, _, g in net.parameter_arrays()]
    assert all(g.any() for g in views)
    for g in views:
        g[...] = 0
    assert not net.gradients.any()


@given(st.lists(st.integers(1, 130), min_size=1, max_size=4), st.sampled_from(["float32", "float64"]))
def test_layout_for_any_shape(widths, dtype):
    net = gb.Network(widths[0], [gb.Dense(units) for units in widths], dtype=dtype)
    step, expected = ALIGNMENT // net.dtype.itemsize, 0
    for layer in net.layers:
        for array in (layer.weight, layer.bias):
            assert address(array) == address(net.parameters) + expected * net.dtype.itemsize
            expected += math.ceil(array.size / step) * step
    assert net.parameters.shape == (expected,)


def test_parameters_can_be_assigned():
    net, other = network(), network(seed=1)
    buffer = net.parameters
    net.parameters = other.parameters
    assert net.parameters is buffer and (net.layers[0].weight == other.layers[0].weight).all()
    net.forward(numbers(2, 4))
    net.backward(numbers(2, 3))
    before = net.parameters.copy()
    net.parameters -= 0.5 * net.gradients
    assert net.parameters is buffer
    np.testing.assert_array_equal(buffer, before - 0.5 * net.gradients)
    with pytest.raises(gb.InputError, match=r"parameters must have the shape \(\d+,\), got \(3,\)"):
        net.parameters = [1.0, 2.0, 3.0]


def test_weights_do_not_depend_on_the_dtype():
    one, other = network(), network(dtype="float32")
    for (_, wide, _), (_, narrow, _) in zip(one.parameter_arrays(), other.parameter_arrays(), strict=True):
        assert wide.any() == narrow.any()
        np.testing.assert_array_equal(wide.astype(np.float32), narrow)


# Forward and backward by hand -----------------------------------------------------------------------------------------


def test_results_are_the_callers_own():
    net, x = network(), numbers(7, 4)
    given_x, grad_y = x.copy(), numbers(7, 3)
    given_grad = grad_y.copy()
    first = net.forward(x)
    kept = first.copy()
    grad_x = net.backward(grad_y)
    kept_grad = grad_x.copy()
    first[...] = 0  # a copy: the network must not notice
    again = net.backward(grad_y)
    np.testing.assert_array_equal(again, kept_grad)
    net.forward(2 * x)
    net.backward(-grad_y)
    np.testing.assert_array_equal(grad_x, kept_grad)
    np.testing.assert_array_equal(net.forward(x), kept)
    np.testing.assert_array_equal(x, given_x)  # what was given is never written to
    np.testing.assert_array_equal(grad_y, given_grad)


def test_backward_twice_is_linear_in_grad_y():
    net, x, one, other = network(), numbers(7, 4), numbers(7, 3), numbers(7, 3, seed=1)
    net.forward(x, training=True)
    (x1, g1), (x2, g2), (x3, g3) = [(net.backward(g), net.gradients.copy()) for g in (one, other, one + other)]
    np.testing.assert_allclose(x1 + x2, x3, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(g1 + g2, g3, rtol=1e-12, atol=1e-14)


def test_gradients_sum_over_the_batch():
    net, x, grad_y = network(), numbers(7, 4), numbers(7, 3)
    net.forward(x)
    grad_x, together = net.backward(grad_y), net.gradients.copy()
    apart = np.zeros_like(together)
    for row in range(7):
        net.forward(x[row : row + 1])
        np.testing.assert_allclose(net.backward(grad_y[row : row + 1]), grad_x[row : row + 1], rtol=1e-12, atol=1e-15)
        apart += net.gradients
    np.testing.assert_allclose(together, apart, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("between", ["predict", "forward", "evaluate", "step"])
def test_what_stands_between_forward_and_backward(between):
    """predict and evaluate have plans of their own; another forward is the one that backward follows."""
    net, other, x, grad_y = network(), network(), numbers(7, 4), numbers(7, 3)
    trainer = gb.Trainer(net, optimizer=gb.SGD(0.1))
    net.forward(x)
    other.forward(x)
    match between:
        case "predict":
            net.predict(3 * x)
        case "forward":
            net.forward(3 * x)
            other.forward(3 * x)
        case "evaluate":
            trainer.evaluate(3 * x, [0] * 7)
        case "step":  # changes the weights, which backward reads; z and y are those of before
            before = net.parameters.copy()
            trainer.step(3 * x, [0] * 7)
            net.parameters = before
    np.testing.assert_array_equal(net.backward(grad_y), other.backward(grad_y))
    np.testing.assert_array_equal(net.gradients, other.gradients)


def test_more_sizes_than_plans_are_kept():
    net = network()
    x, grad_y = numbers(30, 4), numbers(30, 3)
    want = net.forward(x)
    for rows in (*range(1, 21), *range(20, 0, -1)):
        np.testing.assert_allclose(net.forward(x[:rows]), want[:rows], rtol=1e-13)
        net.backward(grad_y[:rows])
        np.testing.assert_allclose(net.predict(x[:rows]), want[:rows], rtol=1e-13)


def test_backward_after_its_plan_was_forgotten():
    net, other, x, grad_y = network(), network(), numbers(30, 4), numbers(30, 3)
    net.forward(x)
    other.forward(x)
    for rows in range(1, 20):
        net.predict(x[:rows])
    np.testing.assert_array_equal(net.backward(grad_y), other.backward(grad_y))


def test_backward_before_forward():
    with pytest.raises(gb.StateError, match=r"call net\.forward\(x\) first"):
        network().backward(numbers(7, 3))


def test_grad_y_of_the_wrong_shape():
    net = network()
    net.forward(numbers(7, 4))
    with pytest.raises(gb.InputError, match=r"shape of y, \(7, 3\), got \(7,\)"):
        net.backward(numbers(7))


# Predict --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 10, 1000])
def test_predict_in_chunks(batch_size):
    net, x = network(), numbers(10, 4)
    y = net.predict(x, batch_size=batch_size)
    assert type(y) is np.ndarray and y.dtype == net.dtype
    np.testing.assert_allclose(y, net.forward(x), rtol=1e-13)


@pytest.mark.parametrize("seed", [0, [0, 1]], ids=["one", "members"])
def test_predict_nothing(seed):
    net = network(seed=seed)
    assert net.predict(np.empty((0, 4))).shape == (*net.models_shape, 0, 3)


# What it says of itself -----------------------------------------------------------------------------------------------


def test_summary(capsys):
    net = network(dtype="float32", device="cpu")
    net.summary()
    said = capsys.readouterr().out
    padded = "net.parameters has the shape (256,): zeros fill the space between the arrays"
    assert said == f"{net}\n{padded}\n" and net.parameters.shape == (256,)
    said = str(net)
    assert [line.split() for line in said.splitlines()[:-1]] == [
        ["layer", "in", "out", "parameters"],
        ["1", "Dense(5,", "'tanh')", "4", "5", "25"],
        ["2", "Bias('gelu')", "5", "5", "5"],
        ["3", "Dropout(0.5)", "5", "5", "0"],
        ["4", "Dense(3,", "'softmax',", "bias=False)", "5", "3", "15"],
    ]
    assert said.splitlines()[-1].startswith("45 parameters, float32, on cpu (as asked; ")
    assert "2 models of 45 parameters" in str(network(seed=[0, 1]))


def test_attributes():
    net = network(seed=7, device="cpu")
    assert (net.inputs, net.outputs, net.seed, net.models_shape, net.device.name) == (4, 3, 7, (), "cpu")
    assert [layer.number for layer in net.layers] == [1, 2, 3, 4]
    assert [name for name, _, _ in net.parameter_arrays()] == [
        "layers[0].weight",
        "layers[0].bias",
        "layers[1].bias",
        "layers[3].weight",
    ]


def test_an_architecture_rebuilds_it():
    net = network(seed=5)
    again = gb.Network.from_architecture(net.architecture())
    np.testing.assert_array_equal(net.parameters, again.parameters)
    assert repr(again.layers) == repr(net.layers)


def test_a_network_of_dropout_alone():
    """No parameters at all is a border, not a mistake."""
    net = gb.Network(3, [gb.Dropout(0.5)])
    assert net.parameters.size == 0
    gb.Trainer(net).step(np.ones((4, 3)), np.ones((4, 3)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gb.Network(0, LAYERS), "inputs must be an integer ≥ 1, got 0"),
        (lambda: gb.Network(4, []), "layers must be a list of at least one layer"),
        (lambda: gb.Network(4, gb.Dense(3)), "layers must be a list of at least one layer"),
        (lambda: gb.Network(4, [gb.Dense(3), 10]), "layer 2 must be one of Dense, Bias, .*, got int 10"),
        (lambda: gb.Network(4, LAYERS, seed=-1), "seed must be an integer from 0"),
        (lambda: gb.Network(4, LAYERS, seed=1.5), "got 1.5"),
        (lambda: gb.Network(4, LAYERS, seed=[]), "seed is an empty list"),
        (lambda: gb.Network(4, LAYERS, seed=[0, -1]), "got -1"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(gb.InputError, match=message):
        make()


def test_the_largest_seed_works():
    net = network(seed=2**64 - 1)
    net.forward(numbers(2, 4), training=True)


# Only what is needed --------------------------------------------------------------------------------------------------


def test_no_gradient_of_x_unless_asked_for():
    """The first weights need no ∇x below them, nor do layers below the first parameters."""
    net = gb.Network(4, [gb.Dropout(0.5), gb.Dense(3, "tanh"), gb.Dense(2)], dtype="float64")
    plan = Plan(net.device)
    net.emit_parameters(plan)
    x = plan.empty("x", (5, 4))
    y = net.emit_forward(plan, x)
    grad_y = plan.empty("∇y3", y.shape)
    plan.phase = "backward"
    assert net.emit_backward(plan, grad_y) is None
    assert [o.name for o in plan.operations if o.phase == "backward"] == [
        "column_sum",
        "matmul",
        "matmul",
        "activation_gradient",
        "matmul",
    ]
    assert "∇x" not in plan.buffers and "∇y1" not in plan.buffers


def test_a_copy_of_a_layer_list_is_not_shared():
    layers = copy.deepcopy(LAYERS)
    one, other = gb.Network(4, layers), gb.Network(4, layers)
    one.parameters[...] = 0
    assert other.parameters.any()


@pytest.mark.parametrize("copied", [gb.Network.copy, copy.deepcopy, lambda net: net.copy("float64")])
def test_a_copy_knows_what_the_network_knows_of_its_data(copied):
    net = gb.Network(4, [gb.Dense(2, "softmax")])
    net.preprocessing, net.classes = {"mean": [0.5]}, ["no", "yes"]
    twin = copied(net)
    assert twin.preprocessing == net.preprocessing and twin.classes == net.classes
    twin.classes[0] = "never"
    assert net.classes == ["no", "yes"]


def test_plans_for_many_numbers_of_rows_are_not_all_kept():
    """Else a service that predicts batches of every size would hold buffers for each of them."""
    net = gb.Network(4, [gb.Dense(2)])
    for rows in range(1, 3 * KEPT_PLANS):
        x = np.ones((rows, 4))
        np.testing.assert_array_equal(net.forward(x), net.predict(x))
        assert net.backward(np.ones((rows, 2))).shape == (rows, 4)
    (reader,) = net._idle
    assert len(reader.plans) <= len(net._of_thread.reader.plans) == KEPT_PLANS
