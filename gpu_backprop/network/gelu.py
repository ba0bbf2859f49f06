"""gelu in both forms: y = z·Φ(z), Φ the normal distribution (Hendrycks and Gimpel 2016), and its tanh approximation;
silu, which has the same form as the latter; and mish, z·tanh(log(1 + eᶻ)) (Misra 2019).

NumPy has no erf, so Φ is computed here from ½·erfc(x) = exp(−x²)·P(t)/(2 + 4x), t = (x − 3)/(x + 3), x ≥ 0: one
polynomial for the whole half-line (the form of Shepherd and Laframboise 1981), fitted for this file by Chebyshev
interpolation with 40 digits. It is right to a few units in the last place, and in the tail relatively so.

All of them are exact to rounding wherever the result is a normal number: nothing is the difference of numbers that are
nearly the same, and what is smaller than the result is multiplied in last. kernels/formulas.cuh has the same in C++.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import inf, log, pi, sqrt

import numpy as np

from gpu_backprop.backend.formula import Array, Call, Work, call

_ERFC_SINGLE = (
    1.2530080582534238, -0.1356210694002736, -0.04756229269565379, 0.1296441143440814, -0.11927369132068087,
    0.06831656777114085, -0.023770334675484478, 0.0024991168696069477, 0.0018881128646091253, -0.0007264536790340485,
    -0.00010413071427970404, 7.731024224076895e-05, 3.861849136821459e-06,
)  # fmt: skip
ERFC_DOUBLE = (
    1.2530080582697296, -0.13562110612457576, -0.04756229435342038, 0.12964515870228346,
    -0.11927366341676002, 0.06830802735638397, -0.023770514891530075, 0.0025293916672051724,
    0.0018886900977441495, -0.0007798312797290158, -0.00010515831297813122, 0.00012509531076254526,
    4.944124342223447e-06, -2.0089997833284136e-05, -7.187883834400105e-07, 3.4542947702775464e-06,
    3.366979080635552e-07, -5.963983625521162e-07, -1.205414228644904e-07, 8.765881411723296e-08,
    2.7843881265326165e-08, -7.641962892575696e-09, -3.181354143463839e-09,
)  # fmt: skip

_CUBIC = 0.044715

_END = 40.0
"""|z| from which on φ(z) is 0, and 1 + e⁻ᶻ is 1."""

_UPPER_HALF: dict[str, Array] = {"float32": np.array(-1 << 12, np.int32), "float64": np.array(-1 << 27, np.int64)}
"""Masks the lower half of a number's digits, so that its square is exact."""


def _tail_and_bell(z: Array, a: Array, tail: Array, bell: Array, work: Work) -> Iterator[Call]:
    """a = |z|, or 40; bell = e^(−a²/2); tail = Q/bell, Q = Φ(−a) = ½·erfc(a/√2). Uses work.full(3) and (4)"""
    t, rest = work.full(3), work.full(4)
    coefficients = ERFC_DOUBLE if z.dtype == np.float64 else _ERFC_SINGLE
    yield call(np.absolute, z, out=a)
    yield call(np.clip, a, 0.0, _END, out=a)
    yield call(np.multiply, a, sqrt(0.5), out=rest)
    yield call(np.subtract, rest, 3.0, out=t)
    yield call(np.add, rest, 3.0, out=tail)
    yield call(np.divide, t, tail, out=t)
    yield call(np.multiply, t, coefficients[-1], out=tail)
    for coefficient in coefficients[-2:0:-1]:
        yield call(np.add, tail, coefficient, out=tail)
        yield call(np.multiply, tail, t, out=tail)
    yield call(np.add, tail, coefficients[0], out=tail)
    yield call(np.multiply, rest, 4.0, out=rest)
    yield call(np.add, rest, 2.0, out=rest)
    yield call(np.divide, tail, rest, out=tail)
    upper = _UPPER_HALF[z.dtype.name]  # a² = u² + (a − u)(a + u), where u is the upper half of a
    yield partial(np.bitwise_and, a.view(upper.dtype), upper, t.view(upper.dtype))
    yield call(np.multiply, t, t, out=bell)
    yield call(np.multiply, bell, -0.5, out=bell)
    yield call(np.exp, bell, out=bell)
    yield call(np.subtract, a, t, out=rest)
    yield call(np.add, a, t, out=t)
    yield call(np.multiply, rest, t, out=rest)
    yield call(np.multiply, rest, -0.5, out=rest)
    yield call(np.exp, rest, out=rest)
    yield call(np.multiply, bell, rest, out=bell)


