"""Losses: value, gradient, weights and the count of right answers.

The gradient has the factor scale·scales: a number (1/B), and where there is an array, float64 (...,), one for each
model. total is float64 (..., 3), see formula.py. A target with one axis less than y holds labels.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import HITS, LOSS, WEIGHT, Array, Call, LossFormula, call
from gpu_backprop.backend.numpy_ops.labels import Labels
from gpu_backprop.backend.numpy_ops.scratch import Bound, Scratch, beside


def weigh(
    device: Device, weights: Array, loss_scale: Array | None, weight_sum: Array, scales: Array | None, total: Array
) -> Bound:
    """weight_sum = Σw, total += Σw, and scales = S/Σw, where S is 1 without a loss_scale (and S where all w are 0, and
    with them all that it scales). All but the weights are float64."""
    yield partial(np.add.reduce, weights, -1, np.float64, weight_sum)
    if scales is not None:
        empty = np.empty(weight_sum.shape, np.bool_)
        yield call(np.equal, weight_sum, 0.0, out=empty)
        yield call(np.add, weight_sum, empty, out=scales)
        yield call(np.divide, 1.0 if loss_scale is None else loss_scale, scales, out=scales)
    yield call(np.add, total[..., WEIGHT], weight_sum, out=total[..., WEIGHT])


def loss_gradient(
    device: Device, y: Array, target: Array, weights: Array | None, loss: LossFormula, scale: float,
    scales: Array | None, grad_y: Array | None, total: Array,
) -> Bound:  # fmt: skip
    """grad_y = scale·scales·w·∂e/∂y, and Σ w·e is added to the total; without grad_y only the latter."""
    e = device.empty((*y.shape[:-1], 1), y.dtype)
    spoil = None
    dense = target
    if target.ndim < y.ndim:
        labels = Labels(device, target, y)
        dense = device.empty(y.shape, y.dtype)
        yield from labels.spread(dense)
        spoil = labels.spoil(e, grad_y)
    smooth = dense
    if loss.smoothing:
        smooth = device.empty(y.shape, y.dtype)
        yield call(np.multiply, dense, 1 - loss.smoothing, out=smooth)
        yield call(np.add, smooth, loss.smoothing / y.shape[-1], out=smooth)
    yield from loss.numpy(y, smooth, grad_y, e, Scratch(device, y))
    if loss.mean_over_outputs:
        yield call(np.multiply, e, 1 / y.shape[-1], out=e)
    if grad_y is not None:
        share = 1 / y.shape[-1] if loss.mean_over_outputs else 1.0
        factor, weighing = _row_factor(device, e, weights, scale * share, scales)
        yield from weighing
        if not isinstance(factor, float) or factor != 1.0:
            yield call(np.multiply, grad_y, factor, out=grad_y)
    if spoil is not None:
        yield spoil
    yield from _add_hits(device, y, target, loss, 0.5, total)
    yield from _add_loss(e, weights, total)


def softmax_cross_entropy(
    device: Device, z: Array, bias: Array | None, target: Array, weights: Array | None, loss: LossFormula,
    scale: float, scales: Array | None, y: Array | None, grad_z: Array | None, total: Array,
) -> Bound:  # fmt: skip
    """y = softmax(z + b), e = log Σ exp z − Σ y*·z, ∇z = scale·scales·w·(y − y*), from z, so that all stay finite.

    z is used up. y and grad_z are optional, and either of them may be z.
    """
    outputs, smoothing = z.shape[-1], loss.smoothing
    top, low, s = (device.empty((*z.shape[:-1], 1), z.dtype) for _ in range(3))
    labels = Labels(device, target, z) if target.ndim < z.ndim else None
    if bias is not None:
        yield call(np.add, z, beside(bias), out=z)
    yield partial(np.maximum.reduce, z, -1, None, top, True)
    yield call(np.subtract, z, top, out=z)
    yield from _add_hits(device, z, target, loss, 0.0, total)
    if labels is not None:
        yield from labels.find()
        yield labels.take(z, low)
    else:
        product = device.work(z.shape, z.dtype)
        yield call(np.multiply, z, target, out=product)
        yield partial(np.add.reduce, product, -1, None, low, True)
    if smoothing:  # Σ y*·z with y* smoothed
        yield partial(np.add.reduce, z, -1, None, top, True)
        yield call(np.multiply, top, smoothing / outputs, out=top)
        yield call(np.multiply, low, 1 - smoothing, out=low)
        yield call(np.add, low, top, out=low)
    p = y if y is not None else grad_z if grad_z is not None else z
    yield call(np.exp, z, out=p)
    yield partial(np.add.reduce, p, -1, None, s, True)
    if y is not None:
        yield call(np.divide, y, s, out=y)
    if grad_z is not None:
        factor, weighing = _row_factor(device, s, weights, scale, scales)
        yield from weighing
        if y is not None:
            yield call(np.multiply, y, factor, out=grad_z)
        else:  # normalise and scale in one pass
            yield call(np.divide, factor, s, out=top)
            yield call(np.multiply, p, top, out=grad_z)
        yield from _subtract_target(device, grad_z, labels, target, factor, smoothing)
    yield call(np.log, s, out=s)
    yield call(np.subtract, s, low, out=s)
    if labels is not None:
        yield labels.spoil(s, grad_z)
    yield from _add_loss(s, weights, total)


def _subtract_target(
    device: Device, grad_z: Array, labels: Labels | None, target: Array, factor: Array | float, smoothing: float
) -> Bound:
    """grad_z −= factor·y*, where y* is smoothed."""
    outputs = grad_z.shape[-1]
    if labels is not None:
        yield from labels.subtract(grad_z, factor, 1 - smoothing)
    else:
        product = device.work(grad_z.shape, grad_z.dtype)
        yield call(np.multiply, target, factor, out=product)
        if smoothing:
            yield call(np.multiply, product, 1 - smoothing, out=product)
        yield call(np.subtract, grad_z, product, out=grad_z)
    if smoothing:
        share = device.empty((*grad_z.shape[:-1], 1), grad_z.dtype)
        yield partial(np.copyto, share, factor)
        yield call(np.multiply, share, smoothing / outputs, out=share)
        yield call(np.subtract, grad_z, share, out=grad_z)


def sigmoid_cross_entropy(
    device: Device, z: Array, bias: Array | None, target: Array, weights: Array | None, loss: LossFormula,
    scale: float, scales: Array | None, y: Array | None, grad_z: Array | None, total: Array,
) -> Bound:  # fmt: skip
    """y = σ(z + b), e = Σ max(z, 0) − z·y* + log1p(e^−|z|), ∇z = scale·scales·w·(y − y*), from z, so that all stay
    finite.

    z is used up. y and grad_z are optional, and either of them may be z.
    """
    e = device.empty((*z.shape[:-1], 1), z.dtype)
    terms, part = device.work(z.shape, z.dtype, 0), device.work(z.shape, z.dtype, 1)
    if bias is not None:
        yield call(np.add, z, beside(bias), out=z)
    yield call(np.absolute, z, out=terms)
    yield call(np.negative, terms, out=terms)
    yield call(np.exp, terms, out=terms)
    yield call(np.log1p, terms, out=terms)
    yield call(np.maximum, z, 0.0, out=part)
    yield call(np.add, terms, part, out=terms)
    yield call(np.multiply, z, target, out=part)
    yield call(np.subtract, terms, part, out=terms)
    yield partial(np.add.reduce, terms, -1, None, e, True)
    yield from _add_hits(device, z, target, loss, 0.0, total)
    p = y if y is not None else grad_z
    if p is not None:
        yield call(np.negative, z, out=p)
        yield call(np.exp, p, out=p)
        yield call(np.add, p, 1.0, out=p)
        yield call(np.reciprocal, p, out=p)
        if grad_z is not None:
            yield call(np.subtract, p, target, out=grad_z)
            factor, weighing = _row_factor(device, e, weights, scale, scales)
            yield from weighing
            if not isinstance(factor, float) or factor != 1.0:
                yield call(np.multiply, grad_z, factor, out=grad_z)
    yield from _add_loss(e, weights, total)


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


def _add_loss(e: Array, weights: Array | None, total: Array) -> Bound:
    """total += Σ w·e, in float64"""
    part = np.empty(total.shape[:-1])
    if weights is not None:
        yield call(np.multiply, e, weights[..., None], out=e)
    yield partial(np.add.reduce, e, (-2, -1), np.float64, part)
    yield call(np.add, total[..., LOSS], part, out=total[..., LOSS])


def _add_hits(device: Device, y: Array, target: Array, loss: LossFormula, half: float, total: Array) -> Bound:
    """total += the number of rows answered rightly; `half` is ½ for y, and 0 where z is given instead."""
    if not loss.hit:
        return
    hit, part = np.empty(y.shape[:-1], np.bool_), np.empty(total.shape[:-1])
    if loss.hit == "largest":
        best = np.empty(y.shape[:-1], np.intp)
        yield partial(np.argmax, y, -1, best)
        truth = target
        if target.ndim == y.ndim:
            truth = np.empty(y.shape[:-1], np.intp)
            yield partial(np.argmax, target, -1, truth)
        yield call(np.equal, best, truth, out=hit)
    else:
        side, truth = device.work(y.shape, np.bool_, 0), device.work(y.shape, np.bool_, 1)
        yield call(np.greater, y, half, out=side)
        yield call(np.greater, target, 0.5, out=truth)
        yield call(np.equal, side, truth, out=side)
        yield partial(np.logical_and.reduce, side, -1, None, hit)
    yield partial(np.add.reduce, hit, -1, np.float64, part)
    yield call(np.add, total[..., HITS], part, out=total[..., HITS])


def residual_sums(device: Device, y: Array, target: Array, weights: Array | None, sums: Array) -> Bound:
    """sums[..., 0, :] += Σ w·|y − y*|, sums[..., 1, :] += Σ w·(y − y*)², one number an output, in float64."""
    residual, part = device.work(y.shape, y.dtype), np.empty(sums[..., 0, :].shape)
    for power, column in enumerate((sums[..., 0, :], sums[..., 1, :])):
        yield call(np.subtract, y, target, out=residual)
        yield (
            call(np.multiply, residual, residual, out=residual) if power else call(np.absolute, residual, out=residual)
        )
        if weights is not None:
            yield call(np.multiply, residual, weights[..., None], out=residual)
        yield partial(np.add.reduce, residual, -2, np.float64, part)
        yield call(np.add, column, part, out=column)
