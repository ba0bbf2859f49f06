"""Optimizers in one pass are NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

RNG = np.random.default_rng(0)
SETTINGS = {
    "sgd": [(3, 0.1, 0.9)],
    "rmsprop": [(3, 0.1, 0.9, 1e-8)],
    "adagrad": [(3, 0.1, 1e-10)],
    "adam": [(0, 0.01, 0.9, 0.999, 1e-8, 0.0), (7, 0.01, 0.0, 0.99, 1e-3, 0.1)],
}
BEFORE = {
    "sgd": [(None, False), ("v", False), ("v", True)],
    "rmsprop": [("v",)],
    "adagrad": [("v",)],
    "adam": [("m", "v")],
}
CASES = [(name, before, hyper) for name in SETTINGS for before in BEFORE[name] for hyper in SETTINGS[name]]


def some(*shape):
    return RNG.standard_normal(shape, np.float32)


def arguments(name, before, hyper, shape, gate=None):
    """What a binder takes, with w and g as views of one buffer each, as in a network."""
    states = [{"m": some(*shape), "v": abs(some(*shape))}.get(b, b) for b in before]
    decay = [hyper[-1] != 0] if name == "adam" else []
    return [some(*shape), some(*shape), *states, *decay, np.tile(np.array(hyper, float), (*shape[:-1], 1)), gate, None]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("shape", [(1,), (37,), (5000,), (1, 70), (3, 1500)], ids=str)
def test_every_optimizer(device, plain, same, case, shape):
    *_, hyper, _gate, _low = same(device, plain, case[0], *arguments(*case, shape), rtol=1e-5, atol=1e-6)
    assert (hyper[..., 0] == case[2][0] + 1).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_many_steps(device, plain, case):
    """Rounding does not add up to more than rounding."""
    one, other = arguments(*case, (3000,)), None
    other = [a.copy() if isinstance(a, np.ndarray) else a for a in one]
    calls = (
        device.sequence(getattr(device.ops, case[0])(device, *one)),
        list(getattr(plain.ops, case[0])(plain, *other)),
    )
    for _ in range(100):
        one[1][...] = other[1][...] = some(3000)
        for call in (*calls[0], *calls[1]):
            call()
    np.testing.assert_allclose(one[0], other[0], 1e-4, 1e-4)
    assert one[-3][0] == other[-3][0] == case[2][0] + 100


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(("shape", "gate"), [((70,), 0.0), ((70,), 2.0), ((3, 1500), [1.0, 0.0, 5.0])], ids=str)
def test_a_shut_gate_changes_nothing(device, plain, same, case, shape, gate):
    given = arguments(*case, shape, np.array(gate))
    given[1][...] = np.where(np.array(gate)[..., None] == 0, np.inf, given[1])  # nor does 0·∞
    before = [a.copy() if isinstance(a, np.ndarray) else a for a in given]
    after = same(device, plain, case[0], *given, rtol=1e-5, atol=1e-6)
    shut = np.asarray(gate) == 0
    for old, new in zip(before, after, strict=True):
        if isinstance(old, np.ndarray) and old.ndim == len(shape):
            np.testing.assert_array_equal(old[shut], new[shut])


@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_bits_on_any_number_of_threads(on_threads, name):
    case = (name, BEFORE[name][-1], SETTINGS[name][-1])
    given = arguments(*case, (50_001,))
    results = []
    for device in map(on_threads, (1, 2, 3)):
        mine = [a.copy() if isinstance(a, np.ndarray) else a for a in given]
        for call in device.sequence(getattr(device.ops, name)(device, *mine)):
            call()
        results.append(mine[0])
    assert all(np.array_equal(w, results[0]) for w in results)


def test_not_a_number_stays_one(device):
    given = arguments("adam", ("m", "v"), SETTINGS["adam"][0], (40,))
    given[1][5], given[1][6] = np.nan, np.inf
    for call in device.sequence(device.ops.adam(device, *given)):
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
