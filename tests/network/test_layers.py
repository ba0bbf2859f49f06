"""Dense, Bias, Scale and Dropout: forward and backward against the same written out in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.plan import Plan

ROWS = 6


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape)


def network(*layers, inputs=4, seed=0, dtype="float64"):
    """A network whose biases are not 0, and factors not 1, where a mistake would not show."""
    net = gb.Network(inputs, list(layers), seed=seed, dtype=dtype)
    for layer in net.layers:
        if layer.bias is not None:
            layer.bias[...] = numbers(*layer.bias.shape, seed=layer.number)
        if isinstance(layer, gb.Scale):
            layer.weight[...] = numbers(*layer.weight.shape, seed=layer.number)
    return net


def training_plan(net, x):
    """Forward with dropout as a plan that is run by hand, and its y."""
    plan = Plan(net.device)
    net.emit_parameters(plan)
    buffer = plan.empty("x", x.shape)
    buffer[...] = x
    y = net.emit_forward(plan, buffer)
    net.emit_next_masks(plan)
    return plan, y


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-14)


# Dense and Bias -------------------------------------------------------------------------------------------------------


def test_dense():
    net, x, grad_y = network(gb.Dense(3, "tanh")), numbers(ROWS, 4), numbers(ROWS, 3, seed=1)
    (layer,) = net.layers
    y = np.tanh(x @ layer.weight + layer.bias)
    close(net.forward(x), y)
    grad_z = grad_y * (1 - y**2)
    close(net.backward(grad_y), grad_z @ layer.weight.T)
    close(layer.grad_weight, x.T @ grad_z)
    close(layer.grad_bias, grad_z.sum(axis=0))


def test_dense_without_bias():
    net, x, grad_y = network(gb.Dense(3, "sigmoid", bias=False)), numbers(ROWS, 4), numbers(ROWS, 3, seed=1)
    (layer,) = net.layers
    assert layer.bias is None and layer.grad_bias is None
    y = 1 / (1 + np.exp(-x @ layer.weight))
    close(net.forward(x), y)
    grad_z = grad_y * y * (1 - y)
    close(net.backward(grad_y), grad_z @ layer.weight.T)
    close(layer.grad_weight, x.T @ grad_z)


@pytest.mark.parametrize("activation", ["identity", "gelu"])
def test_bias(activation):
    """N4's layer y = f(x + b): ∇x = ∇z, and x itself is left alone."""
    net, x, grad_y = network(gb.Bias(activation)), numbers(ROWS, 4), numbers(ROWS, 4, seed=1)
    (layer,) = net.layers
    assert layer.weight is None and layer.inputs == layer.units == net.outputs == 4
    z = x + layer.bias
    cdf = np.vectorize(math.erfc)(-z / math.sqrt(2)) / 2
    slope = cdf + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    y, grad_z = (z * cdf, grad_y * slope) if activation == "gelu" else (z, grad_y)
    close(net.forward(x), y)
    close(net.backward(grad_y), grad_z)
    close(layer.grad_bias, grad_z.sum(axis=0))


@pytest.mark.parametrize("units", [4, 300])
@pytest.mark.parametrize("seed", [0, [1, 2]], ids=["one", "members"])
def test_scale(units, seed):
    """y = x ⊙ s: ∇x = ∇y ⊙ s, ∇s = Σ x ⊙ ∇y, and x and ∇y themselves are left alone."""
    net = network(gb.Scale(), inputs=units, seed=seed)
    (layer,) = net.layers
    rows = (*net.models_shape, ROWS, units)
    x, grad_y, s = numbers(*rows), numbers(*rows, seed=1), layer.weight[..., None, :]
    given, grad_given = x.copy(), grad_y.copy()
    assert layer.bias is None and layer.inputs == layer.units == net.outputs == units
    close(net.forward(x), x * s)
    close(net.backward(grad_y), grad_y * s)
    close(layer.grad_weight, (x * grad_y).sum(axis=-2))
    np.testing.assert_array_equal(x, given)
    np.testing.assert_array_equal(grad_y, grad_given)


def test_scale_begins_at_1_and_does_only_what_is_needed():
    """∇x where a layer below learns, and ∇s where this one does."""
    net = gb.Network(4, [gb.Scale(), gb.Dense(3), gb.Scale()], dtype="float64")
    assert (net.layers[0].weight == 1).all() and (net.layers[2].weight == 1).all()

    def formulas():
        return [o.formula for o in gb.Trainer(net).plan(6).operations if "s" in o.formula]

    forward, below, above = ["z1 = x ⊙ s1", "z3 = y2 ⊙ s3"], "∇s1 = Σ x ⊙ ∇z1", "∇s3 = Σ y2 ⊙ ∇z3, ∇y2 = ∇z3 ⊙ s3"
    assert formulas() == [*forward, above, below]
    net.layers[2].trainable = False
    assert formulas() == [*forward, "∇y2 = ∇z3 ⊙ s3", below]
    net.layers[0].trainable = net.layers[1].trainable = False
    net.layers[2].trainable = True
    assert formulas() == [*forward, "∇s3 = Σ y2 ⊙ ∇z3"]


