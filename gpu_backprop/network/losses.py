"""The table of losses: e of one sample and ∂e/∂y, together. How they enter a step stands in loss.py."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from gpu_backprop.backend.errors import named
from gpu_backprop.backend.formula import Activation, Array, Call, LossFormula, Work, call, row_sum
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.focal import FORMULAS as FOCAL_FORMULAS
from gpu_backprop.network.focal import Focal
from gpu_backprop.network.layer import Layer
from gpu_backprop.network.loss import Bounds, Loss

Formula = Iterator[Call]
Number = float | Sequence[float]


def _difference(y: Array, target: Array, grad_y: Array | None, work: Work) -> Generator[Call, None, Array]:
    """d = y − y*, which is returned; in ∇y's place where that is asked for"""
    d = work.full(0) if grad_y is None else grad_y
    yield call(np.subtract, y, target, out=d)
    return d


def _target_log(y: Array, target: Array, p: Array, out: Array) -> Formula:
    """out = y*·log p, where p is y, and at least the smallest normal number, so that 1/p stays finite"""
    yield call(np.maximum, y, float(np.finfo(y.dtype).tiny), out=p)
    yield call(np.log, p, out=out)
    yield call(np.multiply, out, target, out=out)


class HalfSquaredError(Loss):
    """e = ½ Σ (y − y*)², ∂e/∂y = y − y* (N0)."""

    name: ClassVar[str] = "half_squared_error"

    @property
    def formula(self) -> LossFormula:
        return LossFormula(self.name, self._numpy, "A(0.5) * (y - t) * (y - t)", "y - t")

    @staticmethod
    def _numpy(y: Array, target: Array, grad_y: Array | None, e: Array, work: Work) -> Formula:
        d = yield from _difference(y, target, grad_y, work)
        square = work.full(1)
        yield call(np.multiply, d, d, out=square)
        yield row_sum(square, e)
        yield call(np.multiply, e, 0.5, out=e)


class SquaredError(Loss):
    """e = Σ (y − y*)², ∂e/∂y = 2(y − y*) (N2, N4)."""

    name: ClassVar[str] = "squared_error"
    average: ClassVar[bool] = False

    @property
    def formula(self) -> LossFormula:
        return LossFormula(
            self.name, self._numpy, "(y - t) * (y - t)", "A(2) * (y - t)", mean_over_outputs=self.average
        )

    @staticmethod
    def _numpy(y: Array, target: Array, grad_y: Array | None, e: Array, work: Work) -> Formula:
        d = yield from _difference(y, target, grad_y, work)
        square = work.full(1)
        yield call(np.multiply, d, d, out=square)
        yield row_sum(square, e)
        if grad_y is not None:
            yield call(np.multiply, d, 2.0, out=grad_y)


class MeanSquaredError(SquaredError):
    """e = 1/n Σ (y − y*)² over the n outputs, ∂e/∂y = 2(y − y*)/n."""

    name: ClassVar[str] = "mean_squared_error"
    average: ClassVar[bool] = True


class AbsoluteError(Loss):
    """e = Σ |y − y*|, ∂e/∂y = sign(y − y*), which is 0 where they are equal."""

    name: ClassVar[str] = "absolute_error"

    @property
    def formula(self) -> LossFormula:
        return LossFormula(self.name, self._numpy, "fabs(y - t)", "y > t ? A(1) : y < t ? A(-1) : y - t")

    @staticmethod
    def _numpy(y: Array, target: Array, grad_y: Array | None, e: Array, work: Work) -> Formula:
        d = yield from _difference(y, target, grad_y, work)
        size = work.full(1)
        yield call(np.absolute, d, out=size)
        yield row_sum(size, e)
        if grad_y is not None:
            yield call(np.sign, d, out=grad_y)


