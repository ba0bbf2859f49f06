"""The functions of update rules, against their formulas; test_formulas compares their C++ form with them."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from gpu_backprop.backend.rule_functions import momentum_product, rectification


@pytest.mark.parametrize("beta", [0.0, 0.6, 2 / 3, 0.9, 0.999])
def test_rectification(beta):
    """Liu et al. 2020, algorithm 2, in fractions: nothing cancels."""
    exact = Fraction(beta)
    longest = 2 / (1 - exact) - 1
    for step in (1, 2, 5, 6, 7, 50):
        length = longest - 2 * step * exact**step / (1 - exact**step)
        wanted = 0.0
        if length > 5:
            wanted = math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
        assert rectification(beta, step) == pytest.approx(wanted, rel=1e-9)
    assert rectification(0.999, 5) == 0 < rectification(0.999, 6)
    assert rectification(beta, 1e9) == pytest.approx(float(beta > 2 / 3))


@pytest.mark.parametrize(("beta", "decay"), [(0.9, 0.004), (0.9, 0.0), (0.5, 1.0), (0.99, 100.0), (0.0, 0.004)])
def test_momentum_product(beta, decay):
    for step in (0, 1, 2, 10, 100, 5000):
        wanted = math.prod(beta * (1 - 0.5 * 0.96 ** (i * decay)) for i in range(1, step + 1))
        assert momentum_product(beta, decay, step) == pytest.approx(wanted, rel=1e-10, abs=1e-20)


def test_of_one_a_model():
    betas, steps = np.array([0.9, 0.999, 0.5]), np.array([1.0, 7.0, 9.0])
    found = rectification(betas, steps), momentum_product(betas, 0.004, steps)
    wanted = [[f(b, *more, s) for b, s in zip(betas, steps, strict=True)]
              for f, more in ((rectification, ()), (momentum_product, (0.004,)))]  # fmt: skip
    np.testing.assert_array_equal(found, wanted)