def gelu(z: Array, y: Array, work: Work) -> Iterator[Call]:
    """y = z·Φ(z) = max(z, 0) − a·Q(a), a = |z|"""
    tail, bell, a = (work.full(k) for k in range(3))
    yield from _tail_and_bell(z, a, tail, bell, work)
    yield call(np.multiply, tail, a, out=tail)
    yield call(np.multiply, tail, bell, out=tail)
    yield call(np.maximum, z, work.zeros(), out=y)
    yield call(np.subtract, y, tail, out=y)


def gelu_gradient(grad_y: Array, z: Array, grad_z: Array, work: Work) -> Iterator[Call]:
    """f′ = Φ(z) + z·φ(z), φ(z) = e^(−z²/2)/√(2π): 1 + h where z > 0, else −h, with h = a·φ(a) − Q(a), a = |z|"""
    tail, bell, a = (work.full(k) for k in range(3))
    yield from _tail_and_bell(z, a, tail, bell, work)
    yield call(np.multiply, a, 1 / sqrt(2 * pi), out=a)
    yield call(np.subtract, a, tail, out=a)
    yield call(np.multiply, a, bell, out=a)
    above = work.mask()
    yield call(np.greater, z, 0.0, out=above)
    yield partial(np.copyto, tail, above)
    yield call(np.multiply, tail, 2.0, out=bell)
    yield call(np.subtract, bell, 1.0, out=bell)
    yield call(np.multiply, a, bell, out=a)
    yield call(np.add, a, tail, out=a)
    yield call(np.multiply, grad_y, a, out=grad_z)


def _gated(z: Array, w: Array, y: Array, work: Work) -> Iterator[Call]:
    """y = z/(1 + e⁻ʷ) = z/(r + 1/r)·r, r = e^(w/2), which is normal where eʷ is not. Uses w up, and work.full(1)"""
    root = work.full(1)
    yield call(np.clip, w, -inf, 2 * _END, out=w)
    yield call(np.multiply, w, -0.5, out=w)
    yield call(np.exp, w, out=w)
    yield call(np.reciprocal, w, out=root)
    yield call(np.add, w, root, out=w)
    yield call(np.divide, z, w, out=y)
    yield call(np.multiply, y, root, out=y)


def _gated_gradient(grad_y: Array, w: Array, zw: Array, grad_z: Array, work: Work) -> Iterator[Call]:
    """f′ = s·(1 + zw·(1 − s)), s = 1/(1 + e⁻ʷ) = r/(r + 1/r), zw = z·w′; uses both up, which may be one, and
    work.full(2), (3) and (4)"""
    root, rest, both = (work.full(k) for k in (2, 3, 4))
    yield call(np.clip, w, 2 * log(np.finfo(w.dtype).tiny), 2 * _END, out=w)  # s·zw is 0 at the low end
    yield call(np.multiply, w, 0.5, out=root)
    yield call(np.exp, root, out=root)
    yield call(np.reciprocal, root, out=rest)
    yield call(np.add, root, rest, out=both)
    yield call(np.divide, rest, both, out=rest)
    yield call(np.multiply, zw, rest, out=zw)
    yield call(np.add, zw, 1.0, out=zw)
    yield call(np.multiply, zw, root, out=zw)
    yield call(np.divide, zw, both, out=zw)
    yield call(np.multiply, grad_y, zw, out=grad_z)


def silu(z: Array, y: Array, work: Work) -> Iterator[Call]:
    """y = z·σ(z)"""
    w = work.full()
    yield partial(np.copyto, w, z)
    yield from _gated(z, w, y, work)


def silu_gradient(grad_y: Array, z: Array, grad_z: Array, work: Work) -> Iterator[Call]:
    """f′ = σ·(1 + z(1 − σ)), σ = σ(z)"""
    w = work.full()
    yield partial(np.copyto, w, z)
    yield from _gated_gradient(grad_y, w, w, grad_z, work)


