"""Dropout's random numbers: Philox4x64-10, at counters that anyone can work out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpu_backprop as gb
from gpu_backprop.backend.philox import LANES, uniform
from gpu_backprop.backend.plan import Plan

WORD = 2**64
words = st.integers(0, WORD - 1)


def philox(counter, key):
    """Ten rounds on four words: Salmon et al. 2011, section 3.3 and figure 1, with 64-bit words."""
    a, b, c, d = counter
    k, l = key  # noqa: E741
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = second // WORD ^ b ^ k, second % WORD, first // WORD ^ d ^ l, first % WORD
        k, l = (k + 0x9E3779B97F4A7C15) % WORD, (l + 0xBB67AE8584CAA73B) % WORD  # noqa: E741
    return a, b, c, d


def numbers(block):
    """The eight float32 of a block: of each word the low half first, its upper 24 bits as a fraction."""
    halves = [half for word in block for half in (word % 2**32, word >> 32)]
    return [(half >> 8) * 2.0**-24 for half in halves]


def row_numbers(seed, layer, step, row, units):
    """What dropout draws for one row: whole blocks, counted from 1 through the rows of the batch."""
    blocks = -(-units // LANES)
    counters = range(row * blocks + 1, (row + 1) * blocks + 1)
    return [u for k in counters for u in numbers(philox((k, step, 0, 0), (seed, layer)))][:units]


def masks(net, rows, steps=1):
    """The masks of some training steps, by buffer name, as they are while the plan runs."""
    plan = Plan(net.device)
    net.emit_parameters(plan)
    x = plan.empty("x", (*net.models_shape, rows, net.inputs))
    x[...] = 1
    net.emit_forward(plan, x)
    net.emit_next_masks(plan)
    for _ in range(steps):
        plan.run()
        yield {name: array.copy() for name, array in plan.buffers.items() if name.startswith("mask")}


# The generator --------------------------------------------------------------------------------------------------------


@given(st.tuples(words, words, words, words), st.tuples(words, words))
def test_ten_rounds_are_those_of_numpy(counter, key):
    """numpy.random.Philox counts up before it generates."""
    before = (sum(w << 64 * i for i, w in enumerate(counter)) - 1) % 2**256
    generator = np.random.Philox(counter=before, key=np.array(key, np.uint64))
    assert tuple(generator.random_raw(4).tolist()) == philox(counter, key)


@given(words, words, words, st.integers(1, 6), st.integers(1, 4))
def test_uniform_fills_block_after_block(seed, layer, step, rows, blocks):
    out = np.full((rows, LANES * blocks), np.nan, np.float32)
    call = uniform(np.array([seed, layer, step], np.uint64), out)
    for _ in range(2):  # the second time anew, from the same counter
        call()
        want = [numbers(philox((k, step, 0, 0), (seed, layer))) for k in range(1, rows * blocks + 1)]
        np.testing.assert_array_equal(out.reshape(-1, LANES), np.array(want, np.float32))


def test_numpy_draws_the_same_stream():
    generator = np.random.Generator(
        np.random.Philox(counter=np.array([0, 5, 0, 0], np.uint64), key=np.array([3, 2], np.uint64))
    )
    out = np.empty((4, 2 * LANES), np.float32)
    uniform(np.array([3, 2, 5], np.uint64), out)()
    np.testing.assert_array_equal(out, generator.random((4, 2 * LANES), np.float32))


# The masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("units", [1, 7, 8, 9, 20])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_masks_by_seed_layer_and_step(rate, units, dtype):
    """u ≥ rate stays; the layer is its number in the network, and every training step draws anew."""
    layers = [gb.Dense(units), gb.Dropout(rate), gb.Bias(), gb.Dropout(rate)]
    net = gb.Network(3, layers, seed=12345, dtype=dtype)
    for step, drawn in enumerate(masks(net, rows=4, steps=3)):
        assert set(drawn) == {"mask2", "mask4"}
        for layer in (2, 4):
            u = np.array([row_numbers(12345, layer, step, row, units) for row in range(4)])
            want = np.where(u >= np.float32(rate), np.dtype(dtype).type(1 / (1 - rate)), 0)
            np.testing.assert_array_equal(drawn[f"mask{layer}"], want)


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_the_ends_of_the_seeds(seed):
    (drawn,) = masks(gb.Network(20, [gb.Dropout(0.5)], seed=seed), rows=2)
    u = np.array([row_numbers(seed, 1, 0, row, 20) for row in range(2)])
    np.testing.assert_array_equal(drawn["mask1"] != 0, u >= 0.5)


def test_a_row_has_its_mask_however_many_rows_there_are():
    layers = [gb.Dropout(0.5)]
    (most,) = masks(gb.Network(20, layers, seed=4), rows=9)
    for rows in range(1, 9):
        (some,) = masks(gb.Network(20, layers, seed=4), rows=rows)
        np.testing.assert_array_equal(some["mask1"], most["mask1"][:rows])


def test_members_have_the_masks_of_their_seeds():
    layers, seeds = [gb.Dense(5), gb.Dropout(0.3)], [7, 0, 7, 2**40]
    together = list(masks(gb.Network(3, layers, seed=seeds), rows=6, steps=2))
    for m, seed in enumerate(seeds):
        alone = list(masks(gb.Network(3, layers, seed=seed), rows=6, steps=2))
        for many, one in zip(together, alone, strict=True):
            np.testing.assert_array_equal(many["mask2"][m], one["mask2"])


def test_only_training_counts_steps():
    net = gb.Network(5, [gb.Dense(5), gb.Dropout(0.5)], seed=9)
    x = np.ones((3, 5))
    np.testing.assert_array_equal(net.random, [[9, 1, 0], [9, 2, 0]])
    net.forward(x)
    net.predict(x)
    assert net.random[1].tolist() == [9, 2, 0]
    net.forward(x, training=True)
    gb.Trainer(net).step(x, x)
    assert net.random[1].tolist() == [9, 2, 2]


def test_a_trainer_may_have_a_seed_of_its_own():
    """Its masks are then those of that seed, from step 0 on."""
    net = gb.Network(20, [gb.Dropout(0.5)], seed=1)
    net.forward(np.ones((2, 20)), training=True)
    gb.Trainer(net, seed=8)
    (drawn,) = masks(net, rows=2)
    (want,) = masks(gb.Network(20, [gb.Dropout(0.5)], seed=8), rows=2)
    np.testing.assert_array_equal(drawn["mask1"], want["mask1"])
