"""Networks that train with compiled kernels learn what they learn with NumPy, on any number of threads."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.compiled.device import CpuDevice

RNG = np.random.default_rng(0)
X, LABELS, Y = RNG.standard_normal((90, 20)), np.arange(90) % 5, RNG.standard_normal((90, 5))
WEIGHTS = RNG.random(90)

LAYERS = {
    "classes": lambda: [gb.Dense(40, "tanh"), gb.Dense(30, "relu"), gb.Dense(5, "softmax")],
    "yes or no": lambda: [gb.Dense(40, "gelu"), gb.Dense(5, "sigmoid")],
    "numbers": lambda: [gb.Bias("softplus"), gb.Dense(40, "silu", bias=False), gb.Dense(5)],
    "scales": lambda: [gb.Scale(), gb.Dense(40, "mish", init="ntp"), gb.Scale(), gb.Dense(5)],
    "dropout": lambda: [gb.Dense(40, "relu"), gb.Dropout(0.3), gb.Dense(5, "softmax")],
    "softmax inside": lambda: [gb.Dense(40, "softmax"), gb.Dense(5, "identity")],
}
TARGETS = {"classes": LABELS, "dropout": LABELS, "yes or no": Y > 0, "numbers": Y, "scales": Y, "softmax inside": Y}


def trained(kind, optimizer="adam", weights=None, seed=0, epochs=3):
    net = gb.Network(20, LAYERS[kind](), device="cpu", seed=seed)
    trainer = gb.Trainer(net, optimizer=optimizer, batch_size=32)
    history = trainer.fit(X, TARGETS[kind], epochs, weights=weights, progress=False)
    return net, np.array(history["loss"])


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "weights"])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("count", [1, 2, 3], ids="{} threads".format)
def test_the_same_as_numpy(networks_on, monkeypatch, count, kind, weights):
    networks_on(count)
    net, losses = trained(kind, weights=weights)
    assert isinstance(net.device, CpuDevice)
    monkeypatch.setenv("GPU_BACKPROP_COMPILER", "none")
    other, expected = trained(kind, weights=weights)
    assert other.device.ops is numpy_ops
    np.testing.assert_allclose(losses, expected, 1e-4)
    np.testing.assert_allclose(net.parameters, other.parameters, 1e-2, 1e-3)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("count", [1, 2, 3], ids="{} threads".format)
def test_the_same_bits_again(networks_on, count, kind):
    networks_on(count)
    (first, losses), (again, others) = trained(kind), trained(kind)
    np.testing.assert_array_equal(first.parameters, again.parameters)
    np.testing.assert_array_equal(losses, others)


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adagrad", "adam", "adamw"])
def test_members_of_a_population_learn_what_they_would_alone(networks_on, optimizer):
    networks_on(2)
    together, losses = trained("classes", optimizer, seed=[3, 4])
    for member, seed in enumerate((3, 4)):
        alone, expected = trained("classes", optimizer, seed=seed)
        np.testing.assert_allclose(losses[:, member], expected, 1e-4)
        np.testing.assert_allclose(together.parameters[member], alone.parameters, 1e-2, 1e-3)


MEMBERS = {
    "plain": {},
    "weights": {"weights": WEIGHTS},
    "a schedule": {"optimizer": gb.AdamW, "weight_decay": 0.1, "schedule": "cosine"},
    "schedules of their own": {"schedule": ["cosine", "linear", None, "cosine", lambda step, steps: 1 / (1 + step)]},
    "penalties": {"optimizer": gb.SGD, "momentum": 0.9, "nesterov": True, "l1": [1e-3, 0, 0.1, 0, 0], "l2": 1e-3},
    "clipped and averaged": {"stepping": {"clip_norm": [0.3, 0.2, 0.1, 1, 2], "average": [0.9, 0.99, 0.5, 0.8, 0.7]}},
    "bounded": {"max_norm": 0.7},
}
"""What five members are trained with; a list is one a member."""


def as_members(members, kind, weights=None, max_norm=None, optimizer=gb.Adam, stepping=None, **settings):
    """Trains some members of five, one of them alone as an ordinary network; in minibatches so small that many are one
    call. Returns their losses and parameters, and the trainer."""
    one = len(members) == 1

    def of(value):
        return [value[m] for m in members][0 if one else slice(None)] if isinstance(value, list) else value

    layers = LAYERS[kind]()
    next(layer for layer in layers if isinstance(layer, gb.Dense)).max_norm = max_norm
    net = gb.Network(20, layers, device="cpu", seed=of([*range(5)]))
    settings = {"learning_rate": [0.01, 0.003, 0.001, 0.0003, 0.02], **settings}
    optimizer = optimizer(**{name: of(value) for name, value in settings.items()})
    stepping = {name: of(value) for name, value in (stepping or {}).items()}
    trainer = gb.Trainer(net, optimizer=optimizer, batch_size=8, **stepping)
    losses = trainer.fit(X, TARGETS[kind], 3, weights=weights, progress=False)["loss"]
    return np.reshape(losses, (3, -1)), net.parameters.reshape(len(members), -1), trainer


@pytest.mark.parametrize(
    ("kind", "how"), [*((kind, "plain") for kind in LAYERS), *(("classes", how) for how in MEMBERS if how != "plain")]
)
def test_a_member_has_the_bits_that_it_has_alone_on_one_thread(networks_on, kind, how):
    networks_on(1)
    how = MEMBERS[how]
    losses, parameters = zip(*(as_members([m], kind, **how)[:2] for m in range(5)), strict=True)
    for threads in (1, 2, 3):
        networks_on(threads)
        got_losses, got_parameters, trainer = as_members(range(5), kind, **how)
        np.testing.assert_array_equal(got_losses, np.hstack(losses))
        np.testing.assert_array_equal(got_parameters, np.vstack(parameters))
        assert trainer.network.random[..., 2].any() == (kind == "dropout")


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_members_learn_what_they_learn_with_numpy(networks_on, monkeypatch, kind):
    networks_on(2)
    losses, parameters, _ = as_members(range(5), kind)
    monkeypatch.setenv("GPU_BACKPROP_COMPILER", "none")
    expected_losses, expected, _ = as_members(range(5), kind)
    np.testing.assert_allclose(losses, expected_losses, 1e-4)
    np.testing.assert_allclose(parameters, expected, 1e-2, 1e-3)


@pytest.mark.parametrize(("value", "slope"), [("A(1.5) * tanh(z)", "A(1.5) - s * s / A(1.5)"), ("", "")])
def test_an_activation_of_ones_own(networks_on, value, slope):
    """With formulas in C++ it is compiled; without, NumPy works it out between the compiled operations."""
    networks_on(2)

    def numpy_value(z, y, work):
        yield partial(np.tanh, z, y)
        yield partial(np.multiply, y, np.float32(1.5), y)

    def numpy_gradient(grad_y, y, grad_z, work):
        yield lambda: np.multiply(grad_y, 1.5 - y * y / 1.5, grad_z)

    mine = gb.Activation("mine", "y", numpy_value, numpy_gradient, value, slope)
    net = gb.Network(20, [gb.Dense(40, mine), gb.Dense(5)], device="cpu", seed=0)
    trainer = gb.Trainer(net)
    for _ in range(3):
        trainer.step(X, Y)
    (replay,) = trainer.manual_steps._replays.values()
    calls = net.device.sequence(call for o in replay.plan.operations for call in o.calls)
    assert (len(calls) == 1) == bool(value)
    other = gb.Network(20, [gb.Dense(40, mine), gb.Dense(5)], device="cpu", seed=0, dtype="float64")
    trainer = gb.Trainer(other)
    for _ in range(3):
        trainer.step(X, Y)
    np.testing.assert_allclose(net.predict(X), other.predict(X), 1e-3, 1e-4)


def test_a_formula_that_is_no_cpp_is_left_to_numpy(networks_on):
    networks_on(2)
    odd = replace(gb.ACTIVATIONS["tanh"], name="odd", cuda_value="tanh(z", cuda_slope="A(1)")
    net = gb.Network(20, [gb.Dense(5, odd)], device="cpu", seed=0)
    with pytest.warns(RuntimeWarning, match=r"odd is left to NumPy: .* fails: .*error"):
        y = net.forward(X)
    np.testing.assert_allclose(y, gb.Network(20, [gb.Dense(5, "tanh")], device="cpu", seed=0).forward(X), 1e-5, 1e-6)
