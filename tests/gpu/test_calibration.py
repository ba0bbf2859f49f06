"""Calibration of networks on a CUDA device, also where the rows lie there and where products read 16-bit copies."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb

pytestmark = pytest.mark.gpu

RNG = np.random.default_rng(3)
X = RNG.normal(size=(120, 4))
LABELS = (X[:, :3] + RNG.normal(size=(120, 3))).argmax(axis=1)


def fitted(device, dtype="float32", on_device=False, **options):
    import cupy

    layers = [gb.Dense(8, "tanh"), gb.Dense(3, "softmax")]
    net = gb.Network(4, layers, dtype=dtype, device=device, seed=[0, 1])
    trainer = gb.Trainer(net, optimizer=gb.Adam(0.02), batch_size=30, metrics=["calibrated_log_loss"], **options)
    x, y = (cupy.asarray(X), cupy.asarray(LABELS)) if on_device else (X, LABELS)
    scaling = gb.TemperatureScaling()
    stopping = gb.EarlyStopping("val_calibrated_log_loss", patience=9, ties="last")
    trainer.fit(x, y, 4, validation_split=0.5, early_stopping=stopping, callbacks=[scaling], progress=False)
    return trainer, scaling.temperature


@pytest.mark.parametrize("options", [{}, {"on_device": True, "average": 0.9}], ids=["on the host", "on the device"])
def test_as_on_the_cpu(options):
    trainer, found = fitted("cuda", **options)
    twin, expected = fitted("cpu", **{**options, "on_device": False})
    assert found == pytest.approx(expected, rel=1e-3)
    assert trainer.history.best_epoch == twin.history.best_epoch
    np.testing.assert_allclose(trainer.network.predict(X), twin.network.predict(X), atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_products_read_is_divided_too(dtype):
    net = fitted("cuda", dtype)[0].network
    before = net.predict(X)
    found = gb.calibrate(net, X[:20], LABELS[:20])
    z = np.log(before) / np.reshape(found, (2, 1, 1))
    expected = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    assert abs(expected - before).max() > 0.02
    np.testing.assert_allclose(net.predict(X), expected, atol=0.02)
