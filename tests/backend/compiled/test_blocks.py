"""Any number of rows through the calls of a plan, in blocks that threads take one after the other."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.reader import Reader

BLOCK, INPUTS = 256, 6
ROWS = 1, 2, 7, 33, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 7 * BLOCK + 3
X = np.random.default_rng(3).normal(size=(max(ROWS), INPUTS)).astype(np.float32)
LAYERS = {
    "dense": [gb.Dense(20, "tanh"), gb.Dense(17, "relu"), gb.Dense(3)],
    "classes": [gb.Dense(20, "relu"), gb.Dense(5, "softmax")],
    "one": [gb.Dense(3)],
    "bias": [gb.Bias("relu"), gb.Dense(3)],
    "scale": [gb.Scale(), gb.Dense(3, "sigmoid")],
    "scale alone": [gb.Scale()],
    "dropout": [gb.Dropout(0.5), gb.Dense(9), gb.Dropout(0.5), gb.Dense(3)],
    "periodic": [gb.Periodic(4, frequencies=3), gb.Dense(3)],
    "without bias": [gb.Dense(20, "tanh", bias=False), gb.Dense(3, bias=False)],
} | {name: [gb.Dense(19, f), gb.Dense(3)] for name, f in ACTIVATIONS.items() if not f.rowwise}


def blocks_of(net, rows=BLOCK):
    reader = Reader(net)
    return reader.plan(net, rows, False).any_rows


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_any_number_of_rows_is_what_a_plan_of_that_many_makes(layers, threads, networks_on):
    networks_on(threads)
    net = gb.Network(INPUTS, layers, device="cpu", seed=2)
    whole = net.forward(X)
    assert blocks_of(net) is not None
    for rows in ROWS:
        for x in (X[:rows], X[:rows].astype(np.float64), np.asfortranarray(X[:rows])):
            found = net.predict(x)
            np.testing.assert_allclose(found, whole[:rows], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(net.predict(X, batch_size=100), net.predict(X[:], batch_size=100))


def test_x_is_read_where_it_lies_and_never_written(networks_on):
    networks_on(2)
    net = gb.Network(INPUTS, LAYERS["dense"], device="cpu")
    x = X.copy()
    x.flags.writeable = False
    blocks = blocks_of(net)
    assert blocks.takes(x) and not blocks.takes(x[:, ::-1]) and not blocks.takes(x.astype(np.float64))
    net.predict(x)
    np.testing.assert_array_equal(x, X)
    assert np.shares_memory(net.predict(x), X) is False


def test_rows_do_not_depend_on_the_threads(networks_on):
    found = []
    for threads in (1, 2, 3):
        networks_on(threads)
        found.append(gb.Network(INPUTS, LAYERS["dense"], device="cpu").predict(X))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-5, atol=1e-6)


def test_weights_that_change_are_seen_and_results_are_the_callers_own(made_by):
    net = gb.Network(INPUTS, LAYERS["dense"], device="cpu")
    for rows in (5, 2000):
        before = net.predict(X[:rows])
        kept = before.copy()
        net.parameters *= 2
        assert not np.array_equal(net.predict(X[:rows]), kept)
        np.testing.assert_array_equal(before, kept)


def test_few_rows_of_a_large_network_are_left_to_threads_that_share_each_operation(networks_on):
    networks_on(3)
    net = gb.Network(400, [gb.Dense(400), gb.Dense(400)], device="cpu")
    assert blocks_of(net, 4) is None and blocks_of(net, 32) is not None
    x = np.random.default_rng(0).normal(size=(40, 400))
    np.testing.assert_allclose(net.predict(x[:4]), net.predict(x)[:4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", [[0, 1, 2]], ids=["members"])
def test_members_and_what_numpy_does_have_a_plan_for_each_number_of_rows(seed, made_by):
    several = gb.Network(INPUTS, LAYERS["dense"], device="cpu", seed=seed)
    one = gb.Network(INPUTS, LAYERS["dense"], device="cpu", seed=seed[0])
    assert blocks_of(several) is None
    np.testing.assert_allclose(several.predict(X)[0], one.predict(X), rtol=1e-5, atol=1e-6)
