"""What the model of an all-reduce says, which decides in which pieces gradients are summed up. It is no measurement."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import pytest

from gpu_backprop.training.reduction_model import (
    NETWORK,
    NVLINK,
    START,
    WORTH,
    all_reduce_seconds,
    choose_buckets,
    overlapped_seconds,
    ring_seconds,
    tree_seconds,
)


def test_a_ring_sends_everything_but_a_rank_s_own_part_twice():
    """Four ranks, of 8 numbers a second each way and ¼ s a message: 3 + 3 messages of a quarter of 32 numbers."""
    assert ring_seconds(32, 4, 0.25, 8) == 6 * (0.25 + 1)
    assert ring_seconds(32, 1, 0.25, 8) == 0


@pytest.mark.parametrize(("ranks", "levels"), [(2, 1), (3, 2), (4, 2), (1024, 10)])
def test_a_tree_goes_up_and_down(ranks, levels):
    assert tree_seconds(32, ranks, 0.25, 8) == 2 * (levels * 0.25 + 4)


def test_a_ring_is_for_much_data_and_a_tree_for_many_ranks():
    for link in (NVLINK, NETWORK):
        assert all_reduce_seconds(1e9, 8, *link) == START + ring_seconds(1e9, 8, *link)
        assert all_reduce_seconds(1e5, 1024, *link) == START + tree_seconds(1e5, 1024, *link)
        assert all_reduce_seconds(1e9, 1, *link) == 0


def divisions(layers):
    """Yields all ways to divide a row of layers."""
    for cuts in product((False, True), repeat=layers - 1):
        ends = [*(k for k, cut in enumerate(cuts, 1) if cut), layers]
        yield [end - begin for begin, end in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize("case", range(30))
def test_no_other_division_is_done_sooner(case):
    rng = np.random.default_rng(case)
    layers = int(rng.integers(1, 8))
    backward, sizes = rng.exponential(1e-4, layers).tolist(), rng.integers(1, 10**7, layers).tolist()
    reduce = partial(all_reduce_seconds, ranks=int(rng.choice([2, 8, 64])), latency=NVLINK[0], bandwidth=NVLINK[1])
    finish = partial(overlapped_seconds, backward, sizes, reduce=reduce)
    found, least = choose_buckets(backward, sizes, reduce), min(finish(buckets) for buckets in divisions(layers))
    assert sum(found) == layers
    if least < WORTH * finish([layers]):
        assert finish(found) == pytest.approx(least, rel=1e-12)
    else:
        assert found == [layers]


def test_what_takes_long_meanwhile_hides_a_sum():
    """Two layers of a second each: the first bucket is summed up in the second one."""
    assert overlapped_seconds([1, 1], [6, 3], [1, 1], lambda size: size / 10) == pytest.approx(2.3)
    assert overlapped_seconds([1, 1], [6, 3], [2], lambda size: size / 10) == pytest.approx(2.9)
    assert overlapped_seconds([1, 1], [30, 3], [1, 1], lambda size: size / 10) == pytest.approx(4.3)


def test_small_gradients_go_together():
    """What a message costs, and what it carries, decide."""
    reduce = partial(all_reduce_seconds, ranks=8, latency=NVLINK.latency, bandwidth=NVLINK.bandwidth)
    assert choose_buckets([1e-5] * 4, [10**4] * 4, reduce) == [4]
    assert choose_buckets([1e-3] * 4, [10**8] * 4, reduce) == [1] * 4
    assert choose_buckets([0.0] * 4, [10**8] * 4, reduce) == [4]