def _softplus_tanh(z: Array, e: Array, part: Array, above: Array, below: Array, work: Work) -> Iterator[Call]:
    """tanh(log(1 + eᶻ)) = (e²ᶻ + 2eᶻ)/(e²ᶻ + 2eᶻ + 2) = part²·above/below, of e = e^−|z|: part is 1 where z ≥ 0, else
    the root of e, which is normal where e is not. Leaves [z ≥ 0] in work.mask(), and uses work.full(4) and (5)."""
    positive, other, square = work.mask(), work.full(4), work.full(5)
    yield call(np.absolute, z, out=part)
    yield call(np.multiply, part, -0.5, out=part)
    yield call(np.exp, part, out=part)
    yield call(np.multiply, part, part, out=e)
    yield call(np.greater_equal, z, 0.0, out=positive)
    yield call(np.add, e, 2.0, out=above)  # where z < 0: (e + 2)/(e² + 2e + 2)
    yield call(np.multiply, above, e, out=below)
    yield call(np.add, below, 2.0, out=below)
    yield call(np.multiply, e, 2.0, out=other)  # else, with all of it divided by e²ᶻ: (1 + 2e)/(1 + 2e + 2e²)
    yield call(np.multiply, other, e, out=square)
    yield call(np.add, other, 1.0, out=other)
    yield call(np.add, square, other, out=square)
    yield partial(np.copyto, above, other, where=positive)
    yield partial(np.copyto, below, square, where=positive)
    yield partial(np.copyto, part, 1.0, where=positive)


def mish(z: Array, y: Array, work: Work) -> Iterator[Call]:
    """y = z·tanh(log(1 + eᶻ))"""
    e, part, above, below = (work.full(k) for k in range(4))
    yield from _softplus_tanh(z, e, part, above, below, work)
    yield call(np.divide, above, below, out=above)
    yield call(np.multiply, above, part, out=above)
    yield call(np.multiply, z, part, out=y)
    yield call(np.multiply, y, above, out=y)


def mish_gradient(grad_y: Array, z: Array, grad_z: Array, work: Work) -> Iterator[Call]:
    """f′ = τ + zσ(1 − τ²), τ = tanh(log(1 + eᶻ)), σ = σ(z): part²·(above + 4z(1 + e)·s/below)/below, s = 1, or e² where
    z ≥ 0, since σ = eᶻ/(1 + eᶻ) and 1 − τ² = 4(1 + eᶻ)²/(e²ᶻ + 2eᶻ + 2)²"""
    e, part, above, below = (work.full(k) for k in range(4))
    other, square = work.full(4), work.full(5)
    yield from _softplus_tanh(z, e, part, above, below, work)
    yield partial(square.fill, 1.0)
    yield call(np.multiply, e, e, out=other)
    yield partial(np.copyto, square, other, where=work.mask())
    yield call(np.clip, z, -1e5, 1e5, out=other)  # infinity times 0 would be no number
    yield call(np.multiply, other, 4.0, out=other)
    yield call(np.add, e, 1.0, out=e)
    yield call(np.multiply, other, e, out=other)
    yield call(np.multiply, other, square, out=other)
    yield call(np.divide, other, below, out=other)
    yield call(np.add, above, other, out=above)
    yield call(np.divide, above, below, out=above)
    yield call(np.multiply, above, part, out=above)
    yield call(np.multiply, above, part, out=above)
    yield call(np.multiply, grad_y, above, out=grad_z)


def _cubic(z: Array, square: Array, factor: float, out: Array) -> Iterator[Call]:
    """out = √(8/π)·(z + factor·z³)"""
    yield call(np.multiply, square, factor, out=out)
    yield call(np.add, out, 1.0, out=out)
    yield call(np.multiply, out, z, out=out)
    yield call(np.multiply, out, sqrt(8 / pi), out=out)


def gelu_tanh(z: Array, y: Array, work: Work) -> Iterator[Call]:
    """y = ½z·(1 + tanh u) = z/(1 + e⁻ʷ), w = 2u = √(8/π)·(z + 0.044715 z³)"""
    w, near = work.full(0), work.full(1)
    yield call(np.clip, z, -_END, _END, out=near)
    yield call(np.multiply, near, near, out=w)
    yield from _cubic(near, w, _CUBIC, w)
    yield from _gated(z, w, y, work)


def gelu_tanh_gradient(grad_y: Array, z: Array, grad_z: Array, work: Work) -> Iterator[Call]:
    """f′ = s + z·s(1 − s)·w′, s = 1/(1 + e⁻ʷ), w = √(8/π)·(z + 0.044715 z³), w′ = √(8/π)·(1 + 3·0.044715 z²)"""
    w, zw, near = (work.full(k) for k in range(3))
    yield call(np.clip, z, -_END, _END, out=near)
    yield call(np.multiply, near, near, out=w)
    yield from _cubic(near, w, 3 * _CUBIC, zw)
    yield from _cubic(near, w, _CUBIC, w)
    yield from _gated_gradient(grad_y, w, zw, grad_z, work)
