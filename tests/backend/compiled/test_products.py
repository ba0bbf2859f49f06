"""Products on several threads are NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_backprop.backend.compiled.program import KernelCall

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def the_same_numbers_in_any_order():
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


def some(*shape):
    return RNG.standard_normal(shape, np.float32)


def flipped(*shape):
    """A transposed view of that shape."""
    return some(*shape[:-2], shape[-1], shape[-2]).swapaxes(-1, -2)


SIZES = [
    (1, 1, 1),
    (1, 7, 5),
    (3, 1, 2),
    (33, 5, 17),
    (64, 64, 10),
    (7, 300, 40),
    (100, 3, 1),
    (128, 100, 64),
    (64, 300, 250),
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("flips", [(some, some), (flipped, some), (some, flipped), (flipped, flipped)])
def test_every_layout(device, plain, same, sizes, flips):
    m, k, n = sizes
    make_a, make_b = flips
    same(device, plain, "matmul", make_a(m, k), make_b(k, n), some(m, n), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("models", [1, 2, 5])
@pytest.mark.parametrize("flips", [(some, some), (flipped, some), (some, flipped)])
def test_several_models(device, plain, same, models, flips):
    make_a, make_b = flips
    same(device, plain, "matmul", make_a(models, 40, 9), make_b(models, 9, 20), some(models, 40, 20), atol=1e-5)


@pytest.mark.parametrize("rows", [2, 40])
def test_models_that_share_an_operand_or_lie_in_a_flat_buffer(device, plain, same, rows):
    x, z, flat = some(rows, 9), some(3, rows, 20), some(3, 500)
    weight = flat[:, 64 : 64 + 9 * 20].reshape(3, 9, 20)
    assert not weight.flags.c_contiguous
    for a, b, out in (
        (x, weight, z), (x.T, z, weight), (z, weight.swapaxes(1, 2), some(3, rows, 9)),
        (np.broadcast_to(x, (3, rows, 9)), weight, z),
    ):  # fmt: skip
        (step,) = device.ops.matmul(device, a, b, out)
        assert isinstance(step, KernelCall)
        out[...] = 0
        step()
        np.testing.assert_allclose(out, a @ b, 1e-5, 1e-5)
    assert (flat[:, :64] != 0).all() and (flat[:, 64 + 9 * 20 :] != 0).all()


def test_nothing_that_is_there_before_counts(device, plain, same):
    """Not even a NaN."""
    for m in (3, 40):
        same(device, plain, "matmul", some(m, 5), some(5, 3), np.full((m, 3), np.nan, np.float32), atol=1e-5)


def test_the_same_bits_in_every_run(device):
    x, w = some(70, 300), some(300, 50)
    outs = [some(70, 50) for _ in range(5)]
    for out in outs:
        (step,) = device.ops.matmul(device, x, w, out)
        step()
    assert all(np.array_equal(out, outs[0]) for out in outs)


def test_not_a_number_and_infinity_go_through(device):
    x, w, out = some(64, 8), some(8, 4), some(64, 4)
    x[3, 0], x[40, 1] = np.nan, np.inf
    (step,) = device.ops.matmul(device, x, w, out)
    step()
    assert np.isnan(out[3]).all() and np.isinf(out[40]).all() and np.isfinite(np.delete(out, [3, 40], 0)).all()


def test_what_has_gaps_is_numpys(device):
    a, b, out = np.repeat(some(40, 8), 2, 1)[:, ::2], some(8, 4), some(40, 4)
    (call,) = device.ops.matmul(device, a, b, out)
    assert not isinstance(call, KernelCall)
    call()
    np.testing.assert_allclose(out, a @ b, 1e-5, 1e-5)
