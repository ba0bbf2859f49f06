"""The loss of all rows and its gradient on CUDA are those of the CPU; from the third time on steps are graphs."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.network.losses import loss as loss_of
from gpu_backprop.network.samples import samples
from gpu_backprop.training.full_batch import FullBatch

pytestmark = pytest.mark.gpu

X = np.random.default_rng(0).normal(size=(20, 4))
LABELS = np.arange(20) % 3


@pytest.mark.parametrize("weights", [None, np.arange(20.0)], ids=["", "weights"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_the_objective(dtype, tolerance, weights):
    found = []
    for device in ("cpu", "cuda"):
        net = gb.Network(4, [gb.Dense(5, "tanh"), gb.Dense(3, "softmax")], dtype=dtype, device=device)
        loss = loss_of(None, net.last)
        objective = FullBatch(net, loss, samples(net, loss, X, LABELS, weights, values=True, idle=False), 8, 0.1)
        at = net.device.to_host(net.parameters).astype(np.float64)
        found.append([objective(at * factor) for factor in (1, 2, 3, 1)])
    for (value, gradient), (wanted, right) in zip(*found, strict=True):
        np.testing.assert_allclose(value, wanted, tolerance)
        np.testing.assert_allclose(gradient, right, tolerance, tolerance)
