"""Functions of the authors of update rules that are no arithmetic: Python's form, for numbers and for arrays of one a
model. Their C++ form is kernels/coefficients.cuh."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import numpy as np

from gpu_backprop.backend.formula import Array


def _also_of_arrays(function: Callable[..., float]) -> Callable[..., float | Array]:
    each = np.vectorize(function, otypes=[np.float64])

    @wraps(function)
    def of_any(*numbers: float | Array) -> float | Array:
        return each(*numbers) if any(isinstance(number, np.ndarray) for number in numbers) else function(*numbers)

    return of_any


@_also_of_arrays
def rectification(beta: float, step: float) -> float:
    """r of RAdam (Liu et al. 2020, algorithm 2), by which the variance of 1/√v̂ is brought to what it will be, with the
    length ρ of the average that v is: 0 where ρ ≤ 5, and it is not known."""
    longest, power = 2 / (1 - beta) - 1, beta**step
    length = longest - 2 * step * power / (1 - power)
    if length <= 5:
        return 0.0
    return math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))


@_also_of_arrays
def momentum_product(beta: float, decay: float, step: float) -> float:
    """μ₁·μ₂⋯μₜ of NAdam, with μₜ = β(1 − ½·0.96^(t·decay)) (Dozat 2016). It is soon too small to make a difference
    to 1, and then not multiplied further."""
    product, power, factor = 1.0, 1.0, 0.96**decay
    for _ in range(int(step)):
        power *= factor
        product *= beta * (1 - power / 2)
        if product < 1e-20:
            break
    return product


FUNCTIONS: Mapping[str, Callable[..., Any]] = {f.__name__: f for f in (rectification, momentum_product)}
"""By name, what coefficients and lines of a rule may call."""
