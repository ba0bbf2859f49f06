"""Losses: value, gradient, weights and the count of right answers."""

from __future__ import annotations

from functools import partial

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import WEIGHT, Array, Call, Calls, LossFormula, call, row_sum
from gpu_backprop.backend.numpy_ops.blocks import in_blocks
from gpu_backprop.backend.numpy_ops.labels import Labels, places
from gpu_backprop.backend.numpy_ops.loss_sums import LossSums, count_correct, largest
from gpu_backprop.backend.numpy_ops.scratch import Scratch, as_row, broadcast

DENSE = 7
"""The slot of scratch memory for one-hot rows: the formulas of losses use lower ones."""


def normalize_weights(
    device: Device, weights: Array, loss_scale: Array | None, factor: Array, scales: Array | None, total: Array
) -> Calls:
    weight_sum = np.empty(weights.shape[:-1])
    yield partial(np.add.reduce, weights, -1, np.float64, weight_sum)
    yield call(np.not_equal, weight_sum, 0.0, out=factor, casting="unsafe")
    if scales is not None:
        empty = np.empty(weight_sum.shape, np.bool_)
        yield call(np.equal, weight_sum, 0.0, out=empty)
        yield call(np.add, weight_sum, empty, out=scales)
        yield call(np.divide, 1.0 if loss_scale is None else loss_scale, scales, out=scales)
    yield call(np.add, total[..., WEIGHT], weight_sum, out=total[..., WEIGHT])


def loss_gradient(
    device: Device, y: Array, target: Array, weights: Array | None, loss: LossFormula, scale: float,
    scales: Array | None, grad_y: Array | None, total: Array,
) -> Calls:  # fmt: skip
    sums, outputs = LossSums(device, y, loss, total), y.shape[-1]
    factor, weighing = _row_factor(
        device, sums.e, weights, scale / outputs if loss.mean_over_outputs else scale, scales
    )

    def formula(
        work: Scratch, y: Array, target: Array, factor: Array | float, grad_y: Array | None, e: Array,
        right: Array | None,
    ) -> Calls:  # fmt: skip
        labels = Labels(device, target, y) if target.ndim < y.ndim else None
        smooth = target
        if labels is not None:
            smooth = work.full(DENSE)
            yield from labels.spread(smooth)
        if loss.smoothing:
            dense, smooth = smooth, work.full(DENSE)
            yield call(np.multiply, dense, 1 - loss.smoothing, out=smooth)
            yield call(np.add, smooth, loss.smoothing / outputs, out=smooth)
        yield from loss.numpy(y, smooth, grad_y, e, work)
        if loss.mean_over_outputs:
            yield call(np.multiply, e, 1 / outputs, out=e)
        if grad_y is not None and not (isinstance(factor, float) and factor == 1.0):
            yield call(np.multiply, grad_y, factor, out=grad_y)
        if labels is not None:
            yield labels.mark_invalid(e, grad_y)
        yield from count_correct(work, y, target, loss.accuracy, 0.5, right)

    if grad_y is not None:
        yield from weighing
    yield from in_blocks(device, formula, y, target, factor, grad_y, sums.e, sums.right)
    yield from sums.add(weights)


def softmax_cross_entropy(
    device: Device, z: Array, bias: Array | None, target: Array, weights: Array | None, loss: LossFormula,
    scale: float, scales: Array | None, grad_z: Array | None, total: Array,
) -> Calls:  # fmt: skip
    sums, outputs, smoothing = LossSums(device, z, loss, total), z.shape[-1], loss.smoothing
    factor, weighing = _row_factor(device, sums.e, weights, scale, scales)

    def formula(
        work: Scratch, z: Array, bias: Array | None, target: Array, factor: Array | float, grad_z: Array | None,
        e: Array, right: Array | None,
    ) -> Calls:  # fmt: skip
        labels = Labels(device, target, z) if target.ndim < z.ndim else None
        best, start = np.empty(z.shape[:-1], np.intp), places(z)
        top, low = work.rows(0), work.rows(1)
        if bias is not None:
            yield from broadcast(np.add, z, bias, z, work)
        yield from largest(z, best, target, right)
        yield call(np.add, start, best, out=best)  # to take them is faster than maximum.reduce
        yield partial(z.reshape(-1).take, best, None, top[..., 0], "clip")
        yield from broadcast(np.subtract, z, top, z, work)
        if labels is not None:
            yield from labels.find()
            yield labels.take(z, low)
        else:
            product = work.full()
            yield call(np.multiply, z, target, out=product)
            yield row_sum(product, low)
        if smoothing:  # Σ y*·z with y* smoothed
            yield row_sum(z, top)
            yield call(np.multiply, top, smoothing / outputs, out=top)
            yield call(np.multiply, low, 1 - smoothing, out=low)
            yield call(np.add, low, top, out=low)
        p = z if grad_z is None else grad_z
        yield call(np.exp, z, out=p)
        yield row_sum(p, e)
        if grad_z is not None:  # normalise and scale in one pass
            yield call(np.divide, factor, e, out=top)
            yield from broadcast(np.multiply, p, top, grad_z, work)
            yield from _subtract_target(work, grad_z, labels, target, factor, smoothing)
        yield call(np.log, e, out=e)
        yield call(np.subtract, e, low, out=e)
        if labels is not None:
            yield labels.mark_invalid(e, grad_z)

    if grad_z is not None:
        yield from weighing
    row = None if bias is None else as_row(bias)
    yield from in_blocks(device, formula, z, row, target, factor, grad_z, sums.e, sums.right)
    yield from sums.add(weights)


