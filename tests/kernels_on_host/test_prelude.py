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
    host.philox_block(*pointers(np.array(words, np.uint64), block, numbers))
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
    out, of_numpy = np.empty(3, dtype), np.finfo(dtype)
    host[f"limits_{dtype}"](*pointers(out))
    assert out.tolist() == [of_numpy.tiny, np.sqrt(of_numpy.tiny), of_numpy.min]


@pytest.mark.parametrize("threads", [32, 64, 256])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
class TestBlockReduce:
    def reduce(self, host, op, values):
        out = np.full_like(values, -1)
        host[f"{op}_{values.dtype.name}"](*pointers(values, out), ctypes.c_int(values.size))
        return out

    def test_sum_adds_in_one_order_and_reaches_every_thread(self, host, dtype, threads):
        values = np.random.default_rng(threads).standard_normal(threads).astype(dtype)
        tree = values.reshape(-1, 32)
        for half in (16, 8, 4, 2, 1):
            tree = tree[:, :half] + tree[:, half:]
        of_warp = np.zeros((32, 1), dtype)
        of_warp[: len(tree)] = tree
        for half in (16, 8, 4, 2, 1):
            of_warp = of_warp[:half] + of_warp[half:]
        np.testing.assert_array_equal(self.reduce(host, "sum", values), np.full(threads, of_warp[0, 0]))

    @pytest.mark.parametrize("place", [0, 31, -1])
    def test_maximum_is_found_wherever_it_is(self, host, dtype, threads, place):
        values = np.random.default_rng(0).uniform(-9, -8, threads).astype(dtype)
        values[place] = -7
        assert (self.reduce(host, "maximum", values) == -7).all()

    def test_maximum_of_a_nan_is_nan(self, host, dtype, threads):
        values = np.zeros(threads, dtype)
        values[threads // 2] = np.nan
        assert np.isnan(self.reduce(host, "maximum", values)).all()
