"""On a CUDA device a fit goes on from a checkpoint to the same bits: eager, as graphs, and with streamed data."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.training import streaming
from gpu_backprop.training.replay import STEPS_AT_ONCE

pytestmark = pytest.mark.gpu

ROWS, BATCH, STEPS, EPOCHS = 45, 8, 6, 3
RNG = np.random.default_rng(3)
X, LABELS, WEIGHTS = RNG.normal(size=(ROWS, 4)), RNG.integers(0, 3, ROWS), RNG.uniform(0.5, 2, ROWS)

FORMS = {
    "eager": {"graph": False},
    "graph": {"graph": True},
    "auto": {"graph": "auto"},
    "streamed": {"stream": True, "graph": False},
    "streamed, graph": {"stream": True, "graph": True},
    "members": {"seed": [4, 9], "graph": True},
    "members, streamed": {"seed": [4, 9], "stream": True, "graph": "auto"},
    "clipped, averaged, in parts": {"clip_norm": 0.5, "average": 0.9, "accumulate": 2, "graph": True},
    "float16": {"dtype": "float16", "graph": False},
    "float16, graph": {"dtype": "float16", "graph": True},
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK", 2 * BATCH * (4 * 4 + 8))
    monkeypatch.setattr("os.fsync", lambda number: None)


class Killed(BaseException):
    pass


def trainer_of(dtype="float32", seed=3, **options):
    layers = [gb.Dense(5, "tanh"), gb.Dropout(0.2), gb.Dense(3, "softmax")]
    net = gb.Network(4, layers, dtype=dtype, device="cuda", seed=seed)
    return gb.Trainer(net, None, "adam", batch_size=BATCH, **options)


def fit(trainer, callbacks=(), **options):
    options = {"weights": WEIGHTS, "validation": (X[:9], LABELS[:9]), "loss_every": 4} | options
    return trainer.fit(X.astype(np.float32), LABELS, EPOCHS, progress=False, callbacks=callbacks, **options)


def left(trainer):
    arrays, host = trainer.training_step.state()
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "samples_per_second")} for row in trainer.history]
    return {name: trainer.device.to_host(a).tobytes() for name, a in arrays.items()}, host, rows, trainer.history.steps


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_fit_goes_on_to_the_same_bits(tmp_path, form):
    whole = trainer_of(**form)
    fit(whole)
    for after in (4, STEPS, STEPS + 5):
        seen = []

        def kill(state, after=after, seen=seen):
            seen.append(state)
            if len(seen) == after:
                raise Killed

        callback = type("Kill", (), {"on_step": staticmethod(kill)})()
        with pytest.raises(Killed):
            fit(trainer_of(**form), [gb.Checkpoint(tmp_path / str(after), every_steps=4), callback])
        trainer = trainer_of(**form)
        trainer.resume(tmp_path / str(after))
        fit(trainer, [gb.Checkpoint(tmp_path / str(after))])
        assert left(trainer) == left(whole)


def test_in_one_launch(tmp_path):
    layers = [gb.Dense(5, "tanh"), gb.Dense(3, "softmax")]

    def made():
        net = gb.Network(4, layers, device="cuda")
        return gb.Trainer(net, None, "adam", batch_size=BATCH, one_launch=True)

    options = {"weights": None, "loss_every": None}
    whole, trainer = made(), made()
    fit(whole, **options)

    def kill(state):
        if state.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        fit(made(), [gb.Checkpoint(tmp_path), kill], **options)
    trainer.resume(tmp_path)
    fit(trainer, **options)
    assert left(trainer) == left(whole)


def test_a_timed_one_between_graphs_of_several_steps(tmp_path):
    """Which it leaves as they are."""
    x, labels = np.tile(X, (4, 1)).astype(np.float32), np.tile(LABELS, 4)

    def go_on(trainer, *callbacks):
        trainer.fit(x, labels, EPOCHS, progress=False, callbacks=callbacks)

    def kill(state):
        seen.append(state.step)
        if len(seen) == 12:
            raise Killed

    seen, folder = [], tmp_path / "run"
    seldom = SimpleNamespace(on_step=kill, each_step=False, only_reads=True)
    whole, trainer = trainer_of(graph=True), trainer_of(graph=True)
    go_on(whole)
    with pytest.raises(Killed):
        timed = gb.Checkpoint(folder, every_seconds=1e-9)
        timed.on_end = lambda state: timed._release()  # as where the process is killed
        go_on(trainer_of(graph=True), timed, seldom)
    assert max(np.diff(seen)) == STEPS_AT_ONCE
    trainer.resume(folder)
    position = trainer.resumed.position
    assert position.done == seen[-1] and position.epoch == 2
    go_on(trainer, gb.Checkpoint(folder, every_seconds=60))
    assert left(trainer) == left(whole)


def test_from_the_device_to_the_cpu(tmp_path):
    fit(trainer_of(), [gb.Checkpoint(tmp_path)])
    layers = [gb.Dense(5, "tanh"), gb.Dropout(0.2), gb.Dense(3, "softmax")]
    trainer = gb.Trainer(gb.Network(4, layers, device="cpu", seed=3), None, "adam", batch_size=BATCH)
    with pytest.warns(RuntimeWarning, match="was written on cuda, and this is cpu"):
        trainer.resume(tmp_path)
    assert len(fit(trainer)) == EPOCHS
