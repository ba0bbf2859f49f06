"""Optimizers of assignments: what their rules are, what is refused, and that they go wherever others do."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from own_formulas import RULE_ROWS, RULES_OF

import gpu_backprop as gb
from gpu_backprop.training.description import describe_optimizer
from gpu_backprop.training.own_optimizers import own_rule

GRADIENTS = [0.5, -3.0, 1e-3, 0.0, 4.0, -0.2, 0.5]


def own_lion(w, s):
    m = 0.0
    for g in GRADIENTS:
        c = s["beta1"] * m + (1 - s["beta1"]) * g
        m = s["beta2"] * m + (1 - s["beta2"]) * g
        w -= s["learning_rate"] * ((c > 0) - (c < 0))
    return w


def own_adam(w, s):
    m = v = 0.0
    for t, g in enumerate(GRADIENTS, 1):
        m = s["beta1"] * m + (1 - s["beta1"]) * g
        v = s["beta2"] * v + (1 - s["beta2"]) * g * g
        m_hat, v_hat = m / (1 - s["beta1"] ** t), v / (1 - s["beta2"] ** t)
        w -= s["learning_rate"] * m_hat / (math.sqrt(v_hat) + s["epsilon"])
    return w


def own_ridge(w, s):
    for g in GRADIENTS:
        w -= s["learning_rate"] * (g + s["penalty"] * w)
    return w


def own_bounded(w, s):
    v = 0.0
    for t, g in enumerate(GRADIENTS, 1):
        old, v = v, s["decay"] * v + (g if abs(g) > abs(v) else 0)
        w += -s["learning_rate"] / math.sqrt(t) * math.tanh(v) - 0.001 * max(old, -1)
    return w


def own_warmup(w, s):
    for t, g in enumerate(GRADIENTS, 1):
        rate = (s["learning_rate"] if t > 3 else 0.3 * s["learning_rate"]) * math.exp(-s["fade"] * t)
        w -= rate * g * (t if s["fade"] < 0.5 else 1)
    return w


BY_HAND = {f.__name__: f for f in (own_lion, own_adam, own_ridge, own_bounded, own_warmup)}
"""Of each, the weight after steps with GRADIENTS."""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RULES_OF)
def test_what_it_does(name, dtype):
    """One weight, whose gradient is its input: E = x·w."""
    settings = RULES_OF[name][0] | {"learning_rate": 0.05}
    gb.register_loss("output", "y")
    net = gb.Network(1, [gb.Dense(1, bias=False, init=gb.constant(0.7))], dtype=dtype)
    trainer = gb.Trainer(net, "output", gb.Optimizer(RULE_ROWS[name], **settings))
    for g in GRADIENTS:
        trainer.step([[g]], [[0.0]])
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    assert float(net.layers[0].weight[0, 0]) == pytest.approx(BY_HAND[name](0.7, settings), rel=tolerance)


def test_which_names_are_moments():
    assert [*RULE_ROWS["own_lion"].moments] == ["m"]
    assert [*RULE_ROWS["own_adam"].moments] == ["m", "v"]
    assert [*RULE_ROWS["own_ridge"].moments] == []
    assert [*RULE_ROWS["own_bounded"].moments] == ["v"]
    kept = own_rule("kept", {"learning_rate": 0.1}, {"last": "g", "w": "w - learning_rate*last"}, moments=["last"])
    assert [*kept.moments] == ["last"]


def test_what_is_of_settings_alone_is_worked_out_once_a_step():
    rule = RULE_ROWS["own_adam"]
    assert "(1.0 - power(beta1, step))" in rule.coefficients.values()
    assert "pow" not in rule.cuda and "beta1" not in rule.cuda


@pytest.mark.parametrize(("name", "built_in"), [("own_lion", "lion"), ("own_adam", "adam")])
@pytest.mark.parametrize("more", [{}, {"weight_decay": 0.1}, {"l2": 0.1, "l1": 0.01}])
def test_it_trains_as_the_built_in_one(name, built_in, more):
    gb.register_optimizer(name, *RULES_OF[name])
    x, y = np.random.default_rng(0).normal(size=(12, 3)), np.arange(12.0)[:, None] % 3
    trained = []
    for one in (name, built_in):
        net = gb.Network(3, [gb.Dense(4, "tanh"), gb.Dense(1)], seed=[0, 1], dtype="float64")
        optimizer = gb.OPTIMIZERS[one](learning_rate=[0.01, 0.003], **more)
        gb.Trainer(net, optimizer=optimizer, batch_size=4, clip_value=0.5).fit(x, y, epochs=3, progress=False)
        trained.append(net.predict(x))
    np.testing.assert_allclose(*trained, rtol=1e-9, atol=1e-12)


def test_a_registered_name_and_its_pickle():
    made = gb.register_optimizer("own_adam", *RULES_OF["own_adam"])
    assert gb.register_optimizer("own_adam", *RULES_OF["own_adam"]) is made is gb.OPTIMIZERS["own_adam"]
    trainer = gb.Trainer(gb.Network(2, [gb.Dense(1)]), optimizer="own_adam")
    assert trainer.optimizer.rule == RULE_ROWS["own_adam"] == pickle.loads(pickle.dumps(trainer.optimizer.rule))
    assert "m̂ = m/(1 − β₁ᵗ)" in str(trainer.plan())
    again = pickle.loads(pickle.dumps(trainer))
    again.step([[1.0, 2.0]], [[1.0]])
    assert describe_optimizer(trainer.optimizer)["update"] == {
        "m": "beta1 * m + (1 - beta1) * g", "v": "beta2 * v + (1 - beta2) * g**2", "m_hat": "m / (1 - beta1**t)",
        "v_hat": "v / (1 - beta2**t)", "w": "w - learning_rate * m_hat / (sqrt(v_hat) + epsilon)",
    }  # fmt: skip


RATE = {"learning_rate": 0.1}
STEP = {"w": "w - learning_rate*g"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("adam", RATE, STEP), "the optimizer 'adam' is built in"),
        (("a b", RATE, STEP), "must be ASCII letters"),
        (("bad", {}, STEP), "must have learning_rate"),
        (("bad", 3, STEP), "settings of optimizer 'bad' must be a mapping"),
        (("bad", RATE, "w - g"), "update of optimizer 'bad' must be a mapping"),
        (("bad", RATE, {}), "the last of update of optimizer 'bad' must be 'w', got nothing"),
        (("bad", RATE, {**STEP, "m": "g"}), "must be 'w', got w, m"),
        (("bad", RATE, {"w": "0.9*w - g"}), "must be 'w - ' what it changes by"),
        (("bad", RATE, {"w": "w"}), "must be 'w - ' what it changes by"),
        (("bad", RATE, {"w": "g - w"}), "must be 'w - ' what it changes by"),
        (("bad", RATE, {"w": "w - learning_rate*h"}), "'w' of optimizer 'bad': unknown name 'h'"),
        (("bad", RATE, {"w": 3}), "'w' of optimizer 'bad' must be text"),
        (("bad", RATE, {"w": "w - g**learning_rate"}), "an exponent must be a number"),
        (("bad", RATE, {"w": "w - exp(learning_rate)**t*g"}), "is worked out once a step, and there may have"),
        (("bad", RATE, {"g": "g", **STEP}), "nothing of optimizer 'bad' can be called 'g'"),
        (("bad", RATE, {"double": "g", **STEP}), "can be called 'double'"),
        (("bad", RATE, {"self": "g", **STEP}), "can be called 'self'"),
        (("bad", RATE, {"exp": "g", **STEP}), "can be called 'exp'"),
        (("bad", {**RATE, "weight_decay": 0.1}, STEP), "can be called 'weight_decay'"),
        (("bad", {**RATE, "m": 0.1}, {"m": "g", **STEP}), "can be called 'm'"),
        (("bad", {**RATE, "mu": "a"}, STEP), "the default of mu must be a number"),
        (("bad", RATE, {"m": "log(-1 - abs(g))", "w": "w - learning_rate*m"}), "not finite"),
        (("bad", RATE, {"w": "w - learning_rate*log(g)"}), "'bad': its update fails: .* not finite; where"),
        (("bad", {**RATE, "mu": 0}, STEP), "update of optimizer 'bad' does not read 'mu'"),
        (("bad", RATE, {"c": "sign(g)", **STEP}), "update of optimizer 'bad' does not read 'c'"),
        (("bad", {**RATE, "mu": 0}, {"w": "w - learning_rate/mu*g"}), "cannot be worked out|not finite"),
        (("bad", RATE, {**{f"r{k}": "g" for k in range(9)}, **STEP}), "has 9 .* that are no moments"),
        (("bad", RATE, STEP, "m"), "moments of optimizer 'bad' must be a list of names, got 'm'"),
        (("bad", RATE, STEP, ["m"]), "moments of optimizer 'bad' must be names of its update, got 'm'"),
    ],
)
def test_what_is_wrong_with_one_is_said(given, message):
    name, settings, update, *moments = given
    with pytest.raises(gb.InputError, match=message):
        gb.register_optimizer(name, settings, update, moments=moments[0] if moments else ())
    assert "bad" not in gb.OPTIMIZERS


def test_the_learning_rate_comes_first():
    made = gb.register_optimizer("own_adam", *RULES_OF["own_adam"])
    assert made(0.25).learning_rate == 0.25
    for wrong in -1, None:
        with pytest.raises(gb.InputError, match=f"learning_rate of own_adam must be .* > 0, got {wrong}"):
            made(wrong)
    for given, named in (((0.1, 0.9), {}), ((0.1,), {"learning_rate": 0.1})):
        with pytest.raises(gb.InputError, match=r"own_adam takes one learning rate .* by name: learning_rate, beta1"):
            made(*given, **named)


def test_another_rule_of_the_same_name_is_refused():
    gb.register_optimizer("own_ridge", *RULES_OF["own_ridge"])
    with pytest.raises(gb.InputError, match="the optimizer 'own_ridge' is registered already, as another rule"):
        gb.register_optimizer("own_ridge", RATE, STEP)
