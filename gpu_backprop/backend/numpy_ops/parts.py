"""A large product in parts, each worked out by a thread that sleeps while there is nothing to do.

How it is parted depends on the number of threads alone, so the bits are the same however busy the machine is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, partial
from itertools import pairwise

import numpy as np

from gpu_backprop.backend.formula import Array, Call

LARGE = 4e7
"""Flops from which on threads are worth being woken: half a millisecond of one of them."""

FEW = 16
"""Rows for each thread, below which there are fewer threads."""


def in_parts(threads: int, product: Callable[..., object], a: Array, b: Array, out: Array) -> Call:
    """product(a, b, out), bound; its rows are shared by so many threads where it is large."""
    rows, flops = out.shape[-2], 2 * out.size * a.shape[-1]
    count = min(threads, rows // FEW) if flops >= LARGE else 1
    if count <= 1:
        return partial(product, a, b, out)
    cuts = [rows * k // count for k in range(count + 1)]
    cut = [slice(begin, end) for begin, end in pairwise(cuts)]
    return partial(_together, count, *(partial(product, a[..., part, :], b, out[..., part, :]) for part in cut))


def _together(count: int, first: Call, *others: Call) -> None:
    pool = _pool(count)
    try:
        waiting = [pool.submit(_quietly, one) for one in others]
    except RuntimeError:  # Python is about to end, or no thread can be had
        pool.shutdown(cancel_futures=True)
        _pool.cache_clear()
        waiting, first = [], partial(_in_turn, first, *others)
    try:
        first()
    finally:
        wait(waiting)  # after Ctrl-C too: they write
    for one in waiting:
        one.result()


def _in_turn(*calls: Call) -> None:
    for call in calls:
        call()


def _quietly(call: Call) -> None:
    """Ignores what is not finite: the caller has said so, and threads do not inherit it."""
    with np.errstate(all="ignore"):
        call()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1, "gpu_backprop")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # whose child has none of the threads
