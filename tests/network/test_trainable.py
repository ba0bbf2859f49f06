"""Layers that are frozen, or learn and decay at a rate of their own: what they tell, and what is in a plan of them."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.device import ALIGNMENT

X, Y, GRAD_Y = (np.random.default_rng(k).normal(size=(6, n)) for k, n in enumerate((4, 3, 3)))


def layers(frozen=()):
    kinds = gb.Dense(5, "tanh"), gb.Bias("gelu"), gb.Dropout(0.25), gb.Dense(4, "silu", bias=False), gb.Dense(3)
    made = [copy.copy(layer) for layer in kinds]
    for k in frozen:
        made[k].trainable = False
    return made


def network(*made, **form):
    return gb.Network(4, list(made), **{"dtype": "float64", "device": "cpu", **form})


def formulas(net, loss=None, fuse=True):
    return [o.formula for o in gb.Trainer(net, loss).plan(6, fuse=fuse).operations]


# The settings ---------------------------------------------------------------------------------------------------------

SETTINGS = [
    ({}, "", {}),
    ({"trainable": False}, ", trainable=False", {"trainable": False}),
    ({"learning_rate_factor": np.float32(0.5)}, ", learning_rate_factor=0.5", {"learning_rate_factor": 0.5}),
    (
        {"weight_decay_factor": {"bias": np.int64(0)}, "learning_rate_factor": {"weight": 2, "bias": 2}},
        ", learning_rate_factor=2.0, weight_decay_factor={'bias': 0.0}",
        {"learning_rate_factor": 2.0, "weight_decay_factor": {"bias": 0.0}},
    ),
    ({"learning_rate_factor": {}, "weight_decay_factor": {"weight": 1.0}}, "", {}),
    ({"penalty_factor": {"bias": 0}}, "", {}),
    ({"penalty_factor": {"bias": 1}}, ", penalty_factor=1.0", {"penalty_factor": 1.0}),
    ({"penalty_factor": 0}, ", penalty_factor=0.0", {"penalty_factor": 0.0}),
    (
        {"penalty_factor": {"weight": 0.5, "bias": 1}},
        ", penalty_factor={'weight': 0.5, 'bias': 1.0}",
        {"penalty_factor": {"weight": 0.5, "bias": 1.0}},
    ),
]


@pytest.mark.parametrize(("given", "written", "told"), SETTINGS)
def test_what_a_layer_tells_of_itself(given, written, told):
    """Only what is not the default, so that files of ordinary networks keep their bytes; and it is made again of it."""
    made_of = {"Dense(3, 'identity'": gb.Dense(3, **given), "Bias('tanh'": gb.Bias("tanh", **given)}
    for name, made in {**made_of, "Scale(": gb.Scale(**given)}.items():
        assert repr(made) == f"{name}{written})".replace("(, ", "(")
        assert {
            k: v for k, v in made.describe().items() if k in ("trainable", "penalty_factor", *SETTINGS[3][0])
        } == told
    net = network(*layers(), gb.Dense(2, **given), seed=[1, 2])
    for again in (gb.Network.from_architecture(net.architecture()), net.copy(), copy.deepcopy(net)):
        assert again.architecture() == net.architecture()
        assert again.layers[-1].factors("bias") == net.layers[-1].factors("bias")


def test_a_mapping_that_is_read_cannot_be_written():
    factor = gb.Dense(3, learning_rate_factor={"bias": 2}).learning_rate_factor
    assert factor == {"bias": 2}
    with pytest.raises(TypeError):
        factor["bias"] = 3


WRONG = [-1, math.inf, math.nan, "1", None, True, [1, 2], {"bias": -1}, {"weight": "x"}, {"bias": [1]}]


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize("name", ["learning_rate_factor", "weight_decay_factor", "penalty_factor"])
def test_a_factor_is_a_number_or_two(name, value):
    net = network(gb.Bias(), gb.Dense(3))
    for kind in (lambda **s: gb.Dense(3, **s), gb.Bias):
        with pytest.raises(gb.InputError, match=f"{name} must be 0 or a number from 1e-30 to 1e30, or a mapping"):
            kind(**{name: value})
    with pytest.raises(gb.InputError, match=name):
        setattr(net.layers[1], name, value)
    assert net.layers[1].describe() == gb.Dense(3).describe()


def test_what_else_is_refused():
    with pytest.raises(gb.InputError, match="weight_decay_factor has no 'biases', 1: its keys are 'weight' and 'bias'"):
        gb.Dense(3, weight_decay_factor={"biases": 0, 1: 2, "bias": 1})
    for value in (0, 1, None, "no"):
        with pytest.raises(gb.InputError, match="trainable must be True or False, got"):
            gb.Bias(trainable=value)
    for name in ("trainable", "learning_rate_factor", "weight_decay_factor"):
        with pytest.raises(gb.InputError, match=rf"Dropout\(0.5\) has no parameters, so that its {name} would change"):
            setattr(gb.Dropout(0.5), name, False if name == "trainable" else 2)


# Plans ----------------------------------------------------------------------------------------------------------------


def test_a_frozen_layer_costs_no_gradient_of_its_own():
    """Its ∇W and ∇b are left out; ∇x is passed on where a layer below wants it, and no further."""
    whole = formulas(network(*layers()))
    assert formulas(network(*layers([3, 4]))) == [
        f.replace(", ∇b5 = Σ∇z5", "") for f in whole if not f.startswith(("∇W4 =", "∇W5 =", "∇b5 ="))
    ]
    below = formulas(network(*layers([0, 1])))
    gone = ("∇y3 =", "∇y2 =", "∇z2 =", "∇y1 =", "∇z1 =", "∇W1 =")
    assert below == [f for f in whole if not f.startswith(gone)]


@pytest.mark.parametrize("output", ["softmax", "sigmoid", "tanh"])
@pytest.mark.parametrize("fuse", [True, False])
def test_a_frozen_last_layer(output, fuse):
    """In the operations that are a loss and an activation in one too."""
    free, frozen = (network(gb.Dense(5, "tanh"), gb.Dense(3, output, trainable=t)) for t in (True, False))
    loss = None if output != "tanh" else "huber"
    y = np.array([0, 1, 2, 0, 1, 2]) if output == "softmax" else (Y > 0) * 1.0
    for net in (free, frozen):
        trainer = gb.Trainer(net, loss, gb.SGD(1e-9))
        _ = trainer.step(X, y) if fuse else list(trainer.trace(X, y))
    for name in ("grad_weight", "grad_bias"):
        np.testing.assert_array_equal(getattr(frozen.layers[0], name), getattr(free.layers[0], name))
        assert not getattr(frozen.layers[1], name).any()
    assert not any("∇b2" in f or "∇W2" in f for f in formulas(frozen, loss, fuse))


@pytest.mark.parametrize("seed", [3, [3, 4]], ids=["one", "members"])
def test_gradients_by_hand(seed):
    """Whichever are frozen: their gradients are 0, those of the others and ∂E/∂x what they are without."""
    whole = network(*layers(), seed=seed)
    whole.forward(X, training=True)
    grad_y = np.broadcast_to(GRAD_Y, (*whole.models_shape, *GRAD_Y.shape))
    grad_x = whole.backward(grad_y)
    for frozen in itertools.chain.from_iterable(itertools.combinations((0, 1, 3, 4), n) for n in range(1, 5)):
        net = network(*layers(frozen), seed=seed)
        net.forward(X, training=True)
        np.testing.assert_array_equal(net.backward(grad_y), grad_x)
        for layer, free in zip(net.layers, whole.layers, strict=True):
            for name in ("grad_weight", "grad_bias"):
                if getattr(free, name) is not None:
                    wanted = getattr(free, name) if layer.trainable else 0 * getattr(free, name)
                    np.testing.assert_array_equal(getattr(layer, name), wanted)


def test_what_is_set_counts_from_the_next_forward_on():
    net, free = network(*layers()), network(*layers())
    for frozen in (False, True, False):
        net.layers[0].trainable = not frozen
        for one in (net, free):
            one.random[..., 2] = 0
            one.forward(X, training=True)
            one.backward(GRAD_Y)
        np.testing.assert_array_equal(net.layers[0].grad_weight, free.layers[0].grad_weight * (not frozen))
        np.testing.assert_array_equal(net.layers[4].grad_weight, free.layers[4].grad_weight)
    net.layers[0].trainable = False
    assert not net.layers[0].grad_weight.any() and net.layers[1].grad_bias.any()
    with pytest.raises(gb.StateError, match=r"has been set since forward: call net\.forward\(x\) again"):
        net.backward(GRAD_Y)
    net.forward(X)
    net.backward(GRAD_Y)
    assert not net.layers[0].grad_weight.any()


def test_only_what_is_trainable_is_checked():
    net = network(*layers([0, 3]))
    report = gb.check_gradients(net, None, X, Y)
    assert report.checked == 5 + 4 * 3 + 3 + X.size
    assert gb.check_gradients(net, None, X, Y, inputs=False).checked == report.checked - X.size
    everything = gb.check_gradients(network(*layers([0, 1, 3, 4])), None, X, Y)
    assert everything.checked == X.size and everything.worst.startswith("x[")


# The table of factors -------------------------------------------------------------------------------------------------


def test_no_table_where_all_factors_are_1():
    made = gb.Dense(3, learning_rate_factor=1, weight_decay_factor={"bias": 1.0})
    assert network(made, gb.Dropout(0.5), gb.Bias()).group_factors() is None
    assert network(gb.Dropout(0.5)).group_factors() is None
    of_weights = network(gb.Dense(3, bias=False))
    assert of_weights.group_factors(penalized=True) is None
    assert network(gb.Dense(3)).group_factors(penalized=True).tolist() == [[1, 1], [1, 1], [1, 0]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", [0, [0, 1]], ids=["one", "members"])
def test_each_block_has_the_factors_of_its_array(dtype, seed):
    net = network(
        gb.Dense(70, trainable=False),
        gb.Bias(learning_rate_factor={"bias": 0.5}, weight_decay_factor={"bias": 0}, penalty_factor=2),
        gb.Dense(33, bias=False, learning_rate_factor=3, weight_decay_factor={"weight": 0.25, "bias": 9}),
        gb.Dense(2),
        dtype=dtype, seed=seed,
    )  # fmt: skip
    wanted = {
        (1, "weight"): (0, 1, 1), (1, "bias"): (0, 1, 0), (2, "bias"): (0.5, 0, 2), (3, "weight"): (3, 0.25, 1),
        (4, "weight"): (1, 1, 1), (4, "bias"): (1, 1, 0),
    }  # fmt: skip
    table, step = net.group_factors(), ALIGNMENT // net.dtype.itemsize
    assert table.dtype == np.float64 and table.shape == (3, net.parameters.shape[-1] // step)
    each = np.repeat(table, step, axis=1)
    assert len(net.places) == len(wanted)
    for layer, name, shape, start in net.places:
        for row, factor in enumerate(wanted[layer.number, name]):
            assert (each[row, start : start + math.prod(shape)] == factor).all()