@pytest.mark.parametrize("first", ["tanh", "identity", "silu"])
@pytest.mark.parametrize("second", ["softmax", "identity", "silu"])
def test_layers_in_a_row(first, second):
    """Every pair of who may share whose buffers: ∂E/∂x and all gradients are those of the layers one by one."""
    layers = [
        gb.Scale(), gb.Dense(5, first), gb.Bias(second), gb.Scale(), gb.Bias(first), gb.Dense(3, second, bias=False),
    ]  # fmt: skip
    net, x, grad_y = network(*layers), numbers(ROWS, 4), numbers(ROWS, 3, seed=1)
    singles = []
    flowing = x
    for layer in net.layers:
        one = gb.Network(layer.inputs, [layer], dtype="float64")
        for name in ("weight", "bias"):
            if getattr(layer, name) is not None:
                getattr(one.layers[0], name)[...] = getattr(layer, name)
        flowing = one.forward(flowing)
        singles.append(one)
    close(net.forward(x), flowing)
    flowing = grad_y
    for one in reversed(singles):
        flowing = one.backward(flowing)
    close(net.backward(grad_y), flowing)
    for layer, one in zip(net.layers, singles, strict=True):
        for name in ("grad_weight", "grad_bias"):
            if getattr(layer, name) is not None:
                close(getattr(layer, name), getattr(one.layers[0], name))


def test_one_object_in_two_places():
    """A network works on copies: the same Dense, used twice and in two networks, is four layers."""
    layer = gb.Dense(4, "tanh")
    net, other = network(layer, layer), network(layer, seed=1)
    assert layer.weight is None and layer.number == 0
    first, second = net.layers
    assert not np.shares_memory(first.weight, second.weight)
    assert (first.weight != second.weight).all() and (first.weight != other.layers[0].weight).all()
    x, y = numbers(ROWS, 4), other.forward(numbers(ROWS, 4))
    net.forward(x)
    net.backward(np.ones((ROWS, 4)))
    close(other.forward(x), y)
    assert not other.gradients.any()


def test_layers_say_what_they_are():
    layers = [gb.Dense(3, "relu", bias=False), gb.Bias("tanh"), gb.Scale(), gb.Dropout(0.25), gb.Dense(2)]
    assert [repr(layer) for layer in layers] == [
        "Dense(3, 'relu', bias=False)",
        "Bias('tanh')",
        "Scale()",
        "Dropout(0.25)",
        "Dense(2, 'identity')",
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gb.Dense(0), "units must be an integer ≥ 1, got 0"),
        (lambda: gb.Dense(3.0), r"got 3.0. Did you mean 3\?"),
        (lambda: gb.Dense(3, bias=1), "bias must be True or False, got 1"),
        (lambda: gb.Dense(3, "tan"), "unknown activation 'tan'. Did you mean 'tanh'"),
        (lambda: gb.Dense(3, gb.INITIALIZERS["he_normal"]), "pass it as init="),
        (lambda: gb.Bias(3), "activation must be a name or an Activation, got int 3"),
        (lambda: gb.Dropout(1.0), r"rate must be a number in \[0, 1\), got 1.0"),
        (lambda: gb.Dropout(-0.1), "got -0.1"),
        (lambda: gb.Dropout(True), "got True"),
        (lambda: gb.Dropout("0.5"), "got '0.5'"),
        (lambda: gb.Dropout(math.nan), "got nan"),
        (lambda: gb.Dropout([0.5, 1]), r"rate must be a number in \[0, 1\), got \[0.5, 1\]"),
        (lambda: gb.Network(2, [gb.Dropout([0.5, 0.1])]), r"dropout rate must be one number, got \[0.5, 0.1\]"),
        (
            lambda: gb.Network(2, [gb.Dropout([0.5, 0.1])], seed=[1, 2, 3]),
            r"dropout rate must be one number, or 3, one a member, got \[0.5, 0.1\]",
        ),
    ],
)
def test_settings_are_checked(make, message):
    with pytest.raises(gb.InputError, match=message):
        make()


# Dropout --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_its_share_and_the_expected_value(rate, dtype):
    net = gb.Network(50, [gb.Dropout(rate)], dtype=dtype, seed=3)
    y = net.forward(np.ones((400, 50)), training=True)
    kept = y != 0
    np.testing.assert_allclose(y[kept], 1 / (1 - rate), rtol=1e-6)
    deviation = math.sqrt(rate * (1 - rate) / y.size)
    assert kept.mean() == pytest.approx(1 - rate, abs=4 * deviation)
    assert y.mean() == pytest.approx(1, abs=4 * deviation / (1 - rate))
    for axis, count in ((0, 400), (1, 50)):  # no row and no column is favoured
        assert abs(kept.mean(axis=axis) - (1 - rate)).max() < 5 * math.sqrt(rate * (1 - rate) / count)


