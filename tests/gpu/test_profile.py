"""The profile of a step on a CUDA device: timed by events, and nothing learned by it."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_profile_of_a_step(dtype):
    x, y = np.random.default_rng(0).normal(0, 1, (8, 4)), np.arange(8) % 3
    nets = [gb.Network(4, [gb.Dense(6, "tanh"), gb.Dense(3, "softmax")], dtype=dtype, device="cuda") for _ in range(2)]
    measured, twin = (gb.Trainer(net) for net in nets)
    profile = measured.profile(x, y, runs=3)
    assert [t.operation.formula for t in profile] == [o.formula for o in measured.plan(8).operations]
    assert all(t.microseconds >= 0 for t in profile)
    for trainer in (measured, twin):
        trainer.step(x, y)
    assert np.array_equal(nets[0].parameters.get(), nets[1].parameters.get())
    assert np.array_equal(measured.optimizer.hyper.get(), twin.optimizer.hyper.get())
