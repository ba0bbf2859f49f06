"""How long an all-reduce takes by an α-β model, and in which pieces the gradients are best summed up while the backward
pass goes on.

A message of n bytes takes α + n/β: a latency, and what a link carries (Hockney 1994; for the collectives Thakur,
Rabenseifner and Gropp 2005). It decides which operations a plan has, so it is computed from shapes, the device and the
number of ranks alone, and measures nothing. Times are in seconds, sizes in bytes, bandwidths in bytes a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

START = 5e-6
"""Seconds that any collective takes: its launch, and until the first message leaves."""

WORTH = 0.95
"""More buckets are taken where what they leave of the time, from the start of the backward pass on, is less than this
share: the model is no better than that, and the kernels of NCCL slow those beside them."""


class Link(NamedTuple):
    """What ranks are connected by: the latency of a message, and the bandwidth in each direction."""

    latency: float
    bandwidth: float


NVLINK, NETWORK = Link(1.9e-6, 235e9), Link(4.0e-6, 25e9)
"""Within a machine, an A100's; and between machines, one of 200 Gbit/s for each rank. The latencies are those by which
NCCL chooses among its algorithms (src/graph/tuning.cc, ring, LL128), as is the first bandwidth."""


def ring_seconds(size: float, ranks: int, latency: float, bandwidth: float) -> float:
    """Returns how long a ring takes: 2(p−1) steps, in each of which every rank sends a p-th to the next one."""
    return 2 * (ranks - 1) * (latency + size / ranks / bandwidth)


def tree_seconds(size: float, ranks: int, latency: float, bandwidth: float) -> float:
    """Returns how long a double binary tree takes: up it and down again, all of the data in small pieces one after
    another, so that every level works all of the time but at the beginning (Sanders, Speck and Träff 2009)."""
    return 2 * (math.ceil(math.log2(ranks)) * latency + size / bandwidth)


def all_reduce_seconds(size: float, ranks: int, latency: float, bandwidth: float) -> float:
    """Returns how long the sum over the ranks takes by whatever is faster."""
    if ranks == 1:
        return 0.0
    return START + min(one(size, ranks, latency, bandwidth) for one in (ring_seconds, tree_seconds))


def overlapped_seconds(
    backward: Sequence[float], sizes: Sequence[int], buckets: Sequence[int], reduce: Callable[[int], float]
) -> float:
    """Returns the time from the start of the backward pass until all gradients are summed up.

    Args:
        backward: how long each layer takes, in the order of the backward pass: the last layer first.
        sizes: of their gradients, in the same order.
        buckets: how many layers each bucket has, in that order. A bucket is summed up as soon as its gradients are
            there and the bucket before it is done.
        reduce: how long a bucket of some size takes.
    """
    computed, done, end = [*accumulate(backward)], 0.0, 0
    for count in buckets:
        begin, end = end, end + count
        done = max(done, computed[end - 1]) + reduce(sum(sizes[begin:end]))
    return max(done, computed[-1])


def choose_buckets(backward: Sequence[float], sizes: Sequence[int], reduce: Callable[[int], float]) -> list[int]:
    """Returns how many layers each bucket has, in the order of the backward pass, so that all is summed up soonest; one
    bucket where more are not WORTH it. The arguments are those of `overlapped_seconds`."""
    computed = [*accumulate(backward)]
    best: list[tuple[float, list[int]]] = [(0.0, [])]  # of the first layers: when they are done, and by which buckets
    for end in range(1, len(sizes) + 1):
        ways = [
            (max(done, computed[end - 1]) + reduce(sum(sizes[begin:end])), [*buckets, end - begin])
            for begin, (done, buckets) in enumerate(best)
        ]
        best.append(min(ways, key=lambda way: (way[0], len(way[1]))))
    seconds, buckets = best[-1]
    whole = [len(sizes)]
    return buckets if seconds < WORTH * overlapped_seconds(backward, sizes, whole, reduce) else whole
