"""Losses of expressions: what they are, what is refused, and that they go wherever others do."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from own_formulas import LOSS_CLASSES, PLAIN_LOSSES, slope

import gpu_backprop as gb
from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.training.description import describe_loss

OUTPUT = {"own_poisson": "exp", "own_entropy": "sigmoid"}
PLACES = {"own_poisson": [0.2, 0.9, 3.3], "own_entropy": [0.1, 0.45, 0.93]}
TARGETS = {"own_poisson": [0.0, 1.0, 5.0], "own_entropy": [0.0, 1.0, 0.3]}


def data(name, rows=9, outputs=2):
    generator = np.random.default_rng(3)
    y = generator.choice(TARGETS.get(name, [-1.5, 0.25, 2.0]), (rows, outputs))
    return generator.normal(size=(rows, 3)), y


def trainer(loss, name, seed=0, **options):
    net = gb.Network(3, [gb.Dense(4, "tanh"), gb.Dense(2, OUTPUT.get(name, "identity"))], seed=seed, **options)
    return gb.Trainer(net, loss, batch_size=4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LOSS_CLASSES)
def test_values_and_slopes(name, dtype):
    """Of a row of three outputs, with all three targets."""
    loss, eps = LOSS_CLASSES[name](), float(np.finfo(dtype).eps)
    device = open_device("cpu", dtype)
    y = np.array([PLACES.get(name, [-1.1, 0.3, 2.8])] * 3, dtype)
    target = np.array(TARGETS.get(name, [-0.5, 0.0, 1.9]), dtype)[:, None].repeat(3, 1)
    grad, total = np.full_like(y, np.nan), np.zeros(3)
    calls = numpy_ops.loss_gradient(device, y, target, None, loss.formula, loss.rows(()), 1.0, None, grad, total)
    with device.computing():
        for call in list(calls):
            call()
    pairs = [(float(a), float(t)) for a, t in zip(y.flat, target.flat, strict=True)]
    assert total[0] == pytest.approx(sum(PLAIN_LOSSES[name](*pair) for pair in pairs), rel=64 * eps)
    wanted = np.reshape([slope(PLAIN_LOSSES[name], *pair) for pair in pairs], y.shape)
    np.testing.assert_allclose(grad, wanted, rtol=max(1e-6, 64 * eps), atol=max(1e-6, 64 * eps))


@pytest.mark.parametrize("name", LOSS_CLASSES)
def test_it_trains(name):
    made, (x, y) = LOSS_CLASSES[name], data(name)
    of = trainer(made(), name)
    gb.check_gradients(of.network, made(), x, y)
    history = of.fit(x, y, epochs=3, progress=False)
    assert history.rows[-1]["loss"] < history.rows[0]["loss"]


def test_a_registered_name():
    made = gb.register_loss("own_huber", **_of(LOSS_CLASSES["own_huber"]))
    assert made is LOSS_CLASSES["own_huber"] is gb.register_loss("own_huber", **_of(made))
    assert trainer("own_huber", "own_huber").loss == made()
    ours, theirs = (trainer(loss, "own_huber") for loss in (made(delta=0.4), gb.Huber(0.4)))
    for of in (ours, theirs):
        of.fit(*data("own_huber"), epochs=3, progress=False)
    np.testing.assert_allclose(ours.network.parameters, theirs.network.parameters, rtol=1e-5, atol=1e-6)


def _of(made):
    texts = made.texts
    return {
        "expression": texts.expression, "derivative": texts.derivative, "settings": dict(texts.settings),
        "needs": texts.needs, "low": texts.low, "high": texts.high,
    }  # fmt: skip


def test_a_setting_may_be_one_a_member_and_change_between_steps():
    made, (x, y) = LOSS_CLASSES["own_huber"], data("own_huber")
    several = trainer(made(delta=[0.2, 2.0]), "own_huber", seed=[0, 1])
    several.fit(x, y, epochs=2, progress=False)
    alone = trainer(made(delta=2.0), "own_huber", seed=1)
    alone.fit(x, y, epochs=2, progress=False)
    np.testing.assert_allclose(several.network.predict(x)[1], alone.network.predict(x), rtol=1e-4, atol=1e-5)
    alone.loss.delta = 0.1
    with pytest.raises(gb.InputError, match="OwnHuber's delta must be a number from -1e37 to 1e37, got inf"):
        alone.loss.delta = float("inf")


def test_of_two_answers_the_right_ones_are_counted_and_of_several_labels_are_taken():
    entropy = gb.register_loss("classes", "-t*log(max(y, 1e-30))", needs=["softmax"], low=0, high=1)
    x, labels = np.random.default_rng(0).normal(size=(12, 3)), np.arange(12) % 3
    net = [gb.Network(3, [gb.Dense(3, "softmax")], seed=0) for _ in range(2)]
    rows = [
        gb.Trainer(of, loss).fit(x, labels, epochs=2, progress=False).rows[-1]
        for of, loss in zip(net, [entropy(), "cross_entropy"], strict=True)
    ]
    assert rows[0]["accuracy"] == rows[1]["accuracy"] and rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-5)
    with pytest.raises(gb.InputError, match="classes needs an output activation out of softmax"):
        gb.Trainer(gb.Network(3, [gb.Dense(3)]), "classes")


def test_copies_pickles_and_descriptions():
    for name, made in LOSS_CLASSES.items():
        loss = made()
        assert pickle.loads(pickle.dumps(loss)) == loss == copy.deepcopy(loss)
        bound = trainer(loss, name).loss
        assert type(pickle.loads(pickle.dumps(bound))) is made
        told = describe_loss(bound)
        assert (
            told["expression"] == made.texts.expression and told["settings"].keys() >= dict(made.texts.settings).keys()
        )
    assert repr(LOSS_CLASSES["own_huber"](delta=2)) == "OwnHuber(reduction='mean', delta=2.0)"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "huber"}, "the loss 'huber' is built in"),
        ({"name": "a b"}, "must be ASCII letters"),
        ({"expression": "t"}, "must read y, the output"),
        ({"expression": "y*z"}, "unknown name 'z'"),
        ({"expression": 3}, "must be text"),
        ({"derivative": "y - t"}, r"is wrong: at y = \S+, t = \S+ it gives \S+, and .* give"),
        ({"expression": "sign(y - t)"}, "the derivative of loss 'bad' is 0 everywhere"),
        ({"settings": {"delta": 1}}, "the expression of loss 'bad' does not read its setting 'delta'"),
        ({"derivative": "x"}, "the derivative of loss 'bad': unknown name 'x'"),
        ({"expression": "log(y)"}, "is nan at y = -"),
        ({"expression": "sqrt(abs(y - t))"}, "is nan at y = -4, t = -4"),
        ({"settings": {"delta": "1"}}, "delta of loss 'bad' must be a number from"),
        ({"settings": {"delta": 1e300}}, "delta of loss 'bad' must be a number from"),
        ({"settings": {"y": 1}}, "a setting of loss 'bad' cannot be called 'y'"),
        ({"settings": {"double": 1}}, "cannot be called 'double'"),
        ({"settings": {"reduction": 1}}, "cannot be called 'reduction'"),
        ({"settings": {"exp": 1}}, "cannot be called 'exp'"),
        ({"settings": {"a b": 1}}, "must be ASCII letters"),
        ({"settings": 3}, "must be a mapping"),
        ({"needs": "rlu"}, "unknown activation 'rlu'. Did you mean 'relu'"),
        ({"needs": 3}, "needs of loss 'bad' must be names of activations, got 3"),
        ({"low": 2, "high": 1}, "low of loss 'bad' must be less than high, got 2 and 1"),
        ({"low": "a"}, "low of loss 'bad' must be a number, or infinite, got 'a'"),
    ],
)
def test_what_is_wrong_with_one_is_said(given, message):
    with pytest.raises(gb.InputError, match=message):
        gb.register_loss(**{"name": "bad", "expression": "(y - t)**2"} | given)
    assert "bad" not in gb.LOSSES


def test_another_text_of_the_same_name_is_refused():
    gb.register_loss("log_cosh", **_of(LOSS_CLASSES["log_cosh"]))
    with pytest.raises(gb.InputError, match="the loss 'log_cosh' is registered already, as "):
        gb.register_loss("log_cosh", "(y - t)**2")