@dataclass(unsafe_hash=True)
class Huber(Loss):
    """e = Σ ½d² where |d| ≤ delta, else delta·(|d| − ½delta), d = y − y* (Huber 1964); ∂e/∂y = d cut off at ±delta.

    Args:
        delta: > 0, in the units of y: where the parabola becomes a line; one, or one a member.
    """

    delta: Number = 1.0
    name: ClassVar[str] = "huber"
    bounds: ClassVar[Bounds] = {"delta": ("a finite number > 0", lambda delta: 0 < delta < math.inf)}

    @property
    def cut(self) -> Array:
        """delta, clamped to what float32 can hold."""
        return np.clip(self.delta, 1e-37, 1e38)

    @property
    def formula(self) -> LossFormula:
        clipped = "(y - t > cut ? cut : y - t < -cut ? -cut : y - t)"
        e = f"{clipped} * (y - t - A(0.5) * {clipped})"
        return LossFormula(self.name, self._numpy, e, clipped, numbers=("cut",))

    @staticmethod
    def _numpy(y: Array, target: Array, grad_y: Array | None, e: Array, work: Work, cut: Array) -> Formula:
        """With c = d clipped at ±delta: e = c·(d − ½c), on either side of delta."""
        d, clipped = work.full(0), work.full(1) if grad_y is None else grad_y
        term, low = work.full(2), np.empty_like(cut)
        yield call(np.negative, cut, out=low)
        yield call(np.subtract, y, target, out=d)
        yield call(np.clip, d, low, cut, out=clipped)
        yield call(np.multiply, clipped, 0.5, out=term)
        yield call(np.subtract, d, term, out=term)
        yield call(np.multiply, term, clipped, out=term)
        yield row_sum(term, e)


@dataclass(unsafe_hash=True)
class Quantile(Loss):
    """e = Σ max(q·(y* − y), (q − 1)·(y* − y)): y becomes the q-quantile of y* (Koenker and Bassett 1978).
    ∂e/∂y = 1 − q above y*, −q below, ½ − q where they are equal.

    Args:
        q: in (0, 1); ½ gives half the absolute error; one, or one a member.
    """

    q: Number = 0.5
    name: ClassVar[str] = "quantile"
    bounds: ClassVar[Bounds] = {"q": ("a number in (0, 1)", lambda q: 0 < q < 1)}

    @property
    def shift(self) -> Array:
        """½ − q, before it is rounded to float32."""
        return np.subtract(0.5, self.q)

    @property
    def formula(self) -> LossFormula:
        return LossFormula(
            self.name, self._numpy, "A(0.5) * fabs(y - t) + shift * (y - t)",
            "shift + (y > t ? A(0.5) : y < t ? A(-0.5) : y - t)", numbers=("shift",),
        )  # fmt: skip

    @staticmethod
    def _numpy(y: Array, target: Array, grad_y: Array | None, e: Array, work: Work, shift: Array) -> Formula:
        """e = ½|d| + (½ − q)·d, d = y − y*"""
        d, size = work.full(0), work.full(1)
        yield call(np.subtract, y, target, out=d)
        yield call(np.absolute, d, out=size)
        yield call(np.multiply, size, 0.5, out=size)
        if grad_y is not None:
            yield call(np.sign, d, out=grad_y)
            yield call(np.multiply, grad_y, 0.5, out=grad_y)
            yield call(np.add, grad_y, shift, out=grad_y)
        yield call(np.multiply, d, shift, out=d)
        yield call(np.add, size, d, out=size)
        yield row_sum(size, e)


_P = "(y < tiny<A>() ? tiny<A>() : y)"  # a NaN stays one, as in numpy.maximum
_NEAR_1 = "A(sizeof(A) == 4 ? 0x1p-25 : 0x1p-54)"  # half of what 1 − y is, at the least, where it is not 0


@dataclass(unsafe_hash=True)
class CrossEntropy(Loss):
    """e = −Σ y*·log y, ∂e/∂y = −y*/y, for class labels or probabilities as targets. With softmax it is one stable
    operation, ∇z = y − y*: the Jacobian of N4 times −y*/y, where Σ y* = 1 (`fit` checks that, `step` relies on it).

    Args:
        label_smoothing: s in [0, 1): y* ← (1 − s)·y* + s/n over the n outputs (Szegedy et al. 2016); one, or one a
            member.
    """

    label_smoothing: Number = 0.0
    name: ClassVar[str] = "cross_entropy"
    needs: ClassVar[tuple[str, ...]] = ("softmax",)
    fused: ClassVar[str] = "softmax"
    labels: ClassVar[bool] = True
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 1.0
    bounds: ClassVar[Bounds] = {"label_smoothing": ("a number in [0, 1)", lambda share: 0 <= share < 1)}

    @property
    def formula(self) -> LossFormula:
        return LossFormula(
            self.name, self._numpy, f"-t * log{_P}", f"-t / {_P}",
            accuracy="argmax", smooths=True,
        )  # fmt: skip

    @staticmethod
    def _numpy(y: Array, target: Array, grad_y: Array | None, e: Array, work: Work) -> Formula:
        p, term = work.full(0), work.full(1)
        yield from _target_log(y, target, p, term)
        yield row_sum(term, e)
        yield call(np.negative, e, out=e)
        if grad_y is not None:
            yield call(np.divide, target, p, out=grad_y)
            yield call(np.negative, grad_y, out=grad_y)


