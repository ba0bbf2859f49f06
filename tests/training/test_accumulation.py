"""A minibatch in parts is the minibatch as a whole, to rounding; and takes the memory of a part."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.network.samples import samples
from gpu_backprop.training import memory
from gpu_backprop.training.run import Settings

RNG = np.random.default_rng(1)
ROWS = 23
X, Y = RNG.normal(size=(ROWS, 4)), RNG.normal(size=(ROWS, 3))
LABELS, WEIGHTS = np.arange(ROWS) % 3, RNG.integers(0, 4, ROWS).astype(float)
LAYERS = [gb.Dropout(0.2), gb.Dense(9, "tanh"), gb.Dropout(0.3), gb.Bias("silu"), gb.Dense(3, "softmax")]
NEAR = {"float64": 1e-10, "float32": 2e-5, "float16": 2e-2}


def pair(accumulate, seed=3, dtype="float64", loss=None, layers=LAYERS, **options):
    """A trainer that works through minibatches as a whole, and one that does so in parts."""
    made = [gb.Network(4, layers, dtype=dtype, device="cpu", seed=seed) for _ in range(2)]
    optimizer = gb.SGD(0.1, momentum=0.9)
    return [gb.Trainer(n, loss, optimizer, accumulate=k, **options) for n, k in zip(made, (1, accumulate), strict=True)]


def alike(whole, parts, dtype="float64"):
    for name in ("parameters", "gradients"):
        one, other = (getattr(trainer.network, name).astype(float) for trainer in (whole, parts))
        np.testing.assert_allclose(other, one, rtol=NEAR[dtype], atol=NEAR[dtype] * np.abs(one).max(), err_msg=name)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("accumulate", [2, 3, 5, 100])
@pytest.mark.parametrize("seed", [3, [1, 2]], ids=["one", "members"])
@pytest.mark.parametrize("batch_size", [7, 10, 23])
def test_a_fit_in_parts(batch_size, seed, accumulate, weights):
    """Dropout, whose masks are those of the whole minibatch; sample weights, of which a part may have none; members; a
    last minibatch of fewer rows than there are parts."""
    whole, parts = pair(accumulate, seed, batch_size=batch_size)
    one, other = (
        trainer.fit(X, LABELS, 2, weights=weights, validation=(X[:9], LABELS[:9]), progress=False)
        for trainer in (whole, parts)
    )
    alike(whole, parts)
    for before, after in zip(one, other, strict=True):
        np.testing.assert_allclose(after["loss"], before["loss"], rtol=1e-12)
        assert after["accuracy"] == before["accuracy"]
        np.testing.assert_allclose(after["val_loss"], before["val_loss"], rtol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", [gb.HalfSquaredError, gb.Huber, gb.Poisson])
def test_steps_by_hand_in_parts(loss, reduction):
    """Of several sizes, weighted and not, and with minibatches of each member's own."""
    layers = [gb.Dense(5, "silu"), gb.Dense(3, "softplus")]
    whole, parts = pair(4, [1, 2], loss=loss(reduction=reduction), layers=layers, clip_norm=0.3, average=0.9)
    target = abs(Y)
    for x, y, weights in (
        (X, target, None), (X[:5], target[:5], WEIGHTS[:5]), (X, target, 0 * WEIGHTS), (X[:1], target[:1], None),
        (np.stack([X, -X]), np.stack([target] * 2), np.stack([WEIGHTS, WEIGHTS[::-1]])),
    ):  # fmt: skip
        one, other = (np.asarray(trainer.step(x, y, weights)) for trainer in (whole, parts))
        np.testing.assert_allclose(other, one, rtol=1e-12)
        alike(whole, parts)
    one, other = (trainer.training_step.averaging.average for trainer in (whole, parts))
    np.testing.assert_allclose(other, one, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_other_precisions(dtype, half_on_a_cpu):
    """In float16 the scale of the loss is that of the whole minibatch, and an overflow in any part skips the step."""
    whole, parts = pair(3, dtype=dtype, batch_size=10)
    for trainer in (whole, parts):
        trainer.fit(X, LABELS, 3, weights=WEIGHTS, progress=False)
    alike(whole, parts, dtype)
    if dtype == "float16":
        np.testing.assert_array_equal(parts.scaling.state, whole.scaling.state)
        before, x = parts.network.parameters.copy(), X.copy()
        x[12] = 6e4  # in the second part
        for trainer in (whole, parts):
            trainer.step(x, LABELS)
        np.testing.assert_array_equal(parts.network.parameters, before)
        np.testing.assert_array_equal(parts.scaling.state, whole.scaling.state)


def test_what_is_frozen_stays():
    layers = [gb.Dense(5, "tanh", trainable=False), gb.Dense(3, "softmax")]
    whole, parts = pair(3, layers=layers, batch_size=9)
    for trainer in (whole, parts):
        trainer.fit(X, LABELS, 2, progress=False)
    alike(whole, parts)
    assert not parts.network.layers[0].grad_weight.any()


def test_what_a_plan_of_parts_has_and_a_trace_has_not():
    """Every operation of forward and backward once a part; in a trace nothing is overwritten, so it has none."""
    _, parts = pair(3, layers=[gb.Dense(3, "softmax")])
    names = [operation.name for operation in parts.plan(8, weights=True).operations]
    assert [names.count(name) for name in ("gather", "normalize_weights", "matmul", "update")] == [3, 1, 6, 1]
    shapes = [operation.reads["x"].shape for operation in parts.plan(8).operations if "x" in operation.reads]
    assert shapes == [(3, 4), (4, 3), (3, 4), (4, 3), (2, 4), (4, 2)]
    traced = [written["z1"].shape for _, written in parts.trace(X[:8], LABELS[:8]) if "z1" in written]
    assert set(traced) == {(8, 3)}


def test_the_memory_of_a_part():
    """Of a fit and of a step: what grows with rows is that of a quarter, but for x and y* of a step given by hand."""
    layers, data = [gb.Dense(200, "relu"), gb.Dense(3, "softmax")], np.zeros((1024, 4))
    labels = np.zeros(1024, int)
    whole, parts = pair(4, layers=layers, batch_size=1024)
    small = pair(4, layers=layers, batch_size=256)[0]
    held = [
        sum(v for k, v in memory.fit_needs(
            t.training_step, Settings(t.batch_size), samples(t.network, t.loss, data, labels, None, values=True), None,
        ).items() if k in ("minibatch", "forward", "loss", "backward", "update"))
        for t in (whole, parts, small)
    ]  # fmt: skip
    assert held[1] < held[0] / 3 and held[1] == held[2]
    kinds = parts.plan(1024).cost()["memory_by_kind"]
    assert kinds["forward"] == small.plan(256).cost()["memory_by_kind"]["forward"]


def test_what_cannot_be():
    for value in (0, 1.5, "2", True, None):
        with pytest.raises(gb.InputError, match="accumulate must be an integer ≥ 1"):
            pair(value)
    with pytest.raises(AttributeError, match="accumulate of a Trainer is decided when it is made"):
        pair(2)[1].accumulate = 3
