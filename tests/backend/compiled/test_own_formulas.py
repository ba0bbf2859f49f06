"""The kernels that are compiled of expressions, against NumPy, which tests/network and tests/training hold against
plain Python; and a training with them against one without a compiler."""

from __future__ import annotations

import numpy as np
import pytest
from own_formulas import ACTIVATION_ROWS, LOSS_CLASSES, RULE_ROWS

import gpu_backprop as gb
from gpu_backprop.backend.compiled import self_test

UNITS = [*ACTIVATION_ROWS.values(), *(made().formula for made in LOSS_CLASSES.values()), *RULE_ROWS.values()]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_kernels_are_what_numpy_does(on_threads, unit, dtype):
    self_test.compare(on_threads(2, dtype), unit)


@pytest.mark.parametrize("seed", [0, [0, 1, 2]])
def test_a_training_without_a_compiler_is_the_same(made_by, monkeypatch, seed):
    x, y = np.random.default_rng(0).normal(size=(20, 3)), np.random.default_rng(1).normal(size=(20, 2))
    found = []
    for compiler in (None, "none"):
        if compiler:
            monkeypatch.setenv("GPU_BACKPROP_COMPILER", compiler)
        layers = [gb.Dense(5, ACTIVATION_ROWS["snake"]), gb.Dense(4, ACTIVATION_ROWS["own_tanh"]), gb.Dense(2)]
        net = gb.Network(3, layers, dtype="float64", device="cpu", seed=seed)
        assert ("compiled" in str(net.device)) == (compiler is None)
        optimizer = gb.Optimizer(RULE_ROWS["own_adam"], learning_rate=0.01)
        gb.Trainer(net, LOSS_CLASSES["own_huber"](), optimizer, batch_size=8).fit(x, y, epochs=3, progress=False)
        found.append(net.predict(x))
    np.testing.assert_allclose(*found, rtol=1e-10, atol=1e-12)
