"""Periodic: forward and backward against plain loops, its beginning, and what a network does with it."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gpu_backprop as gb

ROWS = 6


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape)


def by_loops(x, weight, bias):
    """y of one row, number by number."""
    found, (count, frequencies, width) = [], weight.shape
    for i in range(count):
        for unit in range(width - 1):
            e = bias[i, frequencies + unit]
            for h in range(frequencies):
                e += weight[i, h, 1 + unit] * math.cos(2 * math.pi * weight[i, h, 0] * x[i] + bias[i, h])
            found.append(e)
        found.append(x[i])
    return [*found, *x[count:]]


@pytest.mark.parametrize(
    ("layer", "units"),
    [
        (gb.Periodic(), 16), (gb.Periodic(2, 3, 1), 6), (gb.Periodic(1, 1, 5), 9), (gb.Periodic(4, 5, 2), 12),
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_forward_and_shapes(layer, units, dtype):
    net, x = gb.Network(4, [layer], dtype=dtype, device="cpu"), numbers(ROWS, 4).astype(dtype)
    made, count = net.layers[0], layer.numbers or 4
    assert net.outputs == made.units == units
    assert made.weight.shape == (count, layer.frequencies, 1 + layer.embedding)
    assert made.bias.shape == (count, layer.frequencies + layer.embedding)
    wanted = [by_loops(row, made.weight.astype(float), made.bias.astype(float)) for row in x.astype(float)]
    tolerance = 1e-12 if dtype == "float64" else 3e-6
    np.testing.assert_allclose(net.predict(x), wanted, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(net.predict(x)[:, layer.embedding], x[:, 0])  # x itself, to the bit


@pytest.mark.parametrize(
    "layers",
    [
        [gb.Periodic(2, 4, 2)],
        [gb.Periodic()],
        [gb.Dense(4, "tanh"), gb.Periodic(3, 2, 5)],
        [gb.Periodic(None, 2, 1), gb.Bias("tanh"), gb.Periodic(3, 2, 2), gb.Dropout(0.3)],
        [gb.Periodic(2, 3, 2, trainable=False)],
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, [0, 1]], ids=["", "models"])
def test_gradients(layers, seed):
    net = gb.Network(4, [*layers, gb.Dense(3, "softmax")], dtype="float64", seed=seed)
    report = gb.check_gradients(net, "cross_entropy", numbers(ROWS, 4), [0, 1, 2, 0, 1, 2], at_most=200)
    assert report.error < 1e-5


def test_it_may_be_the_last_layer():
    """Where a loss would add its bias, and the bias's gradient be a sum."""
    net = gb.Network(4, [gb.Dense(2, "tanh"), gb.Periodic(1, 3, 2)], dtype="float64")
    for loss in ("half_squared_error", "huber"):
        gb.check_gradients(net, loss, numbers(ROWS, 4), numbers(ROWS, 4, seed=1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_frozen_one_passes_its_gradient_on_and_keeps_none(dtype):
    net = gb.Network(4, [gb.Dense(4), gb.Periodic(3, trainable=False), gb.Dense(2)], dtype=dtype, device="cpu")
    free = gb.Network(4, [gb.Dense(4), gb.Periodic(3), gb.Dense(2)], dtype=dtype, device="cpu")
    for one in (net, free):
        one.forward(numbers(ROWS, 4).astype(dtype))
        one.backward(np.ones((ROWS, 2), dtype))
    np.testing.assert_array_equal(net.layers[0].grad_weight, free.layers[0].grad_weight)
    assert not net.layers[1].grad_weight.any() and not net.layers[1].grad_bias.any()
    assert free.layers[1].grad_weight.all() and free.layers[1].grad_bias.all()
    plan = gb.Trainer(gb.Network(4, [gb.Periodic(), gb.Dense(2)]), optimizer=gb.SGD(0.1)).plan(3)
    assert [o.name for o in plan.operations if "periodic" in o.name] == ["periodic", "periodic_gradient"]


def test_float32_agrees_with_float64_after_some_steps():
    found = []
    for dtype in ("float32", "float64"):
        net = gb.Network(4, [gb.Periodic(3), gb.Dense(8, "silu"), gb.Dense(2)], dtype=dtype, device="cpu")
        trainer = gb.Trainer(net, "mean_squared_error", gb.SGD(0.1), batch_size=7)
        trainer.fit(numbers(40, 4), numbers(40, 2, seed=1), epochs=3, progress=False)
        found.append([values for _, values, _ in net.parameter_arrays()])
    for narrow, wide in zip(*found, strict=True):
        np.testing.assert_allclose(narrow, wide, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_member_learns_as_it_would_alone(dtype):
    def trained(seed):
        net = gb.Network(4, [gb.Periodic(3, 5, 2), gb.Dense(2)], dtype=dtype, device="cpu", seed=seed)
        trainer = gb.Trainer(net, "mean_squared_error", gb.Adam(0.01), batch_size=7)
        trainer.fit(numbers(20, 4), numbers(20, 2, seed=1), epochs=2, progress=False)
        return net.parameters

    tolerance = 1e-4 if dtype == "float32" else 1e-11
    for member, alone in zip(trained([5, 2]), (trained(5), trained(2)), strict=True):
        np.testing.assert_allclose(member, alone, tolerance, tolerance / 10)


def test_how_it_begins():
    """As Holzmüller et al. begin it, in every dtype and member alike."""
    layer = gb.Network(400, [gb.Periodic(units=4)], dtype="float64", seed=3).layers[0]
    w, mixed, b, shift = layer.weight[..., 0], layer.weight[..., 1:], layer.bias[:, :16], layer.bias[:, 16:]
    assert w.std() == pytest.approx(0.1, rel=0.03) and abs(w.mean()) < 0.005
    for values, bound in ((mixed, 0.25), (shift, 0.25), (b, math.pi)):
        assert abs(values).max() <= bound and values.std() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    other, again = (gb.Network(400, [gb.Periodic(units=4)], seed=seed).layers[0] for seed in ([4, 3], 3))
    np.testing.assert_array_equal(other.weight[1], layer.weight.astype(np.float32))
    np.testing.assert_array_equal(again.bias, layer.bias.astype(np.float32))
    assert (other.weight[0] != other.weight[1]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_and_impossible_inputs(dtype):
    """However large x is, e stays within the sum of |A| and |a|; what is not finite stays so."""
    net = gb.Network(1, [gb.Periodic()], dtype=dtype, device="cpu")
    weight, bias = net.layers[0].weight[0], net.layers[0].bias[0]
    e = net.predict(np.array([[1e3], [-1e6], [1e9], [1e30]], dtype))[:, :3]
    assert (abs(e) <= abs(weight[:, 1:]).sum(0) + abs(bias[16:]) + 1e-3).all()
    assert not np.isfinite(net.forward(np.array([[np.inf], [np.nan], [-np.inf]], dtype))).any()


def test_what_a_network_says_and_keeps(tmp_path, capsys):
    layer = gb.Periodic(2, 5, learning_rate_factor=0.1, weight_decay_factor={"bias": 0})
    net = gb.Network(3, [layer, gb.Dense(4, "relu"), gb.Dense(2, "softmax")], seed=[1, 2])
    net.summary()
    assert repr(layer) in capsys.readouterr().out
    assert repr(gb.Periodic()) == "Periodic(frequencies=16, units=3)"
    assert repr(layer) == (
        "Periodic(2, frequencies=5, units=3, learning_rate_factor=0.1, weight_decay_factor={'bias': 0.0})"
    )
    gb.save(tmp_path / "net.safetensors", net)
    same = gb.load(tmp_path / "net.safetensors", device="cpu")
    x = numbers(ROWS, 3)
    np.testing.assert_allclose(same.predict(x), net.predict(x), rtol=1e-5, atol=1e-6)
    assert same.architecture() == net.architecture()
    trainer = gb.Trainer(net, "cross_entropy", gb.AdamW(0.01))
    found = trainer.diagnose(x, [0, 1] * 3)
    assert found.layers[0].grad_weight > 0 and "Periodic" in str(found)


def test_factors_reach_all_of_its_parameters():
    """A learning rate factor of 0.1 makes a step of SGD a tenth as long."""
    steps = []
    for factor in (1.0, 0.1):
        net = gb.Network(3, [gb.Periodic(2, learning_rate_factor=factor), gb.Dense(2)], dtype="float64")
        before = net.parameters.copy()
        gb.Trainer(net, optimizer=gb.SGD(0.1)).step(numbers(ROWS, 3), numbers(ROWS, 2))
        count = net.places[2][3]  # where the Dense layer begins
        steps.append((net.parameters - before)[:count])
    np.testing.assert_allclose(steps[1], 0.1 * steps[0], rtol=1e-8, atol=1e-17)
    assert np.count_nonzero(steps[0]) == 2 * 16 * 4 + 2 * 19


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gb.Periodic(0), "numbers must be an integer ≥ 1, got 0"),
        (lambda: gb.Periodic(frequencies=2.0), r"frequencies must be an integer ≥ 1, got 2.0. Did you mean 2\?"),
        (lambda: gb.Periodic(units=True), "units must be an integer ≥ 1, got True"),
        (lambda: gb.Network(3, [gb.Periodic(4)]), r"layer 1 is Periodic\(4, .*3 inputs: numbers must be at most that"),
    ],
)
def test_settings_are_checked(make, message):
    with pytest.raises(gb.InputError, match=message):
        make()
