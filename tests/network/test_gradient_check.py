"""check_gradients: it passes what is right, finds what is wrong, names it, and knows a kink when it stands on one."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.formula import call

RNG = np.random.default_rng(0)
X, Y = RNG.normal(0, 1, (5, 3)), RNG.normal(0, 1, (5, 2))
LABELS = np.array([0, 1, 1, 0, 1])
NUMBER = r"(-?\d[^ ]*)"


@pytest.fixture(autouse=True)
def on_numpy_alone(monkeypatch):
    """Whose operations the mistakes are planted in."""
    monkeypatch.setenv("GPU_BACKPROP_COMPILER", "none")


def network(output="identity", **settings):
    layers = [gb.Dense(4, "tanh"), gb.Bias("sigmoid"), gb.Dropout(0.25), gb.Dense(2, output)]
    net = gb.Network(3, layers, **{"dtype": "float64", **settings})
    for layer in net.layers:
        if layer.bias is not None:
            layer.bias[...] = 0.1 * layer.number
    return net


def verdict(net, *data, **settings):
    """What the error says: the worst place, both values there, and how many disagree of how many."""
    with pytest.raises(gb.GradientError) as caught:
        gb.check_gradients(net, *data, **settings)
    message = str(caught.value)
    said = re.search(rf"∂E/∂(\S+): derived {NUMBER}, central difference {NUMBER} .* (\d+) of (\d+) deriv", message)
    if said is None:  # a place like x[0, 2] has a space
        said = re.search(rf"∂E/∂(.*\]): derived {NUMBER}, central difference {NUMBER} .* (\d+) of (\d+) deriv", message)
    assert said, message
    where, derived, difference, wrong, checked = said.groups()
    return where, float(derived), float(difference), int(wrong), int(checked)


# What is right --------------------------------------------------------------------------------------------------------


def test_a_right_network_passes():
    net = network()
    report = gb.check_gradients(net, "half_squared_error", X, Y)
    assert report.checked == 4 * 3 + 4 + 4 + 4 * 2 + 2 + X.size  # every W, b and x
    assert report.error < 1e-6 and report.kinks == []
    assert re.fullmatch(r"layers\[[013]\]\.(weight|bias)\[\d+(, \d+)?\]|x\[\d+, \d+\]", report.worst)
    assert report.derived == pytest.approx(report.difference, rel=1e-5)
    assert gb.check_gradients(net, "half_squared_error", X, Y, inputs=False).checked == report.checked - X.size


def test_the_network_is_left_as_it_was():
    net = network()
    net.forward(X)
    net.backward(Y)
    before = [a.copy() for a in (net.parameters, net.gradients, net.random)]
    gb.check_gradients(net, None, X, Y)
    for now, then in zip((net.parameters, net.gradients, net.random), before, strict=True):
        np.testing.assert_array_equal(now, then)
    np.testing.assert_array_equal(net.backward(Y), network_after(before[0]).backward(Y))


def network_after(parameters):
    net = network()
    net.parameters = parameters
    net.forward(X)
    return net


def test_float32_networks_are_checked_in_float64():
    assert gb.check_gradients(network(dtype="float32"), None, X.astype(np.float32), Y).error < 1e-6


def test_dropout_has_the_masks_that_come_next():
    """What is checked is the step that the network would take now."""
    net = gb.Network(3, [gb.Dropout(0.5), gb.Dense(2, bias=False)], dtype="float64", seed=1)
    for _ in range(3):
        report = gb.check_gradients(net, "half_squared_error", X, Y, inputs=False)
        net.backward((net.forward(X, training=True) - Y) / 5)
        _, i, j = map(int, re.findall(r"\d", report.worst))  # layers[1].weight[i, j]
        assert report.derived == pytest.approx(net.layers[1].grad_weight[i, j], rel=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weights", [None, [0.5, 0, 2, 1, 3]], ids=["", "weights"])
@pytest.mark.parametrize("y", [LABELS, gb.one_hot(LABELS)], ids=["labels", "rows"])
def test_class_targets_weights_and_reductions(y, weights, reduction):
    loss = gb.CrossEntropy(label_smoothing=0.1, reduction=reduction)
    assert gb.check_gradients(network("softmax"), loss, X, y, weights).checked == 45


def test_members_are_all_checked():
    net = network(seed=[0, 1, 2])
    shared = gb.check_gradients(net, None, X, Y)
    assert shared.checked == 3 * 45
    x, y, weights = (RNG.uniform(0, 2, (3, 5, *rest)) for rest in ((3,), (2,), ()))
    assert gb.check_gradients(net, None, x, y, weights).checked == 3 * 45  # Σw differs from member to member


def test_at_most_so_many_of_each_array():
    net = network()
    report = gb.check_gradients(net, None, X, Y, at_most=5)
    assert report.checked == 5 + 4 + 4 + 5 + 2 + 5
    assert gb.check_gradients(net, None, X, Y, at_most=5) == report  # the same ones each time
    assert gb.check_gradients(net, None, X, Y, at_most=None).checked == 45


@pytest.mark.parametrize("at_most", [0, -1, 2.5, True])
def test_at_most_is_a_count(at_most):
    with pytest.raises(gb.InputError, match="at_most must be an integer ≥ 1, got"):
        gb.check_gradients(network(), None, X, Y, at_most=at_most)


def test_what_is_no_network():
    with pytest.raises(gb.InputError, match="network must be a gpu_backprop.Network, got list"):
        gb.check_gradients([network()], None, X, Y)


def test_a_derivative_of_zero_is_right_to_rounding():
    """softmax of one output is 1: E is 0 everywhere, and so are its derivatives, but for their last bits."""
    net = gb.Network(1, [gb.Bias("softmax")], dtype="float64")
    assert gb.check_gradients(net, gb.CrossEntropy(label_smoothing=0.2), [[-0.46]], [[1.0]]).checked == 2


# What is wrong --------------------------------------------------------------------------------------------------------


def after(monkeypatch, name, change):
    """Plants a bug: one more call after those of a binder."""
    binder = getattr(numpy_ops, name)

    def planted(device, *arguments):
        yield from binder(device, *arguments)
        yield from change(*arguments)

    monkeypatch.setattr(numpy_ops, name, planted)


def test_a_factor_missing_from_the_weights(monkeypatch):
    net = network()

    def doubled(a, b, out):
        if out.shape == (4, 2):  # ∇W of the last layer
            yield call(np.multiply, out, 2.0, out=out)

    after(monkeypatch, "matmul", doubled)
    where, derived, difference, wrong, checked = verdict(net, None, X, Y)
    assert where.startswith("layers[3].weight[") and derived == pytest.approx(2 * difference, rel=1e-5)
    assert (wrong, checked) == (8, 45)


def test_one_wrong_number_is_named(monkeypatch):
    net = network()

    def spoil(a, b, out):
        if out.shape == (3, 4):  # ∇W of the first layer
            spot = out[2:3, 1:2]
            yield call(np.add, spot, 0.25, out=spot)

    after(monkeypatch, "matmul", spoil)
    where, derived, difference, wrong, _ = verdict(net, None, X, Y)
    assert (where, wrong) == ("layers[0].weight[2, 1]", 1)
    assert derived == pytest.approx(difference + 0.25, rel=1e-5)


def test_a_wrong_sign_on_the_way_down(monkeypatch):
    """∇x with the wrong sign: the layers below are wrong, the one above is not."""

    def negated(a, b, out):
        if out.shape == (5, 4) and b.base is not None and b.shape == (2, 4):  # ∇x = ∇z@Wᵀ of the last layer
            yield call(np.negative, out, out=out)

    after(monkeypatch, "matmul", negated)
    where, derived, difference, wrong, checked = verdict(network(), None, X, Y)
    assert re.match(r"layers\[[01]\]|x", where)
    assert derived == pytest.approx(-difference, rel=1e-5)
    assert checked - 10 >= wrong > 25  # what lies above is right, and dropout has cut some paths


def test_a_mean_where_a_sum_belongs(monkeypatch):
    def averaged(grad_z, grad_bias):
        yield call(np.divide, grad_bias, 5.0, out=grad_bias)

    after(monkeypatch, "column_sum", averaged)
    where, derived, difference, wrong, _ = verdict(network(), None, X, Y)
    assert where.startswith("layers[3].bias[") and wrong == 2
    assert derived == pytest.approx(difference / 5, rel=1e-5)


def test_a_bias_gradient_of_an_inner_layer(monkeypatch):
    def forgotten(grad_y, s, f, grad_z, grad_bias):
        if f.name == "tanh":
            yield lambda: grad_bias.fill(0)

    after(monkeypatch, "activation_gradient", forgotten)
    where, derived, _, wrong, _ = verdict(network(), None, X, Y)
    assert where.startswith("layers[0].bias[") and derived == 0 and wrong == 4


@pytest.mark.parametrize("layer", [0, 3])
def test_a_wrong_slope(layer):
    """1 − y instead of 1 − y²."""

    def slope(grad_y, y, grad_z, work):
        one_less = work.full()
        yield call(np.subtract, 1.0, y, out=one_less)
        yield call(np.multiply, grad_y, one_less, out=grad_z)

    wrong = dataclasses.replace(gb.ACTIVATIONS["tanh"], numpy_gradient=slope)
    layers = [gb.Dense(4, "tanh"), gb.Dense(4, "tanh"), gb.Dense(4, "tanh"), gb.Dense(2, "tanh")]
    layers[layer] = gb.Dense(4 if layer < 3 else 2, wrong)
    verdict(gb.Network(3, layers, dtype="float64"), None, X, Y)


def test_a_softmax_without_the_rest_of_its_jacobian():
    """y(1 − y) is the diagonal alone."""
    wrong = dataclasses.replace(gb.ACTIVATIONS["softmax"], numpy_gradient=gb.ACTIVATIONS["sigmoid"].numpy_gradient)
    net = gb.Network(3, [gb.Dense(3, wrong)], dtype="float64")
    verdict(net, "squared_error", X, RNG.uniform(0, 1, (5, 3)))


def test_a_loss_with_the_gradient_of_another():
    class Mixed(gb.HalfSquaredError):
        @property
        def formula(self):
            def numpy(y, target, grad_y, e, work):
                yield from gb.HalfSquaredError._numpy(y, target, grad_y, e, work)
                if grad_y is not None:
                    yield call(np.multiply, grad_y, 2.0, out=grad_y)

            return dataclasses.replace(super().formula, numpy=numpy)

    _, derived, difference, wrong, checked = verdict(network(), Mixed(), X, Y)
    assert derived == pytest.approx(2 * difference, rel=1e-4) and wrong > checked / 2


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_a_fused_loss_without_its_batch_factor(monkeypatch, output):
    name = f"{output}_cross_entropy"
    binder = getattr(numpy_ops, name)

    def planted(device, z, bias, target, weights, loss, numbers, scale, *rest):
        return binder(device, z, bias, target, weights, loss, numbers, 1.0, *rest)

    monkeypatch.setattr(numpy_ops, name, planted)
    y = LABELS if output == "softmax" else gb.one_hot(LABELS)
    _, derived, difference, _, _ = verdict(network(output), None, X, y)
    assert derived == pytest.approx(5 * difference, rel=1e-4)


def test_a_forgotten_mask(monkeypatch):
    def copied(device, a, b, out):
        yield lambda: np.copyto(out, a)

    monkeypatch.setattr(numpy_ops, "multiply", copied)
    where, *_ = verdict(network(), None, X, Y)
    assert re.match(r"layers\[[01]\]|x", where)


def test_a_wrong_gradient_of_x_alone(monkeypatch):
    """Nothing that is trained is wrong then: only inputs=True sees it."""

    def zeroed(a, b, out):
        if out.shape == X.shape:
            yield lambda: out.fill(0)

    after(monkeypatch, "matmul", zeroed)
    where, *_ = verdict(network(), None, X, Y)
    assert where.startswith("x[")
    assert gb.check_gradients(network(), None, X, Y, inputs=False).error < 1e-6


def test_one_member_of_many(monkeypatch):
    def spoil(a, b, out):
        if out.shape == (3, 3, 4):  # ∇W of the first layer, one a member
            member = out[1]
            yield call(np.multiply, member, 3.0, out=member)

    after(monkeypatch, "matmul", spoil)
    where, derived, difference, wrong, _ = verdict(network(seed=[0, 1, 2]), None, X, Y)
    assert where.startswith("layers[0].weight[1, ") and wrong <= 12
    assert derived == pytest.approx(3 * difference, rel=1e-4)


# Kinks ----------------------------------------------------------------------------------------------------------------


def one_unit(activation, z):
    """y = f(1·w + b) with w = 1 and b so that z is as given."""
    net = gb.Network(1, [gb.Dense(1, activation)], dtype="float64")
    net.layers[0].weight[...], net.layers[0].bias[...] = 1, z - 1
    return net


ALL = ["layers[0].weight[0, 0]", "layers[0].bias[0]", "x[0, 0]"]


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "selu"])
def test_a_place_on_the_kink_is_reported(activation):
    report = gb.check_gradients(one_unit(activation, 0.0), None, [[1.0]], [[1.0]])
    assert report.kinks == ALL and report.checked == 0


@pytest.mark.parametrize("activation", ["elu", "softplus", "gelu", "softsign", "tanh", "silu"])
def test_where_the_slopes_of_both_sides_agree_is_no_kink(activation):
    report = gb.check_gradients(one_unit(activation, 0.0), None, [[1.0]], [[1.0]])
    assert report.kinks == [] and report.checked == 3


@pytest.mark.parametrize("loss", ["absolute_error", gb.Quantile(0.9)], ids=["absolute_error", "quantile"])
def test_a_loss_on_its_kink_is_reported(loss):
    report = gb.check_gradients(one_unit("tanh", 0.5), loss, [[1.0]], [[np.tanh(0.5)]])
    assert report.kinks == ALL and report.checked == 0


@pytest.mark.parametrize("loss", ["huber", "half_squared_error"])
def test_a_smooth_loss_has_none(loss):
    report = gb.check_gradients(one_unit("tanh", 0.5), loss, [[1.0]], [[np.tanh(0.5)]])
    assert report.kinks == [] and report.checked == 3
    lopsided = gb.check_gradients(one_unit("exp", 0.0), loss, [[1.0]], [[1.0]])  # E″ at the minimum is not all there is
    assert lopsided.kinks == [] and lopsided.checked == 3
    at_delta = gb.check_gradients(one_unit("identity", 1.0), loss, [[1.0]], [[0.0]])
    assert at_delta.kinks == [] and at_delta.checked == 3


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "selu"])
@pytest.mark.parametrize("z", [5e-7, -5e-7, 5e-8, -5e-8])
def test_next_to_a_kink_a_shorter_step_is_right(activation, z):
    report = gb.check_gradients(one_unit(activation, z), None, [[1.0]], [[1.0]])
    assert report.kinks == [] and report.checked == 3 and report.error < 1e-5


@pytest.mark.parametrize("z", [5e-9, -5e-9])
def test_closer_than_the_shortest_step_counts_as_on_it(z):
    report = gb.check_gradients(one_unit("relu", z), None, [[1.0]], [[1.0]])
    assert report.kinks == ALL and report.checked == 0


@pytest.mark.parametrize("z", [0.0, 5e-7, -5e-7])
def test_a_kink_is_no_hiding_place(z):
    """A slope that is neither that of the left side nor of the right one, nor between, is wrong on a kink too."""

    def slope(grad_y, y, grad_z, work):
        yield call(np.multiply, grad_y, -2.0, out=grad_z)

    wrong = dataclasses.replace(gb.ACTIVATIONS["relu"], numpy_gradient=slope)
    *_, disagreeing, checked = verdict(one_unit(wrong, z), None, [[1.0]], [[1.0]])
    assert disagreeing == checked == 3


def test_kinks_beside_derivatives_that_are_compared():
    """Only the unit on its kink is left out."""
    net = gb.Network(1, [gb.Dense(2, "relu"), gb.Dense(1)], dtype="float64")
    net.layers[0].weight[...], net.layers[0].bias[...] = [[1, 1]], [-1, 1]
    report = gb.check_gradients(net, None, [[1.0]], [[3.0]])
    assert report.kinks == ["layers[0].weight[0, 0]", "layers[0].bias[0]", "x[0, 0]"]
    assert report.checked == 5


def test_a_kink_of_one_row_among_many():
    """The other rows' derivatives are a thousand times the gap, which still spoils the fifth digit."""
    net = gb.Network(3, [gb.Dense(4, "relu"), gb.Dense(1)], dtype="float64")
    x = np.abs(RNG.normal(0, 1, (1500, 3)))
    x[7] = 0  # with b = 0, all four units stand on their kink
    net.layers[0].weight[...] = 1
    report = gb.check_gradients(net, None, x, x.sum(axis=1) - 1, inputs=False)
    assert {f"layers[0].bias[{k}]" for k in range(4)} == set(report.kinks)
    assert report.checked == 12 + 4 + 1


