"""One operation over the flat buffers. Where gate is 0 a step changes nothing, not even the step number."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, ParamSpec

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Array, Call, Calls, call
from gpu_backprop.backend.numpy_ops.blocks import in_blocks
from gpu_backprop.backend.numpy_ops.scratch import Scratch

P = ParamSpec("P")

FAR = 1e-12
"""Of the largest number: squares below it do not add up to it in any number of steps that somebody waits for."""


def _coefficients(
    device: Device, like: Array, hyper: Array, count: int, of: Callable[..., Any]
) -> tuple[Call, list[Array]]:
    """A call that counts the step and turns hyper into coefficients in the working dtype, and these as arrays."""
    values = device.empty((*hyper.shape[:-1], count), like.dtype)

    def one() -> None:
        step, *settings = hyper.tolist()
        hyper[0] = step + 1
        values[:] = of(step + 1, *settings)

    def each() -> None:
        hyper[:, 0] += 1
        for k, value in enumerate(of(*hyper.T)):
            values[:, k] = value

    if hyper.ndim == 1:
        return one, [values[k, ...] for k in range(count)]  # a number takes half the time of an array with one
    return each, [values[:, k : k + 1] for k in range(count)]


def _gated(step: Callable[P, Calls]) -> Callable[P, Calls]:
    """Makes an optimizer of its step: where gate is 0, none of its calls is done, for 0·∞ would not be 0."""
    signature = inspect.signature(step)
    place = list(signature.parameters).index("gate")

    @wraps(step)
    def bind(*args: P.args, **options: P.kwargs) -> Calls:
        given = signature.bind(*args, **options).args
        gate, together = given[place], tuple(step(*args, **options))
        if gate is None:
            yield from together
            return

        def part(model: int) -> tuple[Call, ...]:
            bound: Callable[..., Calls] = step
            return tuple(bound(*(a[model : model + 1] if isinstance(a, np.ndarray) else a for a in given)))

        alone = [part(model) for model in range(gate.size)] if gate.ndim else []

        def run() -> None:
            for calls in [together] if gate.all() else [alone[model] for model in np.flatnonzero(gate)]:
                for one in calls:
                    one()

        yield run

    return bind


@_gated
def sgd(
    device: Device, w: Array, g: Array, velocity: Array | None, nesterov: bool, hyper: Array, gate: Array | None,
    half_parameters: Array | None,
) -> Calls:  # fmt: skip
    tick, (rate, mu) = _coefficients(device, w, hyper, 2, lambda step, rate, mu: (rate, mu))

    def formula(
        work: Scratch, w: Array, g: Array, velocity: Array | None, rate: Array, mu: Array, half_parameters: Array | None
    ) -> Calls:
        moving, change = g, work.full()
        if velocity is not None:
            yield call(np.multiply, velocity, mu, out=velocity)
            yield call(np.add, velocity, g, out=velocity)
            moving = velocity
            if nesterov:
                yield call(np.multiply, velocity, mu, out=change)
                yield call(np.add, change, g, out=change)
                moving = change
        yield call(np.multiply, moving, rate, out=change)
        yield from _moved(w, change, half_parameters)

    yield tick
    yield from in_blocks(device, formula, w, g, velocity, rate, mu, half_parameters, axes=w.ndim)


@_gated
def rmsprop(
    device: Device, w: Array, g: Array, v: Array, hyper: Array, gate: Array | None, half_parameters: Array | None
) -> Calls:
    tick, (rate, rho, rest, epsilon) = _coefficients(
        device, w, hyper, 4, lambda step, rate, rho, epsilon: (rate, rho, 1 - rho, epsilon)
    )

    def formula(
        work: Scratch, w: Array, g: Array, v: Array, rate: Array, rho: Array, rest: Array, epsilon: Array,
        half_parameters: Array | None,
    ) -> Calls:  # fmt: skip
        change = work.full(0)

        def update(grad: Array) -> Calls:
            yield call(np.multiply, change, rest, out=change)
            yield call(np.multiply, v, rho, out=v)
            yield call(np.add, v, change, out=v)
            yield from _divided_step(w, grad, v, rate, epsilon, change, half_parameters)

        yield _after_squares(update, g, np.asarray(largest_gradient(g.dtype), g.dtype), change, work.full(1))

    yield tick
    yield from in_blocks(device, formula, w, g, v, rate, rho, rest, epsilon, half_parameters, axes=w.ndim)


@_gated
def adagrad(
    device: Device, w: Array, g: Array, v: Array, hyper: Array, gate: Array | None, half_parameters: Array | None
) -> Calls:
    tick, (rate, epsilon) = _coefficients(device, w, hyper, 2, lambda step, rate, epsilon: (rate, epsilon))

    def formula(
        work: Scratch, w: Array, g: Array, v: Array, rate: Array, epsilon: Array, half_parameters: Array | None
    ) -> Calls:
        change, largest = work.full(0), np.finfo(v.dtype).max

        def update(grad: Array) -> Calls:
            yield call(np.add, v, change, out=v)
            yield call(np.minimum, v, largest, out=v)
            yield from _divided_step(w, grad, v, rate, epsilon, change, half_parameters)

        yield _after_squares(update, g, np.asarray(largest_gradient(g.dtype), g.dtype), change, work.full(1))

    yield tick
    yield from in_blocks(device, formula, w, g, v, rate, epsilon, half_parameters, axes=w.ndim)


@_gated
def adam(
    device: Device, w: Array, g: Array, m: Array, v: Array, decay: bool, hyper: Array, gate: Array | None,
    half_parameters: Array | None,
) -> Calls:  # fmt: skip
    """m and v are kept without their factors (1 − β₁) and (1 − β₂), which go with the bias corrections into two
    coefficients: m ← β₁m + g, v ← β₂v + g², and with k² = (1 − β₂)/(1 − β₂ᵗ)
    η·m̂/(√v̂ + ε) = η(1 − β₁)/((1 − β₁ᵗ)k) · m/(√v + ε/k): three passes over memory less.
    """
    largest = largest_gradient(w.dtype)

    def of(step: Any, rate: Any, b1: Any, b2: Any, epsilon: Any, decay: Any) -> tuple[Any, ...]:
        k = ((1 - b2) / (1 - b2**step)) ** 0.5
        most = largest * (1 - b2) ** 0.5  # v is a sum of squares with weights up to 1/(1 − β₂) in all
        return b1, b2, epsilon / k, rate * (1 - b1) / (1 - b1**step) / k, 1 - rate * decay, most

    def formula(
        work: Scratch, w: Array, g: Array, m: Array, v: Array, b1: Array, b2: Array, epsilon: Array, rate: Array,
        keep: Array, most: Array, half_parameters: Array | None,
    ) -> Calls:  # fmt: skip
        change = work.full(0)

        def update(grad: Array) -> Calls:
            yield call(np.multiply, m, b1, out=m)
            yield call(np.add, m, grad, out=m)
            yield call(np.multiply, v, b2, out=v)
            yield call(np.add, v, change, out=v)
            if decay:
                yield call(np.multiply, w, keep, out=w)
            yield from _divided_step(w, m, v, rate, epsilon, change, half_parameters)

        yield _after_squares(update, g, most, change, work.full(1))

    tick, coefficients = _coefficients(device, w, hyper, 6, of)
    yield tick
    yield from in_blocks(device, formula, w, g, m, v, *coefficients, half_parameters, axes=w.ndim)


def largest_gradient(dtype: np.dtype[Any]) -> float:
    """Half of the root of the largest number, where optimizers that take squares cut gradients off: those of larger
    ones would add up to infinity, and stop a parameter for ever."""
    return 0.5 * math.sqrt(np.finfo(dtype).max)


def _after_squares(update: Callable[[Array], Calls], g: Array, most: Array, squares: Array, cut: Array) -> Call:
    """update(gradients), bound, which finds their squares. Gradients beyond ±most are cut off in a copy, where infinite
    ones become NaN, which is seen; to look for large ones costs less, and is all that is done where there is none."""
    few = float(np.finfo(g.dtype).max) * FAR
    ordinary = tuple(update(g))
    careful = (
        call(np.negative, most, out=squares),
        call(np.maximum, g, squares, out=cut),
        call(np.minimum, cut, most, out=cut),
        call(np.subtract, g, g, out=squares),
        call(np.add, cut, squares, out=cut),
        call(np.multiply, cut, cut, out=squares),
        *update(cut),
    )

    def run() -> None:
        np.multiply(g, g, squares)
        for one in ordinary if np.maximum.reduce(squares, axis=None, initial=0) <= few else careful:
            one()

    return run


def _divided_step(
    w: Array, g: Array, v: Array, rate: Array, epsilon: Array, change: Array, half_parameters: Array | None
) -> Calls:
    """W ← W − rate·g/(√v + ε)"""
    yield call(np.sqrt, v, out=change)
    yield call(np.add, change, epsilon, out=change)
    yield call(np.divide, g, change, out=change)
    yield call(np.multiply, change, rate, out=change)
    yield from _moved(w, change, half_parameters)


def _moved(w: Array, change: Array, half_parameters: Array | None) -> Calls:
    """W ← W − change, and its copy"""
    yield call(np.subtract, w, change, out=w)
    if half_parameters is not None:
        yield partial(np.copyto, half_parameters, w, "unsafe")