def test_dropout_is_not_the_same_in_neighbours():
    """Steps, layers, seeds, rows and columns: their masks agree as often as independent ones do."""

    def masks(seed):
        net = gb.Network(40, [gb.Dropout(0.5), gb.Dropout(0.5)], seed=seed)
        plan, _ = training_plan(net, np.ones((100, 40)))
        for _ in range(2):
            plan.run()
            yield from (plan.buffers[name] != 0 for name in ("mask1", "mask2"))

    drawn = [*masks(0), *masks(1)]
    drawn += [drawn[0][::-1], drawn[0][:, ::-1]]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert (one == other).mean() == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(4000))


def test_dropout_is_only_for_training():
    net, x = gb.Network(4, [gb.Dropout(0.9)], dtype="float64"), numbers(ROWS, 4)
    np.testing.assert_array_equal(net.forward(x), x)
    np.testing.assert_array_equal(net.predict(x), x.astype(net.dtype))
    np.testing.assert_array_equal(net.backward(x), x)


def test_a_rate_of_zero_is_no_dropout():
    net, x = gb.Network(4, [gb.Dropout(0)], dtype="float64"), numbers(ROWS, 4)
    np.testing.assert_array_equal(net.forward(x, training=True), x)
    np.testing.assert_array_equal(net.backward(2 * x), 2 * x)


def test_backward_takes_the_mask_of_its_forward():
    net = gb.Network(4, [gb.Dropout(0.5)], dtype="float64")
    ones = np.ones((ROWS, 4))
    for _ in range(3):
        y = net.forward(ones, training=True)
        net.predict(ones)
        np.testing.assert_array_equal(net.backward(ones), y)  # y = x ⊙ mask, ∇x = ∇y ⊙ mask
        np.testing.assert_array_equal(net.backward(3 * ones), 3 * y)


def test_a_rate_that_is_set_counts_from_the_next_step_on():
    """In plans that are there, in those of steps by hand, and from and to 0, which needs another plan."""
    x, y = numbers(ROWS, 4), numbers(ROWS, 3, seed=1)

    def layers(rate):
        return [gb.Dense(5, "tanh"), gb.Dropout(rate), gb.Dense(3)]

    net = network(*layers(0.5))
    trainer = gb.Trainer(net, optimizer=gb.SGD(0.1))
    for rate in (0.5, np.float32(0.25), 0, 0.75):
        net.layers[1].rate = rate
        fresh = network(*layers(rate))
        other = gb.Trainer(fresh, optimizer=gb.SGD(0.1))
        for name in ("parameters", "random"):
            getattr(fresh, name)[...] = getattr(net, name)
        np.testing.assert_array_equal(net.forward(x, training=True), fresh.forward(x, training=True))
        np.testing.assert_array_equal(net.backward(y), fresh.backward(y))
        assert float(trainer.step(x, y)) == float(other.step(x, y))
        np.testing.assert_array_equal(net.parameters, fresh.parameters)


def test_a_rate_that_is_wrong_changes_nothing():
    (layer,) = (net := gb.Network(2, [gb.Dropout([0.25, 0.5])], seed=[1, 2])).layers
    for wrong in (1, [0.5], [0.5, 1.0], "0.5", [0.1, 0.2, 0.3], []):
        with pytest.raises(gb.InputError, match="dropout rate"):
            layer.rate = wrong
    assert layer.rate == (0.25, 0.5)
    np.testing.assert_array_equal(net.dropout_rates[:, 0], [[0.25, 1 / 0.75], [0.5, 2]])
    layer.rate = np.array([0.0, 0.75])
    assert repr(layer) == "Dropout([0, 0.75])" and layer.describe() == {"kind": "dropout", "rate": [0.0, 0.75]}


def test_dropout_between_layers():
    """The layer below still reads its own y, which dropout must not have changed."""
    net = network(gb.Dense(5, "tanh"), gb.Dropout(0.5), gb.Dense(3, "sigmoid"))
    x, grad_y = numbers(ROWS, 4), numbers(ROWS, 3, seed=1)
    below, _, above = net.layers
    plan, y = training_plan(net, x)
    given = plan.empty("∇y3", y.shape)
    given[...] = grad_y
    grad_x = net.emit_backward(plan, given, grad_x=True)
    plan.run()
    mask = plan.buffers["mask2"]
    assert set(np.unique(mask)) == {0, 2}
    y1 = np.tanh(x @ below.weight + below.bias)
    close(y, 1 / (1 + np.exp(-(y1 * mask) @ above.weight - above.bias)))
    grad_z3 = grad_y * y * (1 - y)
    grad_z1 = grad_z3 @ above.weight.T * mask * (1 - y1**2)
    close(above.grad_weight, (y1 * mask).T @ grad_z3)
    close(below.grad_weight, x.T @ grad_z1)
    close(grad_x, grad_z1 @ below.weight.T)


def test_expectation_of_many_masks_is_the_value_without():
    net = network(gb.Dense(8, "tanh"), gb.Dropout(0.3), gb.Dense(1))
    x = numbers(1, 4)
    many = net.forward(np.repeat(x, 20000, axis=0), training=True)
    without = net.predict(x)[0, 0]
    assert many.mean() == pytest.approx(without, abs=5 * many.std() / math.sqrt(len(many)))
