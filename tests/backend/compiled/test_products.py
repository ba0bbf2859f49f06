"""Products are NumPy's, by our own kernels and by the BLAS, and their bits are the same on several threads."""

from __future__ import annotations

from copy import copy

import numpy as np
import pytest

from gpu_backprop.backend.compiled import blas_choice
from gpu_backprop.backend.compiled.ops import products
from gpu_backprop.backend.compiled.program import KernelCall
from gpu_backprop.backend.numpy_blas import numpy_blas

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
    out = np.full((*a.shape[:-1], b.shape[-1]), np.nan, a.dtype) if out is None else out
    (step,) = device.ops.matmul(device, a, b, out)
    assert isinstance(step, KernelCall)
    step()
    return out


def assert_exact(out, a, b):
    """Each number is what float64 makes of it, but for the rounding of k sums."""
    exact, size = a.astype(float) @ b.astype(float), abs(a).astype(float) @ abs(b)
    assert (abs(out - exact) <= (a.shape[-1] + 1) * np.finfo(out.dtype).eps * size).all()


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
    (1, 300, 100),
    (2, 40, 250),
    (300, 1, 100),
    (3, 1, 17),
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("flips", [(some, some), (flipped, some), (some, flipped), (flipped, flipped)])
def test_every_layout(device, plain, same, sizes, flips):
    m, k, n = sizes
    make_a, make_b = flips
    same(device, plain, "matmul", make_a(m, k), make_b(k, n), some(m, n), rtol=1e-5, atol=1e-5 + 1e-7 * k)


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


# Every size and layout --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_of_every_size(on_threads, layout, dtype):
    """All rests of tiles, of vectors and of the fours that are transposed together."""
    device = on_threads(1, dtype)
    for m in range(1, 41):
        for n in (m % 19, 1 + m % 8, 16 + (3 * m) % 25, 32 + (11 * m) % 64):
            for k in (m % 7, 1 + (5 * m) % 40, 41 + m):
                a, b = (matrix.astype(dtype, order="K") for matrix in operands(m, n, k, layout))
                assert_exact(multiply(device, a, b), a, b)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("sizes", [(50, 35, 256), (41, 45, 257), (9, 3, 700), (600, 40, 260), (530, 530, 20)], ids=str)
def test_sums_and_matrices_that_are_taken_in_pieces(on_threads, layout, sizes):
    a, b = operands(*sizes, layout)
    for threads in (1, 2):
        assert_exact(multiply(on_threads(threads), a, b), a, b)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("models", [1, 3])
def test_the_same_bits_on_any_number_of_threads_and_alone(on_threads, split, layout, models):
    for m, n, k in ((50, 70, 33), (64, 32, 32), (19, 33, 9), (37, 17, 280), (40, 3, 9)):
        a, b = operands(m, n, k, layout, (models,))
        outs = [multiply(on_threads(threads), a, b) for threads in (1, 2, 3)]
        alone = np.stack([multiply(on_threads(1), *matrices) for matrices in zip(a, b, strict=True)])
        assert all(np.array_equal(out, alone) for out in outs)


def test_a_number_has_the_same_bits_wherever_it_stands(on_threads):
    """Though the narrower is multiplied as its transpose, and the wider in copies."""
    for k in (37, 300):
        a, b = some(41, k), some(k, 300)
        whole, lone = multiply(on_threads(1), a, b), multiply(on_threads(1), a[:1], b)
        np.testing.assert_array_equal(lone, whole[:1])
        for rows, columns in (
            (np.s_[20:], np.s_[:]), (np.s_[3:22], np.s_[5:40]), (np.s_[1:20], np.s_[60:83]), (np.s_[:], np.s_[7:10])
        ):  # fmt: skip
            part = multiply(on_threads(1), a[rows].copy(), b[:, columns].copy())
            np.testing.assert_array_equal(part, whole[rows, columns])
            turned = multiply(on_threads(1), a[rows].copy(), np.ascontiguousarray(b[:, columns].T).T)
            np.testing.assert_array_equal(turned, part)


@pytest.mark.parametrize("width", [3, 35])
def test_a_product_of_models_in_a_flat_buffer_writes_nothing_beside_it(on_threads, split, width):
    x, z, flat = some(3, 40, 21), some(3, 40, width), np.zeros((3, 21 * width + 30), np.float32)
    grad = flat[:, 10 : 10 + 21 * width].reshape(3, 21, width)
    for threads in (1, 2, 3):
        multiply(on_threads(threads), x.swapaxes(-1, -2), z, grad)
        assert_exact(grad, x.swapaxes(-1, -2), z)
        assert not flat[:, :10].any() and not flat[:, 10 + 21 * width :].any()


def test_not_a_number_goes_through_whole_vectors(device):
    a, b = some(64, 20), some(20, 35)
    a[3, 19], a[40, 0], b[7, 34] = np.nan, np.inf, -np.inf
    out = multiply(device, a, b)
    assert np.isnan(out[3]).all() and np.isinf(out[40, :34]).all() and not np.isfinite(out[:, 34]).any()
    assert np.isfinite(np.delete(out, [3, 40], 0)[:, :34]).all()


# Large ones, which may be the BLAS's ------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_blas_makes_the_same_products(on_threads, split, monkeypatch, layout, dtype):
    if numpy_blas(dtype).product is None:
        pytest.skip("NumPy's BLAS has no product to call")
    monkeypatch.setattr(products, "LARGE", 0)
    monkeypatch.setattr(products, "blas_is_faster", lambda _: True)
    ours = []
    monkeypatch.setattr(products, "KernelCall", lambda *_, **of: ours.append(of["ours"]) or KernelCall(*_, **of))
    for models in ((), (2,)):
        for threads in (1, 2):
            device = on_threads(threads, dtype)
            a, b = (matrix.astype(dtype, order="K") for matrix in operands(70, 90, 64, layout, models))
            assert_exact(multiply(device, a, b), a, b)
    multiply(device, *(matrix.astype(dtype, order="K") for matrix in operands(70, 90, 63, layout)))
    assert ours == [False] * 4 + [True]


@pytest.mark.parametrize(("blas", "faster"), [(0.9, True), (1.0, False), (1.1, False)])
def test_who_is_faster_is_measured_once(on_threads, monkeypatch, tmp_path, blas, faster):
    library, asked = copy(on_threads(2).library), []
    library.path = tmp_path / "library.so"
    monkeypatch.setattr(blas_choice, "measure", lambda _: asked.append(1) or (1.0, blas))
    if library.blas.set_threads is None:
        pytest.skip("NumPy's BLAS is not OpenBLAS")
    for _ in range(2):
        blas_choice.blas_is_faster.cache_clear()
        assert blas_choice.blas_is_faster(library) == faster
    assert len(asked) == 1
    for content in ("", '{"NumPy": "another", "ours": 1, "BLAS": 0.5}'):
        library.path.with_suffix(".products").write_text(content)
        blas_choice.blas_is_faster.cache_clear()
        assert blas_choice.blas_is_faster(library) == faster
    library.blas = library.blas._replace(set_threads=None)
    blas_choice.blas_is_faster.cache_clear()
    assert not blas_choice.blas_is_faster(library)


def test_a_measurement_takes_time_for_both(on_threads, monkeypatch):
    monkeypatch.setattr(blas_choice, "SIZES", (30, 40, 50))
    assert all(seconds > 0 for seconds in blas_choice.measure(on_threads(1).library))
