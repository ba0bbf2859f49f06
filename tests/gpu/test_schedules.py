"""Schedules on CUDA: captured, streamed and in every dtype, a fit has the settings that it has on the CPU."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.errors import InputError
from gpu_backprop.training import streaming

pytestmark = pytest.mark.gpu

ROWS, INPUTS, BATCH = 37, 5, 8
STREAM = np.random.default_rng(11)
X = STREAM.normal(size=(ROWS, INPUTS)).astype(np.float32)
LABELS = STREAM.integers(0, 3, ROWS)
SCHEDULE = {"learning_rate": gb.Warmup(3, "cosine"), "momentum": lambda step, steps: [1, 1 - step / steps]}


class Settings:
    """What each step had: the optimizer's numbers, and the dropout rates."""

    def __init__(self):
        self.seen = []

    def on_step(self, state):
        to_host, net = state.trainer.device.to_host, state.trainer.network
        self.seen.append((to_host(state.trainer.optimizer.hyper), to_host(net.dropout_rates)))


def fit(device, dtype="float32", graph=False, stream=False, epochs=2):
    layers = [gb.Dense(6, "tanh"), gb.Dropout([0.5, 0.2], schedule="linear"), gb.Dense(3, "softmax")]
    net = gb.Network(INPUTS, layers, dtype=dtype, device=device, seed=[1, 2])
    optimizer = gb.SGD([0.1, 0.2], momentum=0.9, schedule=SCHEDULE)
    modes = {"graph": graph, "stream": stream} if device == "cuda" else {}
    trainer, settings = gb.Trainer(net, optimizer=optimizer, batch_size=BATCH, **modes), Settings()
    trainer.fit(X, LABELS, epochs, progress=False, callbacks=[settings])
    return trainer, settings.seen


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("graph", [False, True, "auto"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_every_step_has_the_settings_of_the_cpu(dtype, graph, stream, monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK", 3 * BATCH * (4 * INPUTS + 8))
    (there, seen), (here, wanted) = fit("cuda", dtype, graph, stream), fit("cpu")
    if dtype != "float16":  # of which the first steps are skipped, and not counted
        np.testing.assert_array_equal([h[..., 0] for h, _ in seen], [h[..., 0] for h, _ in wanted])
    for got, want in zip(seen, wanted, strict=True):
        np.testing.assert_allclose(got[0][..., 1:], want[0][..., 1:], rtol=1e-15)
        np.testing.assert_allclose(got[1][:, 1], want[1][:, 1], rtol=1e-15)
    to_host = there.device.to_host
    assert to_host(there.optimizer.hyper)[..., 1:].tolist() == [[0.1, 0.9], [0.2, 0.9]]
    assert there.history["learning_rate"] == here.history["learning_rate"]
    if dtype == "float32":
        np.testing.assert_allclose(to_host(there.network.parameters), here.network.parameters, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("modes", [{"graph": False}, {"graph": True}, {"graph": True, "stream": True}], ids=str)
def test_a_resumed_fit_has_the_same_bits(modes, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK", 3 * BATCH * (4 * INPUTS + 8))

    class Ends:
        only_reads = True

        def on_step(self, state):
            if (state.epoch, state.step) == (2, 3):
                raise RuntimeError("the machine is gone")

    def made():
        layers = [gb.Dense(6, "tanh"), gb.Dropout(0.5, schedule="linear"), gb.Dense(3, "softmax")]
        net = gb.Network(INPUTS, layers, device="cuda", seed=2)
        return gb.Trainer(net, optimizer=gb.Adam(0.01, schedule=gb.Warmup(3, "cosine")), batch_size=BATCH, **modes)

    straight, ended, resumed = made(), made(), made()
    straight.fit(X, LABELS, 3, progress=False)
    with pytest.raises(RuntimeError, match="the machine is gone"):
        ended.fit(X, LABELS, 3, progress=False, callbacks=[gb.Checkpoint(tmp_path, every_steps=1), Ends()])
    resumed.resume(tmp_path)
    resumed.fit(X, LABELS, 3, progress=False)
    to_host = straight.device.to_host
    for name, array in straight.training_step.state().arrays.items():
        assert to_host(array).tobytes() == to_host(resumed.training_step.state().arrays[name]).tobytes(), name
    assert resumed.history["learning_rate"] == straight.history["learning_rate"]


def test_a_range_test_changes_nothing():
    net = gb.Network(INPUTS, [gb.Dense(6, "tanh"), gb.Dense(3, "softmax")], device="cuda", seed=3)
    trainer = gb.Trainer(net, optimizer="adam", batch_size=BATCH)
    trainer.fit(X, LABELS, 1, progress=False)
    arrays = {**trainer.training_step.state().arrays, "gradients": net.gradients, "hyper": trainer.optimizer.hyper}
    before = {name: net.device.to_host(array).tobytes() for name, array in arrays.items()}
    found = trainer.find_learning_rate(X, LABELS, steps=20)
    assert np.isfinite(found.losses).all() and len(found.rates) == 20
    assert {name: net.device.to_host(array).tobytes() for name, array in arrays.items()} == before


def test_one_launch_has_none():
    net = gb.Network(INPUTS, [gb.Dense(3, "softmax")], device="cuda")
    trainer = gb.Trainer(net, optimizer=gb.SGD(0.1, schedule="cosine"), one_launch=True)
    with pytest.raises(InputError, match=r"one_launch=True cannot be: settings are read once an epoch"):
        trainer.fit(X, LABELS, 1, progress=False)
    trainer.optimizer.schedule = None
    trainer.fit(X, LABELS, 1, progress=False)
