"""The focal loss (Lin et al. 2017): cross entropy in which what is right already hardly counts.

With p the probability that is given to what is true, e = −(1 − p)^γ·log p. With softmax it is one operation, which
never takes the logarithm of a vanished probability, see `softmax_focal`. With sigmoid e is a formula of z: where
s(z) = log(1 + eᶻ), log σ(z) = −s(−z) and log(1 − σ(z)) = −s(z), so that

    F(z) = −(1 − σ)^γ·log σ = e^(−γ·s(z))·s(−z)        −F′(z) = e^(−γ·s(z))·(γ·σ(z)·s(−z) + σ(−z))

and e = a₁·y*·F(z) + a₀·(1 − y*)·F(−z). docs/derivation.md derives both.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Activation, Array, Call, LossFormula, Work, call, row_sum
from gpu_backprop.backend.operations import Operations
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.layer import Layer
from gpu_backprop.network.loss import Bounds, Loss

Formula = Iterator[Call]
NUMBERS = "gamma", "yes", "no"
"""γ, and the weights a₁ and a₀ of an output that is to be 1 and of one that is to be 0."""


@dataclass(unsafe_hash=True)
class Focal(Loss):
    """e = −Σ y*·(1 − y)^γ·log y for classes; for outputs that are each a yes or no of its own, with sigmoid,
    e = −Σ α·y*·(1 − y)^γ·log y + (1 − α)·(1 − y*)·y^γ·log(1 − y) (Lin et al. 2017, equation 5). With γ = 0 and no α it
    is the cross entropy.

    Args:
        gamma: ≥ 0; the larger, the less counts what is right already; one, or one a member.
        alpha: in (0, 1), the weight of a yes; that of a no is 1 − α. None: both are 1. With sigmoid only: of classes,
            `fit` takes class_weight. One, or one a member.
    """

    gamma: float | Sequence[float] = 2.0
    alpha: float | Sequence[float] | None = None
    name: ClassVar[str] = "focal"
    needs: ClassVar[tuple[str, ...]] = ("softmax", "sigmoid")
    fused: ClassVar[str] = "softmax"
    labels: ClassVar[bool] = True
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 1.0
    bounds: ClassVar[Bounds] = {
        "gamma": ("a finite number ≥ 0", lambda gamma: 0 <= gamma < math.inf),
        "alpha": ("a number in (0, 1)", lambda alpha: 0 < alpha < 1),
    }
    optional: ClassVar[tuple[str, ...]] = ("alpha",)
    operation: ClassVar[Any] = Operations.softmax_focal
    fused_gradient: ClassVar[str] = "g − {y}·Σg"

    def check(self, layer: Layer) -> None:
        super().check(layer)
        if self.alpha is not None and layer.activation.name != "sigmoid":
            raise InputError(
                f"Focal's alpha is for outputs with sigmoid, and the last one, {layer!r}, has {layer.activation.name}. "
                "Give classes their weights by trainer.fit(..., class_weight=...)."
            )

    def suited_to(self, layer: Layer) -> Self:
        suited = copy.copy(super().suited_to(layer))
        vars(suited)["labels"] = layer.activation.name == "softmax"
        return suited

    @property
    def yes(self) -> Array:
        """The weight of an output that is to be 1."""
        return np.asarray(1.0 if self.alpha is None else self.alpha)

    @property
    def no(self) -> Array:
        """The weight of an output that is to be 0."""
        return np.asarray(1.0) if self.alpha is None else np.subtract(1.0, self.alpha)

    @property
    def formula(self) -> LossFormula:
        return OF_Y_SOFTMAX if self.labels else OF_Y_SIGMOID

    def of_z(self, f: Activation) -> LossFormula | None:
        return OF_Z_SIGMOID if f.name == "sigmoid" else None


# Of y, where nothing is fused -----------------------------------------------------------------------------------------


def _side(
    p: Array, rest: Array, log_p: Array, share: Array, e: Array, slope: Array | None, work: Work, gamma: Array
) -> Formula:
    """e = −share·(1 − p)^γ·log p and, where asked for, slope = −∂e/∂p = share·(1 − p)^γ·(1/p − γ·log p/(1 − p)). What
    is given as 1 − p, rest, is used up; work.full(0) and a mask too."""
    power, one = work.full(0), work.mask()
    yield call(np.maximum, rest, float(np.finfo(p.dtype).tiny), out=power)
    yield call(np.log, power, out=power)
    yield call(np.multiply, power, gamma, out=power)
    yield call(np.exp, power, out=power)
    yield call(np.multiply, power, share, out=power)
    if slope is not None:
        yield call(np.equal, rest, 0.0, out=one)
        yield call(np.divide, log_p, rest, out=rest)
        yield partial(np.copyto, rest, -1.0, where=one)
        yield call(np.multiply, rest, gamma, out=rest)
        yield call(np.reciprocal, p, out=slope)
        yield call(np.subtract, slope, rest, out=slope)
        yield call(np.multiply, slope, power, out=slope)
    yield call(np.multiply, power, log_p, out=e)
    yield call(np.negative, e, out=e)


def _of_softmax(
    y: Array, target: Array, grad_y: Array | None, e: Array, work: Work, gamma: Array, yes: Array, no: Array
) -> Formula:
    p, rest, log_p, term = (work.full(k) for k in range(1, 5))
    yield call(np.maximum, y, float(np.finfo(y.dtype).tiny), out=p)
    yield call(np.log, p, out=log_p)
    yield call(np.subtract, 1.0, y, out=rest)
    yield from _side(p, rest, log_p, target, term, grad_y, work, gamma)
    yield row_sum(term, e)
    if grad_y is not None:
        yield call(np.negative, grad_y, out=grad_y)


def _of_sigmoid(
    y: Array, target: Array, grad_y: Array | None, e: Array, work: Work, gamma: Array, yes: Array, no: Array
) -> Formula:
    p, rest, log_p, term, share = (work.full(k) for k in range(1, 6))
    slope = None if grad_y is None else work.full(6)
    tiny, near_1 = float(np.finfo(y.dtype).tiny), float(np.finfo(y.dtype).epsneg) / 2
    other = work.rows()
    yield call(np.maximum, y, tiny, out=p)
    yield call(np.log, p, out=log_p)
    yield call(np.subtract, 1.0, y, out=rest)
    yield call(np.maximum, rest, near_1, out=rest)
    yield call(np.multiply, target, yes, out=share)
    yield from _side(p, rest, log_p, share, term, grad_y, work, gamma)
    yield row_sum(term, e)
    yield call(np.subtract, 1.0, y, out=p)
    yield call(np.maximum, p, near_1, out=p)
    yield call(np.negative, y, out=log_p)
    yield call(np.log1p, log_p, out=log_p)
    yield call(np.maximum, log_p, math.log(near_1), out=log_p)
    yield call(np.maximum, y, tiny, out=rest)
    yield call(np.subtract, 1.0, target, out=share)
    yield call(np.multiply, share, no, out=share)
    yield from _side(p, rest, log_p, share, term, slope, work, gamma)
    yield row_sum(term, other)
    yield call(np.add, e, other, out=e)
    if grad_y is not None and slope is not None:
        yield call(np.subtract, slope, grad_y, out=grad_y)


# Of z, with sigmoid ---------------------------------------------------------------------------------------------------


def _side_of_z(x: Array, share: Array, e: Array, slope: Array | None, work: Work, gamma: Array) -> Formula:
    """e = share·F(x) and, where asked for, slope = −share·F′(x). It uses work.full(0) to work.full(3)."""
    minus, below, power = (work.full(k) for k in range(1, 4))
    yield call(np.negative, x, out=minus)
    yield from _of("softplus", minus, below, work)
    yield from _of("softplus", x, power, work)
    yield call(np.multiply, power, gamma, out=power)
    yield call(np.negative, power, out=power)
    yield call(np.exp, power, out=power)
    yield call(np.multiply, power, share, out=power)
    yield call(np.multiply, power, below, out=e)
    if slope is not None:
        yield from _of("sigmoid", x, slope, work)
        yield call(np.multiply, slope, below, out=slope)
        yield call(np.multiply, slope, gamma, out=slope)
        yield from _of("sigmoid", minus, below, work)
        yield call(np.add, slope, below, out=slope)
        yield call(np.multiply, slope, power, out=slope)


def _of_z(
    z: Array, target: Array, grad_z: Array | None, e: Array, work: Work, gamma: Array, yes: Array, no: Array
) -> Formula:
    share, minus, term = (work.full(k) for k in range(4, 7))
    slope, other = None if grad_z is None else share, work.rows()
    yield call(np.multiply, target, yes, out=share)
    yield from _side_of_z(z, share, term, grad_z, work, gamma)
    yield row_sum(term, e)
    yield call(np.subtract, 1.0, target, out=share)
    yield call(np.multiply, share, no, out=share)
    yield call(np.negative, z, out=minus)
    yield from _side_of_z(minus, share, term, slope, work, gamma)  # which reads share before it writes slope
    yield row_sum(term, other)
    yield call(np.add, e, other, out=e)
    if grad_z is not None and slope is not None:
        yield call(np.subtract, slope, grad_z, out=grad_z)


def _of(name: str, z: Array, y: Array, work: Work) -> Formula:
    """y = f(z); softplus uses work.full(0)"""
    value = ACTIVATIONS[name].numpy_value
    assert value is not None
    yield from value(z, y, work)


# In C++ ---------------------------------------------------------------------------------------------------------------

_P = "(y < tiny<A>() ? tiny<A>() : y)"
_NEAR_1 = "A(sizeof(A) == 4 ? 0x1p-25 : 0x1p-54)"  # as in losses.py
_REST = f"(A(1) - y < {_NEAR_1} ? {_NEAR_1} : A(1) - y)"
_LOG_REST = f"(A(1) - y < {_NEAR_1} ? log({_NEAR_1}) : log1p(-y))"


def _texts(p: str, rest: str, log_p: str, log_rest: str, share: str) -> tuple[str, str]:
    """e and −∂e/∂p, as in `_side`."""
    power = f"exp(gamma * {log_rest})"
    ratio = f"({rest} == A(0) ? A(-1) : {log_p} / {rest})"
    return f"-({share}) * {power} * {log_p}", f"({share}) * {power} * (A(1) / {p} - gamma * {ratio})"


def _texts_of_z(x: str, share: str) -> tuple[str, str]:
    """e and −∂e/∂x, as in `_side_of_z`."""

    def of(name: str, argument: str) -> str:
        return f"({ACTIVATIONS[name].cuda_value.replace('z', argument)})"

    power, below = f"exp(-gamma * {of('softplus', x)})", of("softplus", f"(-{x})")
    slope = f"gamma * {of('sigmoid', x)} * {below} + {of('sigmoid', f'(-{x})')}"
    return f"({share}) * {power} * {below}", f"({share}) * {power} * ({slope})"


_LESS = "(A(1) - y < tiny<A>() ? tiny<A>() : A(1) - y)"
_YES, _NO = "yes * t", "no * (A(1) - t)"
_E, _SLOPE = _texts(_P, "(A(1) - y)", f"log({_P})", f"log({_LESS})", "t")
_E_1, _SLOPE_1 = _texts(_P, f"({_REST})", f"log({_P})", f"({_LOG_REST})", _YES)
_E_0, _SLOPE_0 = _texts(f"({_REST})", _P, f"({_LOG_REST})", f"log({_P})", _NO)
_E_1Z, _SLOPE_1Z = _texts_of_z("y", _YES)
_E_0Z, _SLOPE_0Z = _texts_of_z("(-y)", _NO)

FORMULAS = OF_Y_SOFTMAX, OF_Y_SIGMOID, OF_Z_SIGMOID = (
    LossFormula("focal", _of_softmax, _E, f"-({_SLOPE})", accuracy="argmax", numbers=NUMBERS),
    LossFormula(
        "binary focal", _of_sigmoid, f"{_E_1} + {_E_0}", f"{_SLOPE_0} - {_SLOPE_1}", accuracy="threshold",
        numbers=NUMBERS,
    ),
    LossFormula(
        "focal of sigmoid", _of_z, f"{_E_1Z} + {_E_0Z}", f"{_SLOPE_0Z} - {_SLOPE_1Z}", accuracy="threshold",
        numbers=NUMBERS,
    ),
)  # fmt: skip
"""What z is called in the last one is `y`, as in all formulas."""
