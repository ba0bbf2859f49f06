"""What is done to whole buffers of parameters or gradients, besides the optimizer's update."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from gpu_backprop.backend.communicator import Communicator
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import SCALE, SKIPPED, STREAK, Array, Calls, call
from gpu_backprop.backend.numpy_ops.blocks import in_blocks
from gpu_backprop.backend.numpy_ops.scratch import Scratch


def all_reduce(device: Device, communicator: Communicator, array: Array) -> Calls:
    yield from communicator.all_reduce(device, array)


def copy(device: Device, source: Array, destination: Array) -> Calls:
    yield partial(np.copyto, destination, source, "unsafe")


def sum_of_squares(device: Device, a: Array, out: Array) -> Calls:
    yield partial(np.einsum, "...i,...i->...", a, a, out=out, dtype=np.float64)  # which needs no room for the squares


def unscale(
    device: Device, g: Array, scaling: Array, counted: Array | None, factor: Array, patience: int, largest: float
) -> Calls:
    finite, good = device.work(g.shape, np.bool_), np.empty(factor.shape, np.bool_)
    scale, streak, skipped = (scaling[..., column] for column in (SCALE, STREAK, SKIPPED))

    def settle() -> None:
        counts = np.not_equal(1.0 if counted is None else counted, 0)
        spoilt, grows = counts & ~good, counts & good & (streak + 1 >= patience)
        factor[...] = np.where(good & counts, 1 / scale, 0)
        scale[spoilt] = np.maximum(scale / 2, 1)[spoilt]
        scale[grows] = np.minimum(scale * 2, largest)[grows]
        streak[...] = np.where(spoilt | grows, 0, streak + counts)
        skipped[...] += spoilt

    yield call(np.isfinite, g, out=finite)
    yield partial(np.logical_and.reduce, finite, -1, None, good)
    yield settle


def clip_factor(device: Device, squares: Array, limit: Array, counted: Array | None, factor: Array) -> Calls:
    def settle() -> None:
        counts = np.asarray(1.0 if counted is None else counted)
        norm = counts * np.sqrt(squares)
        clipped = counts * np.minimum(1, limit / (norm + 1e-6)) + (norm - norm)
        factor[...] = np.where(counts == 0, 0, clipped)

    yield settle


def blend(device: Device, source: Array, numbers: Array, counted: Array | None, destination: Array) -> Calls:
    def bind(destination: Array, source: Array, numbers: Array) -> Calls:
        own = device.empty(numbers.shape, destination.dtype)
        add, pull = (own[k, ...] if own.ndim == 1 else own[:, k : k + 1] for k in range(2))

        def formula(work: Scratch, destination: Array, source: Array, add: Array, pull: Array) -> Calls:
            change = work.full()
            yield call(np.multiply, destination, pull, out=change)
            yield call(np.subtract, source, change, out=change)
            yield call(np.multiply, change, add, out=change)
            yield call(np.add, destination, change, out=destination)

        yield partial(np.copyto, own, numbers)
        yield from in_blocks(device, formula, destination, source, add, pull, axes=destination.ndim)

    yield from _where_counted(counted, bind, destination, source, numbers)


def limit_norms(device: Device, weight: Array, limit: Array, counted: Array | None, half_weight: Array | None) -> Calls:
    def bind(weight: Array, limit: Array, half_weight: Array | None = None) -> Calls:
        norms, factors = (
            np.empty((*limit.shape, weight.shape[-1])),
            device.empty((*limit.shape, 1, weight.shape[-1]), weight.dtype),
        )

        def settle() -> None:
            np.sqrt(norms, norms)
            factors[..., 0, :] = np.minimum(1, limit[..., None] / norms) + (norms - norms)

        yield partial(np.einsum, "...ij,...ij->...j", weight, weight, out=norms, dtype=np.float64)
        yield settle
        yield call(np.multiply, weight, factors, out=weight)
        if half_weight is not None:
            yield partial(np.copyto, half_weight, weight, "unsafe")

    yield from _where_counted(counted, bind, weight, limit, *([] if half_weight is None else [half_weight]))


def _where_counted(counted: Array | None, bind: Callable[..., Calls], *arrays: Array) -> Calls:
    """The calls of bind(*arrays), but nothing for models whose `counted` is 0."""
    everything = tuple(bind(*arrays))
    if counted is None:
        yield from everything
        return
    factors, members = counted, range(counted.size if counted.ndim else 0)
    alone = [tuple(bind(*(array[m : m + 1] for array in arrays))) for m in members]

    def run() -> None:
        for calls in [everything] if factors.all() else [alone[m] for m in np.flatnonzero(factors)]:
            for one in calls:
                one()

    yield run
