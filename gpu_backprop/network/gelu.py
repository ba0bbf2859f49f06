"""gelu in both forms: y = z·Φ(z), Φ the normal distribution (Hendrycks and Gimpel 2016), and its tanh approximation.

NumPy has no erf, so Φ is computed here from ½·erfc(x) = exp(−x²)·P(t)/(2 + 4x), t = (x − 3)/(x + 3), x ≥ 0: one
polynomial for the whole half-line (the form of Shepherd and Laframboise 1981), fitted for this file by Chebyshev
interpolation with 40 digits. It is right to a few units in the last place, and in the tail relatively so.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import pi, sqrt

import numpy as np

from gpu_backprop.backend.formula import Array, Call, Work, call

_ERFC_SINGLE = (
    1.2530080582534238,
    -0.1356210694002736,
    -0.04756229269565379,
    0.1296441143440814,
    -0.11927369132068087,
    0.06831656777114085,
    -0.023770334675484478,
    0.0024991168696069477,
    0.0018881128646091253,
    -0.0007264536790340485,
    -0.00010413071427970404,
    7.731024224076895e-05,
    3.861849136821459e-06,
)
_ERFC_DOUBLE = (
    1.2530080582697296,
    -0.13562110612457576,
    -0.04756229435342038,
    0.12964515870228346,
    -0.11927366341676002,
    0.06830802735638397,
    -0.023770514891530075,
    0.0025293916672051724,
    0.0018886900977441495,
    -0.0007798312797290158,
    -0.00010515831297813122,
    0.00012509531076254526,
    4.944124342223447e-06,
    -2.0089997833284136e-05,
    -7.187883834400105e-07,
    3.4542947702775464e-06,
    3.366979080635552e-07,
    -5.963983625521162e-07,
    -1.205414228644904e-07,
    8.765881411723296e-08,
    2.7843881265326165e-08,
    -7.641962892575696e-09,
    -3.181354143463839e-09,
)

_CUBIC = 0.044715


def _tail(z: Array, tail: Array, work: Work) -> Iterator[Call]:
    """tail = Φ(−|z|) = ½·erfc(|z|/√2); uses work.full(2) and (3)"""
    x, t = work.full(2), work.full(3)
    coefficients = _ERFC_DOUBLE if z.dtype == np.float64 else _ERFC_SINGLE
    yield call(np.absolute, z, out=x)
    yield call(np.multiply, x, sqrt(0.5), out=x)
    yield call(np.subtract, x, 3.0, out=t)
    yield call(np.add, x, 3.0, out=tail)
    yield call(np.divide, t, tail, out=t)
    yield call(np.multiply, t, coefficients[-1], out=tail)
    for coefficient in coefficients[-2:0:-1]:
        yield call(np.add, tail, coefficient, out=tail)
        yield call(np.multiply, tail, t, out=tail)
    yield call(np.add, tail, coefficients[0], out=tail)
    yield call(np.multiply, x, 4.0, out=t)
    yield call(np.add, t, 2.0, out=t)
    yield call(np.divide, tail, t, out=tail)
    yield call(np.multiply, x, x, out=x)
    yield call(np.negative, x, out=x)
    yield call(np.exp, x, out=x)
    yield call(np.multiply, tail, x, out=tail)


def gelu(z: Array, y: Array, work: Work) -> Iterator[Call]:
    """y = z·Φ(z) = max(z, 0) − |z|·Φ(−|z|)"""
    tail = work.full(0)
    yield from _tail(z, tail, work)
    yield call(np.absolute, z, out=y)
    yield call(np.multiply, tail, y, out=tail)
    yield call(np.maximum, z, work.zeros(), out=y)
    yield call(np.subtract, y, tail, out=y)


def gelu_gradient(grad_y: Array, z: Array, grad_z: Array, work: Work) -> Iterator[Call]:
    """f′ = Φ(z) + z·φ(z), where Φ(z) = ½ + sign(z)·(½ − Φ(−|z|)) and φ(z) = e^(−z²/2)/√(2π)"""
    slope, density = work.full(0), work.full(1)
    yield from _tail(z, slope, work)
    yield call(np.subtract, 0.5, slope, out=slope)
    yield call(np.sign, z, out=density)
    yield call(np.multiply, slope, density, out=slope)
    yield call(np.add, slope, 0.5, out=slope)
    yield call(np.multiply, z, z, out=density)
    yield call(np.multiply, density, -0.5, out=density)
    yield call(np.exp, density, out=density)
    yield call(np.multiply, density, 1 / sqrt(2 * pi), out=density)
    yield call(np.multiply, density, z, out=density)
    yield call(np.add, slope, density, out=slope)
    yield call(np.multiply, grad_y, slope, out=grad_z)


def _tanh_argument(z: Array, u: Array) -> Iterator[Call]:
    """u = √(2/π)·(z + 0.044715 z³) = √(2/π)·z·(1 + 0.044715 z²)"""
    yield call(np.multiply, z, z, out=u)
    yield call(np.multiply, u, _CUBIC, out=u)
    yield call(np.add, u, 1.0, out=u)
    yield call(np.multiply, u, z, out=u)
    yield call(np.multiply, u, sqrt(2 / pi), out=u)


def gelu_tanh(z: Array, y: Array, work: Work) -> Iterator[Call]:
    """y = ½z·(1 + tanh u)"""
    yield from _tanh_argument(z, y)
    yield call(np.tanh, y, out=y)
    yield call(np.add, y, 1.0, out=y)
    yield call(np.multiply, y, z, out=y)
    yield call(np.multiply, y, 0.5, out=y)


def gelu_tanh_gradient(grad_y: Array, z: Array, grad_z: Array, work: Work) -> Iterator[Call]:
    """f′ = ½(1 + T) + ½z(1 − T²)u′ = ½(1 + T)·(1 + z(1 − T)u′), T = tanh u, u′ = √(2/π)·(1 + 3·0.044715 z²)"""
    tanh, slope, rest = work.full(0), work.full(1), work.full(2)
    yield from _tanh_argument(z, tanh)
    yield call(np.tanh, tanh, out=tanh)
    yield call(np.multiply, z, z, out=slope)
    yield call(np.multiply, slope, 3 * _CUBIC, out=slope)
    yield call(np.add, slope, 1.0, out=slope)
    yield call(np.multiply, slope, sqrt(2 / pi), out=slope)
    yield call(np.multiply, slope, z, out=slope)
    yield call(np.subtract, 1.0, tanh, out=rest)
    yield call(np.multiply, slope, rest, out=slope)
    yield call(np.add, slope, 1.0, out=slope)
    yield call(np.add, tanh, 1.0, out=tanh)
    yield call(np.multiply, slope, tanh, out=slope)
    yield call(np.multiply, slope, 0.5, out=slope)
    yield call(np.multiply, grad_y, slope, out=grad_z)