# What cannot be checked -----------------------------------------------------------------------------------------------


def test_an_infinite_loss_cannot_be_compared():
    net = one_unit("exp", 1000.0)
    with pytest.raises(gb.GradientError, match="the loss on this data is inf and its gradients are not all finite"):
        gb.check_gradients(net, None, [[1.0]], [[1.0]])


@pytest.mark.parametrize("tolerance", [0, 1e-12, 0.0, 1.0, -1e-3, "1e-5", float("nan")])
def test_the_tolerance_is_checked(tolerance):
    with pytest.raises(
        gb.InputError, match=r"tolerance must be a number in \[1e-08, 1\), because differences tell no more, got"
    ):
        gb.check_gradients(network(), None, X, Y, tolerance=tolerance)


def test_the_data_are_checked():
    with pytest.raises(gb.InputError, match="x has 2 features a sample"):
        gb.check_gradients(network(), None, X[:, :2], Y)
    with pytest.raises(gb.InputError, match="NaN"):
        gb.check_gradients(network(), None, X * np.nan, Y)


@pytest.mark.parametrize("seed", range(5))
def test_a_network_that_was_trained_to_nearly_no_loss_passes(seed):
    """There the derivatives are as small as what rounding leaves of a difference between losses made of large z."""
    generator = np.random.default_rng(seed)
    x, labels = generator.normal(size=(40, 6)), generator.integers(0, 3, 40)
    net = gb.Network(6, [gb.Dense(32, "relu"), gb.Dense(3, "softmax")], seed=seed)
    gb.Trainer(net, "cross_entropy", gb.Adam(0.03), batch_size=40).fit(x, labels, 400, progress=False)
    report = gb.check_gradients(net, "cross_entropy", x[:4], labels[:4])
    assert report.checked > 300
