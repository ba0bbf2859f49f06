"""Losses: value, gradient, weights and the count of right answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

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
    device: Device, weights: Array, loss_scale: Array | None, counted: Array | None, factor: Array,
    scales: Array | None, total: Array,
) -> Calls:  # fmt: skip
    weight_sum = np.empty(weights.shape[:-1])
    yield partial(np.add.reduce, weights, -1, np.float64, weight_sum)
    yield call(np.not_equal, weight_sum, 0.0, out=factor, casting="unsafe")
    if counted is not None:
        yield call(np.multiply, factor, counted, out=factor)
    if scales is not None:
        empty = np.empty(weight_sum.shape, np.bool_)
        yield call(np.equal, weight_sum, 0.0, out=empty)
        yield call(np.add, weight_sum, empty, out=scales)
        yield call(np.divide, 1.0 if loss_scale is None else loss_scale, scales, out=scales)
    yield call(np.add, total[..., WEIGHT], weight_sum, out=total[..., WEIGHT])


def loss_gradient(
    device: Device, y: Array, target: Array, weights: Array | None, loss: LossFormula, numbers: Array, scale: float,
    scales: Array | None, grad_y: Array | None, total: Array,
) -> Calls:  # fmt: skip
    outputs = y.shape[-1]

    def formula(
        work: Scratch, y: Array, target: Array, factor: Array | float, grad_y: Array | None, e: Array,
        right: Array | None, rest: Array | None, even: Array | None, *own: Array,
    ) -> Calls:  # fmt: skip
        labels = Labels(device, target, y) if target.ndim < y.ndim else None
        smooth = target
        if labels is not None:
            smooth = work.full(DENSE)
            yield from labels.spread(smooth)
        if rest is not None and even is not None:
            dense, smooth = smooth, work.full(DENSE)
            yield call(np.multiply, dense, rest, out=smooth)
            yield call(np.add, smooth, even, out=smooth)
        yield from loss.numpy(y, smooth, grad_y, e, work, *own)
        if loss.mean_over_outputs:
            yield call(np.multiply, e, 1 / outputs, out=e)
        if grad_y is not None:
            yield from _scaled(grad_y, factor)
        if labels is not None:
            yield labels.mark_invalid(e, grad_y)
        yield from count_correct(work, y, target, loss.accuracy, 0.5, right)

    share = scale / outputs if loss.mean_over_outputs else scale
    return _by_rows(device, formula, y, None, target, weights, loss, numbers, share, scales, grad_y, total)


def softmax_cross_entropy(
    device: Device, z: Array, bias: Array | None, target: Array, weights: Array | None, loss: LossFormula,
    numbers: Array, scale: float, scales: Array | None, grad_z: Array | None, total: Array,
) -> Calls:  # fmt: skip

    def formula(
        work: Scratch, z: Array, target: Array, factor: Array | float, grad_z: Array | None, e: Array,
        right: Array | None, rest: Array | None, even: Array | None, *_: Array,
    ) -> Calls:  # fmt: skip
        labels = Labels(device, target, z) if target.ndim < z.ndim else None
        best, start = np.empty(z.shape[:-1], np.intp), places(z)
        top, low = work.rows(0), work.rows(1)
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
        if rest is not None and even is not None:  # Σ y*·z with y* smoothed
            sharp = np.empty(even.shape, np.bool_)
            yield row_sum(z, top)
            yield call(np.equal, even, 0.0, out=sharp)
            yield partial(np.copyto, top, 0, where=sharp)  # a member without smoothing may have a z of −∞
            yield call(np.multiply, top, even, out=top)
            yield call(np.multiply, low, rest, out=low)
            yield call(np.add, low, top, out=low)
        p = z if grad_z is None else grad_z
        yield call(np.exp, z, out=p)
        yield row_sum(p, e)
        if grad_z is not None:  # normalise and scale in one pass
            yield call(np.divide, factor, e, out=top)
            yield from broadcast(np.multiply, p, top, grad_z, work)
            yield from _subtract_target(work, grad_z, labels, target, factor, rest, even)
        yield call(np.log, e, out=e)
        yield call(np.subtract, e, low, out=e)
        if labels is not None:
            yield labels.mark_invalid(e, grad_z)

    return _by_rows(device, formula, z, bias, target, weights, loss, numbers, scale, scales, grad_z, total)


def _subtract_target(
    work: Scratch, grad_z: Array, labels: Labels | None, target: Array, factor: Array | float, rest: Array | None,
    even: Array | None,
) -> Calls:  # fmt: skip
    """grad_z −= factor·y*, where y* is smoothed if there is a rest."""
    if labels is not None:
        yield from labels.subtract(grad_z, factor, 1.0 if rest is None else rest)
    else:
        product = work.full()
        yield call(np.multiply, target, factor, out=product)
        if rest is not None:
            yield call(np.multiply, product, rest, out=product)
        yield call(np.subtract, grad_z, product, out=grad_z)
    if even is not None:
        share = work.rows(2)
        yield partial(np.copyto, share, factor)
        yield call(np.multiply, share, even, out=share)
        yield from broadcast(np.subtract, grad_z, share, grad_z, work)


def sigmoid_cross_entropy(
    device: Device, z: Array, bias: Array | None, target: Array, weights: Array | None, loss: LossFormula,
    numbers: Array, scale: float, scales: Array | None, grad_z: Array | None, total: Array,
) -> Calls:  # fmt: skip

    def formula(
        work: Scratch, z: Array, target: Array, factor: Array | float, grad_z: Array | None, e: Array,
        right: Array | None, *_: Array | None,
    ) -> Calls:  # fmt: skip
        terms, part = work.full(0), work.full(1)
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
            yield from _scaled(grad_z, factor)

    return _by_rows(device, formula, z, bias, target, weights, loss, numbers, scale, scales, grad_z, total)


def softmax_focal(
    device: Device, z: Array, bias: Array | None, target: Array, weights: Array | None, loss: LossFormula,
    numbers: Array, scale: float, scales: Array | None, grad_z: Array | None, total: Array,
) -> Calls:  # fmt: skip
    """With l = −log y: 1 − y = 1 − e⁻ˡ, and y/(1 − y) = 1/(eˡ − 1), so that nothing is lost where y is near 0 or 1."""

    def formula(
        work: Scratch, z: Array, target: Array, factor: Array | float, grad_z: Array | None, e: Array,
        right: Array | None, rest: Array | None, even: Array | None, gamma: Array, *_: Array,
    ) -> Calls:  # fmt: skip
        labels = Labels(device, target, z) if target.ndim < z.ndim else None
        top, absent, certain = work.rows(0), work.mask(0), work.mask(1)
        loss_of, power, ratio, p = (work.full(k) for k in range(4))
        yield from largest(z, np.empty(z.shape[:-1], np.intp), target, right)
        dense = target
        if labels is not None:
            dense = work.full(DENSE)
            yield from labels.spread(dense)
        yield call(np.equal, dense, 0.0, out=absent)
        yield partial(np.maximum.reduce, z, -1, None, top, True)
        yield from broadcast(np.subtract, z, top, z, work)
        yield call(np.exp, z, out=p)
        yield row_sum(p, top)
        yield from broadcast(np.divide, p, top, p, work)
        yield call(np.log, top, out=top)
        yield from broadcast(np.subtract, z, top, z, work)
        yield call(np.negative, z, out=loss_of)
        yield partial(np.copyto, loss_of, 0, where=absent)  # what may be infinite, and does not count
        yield call(np.negative, loss_of, out=power)
        yield call(np.expm1, power, out=power)
        yield call(np.negative, power, out=power)
        yield call(np.maximum, power, float(np.finfo(z.dtype).tiny), out=power)
        yield call(np.log, power, out=power)
        yield call(np.multiply, power, gamma, out=power)
        yield call(np.exp, power, out=power)
        yield call(np.multiply, power, dense, out=power)
        yield call(np.multiply, power, loss_of, out=ratio)
        yield row_sum(ratio, e)
        if grad_z is not None:
            yield call(np.equal, loss_of, 0.0, out=certain)
            yield call(np.minimum, loss_of, 1000.0, out=loss_of)  # where the quotient is 0, and not ∞/∞
            yield call(np.expm1, loss_of, out=ratio)
            yield call(np.divide, loss_of, ratio, out=ratio)
            yield partial(np.copyto, ratio, 1, where=certain)
            yield call(np.multiply, ratio, gamma, out=ratio)
            yield call(np.add, ratio, 1.0, out=ratio)
            yield call(np.multiply, ratio, power, out=ratio)  # −g
            yield row_sum(ratio, top)
            yield from broadcast(np.multiply, p, top, p, work)
            yield call(np.subtract, p, ratio, out=grad_z)
            yield from _scaled(grad_z, factor)
        if labels is not None:
            yield labels.mark_invalid(e, grad_z)

    return _by_rows(device, formula, z, bias, target, weights, loss, numbers, scale, scales, grad_z, total)


def _by_rows(
    device: Device, formula: Callable[..., Calls], y: Array, bias: Array | None, target: Array, weights: Array | None,
    loss: LossFormula, numbers: Array, scale: float, scales: Array | None, gradient: Array | None, total: Array,
) -> Calls:  # fmt: skip
    """The calls that all losses share, around formula(work, y + bias, target, factor, gradient, e, right, rest, even,
    *own numbers), which fills e of each row, and right, and the gradient where it is asked for. A target is smoothed,
    y* ← rest·y* + even, unless these are None."""
    sums = LossSums(device, y, loss, total)
    factor, weighing = _row_factor(device, sums.e, weights, scale, scales)
    if gradient is not None:
        yield from weighing
    by_name = np.moveaxis(numbers, -1, 0)[(..., None, None) if numbers.ndim > 1 else ...]  # NumPy is fast with 0 axes
    own = device.empty(by_name[1:].shape, y.dtype)
    if loss.numbers:
        yield partial(np.copyto, own, by_name[1:], "same_kind")

    def block(work: Scratch, y: Array, row: Array | None, *others: Any) -> Calls:
        if row is not None:
            yield from broadcast(np.add, y, row, y, work)
        yield from formula(work, y, *others)

    def calls(*smoothing: Array | None) -> Calls:
        row = None if bias is None else as_row(bias)
        each = (own[k, ...] for k in range(len(own)))
        return in_blocks(device, block, y, row, target, factor, gradient, sums.e, sums.right, *smoothing, *each)

    if loss.smooths:
        yield _smoothed_or_not(device, by_name[0, ...], y, calls)
    else:
        yield from calls(None, None)
    yield from sums.add(weights)


def _smoothed_or_not(device: Device, share: Array, y: Array, calls: Callable[..., Calls]) -> Call:
    """calls(rest, even), bound as one; a run in which no share is other than 0 takes those of calls(None, None)."""
    exact = np.empty((2, *share.shape))
    both = device.empty(exact.shape, y.dtype)
    plain = tuple(calls(None, None))
    smoothed: tuple[Call, ...] = (
        call(np.subtract, 1.0, share, out=exact[0, ...]),
        call(np.divide, share, float(y.shape[-1]), out=exact[1, ...]),
        partial(np.copyto, both, exact, "same_kind"),
        *calls(both[0, ...], both[1, ...]),
    )

    def run() -> None:
        for one in smoothed if np.count_nonzero(share) else plain:
            one()

    return run


def _scaled(gradient: Array, factor: Array | float) -> Calls:
    if not (isinstance(factor, float) and factor == 1.0):
        yield call(np.multiply, gradient, factor, out=gradient)


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
