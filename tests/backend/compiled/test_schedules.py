"""Settings follow a schedule as NumPy says."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.compiled.program import KernelCall

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("models", [(), (1,), (3,)], ids=str)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("position", [0, 2, 9])
def test_settings(device, plain, models, own, pairs, position):
    """Settings and values that lie in longer rows, factors of all models or of each, positions beyond the last."""
    table, at = RNG.random((4, *(models if own else ()), 3)), np.array([position])
    settings, values, wanted = RNG.random((*models, 5))[..., 1:4], *np.zeros((2, *models, 6, *(2,) * pairs))
    part = (..., slice(2, 5), *[slice(None)] * pairs)
    (call,) = device.ops.follow_schedule(device, table, at, settings, values[part])
    assert isinstance(call, KernelCall)
    call()
    for one in numpy_ops.follow_schedule(plain, table, at, settings, wanted[part]):
        one()
    np.testing.assert_allclose(values, wanted, rtol=1e-15)
