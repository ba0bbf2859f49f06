"""The rows of a minibatch are those that NumPy takes."""

from __future__ import annotations

import numpy as np
import pytest
from against_numpy import run

from gpu_backprop.backend.compiled import device as compiled_device
from gpu_backprop.backend.compiled.device import LARGE
from gpu_backprop.backend.snapshot import Snapshot

PAST_CACHES = 4 << 20  # bytes of a thread's part, as in minibatch.cpp
RNG = np.random.default_rng(0)


def sources(x=np.float32, target=(), weights=True):
    """x, y* (labels, or so many outputs) and w of 50 samples."""
    labels = RNG.integers(0, 9, 50) if target == () else RNG.standard_normal((50, *target), np.float32)
    return [RNG.standard_normal((50, 7)).astype(x), labels, RNG.random(50, np.float32)][: 3 if weights else 2]


def outs(sources, rows, models=(), x=np.float32):
    return [np.zeros((*models, rows, *s.shape[1:]), x if k == 0 else s.dtype) for k, s in enumerate(sources)]


@pytest.mark.parametrize("models", [(), (1,), (3,)], ids=str)
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("target", [(), (4,)], ids=str)
@pytest.mark.parametrize("rows", [1, 3, 20])
def test_rows_are_gathered(device, plain, same, rows, target, weights, models):
    given = sources(np.float32, target, weights)
    order = np.stack([RNG.permutation(50) for _ in range(*models or (1,))]).reshape(*models, 50)
    same(device, plain, "gather", given, order, np.array([30]), outs(given, rows, models))


def test_what_is_out_of_range_is_the_nearest_that_is_not(device):
    given, order = sources(), np.array([-5, 3, 10**12, 7])
    given[0] = given[0].astype(">f4")  # which is converted
    got = outs(given, 6)
    run(device, "gather", given, order, np.array([0]), got)
    for source, out in zip(given, got, strict=True):
        np.testing.assert_array_equal(out, source[[0, 3, 49, 7, 7, 7]])


def half_of(x):
    """Every other number, from the last row to the first: of a file, which is read where it lies."""
    wide = np.repeat(x, 2, axis=-1)
    return wide[::-1, 1::2]


@pytest.mark.parametrize("lies", [np.array, half_of], ids=["whole", "with gaps"])
@pytest.mark.parametrize("dtype", [*"?bBhHiIqQefdg", ">f2", ">f4", ">f8", ">i4", "bfloat16"])
def test_x_of_another_dtype_is_converted(device, dtype, lies):
    dtype = np.dtype(dtype) if dtype != "bfloat16" else pytest.importorskip("ml_dtypes").bfloat16
    x = lies((RNG.integers(0, 200, (50, 300)) / RNG.choice([1, 3, 1000], (50, 300))).astype(dtype))
    order, out = RNG.permutation(50), np.zeros((9, 300), np.float32)
    run(device, "gather", [x], order, np.array([2]), [out])
    np.testing.assert_array_equal(out, x[order[2:11]].astype(np.float32))


def test_every_number_of_16_bits_is_converted(device):
    for numbers in (
        np.arange(1 << 16, dtype=np.uint16).view(np.float16),
        np.arange(-(1 << 15), 1 << 15, dtype=np.int16),
    ):
        x, out = numbers.reshape(256, 256), np.zeros((256, 256), np.float32)
        run(device, "gather", [x], np.arange(256), np.array([0]), [out])
        np.testing.assert_array_equal(out, x.astype(np.float32))
        assert (np.signbit(out) == np.signbit(x))[~np.isnan(x)].all()


def test_labels_and_weights_with_gaps(device):
    """Weights of each member, of which some places hold no row."""
    labels, weights, order = np.arange(100)[::2], RNG.random((3, 100))[:, ::2], np.stack([RNG.permutation(50)] * 3)
    outs = [np.zeros((3, 20), np.int64), np.ones((3, 20), np.float32)]
    run(device, "gather", [None, labels, weights], order, np.array([30]), [None, *outs], np.array([37, 20, 99]))
    np.testing.assert_array_equal(outs[0], labels[order[:, 30:]])
    assert np.signbit(outs[1]).sum(axis=1).tolist() == [13, 20, 0]
    np.testing.assert_array_equal(outs[1][2], weights[2, order[2, 30:]].astype(np.float32))


def test_a_memory_map(device, tmp_path):
    np.save(tmp_path / "x.npy", RNG.standard_normal((50, 14), np.float32))
    (tmp_path / "odd").write_bytes(b"?" + np.arange(700, dtype=np.float32).tobytes())
    unaligned = np.memmap(tmp_path / "odd", np.float32, "r", 1, (50, 14))
    for x in (np.load(tmp_path / "x.npy", mmap_mode="r"), unaligned):
        order, out = RNG.permutation(50), np.zeros((9, 14), np.float32)
        run(device, "gather", [x], order, np.array([2]), [out])
        np.testing.assert_array_equal(out, x[order[2:11]])


