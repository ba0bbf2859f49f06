"""port.cuh and philox.cuh, run on the CPU."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest


def pointers(*arrays: np.ndarray) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(a.ctypes.data) for a in arrays]


def philox(host: ctypes.CDLL, counter: int, key: int) -> tuple[np.ndarray, np.ndarray]:
    """The four words and the eight float32 of one block; counter and key as one number each."""
    words = [(counter >> 64 * i) % 2**64 for i in range(4)] + [(key >> 64 * i) % 2**64 for i in range(2)]
    block, numbers = np.empty(4, np.uint64), np.empty(8, np.float32)
    given = np.array(words, np.uint64)  # which has to live until the call is over
    host.philox_block(*pointers(given, block, numbers))
    return block, numbers


@pytest.mark.parametrize("key", [0, 1, 7 + (3 << 64), 2**128 - 1, 0x0123456789ABCDEF_FEDCBA9876543210])
@pytest.mark.parametrize("counter", [0, 5, 41 << 64, 2**64 - 1, 2**128 - 1, 2**256 - 1, (3 << 192) + (2 << 128) + 9])
def test_philox_is_numpys_bit_for_bit(host, counter, key):
    for offset in range(3):
        stream = np.random.Philox(key=key, counter=counter)
        stream.random_raw(4 * offset)
        block, _ = philox(host, (counter + 1 + offset) % 2**256, key)
        np.testing.assert_array_equal(block, stream.random_raw(4))


@pytest.mark.parametrize("key", [0, 12345 + (2 << 64)])
def test_uniform_is_what_numpys_generator_makes_of_a_block(host, key):
    drawn = np.random.Generator(np.random.Philox(key=key, counter=9 << 64)).random(800, np.float32)
    ours = np.concatenate([philox(host, (9 << 64) + 1 + block, key)[1] for block in range(100)])
    np.testing.assert_array_equal(ours, drawn)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_limits_are_those_of_the_type(host, dtype):
    out, of_numpy = np.empty(2, dtype), np.finfo(dtype)
    host[f"limits_{dtype}"](*pointers(out))
    assert out.tolist() == [of_numpy.tiny, of_numpy.max]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
class TestNarrow:
    """The 16-bit types of the stand-ins for CUDA's headers are NumPy's."""

    def test_up_and_down_again(self, host, dtype):
        dtype = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
        every = np.arange(2**16, dtype=np.uint16).view(dtype)
        name, up, down = np.dtype(dtype).name, np.empty(2**16, "f4"), np.empty_like(every)
        host[f"up_{name}"](*pointers(every, up), ctypes.c_int(up.size))
        np.testing.assert_array_equal(up, every.astype("f4"))
        host[f"down_{name}"](*pointers(up, down), ctypes.c_int(up.size))
        nan = np.isnan(up)
        assert np.array_equal(every.view("u2")[~nan], down.view("u2")[~nan]) and np.isnan(down.astype("f4")[nan]).all()

    def test_down_rounds_to_the_nearest_and_ties_to_even(self, host, dtype):
        dtype = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
        places = np.sort(np.arange(2**15, dtype=np.uint16).view(dtype).astype("f4"))
        places = places[np.isfinite(places)]
        halves = places[:-1] / 2 + places[1:] / 2
        random = np.random.default_rng(0).integers(0, 0x7F800000, 20000, dtype=np.uint32).view("f4")
        given = np.concatenate(
            [halves, np.nextafter(halves, np.float32(0)), np.nextafter(halves, np.float32(1e38)), random]
        )
        given = np.concatenate([given, -given])
        down = np.empty(given.shape, dtype)
        host[f"down_{down.dtype.name}"](*pointers(given, down), ctypes.c_int(given.size))
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(down.astype("f4"), given.astype(dtype).astype("f4"))


@pytest.mark.parametrize(("rows", "threads"), [(1, 32), (8, 64), (1, 256), (256, 256), (64, 256)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
class TestBlockReduce:
    def reduce(self, host, op, values, rows):
        out = np.full_like(values, -1)
        host[f"{op}_{values.dtype.name}"](*pointers(values, out), ctypes.c_int(rows), ctypes.c_int(values.size))
        return out

    def test_sum_adds_in_one_order_and_reaches_every_thread(self, host, dtype, rows, threads):
        values = np.random.default_rng(threads).standard_normal(threads).astype(dtype)
        tree = values.reshape(-1, 32)
        for half in (16, 8, 4, 2, 1):
            tree = tree[:, :half] + tree[:, half:]
        of_warp = np.zeros((32, 1), dtype)
        of_warp[: len(tree)] = tree
        for half in (16, 8, 4, 2, 1):
            of_warp = of_warp[:half] + of_warp[half:]
        np.testing.assert_array_equal(self.reduce(host, "sum", values, rows), np.full(threads, of_warp[0, 0]))

    @pytest.mark.parametrize("place", [0, 31, -1])
    def test_maximum_is_found_wherever_it_is(self, host, dtype, rows, threads, place):
        values = np.random.default_rng(0).uniform(-9, -8, threads).astype(dtype)
        values[place] = -7
        assert (self.reduce(host, "maximum", values, rows) == -7).all()

    def test_maximum_of_a_nan_is_nan(self, host, dtype, rows, threads):
        values = np.zeros(threads, dtype)
        values[threads // 2] = np.nan
        assert np.isnan(self.reduce(host, "maximum", values, rows)).all()
