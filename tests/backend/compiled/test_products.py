"""Products are NumPy's, by our own kernels and by the BLAS, and their bits are the same on several threads."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_backprop.backend.compiled.ops.products import is_small
from gpu_backprop.backend.compiled.program import KernelCall

LAYOUTS = [(False, False), (True, False), (False, True), (True, True)]
"""Whether a is transposed, and b."""

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def the_same_numbers_in_any_order():
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


def some(*shape):
    return RNG.standard_normal(shape, np.float32)


def flipped(*shape):
    """A transposed view of that shape."""
    return some(*shape[:-2], shape[-1], shape[-2]).swapaxes(-1, -2)


def operands(m, n, k, layout, models=()):
    a_transposed, b_transposed = layout
    return (flipped if a_transposed else some)(*models, m, k), (flipped if b_transposed else some)(*models, k, n)


def multiply(device, a, b, out=None):
    """a@b by the device's kernels; what is there before does not count."""
    out = np.full((*a.shape[:-1], b.shape[-1]), np.nan, np.float32) if out is None else out
    (step,) = device.ops.matmul(device, a, b, out)
    assert isinstance(step, KernelCall)
    step()
    return out


def assert_exact(out, a, b):
    """Each number is what float64 makes of it, but for the rounding of k sums."""
    exact, size = a.astype(float) @ b.astype(float), abs(a).astype(float) @ abs(b)
    assert (abs(out - exact) <= (a.shape[-1] + 1) * 2.0**-24 * size).all()


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


# Small products ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_small_products_of_every_size(on_threads, layout):
    """All rests of tiles, of vectors and of the fours that are transposed together."""
    device, small = on_threads(1), 0
    for m in range(1, 41):
        for n in (16 + (3 * m) % 25, 32 + (11 * m) % 64, 100 + m):
            for k in (m % 7, 1 + (5 * m) % 40, 41 + m):
                small += is_small(m, n, k, *layout)
                a, b = operands(m, n, k, layout)
                assert_exact(multiply(device, a, b), a, b)
    assert small > 150


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("k", [128, 129, 256])
def test_long_sums(on_threads, layout, k):
    for m, n in ((50, 35), (41, 45)):
        a, b = operands(m, n, k, layout)
        assert is_small(m, n, k, *layout)
        assert_exact(multiply(on_threads(1), a, b), a, b)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("models", [1, 3])
def test_a_small_product_has_the_same_bits_on_any_number_of_threads_and_alone(on_threads, split, layout, models):
    for m, n, k in ((50, 70, 33), (64, 32, 32), (19, 33, 9)):
        assert is_small(m, n, k, *layout)
        a, b = operands(m, n, k, layout, (models,))
        outs = [multiply(on_threads(threads), a, b) for threads in (1, 2, 3)]
        alone = np.stack([multiply(on_threads(1), *matrices) for matrices in zip(a, b, strict=True)])
        assert all(np.array_equal(out, alone) for out in outs)


def test_a_number_of_a_small_product_has_the_same_bits_wherever_it_stands(on_threads):
    a, b = some(41, 37), some(37, 83)
    whole, lone = multiply(on_threads(1), a, b), multiply(on_threads(1), a[:1], b)
    np.testing.assert_array_equal(lone, whole[:1])
    for rows, columns in ((np.s_[20:], np.s_[:]), (np.s_[3:22], np.s_[5:40]), (np.s_[1:20], np.s_[60:])):
        part = multiply(on_threads(1), a[rows].copy(), b[:, columns].copy())
        np.testing.assert_array_equal(part, whole[rows, columns])
        turned = multiply(on_threads(1), a[rows].copy(), np.ascontiguousarray(b[:, columns].T).T)
        np.testing.assert_array_equal(turned, part)


def test_a_small_product_of_models_in_a_flat_buffer_writes_nothing_beside_it(on_threads, split):
    x, z, flat = some(3, 40, 21), some(3, 40, 35), np.zeros((3, 21 * 35 + 30), np.float32)
    grad = flat[:, 10 : 10 + 21 * 35].reshape(3, 21, 35)
    for threads in (1, 2, 3):
        multiply(on_threads(threads), x.swapaxes(-1, -2), z, grad)
        assert_exact(grad, x.swapaxes(-1, -2), z)
        assert not flat[:, :10].any() and not flat[:, 10 + 21 * 35 :].any()


def test_not_a_number_goes_through_a_small_product(device):
    a, b = some(64, 20), some(20, 35)
    a[3, 19], a[40, 0], b[7, 34] = np.nan, np.inf, -np.inf
    out = multiply(device, a, b)
    assert np.isnan(out[3]).all() and np.isinf(out[40, :34]).all() and not np.isfinite(out[:, 34]).any()
    assert np.isfinite(np.delete(out, [3, 40], 0)[:, :34]).all()


def test_without_a_product_of_the_blas_small_ones_are_ours(on_threads, monkeypatch):
    device = on_threads(1)
    monkeypatch.setattr(device.library, "multiplies", False)
    for n, ours in ((32, True), (2, False)):
        a, b, out = some(8, 9), some(9, n), some(8, n)
        (call,) = device.ops.matmul(device, a, b, out)
        assert isinstance(call, KernelCall) == ours
        call()
        assert_exact(out, a, b)