class BinaryCrossEntropy(Loss):
    """e = −Σ y*·log y + (1 − y*)·log(1 − y), each output a yes or no of its own (multi-label too);
    ∂e/∂y = (1 − y*)/(1 − y) − y*/y. With sigmoid it is one stable operation, ∇z = y − y*."""

    name: ClassVar[str] = "binary_cross_entropy"
    needs: ClassVar[tuple[str, ...]] = ("sigmoid", "softmax")
    fused: ClassVar[str] = "sigmoid"
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 1.0

    @property
    def formula(self) -> LossFormula:
        clamped = f"A(1) - y < {_NEAR_1}"
        return LossFormula(
            self.name, self._numpy, f"-t * log{_P} - (A(1) - t) * ({clamped} ? log({_NEAR_1}) : log1p(-y))",
            f"(A(1) - t) / ({clamped} ? {_NEAR_1} : A(1) - y) - t / {_P}", accuracy="threshold",
        )  # fmt: skip

    @staticmethod
    def _numpy(y: Array, target: Array, grad_y: Array | None, e: Array, work: Work) -> Formula:
        p, term, rest, other = (work.full(k) for k in range(4))
        yield from _target_log(y, target, p, term)
        near_1 = float(np.finfo(y.dtype).epsneg) / 2
        yield call(np.subtract, 1.0, y, out=rest)
        yield call(np.maximum, rest, near_1, out=rest)
        yield call(np.negative, y, out=other)
        yield call(np.log1p, other, out=other)
        yield call(np.maximum, other, math.log(near_1), out=other)
        if grad_y is not None:
            yield call(np.divide, target, p, out=p)
        target_of_0 = p if grad_y is None else grad_y  # nothing reads p any more
        yield call(np.subtract, 1.0, target, out=target_of_0)
        yield call(np.multiply, other, target_of_0, out=other)
        yield call(np.add, term, other, out=term)
        yield row_sum(term, e)
        yield call(np.negative, e, out=e)
        if grad_y is not None:
            yield call(np.divide, grad_y, rest, out=grad_y)
            yield call(np.subtract, grad_y, p, out=grad_y)


class Poisson(Loss):
    """e = Σ y − y*·log y, ∂e/∂y = 1 − y*/y: counts y* with the rate y, up to a term that does not depend on y.

    y*/y times f′ is y* however small y is, which no product of two numbers can be where y is too small for one. So for
    y = f(z) of one output e is written in z: with exp, e = eᶻ − y*·z and ∂e/∂z = eᶻ − y*.
    """

    name: ClassVar[str] = "poisson"
    needs: ClassVar[tuple[str, ...]] = ("exp", "softplus", "sigmoid", "softmax")
    low: ClassVar[float] = 0.0

    @property
    def formula(self) -> LossFormula:
        ratio = f"t / {_P}"
        slope = f"A(1) - ({ratio} > most<A>() ? most<A>() : {ratio})"
        return LossFormula(self.name, self._numpy, f"y - t * log{_P}", slope)

    def of_z(self, f: Activation) -> LossFormula | None:
        return POISSON_OF_Z.get(f.name)

    @staticmethod
    def _numpy(y: Array, target: Array, grad_y: Array | None, e: Array, work: Work) -> Formula:
        rate, term = work.full(0), work.full(1)
        yield from _target_log(y, target, rate, term)
        yield call(np.subtract, y, term, out=term)
        yield row_sum(term, e)
        if grad_y is not None:
            yield call(np.divide, target, rate, out=grad_y)
            yield call(np.minimum, grad_y, float(np.finfo(y.dtype).max), out=grad_y)
            yield call(np.subtract, 1.0, grad_y, out=grad_y)


def _poisson_exp(z: Array, target: Array, grad_z: Array | None, e: Array, work: Work) -> Formula:
    """e = Σ eᶻ − y*·z, ∂e/∂z = eᶻ − y*"""
    y, term = work.full(0), work.full(1)
    yield call(np.exp, z, out=y)
    yield call(np.multiply, z, target, out=term)
    yield call(np.subtract, y, term, out=term)
    yield row_sum(term, e)
    if grad_z is not None:
        yield call(np.subtract, y, target, out=grad_z)


