"""initialize_from_data on CUDA against the same on the CPU, of rows that lie on either."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb

pytestmark = pytest.mark.gpu

X = np.random.default_rng(0).normal(3, 2, (50, 4))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12), ("float16", 0.02)])
@pytest.mark.parametrize("seed", [0, [1, 2]], ids=["one", "members"])
def test_it_gives_what_a_cpu_gives(seed, dtype, tolerance):
    def fitted(device, dtype, on_device=False):
        layers = [gb.Scale(), gb.Dense(8, "mish", init="ntp"), gb.Dropout(0.5), gb.Dense(3)]
        net = gb.Network(4, layers, device=device, dtype=dtype, seed=seed)
        gb.initialize_from_data(net, net.device.from_host(X) if on_device else X)
        return net.device.to_host(net.parameters)

    wanted = fitted("cpu", "float64" if dtype == "float64" else "float32")  # of one layout
    for on_device in (False, True):
        np.testing.assert_allclose(fitted("cuda", dtype, on_device), wanted, rtol=tolerance, atol=tolerance)
