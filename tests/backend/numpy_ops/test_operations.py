"""What the binders of numpy_ops do that no network on a CPU asks of them, and every other back end is compared with."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.open_device import open_device


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


OPTIMIZERS = {
    "sgd": (None, False),
    "sgd, momentum": (np.zeros(5, np.float32), False),
    "rmsprop": (np.zeros(5, np.float32),),
    "adagrad": (np.zeros(5, np.float32),),
    "adam": (np.zeros(5, np.float32), np.zeros(5, np.float32), True),
}
HYPER = {
    "sgd": [0, 0.1, 0.9],
    "rmsprop": [0, 0.1, 0.9, 1e-8],
    "adagrad": [0, 0.1, 1e-8],
    "adam": [0, 0.1, 0.9, 0.999, 1e-8, 0.1],
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("gate", [None, 0.0, 2.0])
def test_optimizers_write_a_low_copy_of_the_new_parameters(device, name, gate):
    w, g = np.linspace(-1, 1, 5, dtype=np.float32), np.full(5, 0.3, np.float32)
    before, half_parameters = w.copy(), w.astype(np.float16)
    binder, moments = name.split(",")[0], [a.copy() if isinstance(a, np.ndarray) else a for a in OPTIMIZERS[name]]
    gate = None if gate is None else np.array(gate)
    run(getattr(numpy_ops, binder)(device, w, g, *moments, np.array(HYPER[binder]), gate, half_parameters))
    assert (w == before).all() == (gate is not None and gate == 0)
    np.testing.assert_array_equal(half_parameters, w.astype(np.float16))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("spoilt", [np.inf, -np.inf, np.nan])
def test_a_shut_gate_lets_nothing_through(device, name, spoilt):
    """Not even of gradients that are not finite, of which 0 times is no 0; beside a member whose gate is open."""
    binder = getattr(numpy_ops, name.split(",")[0])

    def step(members, gate):
        g = np.array([[0.3, -0.2, 0.1, 0, 7], [0.3, spoilt, 0.1, 0, 7]], np.float32)[members]
        w = np.linspace(-1, 1, 10, dtype=np.float32).reshape(2, 5)[members].copy()
        arrays = [np.full_like(w, 0.5) if isinstance(a, np.ndarray) else a for a in OPTIMIZERS[name]]
        hyper, half_parameters = np.tile(HYPER[name.split(",")[0]], (len(members), 1)), w.astype(np.float16)
        run(binder(device, w, g, *arrays, hyper, gate, half_parameters))
        return [w, *(a for a in arrays if isinstance(a, np.ndarray)), hyper, half_parameters]

    both, first, nothing = step([0, 1], np.array([2.0, 0.0])), step([0], None), step([0, 1], np.zeros(2))
    for found, alone, before in zip(both, first, nothing, strict=True):
        assert found[0].tobytes() == alone[0].tobytes()
        assert found[1].tobytes() == before[1].tobytes()
        assert np.isfinite(before).all() and (before[0] != alone[0]).any()


# S, streak, skipped; whether ∇ overflows; Σw: what becomes of S, streak, skipped; the gate
UNSCALED = [
    ((65536, 5, 0), False, None, (65536, 6, 0), 1),
    ((65536, 5, 0), True, None, (32768, 0, 1), 0),
    ((1, 0, 20), True, None, (1, 0, 21), 0),
    ((65536, 1998, 0), False, None, (65536, 1999, 0), 1),
    ((65536, 1999, 3), False, None, (131072, 0, 3), 1),
    ((2**24, 1999, 0), False, None, (2**24, 0, 0), 1),
    ((2**24, 1999, 0), True, None, (2**23, 0, 1), 0),
    ((4, 7, 0), False, 2.5, (4, 8, 0), 2.5),
    ((4, 7, 0), True, 2.5, (2, 0, 1), 0),
    ((4, 7, 0), False, 0.0, (4, 7, 0), 0),
    ((4, 7, 0), True, 0.0, (4, 7, 0), 0),
]


@pytest.mark.parametrize("models", [None, 3])
@pytest.mark.parametrize(("before", "overflow", "weight", "after", "opened"), UNSCALED)
@pytest.mark.parametrize("spoilt", [np.inf, np.nan])
def test_unscale(device, before, overflow, weight, after, opened, spoilt, models):
    """The last of three models; those before it are as in the first row."""
    models_shape = () if models is None else (models,)
    g, scaling = np.full((*models_shape, 5), 64, np.float32), np.full((*models_shape, 3), [65536.0, 5, 0])
    weight_sum = None if weight is None else np.full(models_shape, 7.0)
    gate, last = np.full(models_shape, np.nan), (..., -1) if models else (...,)
    scaling[(-1,) if models else ...] = before
    if weight_sum is not None:
        weight_sum[last] = weight
    if overflow:
        g.reshape(-1, 5)[-1, 2] = spoilt
    with device.computing():
        run(numpy_ops.unscale(device, g, scaling, weight_sum, gate, 2000, 2.0**24))
    assert scaling.reshape(-1, 3)[-1].tolist() == list(after) and gate[last] == opened
    finite = np.full(5, 64 / before[0], np.float32)
    if overflow:
        finite[2] = spoilt
    np.testing.assert_array_equal(g.reshape(-1, 5)[-1], finite)
    if models:
        assert scaling[:-1].tolist() == [[65536, 6, 0]] * 2 and gate[:-1].tolist() == [1 if weight is None else 7] * 2
        assert (g[:-1] == 64 / 65536).all()