@pytest.mark.parametrize("models", [(), (1,), (3,)], ids=str)
@pytest.mark.parametrize("weights", ["own", "shared"])
def test_places_that_hold_no_row_weigh_minus_0(device, plain, same, weights, models):
    given = sources()
    if weights == "own" and models:
        given[2] = RNG.random((*models, 50), np.float32)
    order = np.stack([RNG.permutation(50) for _ in range(*models or (1,))]).reshape(*models, 50)
    counts = np.array([37, 20, 99][: models[0]]) if models else None
    got = same(device, plain, "gather", given, order, np.array([30]), outs(sources(), 20, models), counts)[3]
    assert np.signbit(got[2]).sum() == (0 if counts is None else np.clip(50 - counts, 0, 20).sum())
    alone = same(device, plain, "gather", [None, None, given[2]], order, np.array([30]), [None, None, got[2]], counts)
    np.testing.assert_array_equal(alone[3][2], got[2])


@pytest.mark.parametrize("counted", [None, [1.0, 0.0, 0.5]])
def test_counters(device, plain, same, counted):
    """Of one model, and of several, whose steps lie apart, and those of dropout too."""
    same(device, plain, "advance", np.array([5]), 3)
    counted = None if counted is None else np.array(counted)
    steps, random = np.arange(12.0).reshape(3, 4), np.arange(18, dtype=np.uint64).reshape(3, 2, 3)
    after = same(device, plain, "advance", None, 0, np.array([2]), random[..., 2], steps[:, 0], counted)
    np.testing.assert_array_equal(after[4], [1, 4 + (counted is None), 9])
    np.testing.assert_array_equal((after[3] - random[..., 2]).T, [[1, int(counted is None), 1]] * 2)
    same(device, plain, "advance", np.array([1]), 4, None, random[0, :, 2])


@pytest.mark.parametrize("size", [1, 100_000])
def test_copies(device, plain, same, size):
    a = RNG.standard_normal(size, np.float32)
    same(device, plain, "copy", a, a[::-1].copy())
    same(device, plain, "copy", a, a[::-1].astype(np.float64), compiled=False)


def test_large_arrays_are_copied_by_all_threads(device):
    a, b = RNG.standard_normal((3, 1 << 17), np.float32), np.zeros((3, 1 << 17), np.float32)
    device.copy_in(b, a)
    np.testing.assert_array_equal(a, b)
    device.copy_in(b, a[0])  # which is one model's
    assert (b == a[0]).all()
    device.copy_in(b, a.astype(np.float64)[:, ::-1])
    np.testing.assert_array_equal(b, a[:, ::-1])


@pytest.mark.parametrize(("first", "last"), [(0, 0), (5, 3), (16, 9)])
def test_what_no_cache_keeps_is_copied_past_the_caches(device, first, last):
    """Wherever it begins and ends; what lies beside it stays."""
    size = device.threads * PAST_CACHES + 8192
    a, b = np.frombuffer(RNG.bytes(size), np.uint8), np.zeros(size, np.uint8)
    inner = slice(first, size - last)
    device.copy_in(b[inner], a[inner])
    np.testing.assert_array_equal(b[inner], a[inner])
    assert not b[:first].any() and not b[inner.stop :].any()


def test_a_snapshot_is_taken_and_taken_back(device):
    """Of arrays that are large or small, one of them a number among others."""
    numbers = np.arange(5.0)
    arrays = {"large": np.ones((2, LARGE // 4), np.float32), "small": np.ones(3), "number": numbers[..., 0]}
    snapshot = Snapshot(device, arrays)
    for value in (2, 3):
        for array in arrays.values():
            array[...] = value
        snapshot.take()
    for array in arrays.values():
        array[...] = 4
    assert all((copy == 3).all() for copy in snapshot.copies.values())
    snapshot.restore()
    assert all((array == 3).all() for array in arrays.values())


@pytest.mark.parametrize("drawn", [0, 1])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 64, 65, 127, 5000, 70_000])
def test_rows_are_shuffled_as_numpy_does(device, plain, rows, drawn):
    """Also where the generator has half of a number left, and so that it goes on with the same numbers."""
    streams = [np.random.default_rng(rows) for _ in range(2)]
    for stream in streams:
        stream.integers(1 << 32, size=drawn, dtype=np.uint32)
    orders = np.full((2, rows), -1)
    for _ in range(3):
        for one, stream, order in zip((device, plain), streams, orders, strict=True):
            one.shuffle(stream, order)
        np.testing.assert_array_equal(*orders)
    assert streams[0].bit_generator.state == streams[1].bit_generator.state


@pytest.mark.parametrize("why", ["more rows than 32 bits count", "a NumPy that draws otherwise"])
def test_where_the_kernel_would_not_do_numpy_shuffles(device, plain, monkeypatch, why):
    if why.startswith("more"):
        monkeypatch.setattr(compiled_device, "MOST_SHUFFLED", 8)
    else:
        monkeypatch.setattr(device.library, "shuffle", lambda *_: None)
    orders = np.zeros((2, 9), int)
    device.shuffle(np.random.default_rng(0), orders[0])
    plain.shuffle(np.random.default_rng(0), orders[1])
    np.testing.assert_array_equal(*orders)