def _poisson_sigmoid(z: Array, target: Array, grad_z: Array | None, e: Array, work: Work) -> Formula:
    """e = Σ y + y*·log(1 + e⁻ᶻ), ∂e/∂z = (y − y*)·(1 − y), y = σ(z), 1 − y = σ(−z)"""
    y, other, term = (work.full(k) for k in range(3))
    yield call(np.negative, z, out=other)
    yield from _of("softplus", other, term, work)
    yield from _of("sigmoid", z, y, work)
    yield call(np.multiply, term, target, out=term)
    yield call(np.add, y, term, out=term)
    yield row_sum(term, e)
    if grad_z is not None:
        yield from _of("sigmoid", other, other, work)
        yield call(np.subtract, y, target, out=grad_z)
        yield call(np.multiply, grad_z, other, out=grad_z)


def _poisson_softplus(z: Array, target: Array, grad_z: Array | None, e: Array, work: Work) -> Formula:
    """e = Σ y − y*·log y, ∂e/∂z = σ − y*·σ/y, y = log(1 + eᶻ), σ = σ(z). Below −40, y = σ = eᶻ to rounding."""
    rest, y, log_y, slope = (work.full(k) for k in range(4))
    low = work.mask()
    yield from _of("softplus", z, y, work)
    yield call(np.log, y, out=log_y)
    yield call(np.less, z, -40.0, out=low)
    yield partial(np.copyto, log_y, z, where=low)
    yield call(np.multiply, log_y, target, out=log_y)
    yield call(np.subtract, y, log_y, out=log_y)
    yield row_sum(log_y, e)
    if grad_z is not None:
        yield from _of("sigmoid", z, slope, work)
        yield call(np.divide, slope, y, out=rest)
        yield partial(np.copyto, rest, 1.0, where=low)
        yield call(np.multiply, rest, target, out=rest)
        yield call(np.subtract, slope, rest, out=grad_z)


def _of(name: str, z: Array, y: Array, work: Work) -> Formula:
    """y = f(z); softplus uses work.full(0)"""
    value = ACTIVATIONS[name].numpy_value
    assert value is not None
    yield from value(z, y, work)


_Y = {name: f"({ACTIVATIONS[name].cuda_value.replace('z', 'y')})" for name in ("softplus", "sigmoid")}
_BELOW = "(A(1) / (A(1) + exp(y)))"
POISSON_OF_Z: Mapping[str, LossFormula] = {
    "exp": LossFormula("poisson of exp", _poisson_exp, "exp(y) - t * y", "exp(y) - t"),
    "sigmoid": LossFormula(
        "poisson of sigmoid", _poisson_sigmoid,
        f"{_Y['sigmoid']} + t * ((y < A(0) ? -y : A(0)) + log1p(exp(-fabs(y))))", f"({_Y['sigmoid']} - t) * {_BELOW}",
    ),
    "softplus": LossFormula(
        "poisson of softplus", _poisson_softplus,
        f"{_Y['softplus']} - t * (y < A(-40) ? y : log{_Y['softplus']})",
        f"{_Y['sigmoid']} - t * (y < A(-40) ? A(1) : {_Y['sigmoid']} / {_Y['softplus']})",
    ),
}  # fmt: skip
"""By the activation: e as a formula of z, which is `y` in them."""


LOSSES: dict[str, Loss] = {
    kind.name: kind()
    for kind in (
        HalfSquaredError, SquaredError, MeanSquaredError, CrossEntropy, BinaryCrossEntropy, AbsoluteError, Huber,
        Quantile, Poisson, Focal,
    )
}  # fmt: skip
"""By name, with the default numbers of each; its class takes others."""


FORMULAS: Sequence[LossFormula] = (
    *(loss.formula for loss in LOSSES.values()), *POISSON_OF_Z.values(), *FOCAL_FORMULAS[1:],
)  # fmt: skip
"""The formulas that kernels are compiled from."""


def loss(spec: str | Loss | None, layer: Layer) -> Loss:
    """Returns the loss that `spec` names or is, checked against the last layer; None chooses one for its activation."""
    by_activation = {"softmax": "cross_entropy", "sigmoid": "binary_cross_entropy"}
    usual = by_activation.get(layer.activation.name, "half_squared_error")
    chosen = named("loss", usual if spec is None else spec, Loss, LOSSES, [usual])  # type: ignore[type-abstract]
    return chosen.suited_to(layer)