def _subtract_target(
    work: Scratch, grad_z: Array, labels: Labels | None, target: Array, factor: Array | float, smoothing: float
) -> Calls:
    """grad_z −= factor·y*, where y* is smoothed."""
    if labels is not None:
        yield from labels.subtract(grad_z, factor, 1 - smoothing)
    else:
        product = work.full()
        yield call(np.multiply, target, factor, out=product)
        if smoothing:
            yield call(np.multiply, product, 1 - smoothing, out=product)
        yield call(np.subtract, grad_z, product, out=grad_z)
    if smoothing:
        share = work.rows(2)
        yield partial(np.copyto, share, factor)
        yield call(np.multiply, share, smoothing / grad_z.shape[-1], out=share)
        yield from broadcast(np.subtract, grad_z, share, grad_z, work)


def sigmoid_cross_entropy(
    device: Device, z: Array, bias: Array | None, target: Array, weights: Array | None, loss: LossFormula,
    scale: float, scales: Array | None, grad_z: Array | None, total: Array,
) -> Calls:  # fmt: skip
    sums = LossSums(device, z, loss, total)
    factor, weighing = _row_factor(device, sums.e, weights, scale, scales)

    def formula(
        work: Scratch, z: Array, bias: Array | None, target: Array, factor: Array | float, grad_z: Array | None,
        e: Array, right: Array | None,
    ) -> Calls:  # fmt: skip
        terms, part = work.full(0), work.full(1)
        if bias is not None:
            yield from broadcast(np.add, z, bias, z, work)
        yield call(np.absolute, z, out=terms)
        yield call(np.negative, terms, out=terms)
        yield call(np.exp, terms, out=terms)
        yield call(np.log1p, terms, out=terms)
        yield call(np.maximum, z, work.zeros(), out=part)
        yield call(np.add, terms, part, out=terms)
        yield call(np.multiply, z, target, out=part)
        yield call(np.subtract, terms, part, out=terms)
        yield row_sum(terms, e)
        yield from count_correct(work, z, target, loss.accuracy, 0.0, right)
        if grad_z is not None:
            yield call(np.negative, z, out=grad_z)
            yield call(np.exp, grad_z, out=grad_z)
            yield call(np.add, grad_z, 1.0, out=grad_z)
            yield call(np.reciprocal, grad_z, out=grad_z)
            yield call(np.subtract, grad_z, target, out=grad_z)
            if not (isinstance(factor, float) and factor == 1.0):
                yield call(np.multiply, grad_z, factor, out=grad_z)

    if grad_z is not None:
        yield from weighing
    row = None if bias is None else as_row(bias)
    yield from in_blocks(device, formula, z, row, target, factor, grad_z, sums.e, sums.right)
    yield from sums.add(weights)


def _row_factor(
    device: Device, like: Array, weights: Array | None, scale: float, scales: Array | None
) -> tuple[Array | float, list[Call]]:
    """scale·scales·w: a number where there is neither an array nor weights, else an array that fits (..., rows, 1), and
    the calls that fill it."""
    if scales is None:
        if weights is None:
            return scale, []
        factor = device.empty(like.shape, device.master)
        return factor, [call(np.multiply, weights[..., None], scale, out=factor)]
    factor = device.empty((*scales.shape, 1, 1), device.master)
    calls: list[Call] = [partial(np.copyto, factor, scales[..., None, None], "same_kind")]
    if weights is not None:
        batch, factor = factor, device.empty(like.shape, device.master)
        calls.append(call(np.multiply, weights[..., None], batch, out=factor))
    if scale != 1.0:
        calls.append(call(np.multiply, factor, scale, out=factor))
    return factor, calls


def residual_sums(device: Device, y: Array, target: Array, weights: Array | None, sums: Array) -> Calls:
    residual, part = device.work(y.shape, y.dtype), np.empty(sums[..., 0, :].shape)
    for magnitude, column in ((np.absolute, sums[..., 0, :]), (np.square, sums[..., 1, :])):
        yield call(np.subtract, y, target, out=residual)
        yield call(magnitude, residual, out=residual)
        if weights is not None:
            yield call(np.multiply, residual, weights[..., None], out=residual)
        yield partial(np.add.reduce, residual, -2, np.float64, part)
        yield call(np.add, column, part, out=column)
