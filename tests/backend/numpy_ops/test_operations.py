"""What the binders of numpy_ops do that no network on a CPU asks of them, and every other back end is compared with."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.device import ALIGNMENT
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.training.optimizers import RULES


@pytest.fixture
def device():
    return open_device("cpu", "float32")


def run(calls):
    for call in calls:
        call()


SOURCES = {
    "uint8": np.array([[0, 255, 7], [128, 1, 2], [3, 4, 5], [9, 8, 250]], np.uint8),
    "float16": np.array([[0.5, -1, 7], [128, 1, 2], [3, 4, 5], [9, 8, 250]], np.float16),
    "float32": np.array([[0.1, -1, 7], [128, 1, 2], [3, 4, 5], [9, 8, 250]], np.float32),
    "float64": np.array([[0.1, -1, 7], [128, 1, 2], [3, 4, 5], [9, 8, 250]]),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("models", [(), (2,)])
def test_gather_converts_x(device, source, models):
    order = np.array([[2, 0, 3, 1], [1, 3, 0, 2]]) if models else np.array([2, 0, 3, 1])
    labels, cursor = np.arange(4), np.array([1])
    outs = [np.full((*models, 3, 3), np.nan, np.float32), np.full((*models, 3), -1)]
    run(numpy_ops.gather(device, [source, labels], order, cursor, outs))
    chosen = order[..., 1:4]
    np.testing.assert_array_equal(outs[1], chosen)
    np.testing.assert_array_equal(outs[0], source[chosen].astype(np.float32))


@pytest.mark.parametrize("shape", [(0,), (1,), (1000,), (3, 77)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sum_of_squares_is_taken_in_float64(device, shape, dtype):
    a = np.random.default_rng(0).normal(1e3, 1, shape).astype(dtype)
    out = np.full(shape[:-1], np.nan)
    run(numpy_ops.sum_of_squares(device, a, out))
    np.testing.assert_allclose(out, (a.astype(np.float64) ** 2).sum(-1), rtol=1e-14)


def test_copy_casts(device):
    source, destination = np.array([[0.1, 70000.0]], np.float32), np.empty((1, 2), np.float16)
    with device.computing():
        run(numpy_ops.copy(device, source, destination))
    np.testing.assert_array_equal(destination, [[np.float16(0.1), np.inf]])


by_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


def moments_of(rule, w, value=0.0):
    return np.full((len(rule.moments), *w.shape), value, w.dtype) if rule.moments else None


def hyper_of(rule):
    return np.array([1, 0.1, *[*rule.settings.values()][1:]])


@by_rule
@pytest.mark.parametrize("factor", [None, 0.0, 0.5])
def test_optimizers_write_a_low_copy_of_the_new_parameters(device, rule, factor):
    w, g = np.linspace(-1, 1, 5, dtype=np.float32), np.full(5, 0.3, np.float32)
    before, half_parameters = w.copy(), w.astype(np.float16)
    factor = None if factor is None else np.array(factor)
    run(numpy_ops.update(device, w, g, moments_of(rule, w), rule, hyper_of(rule), factor, None, half_parameters))
    assert (w == before).all() == (factor is not None and factor == 0)
    np.testing.assert_array_equal(half_parameters, w.astype(np.float16))


@by_rule
def test_a_factor_is_that_of_the_gradients(device, rule):
    results = []
    for scale, factor in ((1, None), (1, 1.0), (8, 0.125)):
        w, g = np.linspace(-1, 1, 5, dtype=np.float32), np.float32([0.3, -0.2, 0.1, 0, 7]) * scale
        given = g.copy()
        factor = None if factor is None else np.array(factor)
        run(numpy_ops.update(device, w, g, moments_of(rule, w), rule, hyper_of(rule), factor, None, None))
        results.append(w.tobytes())
        np.testing.assert_array_equal(g, given)
    assert len({*results}) == 1


@by_rule
@pytest.mark.parametrize("spoilt", [np.inf, -np.inf, np.nan])
def test_a_factor_of_0_lets_nothing_through(device, rule, spoilt):
    """Not even of gradients that are not finite, of which 0 times is no 0; beside a member whose step is taken."""

    def step(members, factor):
        g = np.array([[0.3, -0.2, 0.1, 0, 7], [0.3, spoilt, 0.1, 0, 7]], np.float32)[members]
        w = np.linspace(-1, 1, 10, dtype=np.float32).reshape(2, 5)[members].copy()
        moments, hyper = moments_of(rule, w, 0.5), np.tile(hyper_of(rule), (len(members), 1))
        half_parameters = w.astype(np.float16)
        run(numpy_ops.update(device, w, g, moments, rule, hyper, factor, None, half_parameters))
        return [w, *(() if moments is None else moments), half_parameters]

    both, first, nothing = step([0, 1], np.array([1.0, 0.0])), step([0], None), step([0, 1], np.zeros(2))
    for found, alone, before in zip(both, first, nothing, strict=True):
        assert found[0].tobytes() == alone[0].tobytes()
        assert found[1].tobytes() == before[1].tobytes()
        assert np.isfinite(before).all() and (before[0] != alone[0]).any()


@by_rule
@pytest.mark.parametrize("models", [(), (2,)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_groups_are_steps_of_their_own(device, rule, models, dtype):
    """Of blocks of 256 bytes: with η·rate, λ·decay and penalty·l1 or l2, where there are such; where the rate is 0, of
    nothing."""
    size = ALIGNMENT // np.dtype(dtype).itemsize
    groups = np.array([[1, 0, 0.5, 2, 2], [1, 1, 3, 0, 0], [0, 1, 2, 1, 1]], dtype)
    rng = np.random.default_rng(0)
    w, g = (rng.normal(0, 1, (*models, 4 * size + 5)).astype(dtype) for _ in range(2))
    moments, hyper, before = moments_of(rule, w, 0.5), np.tile(hyper_of(rule), (*models, 1)), w.copy()
    half_parameters = np.full(w.shape, 7, np.float16)
    g[..., size : 2 * size] = np.inf
    run(numpy_ops.update(device, w, g, moments, rule, hyper, None, groups, half_parameters))
    for block, (rate, decay, penalty) in enumerate(groups.T.tolist()):
        part = slice(block * size, (block + 1) * size)
        alone, of_it = before[..., part].copy(), moments_of(rule, before[..., part], 0.5)
        if rate:
            own = np.tile(hyper_of(rule), (*models, 1))
            own[..., 1] *= rate
            for name, factor in {"weight_decay": decay, "l1": penalty, "l2": penalty}.items():
                if name in rule.settings:
                    own[..., [*rule.settings].index(name) + 1] *= factor
            run(numpy_ops.update(device, alone, g[..., part].copy(), of_it, rule, own, None, None, None))
        np.testing.assert_allclose(w[..., part], alone, 1e-6)
        if rule.moments:
            np.testing.assert_array_equal(moments[..., part], of_it)
        np.testing.assert_array_equal(half_parameters[..., part], w[..., part].astype("f2") if rate else 7)


@pytest.mark.parametrize("models", [(), (2,)], ids=str)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("pairs", [False, True])
def test_follow_schedule(device, models, own, pairs):
    """values = settings ⊙ table[position], in a view of a longer row; beyond the last row, that one holds."""
    table = np.linspace(0.1, 0.9, 24).reshape(3, *(models if own else ()), -1)[..., :3]
    whole, settings = np.zeros((*models, 5)), np.linspace(0.2, 0.8, 10).reshape(2, 5)[0 if not models else slice(None)]
    settings = settings[..., 1:4]
    values = np.zeros((*models, 3, 2)) if pairs else whole[..., 2:]
    for position, row in ((0, 0), (1, 1), (2, 2), (3, 2), (2**40, 2)):
        with device.computing():
            run(numpy_ops.follow_schedule(device, table, np.array([position]), settings, values))
        wanted = settings * table[row]
        np.testing.assert_array_equal(values[..., 0] if pairs else values, wanted)
        if pairs:
            np.testing.assert_allclose(values[..., 1], 1 / (1 - wanted), rtol=1e-15)
    assert (whole[..., :2] == 0).all()


# S, streak, skipped; whether ∇ overflows; what counts: what becomes of S, streak, skipped; the factor
UNSCALED = [
    ((65536, 5, 0), False, None, (65536, 6, 0), 1 / 65536),
    ((65536, 5, 0), True, None, (32768, 0, 1), 0),
    ((1, 0, 20), True, None, (1, 0, 21), 0),
    ((65536, 1998, 0), False, None, (65536, 1999, 0), 1 / 65536),
    ((65536, 1999, 3), False, None, (131072, 0, 3), 1 / 65536),
    ((2**24, 1999, 0), False, None, (2**24, 0, 0), 1 / 2**24),
    ((2**24, 1999, 0), True, None, (2**23, 0, 1), 0),
    ((4, 7, 0), False, 1.0, (4, 8, 0), 0.25),
    ((4, 7, 0), True, 1.0, (2, 0, 1), 0),
    ((4, 7, 0), False, 0.0, (4, 7, 0), 0),
    ((4, 7, 0), True, 0.0, (4, 7, 0), 0),
]


@pytest.mark.parametrize("models", [None, 3])
@pytest.mark.parametrize(("before", "overflow", "counts", "after", "wanted"), UNSCALED)
@pytest.mark.parametrize("spoilt", [np.inf, np.nan])
def test_unscale(device, before, overflow, counts, after, wanted, spoilt, models):
    """The last of three models; those before it are as in the first row."""
    models_shape = () if models is None else (models,)
    g, scaling = np.full((*models_shape, 5), 64, np.float32), np.full((*models_shape, 3), [65536.0, 5, 0])
    counted = None if counts is None else np.ones(models_shape)
    factor, last = np.full(models_shape, np.nan), (..., -1) if models else (...,)
    scaling[(-1,) if models else ...] = before
    if counted is not None:
        counted[last] = counts
    if overflow:
        g.reshape(-1, 5)[-1, 2] = spoilt
    given = g.copy()
    with device.computing():
        run(numpy_ops.unscale(device, g, scaling, counted, factor, 2000, 2.0**24))
    assert scaling.reshape(-1, 3)[-1].tolist() == list(after) and factor[last] == wanted
    np.testing.assert_array_equal(g, given)
    if models:
        assert scaling[:-1].tolist() == [[65536, 6, 0]] * 2 and factor[:-1].tolist() == [1 / 65536] * 2
