"""Periodic embeddings of numbers, in arrays (..., numbers, frequencies, rows): NumPy's loops go along the rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Array, Calls, call
from gpu_backprop.backend.numpy_ops.blocks import in_blocks
from gpu_backprop.backend.numpy_ops.scratch import Scratch

TURN = 2 * math.pi


def periodic(device: Device, x: Array, weight: Array, bias: Array, y: Array) -> Calls:
    numbers, frequencies, width = weight.shape[-3:]

    def formula(work: Scratch, y: Array, x: Array, weight: Array, bias: Array) -> Calls:
        u = work.array((*y.shape[:-2], frequencies, y.shape[-2]), y.dtype)
        e = work.array((*y.shape[:-2], width - 1, y.shape[-2]), y.dtype, 1)
        yield from _angles(work, x, weight, bias, u)
        yield call(np.cos, u, out=u)
        yield partial(np.matmul, _swap(weight[..., 1:]), u, e)
        yield call(np.add, e, bias[..., frequencies:, None], out=e)
        yield partial(np.copyto, y[..., :-1], _swap(e))
        yield partial(np.copyto, y[..., -1], x)

    yield from _of_numbers(device, formula, x, weight, bias, y)
    yield partial(np.copyto, y[..., numbers * width :], x[..., numbers:])


def periodic_gradient(
    device: Device, x: Array, weight: Array, bias: Array, grad_y: Array, grad_weight: Array, grad_bias: Array
) -> Calls:
    frequencies, width = weight.shape[-2:]

    def formula(
        work: Scratch, grad_y: Array, x: Array, weight: Array, bias: Array, grad_weight: Array, grad_bias: Array
    ) -> Calls:
        lead, rows = grad_y.shape[:-2], grad_y.shape[-2]
        u, sine, delta = (work.array((*lead, frequencies, rows), grad_y.dtype, slot) for slot in range(3))
        g, row = work.array((*lead, width - 1, rows), grad_y.dtype, 3), work.array((*lead, rows), grad_y.dtype, 4)
        yield partial(np.copyto, g, _swap(grad_y[..., :-1]))
        yield partial(np.copyto, row, x)
        yield from _angles(work, x, weight, bias, u)
        yield call(np.sin, u, out=sine)
        yield call(np.cos, u, out=u)
        yield partial(np.matmul, u, _swap(g), grad_weight[..., 1:])
        yield partial(np.add.reduce, g, -1, None, grad_bias[..., frequencies:])
        yield partial(np.matmul, weight[..., 1:], g, delta)
        yield call(np.multiply, delta, sine, out=delta)
        yield call(np.negative, delta, out=delta)
        yield partial(np.add.reduce, delta, -1, None, grad_bias[..., :frequencies])
        yield partial(np.matmul, delta, row[..., None], grad_weight[..., :1])
        yield call(np.multiply, grad_weight[..., 0], TURN, out=grad_weight[..., 0])

    yield from _of_numbers(device, formula, x, weight, bias, grad_y, grad_weight, grad_bias)


def periodic_gradient_x(device: Device, x: Array, weight: Array, bias: Array, grad_y: Array, grad_x: Array) -> Calls:
    numbers, frequencies, width = weight.shape[-3:]

    def formula(work: Scratch, grad_y: Array, x: Array, weight: Array, bias: Array, grad_x: Array) -> Calls:
        lead, rows = grad_y.shape[:-2], grad_y.shape[-2]
        sine, delta = (work.array((*lead, frequencies, rows), grad_y.dtype, slot) for slot in range(2))
        g, sums = work.array((*lead, width - 1, rows), grad_y.dtype, 2), work.array((*lead, 1, rows), grad_y.dtype, 3)
        yield partial(np.copyto, g, _swap(grad_y[..., :-1]))
        yield from _angles(work, x, weight, bias, sine)
        yield call(np.sin, sine, out=sine)
        yield partial(np.matmul, weight[..., 1:], g, delta)
        yield call(np.multiply, delta, sine, out=delta)
        yield partial(np.matmul, _swap(weight[..., :1]), delta, sums)
        yield call(np.multiply, sums, -TURN, out=sums)
        yield call(np.add, sums[..., 0, :], grad_y[..., -1], out=grad_x)

    yield from _of_numbers(device, formula, x, weight, bias, grad_y, _swap(grad_x[..., :numbers]))
    yield partial(np.copyto, grad_x[..., numbers:], grad_y[..., numbers * width :])


def _of_numbers(
    device: Device, formula: Callable[..., Calls], x: Array, weight: Array, bias: Array, y: Array, *others: Array
) -> Calls:
    """The calls of formula(work, y, x, weight, bias, *others) for some numbers at a time: y as (..., numbers, rows,
    1 + units), x as (..., numbers, rows), without an axis of models of length 1 where they share it."""
    numbers, _, width = weight.shape[-3:]
    of_numbers = y[..., : numbers * width].reshape(*y.shape[:-1], numbers, width).swapaxes(-2, -3)
    x = _swap(x[..., :numbers])
    x = x if x.ndim == of_numbers.ndim - 1 else x[None]
    yield from in_blocks(device, formula, of_numbers, x, weight, bias, *others, axes=of_numbers.ndim - 2)


def _angles(work: Scratch, x: Array, weight: Array, bias: Array, u: Array) -> Calls:
    """u = 2π·w·x + b."""
    w = work.array(weight.shape[:-1], weight.dtype, 5)
    yield call(np.multiply, weight[..., 0], TURN, out=w)
    yield call(np.multiply, x[..., None, :], w[..., None], out=u)
    yield call(np.add, u, bias[..., : w.shape[-1], None], out=u)


def _swap(a: Array) -> Array:
    """A view with the last two axes swapped."""
    return a.swapaxes(-1, -2)
