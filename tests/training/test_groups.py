"""A network with a frozen layer, factors of rates and decays, and members' own dropout rates: as alone, as by hand."""

from __future__ import annotations

import numpy as np
import pytest
from frozen_network import OPTIMIZERS, check

import gpu_backprop as gb
from gpu_backprop.backend.compiled import compiler

optimizers = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


@optimizers
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_in_numpy(make, dtype, tolerance, monkeypatch):
    monkeypatch.setenv(compiler.VARIABLE, compiler.NONE)
    check(make(), tolerance, dtype=dtype)


@optimizers
def test_compiled(make):
    try:
        compiler.find()
    except compiler.NoCompilerError as error:
        pytest.skip(f"kernels cannot be compiled: {error}")
    check(make(), 1e-5, dtype="float32")


@pytest.mark.parametrize("seed", [0, [1, 2]], ids=["one", "members"])
def test_ntp_is_the_neural_tangent_parametrization(seed):
    """AdamW of V in z = x@V/√d + b, by hand, and ours of W = V/√d, with decay, where ε is too small to count."""
    rng, d, rate, decay, b1, b2, epsilon = np.random.default_rng(0), 6, 0.01, 0.1, 0.9, 0.95, 1e-30
    x, y = rng.normal(size=(8, d)), rng.normal(size=(8, 3))
    net = gb.Network(d, [gb.Dense(3, init="ntp")], dtype="float64", device="cpu", seed=seed)
    (layer,) = net.layers
    of = [layer.weight * np.sqrt(d), layer.bias[..., None, :].copy()]
    assert 0.3 < np.abs(of[0]).mean() < 1.6 and of[1].all()
    m, v = ([np.zeros_like(one) for one in of] for _ in range(2))
    trainer = gb.Trainer(net, "half_squared_error", gb.AdamW(rate, b1, b2, epsilon, weight_decay=decay))
    for t in range(1, 21):
        grad_z = (x @ of[0] / np.sqrt(d) + of[1] - y) / len(x)
        for k, g in enumerate((x.T @ grad_z / np.sqrt(d), grad_z.sum(axis=-2, keepdims=True))):
            m[k], v[k] = b1 * m[k] + (1 - b1) * g, b2 * v[k] + (1 - b2) * g * g
            change = rate * m[k] / (1 - b1**t) / (np.sqrt(v[k] / (1 - b2**t)) + epsilon)
            of[k] = (1 - rate * decay) * of[k] - change
        trainer.step(x, y)
    np.testing.assert_allclose(layer.weight * np.sqrt(d), of[0], rtol=1e-11)
    np.testing.assert_allclose(layer.bias, of[1][..., 0, :], rtol=1e-11)
