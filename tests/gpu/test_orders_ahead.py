"""A thread draws the order of the next epoch and brings it to the device; every bit stays what it is without it.

With CUDASIM_STREAMS=lazy an emulated device does all work as late as it may: an order that comes before the one ahead
of it has been copied shows.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.lazy_rows import LazyRows
from gpu_backprop.training import streaming
from gpu_backprop.training.shuffling import Shuffling

pytestmark = pytest.mark.gpu

ROWS, BATCH, EPOCHS = 61, 8, 5
RNG = np.random.default_rng(2)
X, Y, WEIGHTS = RNG.normal(size=(ROWS, 4)).astype("f"), RNG.normal(size=(ROWS, 2)), RNG.uniform(0.5, 2, ROWS)
LAZY = LazyRows(X.shape, X.dtype, lambda rows: X[rows].copy())

FORMS = {
    "eager": {"graph": False},
    "graph": {"graph": True, "weights": WEIGHTS},
    "members": {"seed": [4, 9], "graph": "auto"},
    "some of the rows": {"seed": [4, 9], "validation_split": 0.3},
    "one launch": {"seed": [4, 9], "one_launch": True},
    "streamed": {"stream": True},
    "members, streamed": {"seed": [4, 9], "stream": True, "graph": True, "validation_split": 0.3},
    "larger than memory": {"seed": [4, 9], "x": LAZY},
    "one block": {"stream": True, "block": 1000},
}


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def fit(monkeypatch, *, seed=3, weights=None, validation_split=0.0, x=X, block=2, **options):
    for size in ("BLOCK", "WINDOW"):
        monkeypatch.setattr(streaming, size, block * BATCH * np.size(seed) * (4 * 4 + 2 * 4))
    layers = [gb.Dense(5, "tanh"), gb.Dense(2)]
    net = gb.Network(4, layers, dtype="float32", device="cuda", seed=seed)
    trainer = gb.Trainer(net, None, "adam", batch_size=BATCH, **options)
    for epochs in (EPOCHS, 1, 2):
        trainer.fit(x, Y, epochs, weights=weights, validation_split=validation_split, progress=False)
    arrays, host = trainer.training_step.state()
    measured = [{k: v for k, v in row.items() if k not in ("seconds", "samples_per_second")} for row in trainer.history]
    return {name: trainer.device.to_host(array).tobytes() for name, array in arrays.items()}, host, measured


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_fit_is_the_same(form, monkeypatch):
    drawn = "draw_seeds" if form.get("x") is LAZY else "draw_order"
    draw, by_thread = getattr(Shuffling, drawn), []

    def seen(*args):
        by_thread.append(threading.current_thread() is not threading.main_thread())
        return draw(*args)

    monkeypatch.setattr(Shuffling, drawn, seen)
    ahead = fit(monkeypatch, **form)
    assert by_thread == [False, *[True] * (EPOCHS - 1), False, False, True]
    monkeypatch.setattr(Shuffling, "work_ahead", lambda *_: None)
    assert fit(monkeypatch, **form) == ahead
    assert by_thread[EPOCHS + 3 :] == [False] * (EPOCHS + 3)


def test_an_interrupted_fit_goes_on(monkeypatch):
    class Interrupt:
        left = 11

        def on_step(self, state):
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    def run(stream):
        net = gb.Network(4, [gb.Dense(5, "tanh"), gb.Dense(2)], device="cuda", seed=[1, 2])
        trainer = gb.Trainer(net, batch_size=BATCH, stream=stream)
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(X, Y, 4, progress=False, callbacks=[Interrupt()])
        trainer.fit(X, Y, 3, progress=False)
        return trainer.device.to_host(net.parameters).tobytes()

    ahead = [run(False), run(True)]
    assert ahead[0] == ahead[1]
    monkeypatch.setattr(Shuffling, "work_ahead", lambda *_: None)
    assert [run(False), run(True)] == ahead
