"""Optimizers in one pass are NumPy's."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest

from gpu_backprop.backend.device import ALIGNMENT
from gpu_backprop.training.optimizers import ADAM, ADAMW, RULES

RNG = np.random.default_rng(0)
OTHERS = {"beta1": 0.0, "beta2": 0.99, "epsilon": 1e-3, "weight_decay": 0.1, "momentum": 0.5, "decay": 0.5}
OTHERS |= {"l1": 0.05, "l2": 0.2, "clip_value": 0.4}
CASES = [(rule, settings) for rule in RULES for settings in ({}, OTHERS)]

by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].name + ", others" * bool(case[1]))
by_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


def some(*shape):
    return RNG.standard_normal(shape, np.float32)


def arguments(rule, shape, others=None, factor=None, groups=None):
    """What the binder takes in the third step."""
    settings = [(others or {}).get(name, value) for name, value in rule.settings.items()]
    hyper = np.tile(np.array([3, 0.1, *settings[1:]]), (*shape[:-1], 1))
    moments = abs(some(len(rule.moments), *shape)) if rule.moments else None
    return [some(*shape), some(*shape), moments, rule, hyper, factor, groups, None]


def groups_of(n, *rates):
    """Rates, again and again, and other factors of the decay and the penalties, for all blocks of n parameters."""
    blocks = -(-4 * n // ALIGNMENT)
    return np.stack([np.resize(np.float32(row), blocks) for row in (rates, [1, 0, 0.5, 2], [2, 1, 0])])


@by_case
@pytest.mark.parametrize("shape", [(1,), (37,), (5000,), (1, 70), (3, 1500)], ids=str)
def test_every_optimizer(device, plain, same, case, shape):
    rule, others = case
    same(device, plain, "update", *arguments(rule, shape, others), rtol=1e-5, atol=1e-6)


@by_case
def test_many_steps(device, plain, case):
    """Rounding does not add up to more than rounding."""
    one = arguments(case[0], (3000,), case[1])
    other = deepcopy(one)
    calls = device.sequence(device.ops.update(device, *one)), list(plain.ops.update(plain, *other))
    for _ in range(100):
        one[1][...] = other[1][...] = some(3000)
        one[4][0] = other[4][0] = one[4][0] + 1
        for call in (*calls[0], *calls[1]):
            call()
    np.testing.assert_allclose(one[0], other[0], 1e-4, 1e-4)


@by_rule
@pytest.mark.parametrize(("shape", "factor"), [((70,), 0.0), ((70,), 0.5), ((3, 1500), [1.0, 0.0, 0.25])], ids=str)
def test_a_factor_of_0_changes_nothing(device, plain, same, rule, shape, factor):
    given = arguments(rule, shape, factor=np.array(factor))
    given[1][...] = np.where(np.array(factor)[..., None] == 0, np.inf, given[1])  # nor does 0·∞
    before = deepcopy(given)
    after = same(device, plain, "update", *given, rtol=1e-5, atol=1e-6)
    skipped = np.asarray(factor) == 0
    for old, new in zip(before, after, strict=True):
        if isinstance(old, np.ndarray) and old.ndim == len(shape):
            np.testing.assert_array_equal(old[skipped], new[skipped])
    if rule.moments:
        np.testing.assert_array_equal(before[2][:, skipped], after[2][:, skipped])


@by_rule
@pytest.mark.parametrize("shape", [(70,), (3, 1500)], ids=str)
def test_groups_have_rates_of_their_own(device, plain, same, rule, shape):
    """Where the rate is 0 nothing changes, not even where a gradient is infinite."""
    groups = groups_of(shape[-1], 0, 1, 0.5, 2, 2)
    given = arguments(rule, shape, factor=np.full(shape[:-1], 0.5), groups=groups)
    frozen = np.repeat(groups[0] == 0, ALIGNMENT // 4)[: shape[-1]]
    given[1][..., frozen] = np.inf
    before = deepcopy(given)
    after = same(device, plain, "update", *given, rtol=1e-5, atol=1e-6)
    for old, new in zip(before[:3:2], after[:3:2], strict=True):
        if old is not None:
            np.testing.assert_array_equal(old[..., frozen], new[..., frozen])
    assert np.isfinite(after[0]).all() and (before[0] != after[0])[..., ~frozen].any() == (shape[-1] > 64)


@by_rule
def test_the_same_bits_on_any_number_of_threads(on_threads, rule):
    given = arguments(rule, (50_001,), groups=groups_of(50_001, 1, 1, 1, 0.5))
    results = []
    for device in map(on_threads, (1, 2, 3)):
        mine = deepcopy(given)
        for call in device.sequence(device.ops.update(device, *mine)):
            call()
        results.append(mine[0])
    assert all(np.array_equal(w, results[0]) for w in results)


@pytest.mark.parametrize("rule", [ADAM, ADAMW], ids=lambda rule: rule.name)
def test_not_a_number_stays_one(device, rule):
    given = arguments(rule, (40,))
    given[1][5], given[1][6] = np.nan, np.inf
    for call in device.sequence(device.ops.update(device, *given)):
        call()
    assert np.isnan(given[0][5:7]).all() and np.isfinite(np.delete(given[0], [5, 6])).all()


@pytest.mark.parametrize("shape", [(1,), (4097,), (50_001,), (3, 5000)], ids=str)
def test_sums_of_squares(device, plain, same, on_threads, shape):
    a, out = some(*shape), np.zeros(shape[:-1])
    a[..., 0] = 1e30  # whose square float32 does not hold
    *_, got = same(device, plain, "sum_of_squares", a, out, rtol=1e-12)
    (call,) = on_threads(1).sequence(on_threads(1).ops.sum_of_squares(on_threads(1), a, out))
    call()
    np.testing.assert_array_equal(got, out)
