"""An epoch in one launch that would keep the device for long is cut into several, and comes to the same bits."""

from __future__ import annotations

import re

import numpy as np
import pytest
from tracing import TRACE, traced

import gpu_backprop as gb
from gpu_backprop.training import one_launch
from gpu_backprop.training.progress import Progress

pytestmark = pytest.mark.gpu

ROWS, INPUTS, OUTPUTS, BATCH = 43, 5, 3, 4
STEPS = 11
_random = np.random.default_rng(8)
X = _random.normal(0, 1, (ROWS, INPUTS))
LABELS = _random.integers(0, OUTPUTS, ROWS)


def made(seed=1, dtype="float32", layers=None, rate=0.01, **options):
    layers = layers or [gb.Dense(8, "tanh"), gb.Dense(OUTPUTS, "softmax")]
    net = gb.Network(INPUTS, layers, device="cuda", dtype=dtype, seed=seed)
    return gb.Trainer(net, optimizer=gb.Adam(rate), batch_size=BATCH, **{"one_launch": True, **options})


def left(trainer):
    net, optimizer = trainer.network, trainer.optimizer
    arrays = {"parameters": net.parameters, "gradients": net.gradients, "hyper": optimizer.hyper, **optimizer.moments}
    return {name: net.device.to_host(array) for name, array in arrays.items()}


def same_bits(one, other):
    for name, array in left(other).items():
        np.testing.assert_array_equal(left(one)[name], array, err_msg=name)


@pytest.fixture
def cut(monkeypatch):
    """Lets launches be so long that they have so many steps of a trainer."""

    def to(trainer, steps):
        step = trainer.training_step
        micros = one_launch._resident_step(step, BATCH, step.device.processors)
        monkeypatch.setattr(one_launch, "LAUNCH", micros * (steps + 0.5))

    return to


@pytest.mark.parametrize("seed", [1, [4, 2, 4]], ids=["one", "members"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("steps", "launches"), [(1, 11), (2, 6), (4, 3), (10, 2), (11, 1)])
def test_however_it_is_cut_the_same_is_learned(cut, seed, dtype, steps, launches):
    whole, trainer = made(seed, dtype), made(seed, dtype)
    expected = whole.fit(X, LABELS, 2, progress=False)
    cut(trainer, steps)
    run = one_launch.rows_of_a_launch(trainer.training_step, ROWS, BATCH)
    assert -(-ROWS // run) == launches and run % BATCH == 0
    history = trainer.fit(X, LABELS, 2, progress=False)
    same_bits(trainer, whole)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-13)
    np.testing.assert_array_equal(history["accuracy"], expected["accuracy"])


@traced
def test_launches_of_an_epoch(cut):
    trainer = made()
    cut(trainer, 4)
    names = [e.what for e in TRACE.of(lambda: trainer.fit(X, LABELS, 2, progress=False)) if e.event == "submit"]
    assert sum(bool(re.match(r"_Z11train_epoch", name)) for name in names) == 2 * 3


def test_the_host_is_one_launch_ahead(cut, monkeypatch):
    """It waits for the launch before the one that it has just queued, and an epoch of one launch for none."""
    trainer, said = made(), []
    device = type(trainer.device)
    mark, wait = device.mark, device.wait
    monkeypatch.setattr(device, "mark", lambda self: said.append(m := mark(self)) or m)
    monkeypatch.setattr(device, "wait", lambda self, m: said.append(("wait", said.index(m))) or wait(self, m))
    trainer.fit(X, LABELS, 1, progress=False)
    assert not said
    cut(trainer, 3)
    trainer.fit(X, LABELS, 1, progress=False)
    assert [one if isinstance(one, tuple) else "mark" for one in said] == [
        "mark", "mark", ("wait", 0), "mark", ("wait", 1), "mark", ("wait", 3)
    ]  # fmt: skip


def after_launches(monkeypatch, count, do):
    """Calls `do` when so many launches were queued."""
    seen, advance = [], Progress.advance

    def advanced(shown, rows):
        advance(shown, rows)
        seen.append(rows)
        if len(seen) == count:
            do()

    monkeypatch.setattr(Progress, "advance", advanced)
    return seen


def interrupt():
    raise KeyboardInterrupt


def test_control_c_ends_it_between_launches(cut, monkeypatch):
    trainer, steps = made(), made(one_launch=False, graph=False)
    cut(trainer, 3)
    rows = after_launches(monkeypatch, 2, interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(X, LABELS, 5, shuffle=False, progress=False)
    assert rows == [12, 12]
    assert trainer.history.stopped == "interrupted in epoch 1; what was learned until then is kept"
    for begin in range(0, 24, BATCH):
        steps.step(X[begin : begin + BATCH], LABELS[begin : begin + BATCH])
    np.testing.assert_allclose(trainer.network.predict(X), steps.network.predict(X), rtol=1e-4)


def test_a_fit_that_is_stopped_within_an_epoch_goes_on_there(cut, monkeypatch, tmp_path):
    whole, stopped, resumed = made(), made(), made()
    cut(whole, 3)
    expected = whole.fit(X, LABELS, 3, progress=False)
    seen = after_launches(monkeypatch, 6, stopped.stop)
    stopped.fit(X, LABELS, 3, progress=False, callbacks=[gb.Checkpoint(tmp_path)])
    assert stopped.history.stopped == "stopped in epoch 2, as asked"
    monkeypatch.undo()
    cut(resumed, 3)
    resumed.resume(tmp_path)
    assert resumed.resumed.position.done == 6 and sum(seen[4:]) == 6 * BATCH
    history = resumed.fit(X, LABELS, 3, progress=False)
    same_bits(resumed, whole)
    assert history["loss"] == expected["loss"]


@pytest.mark.parametrize("steps", [4, 5, 20])
def test_it_goes_on_where_no_launch_would_begin(cut, monkeypatch, tmp_path, steps):
    """As on a device whose launches are longer or shorter: the rest of the epoch is cut there once."""
    whole, stopped, resumed = made(), made(), made()
    cut(stopped, 3)
    whole.fit(X, LABELS, 3, progress=False)
    after_launches(monkeypatch, 2, stopped.stop)
    stopped.fit(X, LABELS, 3, progress=False, callbacks=[gb.Checkpoint(tmp_path)])
    monkeypatch.undo()
    cut(resumed, steps)
    resumed.resume(tmp_path)
    history = resumed.fit(X, LABELS, 3, progress=False)
    same_bits(resumed, whole)
    np.testing.assert_allclose(history["loss"], whole.history["loss"], rtol=1e-13)


@pytest.mark.parametrize("steps", [3, 11], ids=["cut", "whole"])
@pytest.mark.parametrize("after", [2, 5])
def test_a_timed_checkpoint_is_gone_on_from(cut, monkeypatch, tmp_path, steps, after):
    """It is written between launches: with an epoch that is cut, in the middle of it."""
    whole, killed, resumed = made(), made(), made()
    cut(whole, steps)
    expected = whole.fit(X, LABELS, 5, progress=False)
    rows = after_launches(monkeypatch, after, interrupt)
    with pytest.raises(KeyboardInterrupt):
        timed = gb.Checkpoint(tmp_path, every_seconds=1e-9)
        monkeypatch.setattr(timed, "on_end", lambda state: timed._release())  # as where the process is killed
        killed.fit(X, LABELS, 5, progress=False, callbacks=[timed])
    monkeypatch.undo()
    cut(resumed, steps)
    resumed.resume(tmp_path)
    position = resumed.resumed.position
    assert (position.epoch - 1) * ROWS + min(position.done * BATCH, ROWS) == sum(rows[:-1])
    history = resumed.fit(X, LABELS, 5, progress=False, callbacks=[gb.Checkpoint(tmp_path, every_seconds=60)])
    same_bits(resumed, whole)
    assert history["loss"] == expected["loss"]


def diverged(one_launch, rate, epochs=4):
    layers = [gb.Dense(4), gb.Dense(1)]
    net = gb.Network(INPUTS, layers, device="cuda", dtype="float64", seed=1)
    trainer = gb.Trainer(net, "half_squared_error", gb.SGD(rate), batch_size=BATCH, one_launch=one_launch)
    with pytest.raises(gb.DivergedError) as raised:
        trainer.fit(X * 100, X[:, :1], epochs, progress=False)
    return raised.value, net.device.to_host(net.parameters)


def test_the_step_at_which_the_loss_is_lost(cut):
    expected, wanted = diverged(False, 1e30)
    cut(made(layers=[gb.Dense(4), gb.Dense(1)]), 2)
    found, parameters = diverged(True, 1e30)
    assert (found.epoch, found.step) == (expected.epoch, expected.step)
    assert str(found) == str(expected) and f"of {STEPS}" in str(found)
    np.testing.assert_allclose(parameters, wanted, rtol=1e-9)


def test_a_rate_is_halved(cut):
    """From the beginning of the epoch, whichever launch diverged."""

    def fitted(**options):
        net = gb.Network(INPUTS, [gb.Dense(6, "relu"), gb.Dense(2)], dtype="float64", device="cuda", seed=1)
        trainer = gb.Trainer(net, "squared_error", gb.SGD(64.0, momentum=0.5), batch_size=BATCH, **options)
        with pytest.warns(RuntimeWarning, match="which begins again with half the learning rate"):
            trainer.fit(X, X[:, :2], 2, on_divergence="halve_rate", progress=False)
        return [row.get("rate_halved", 0) for row in trainer.history]

    expected = fitted(one_launch=False, graph=False)
    cut(made(layers=[gb.Dense(6, "relu"), gb.Dense(2)], dtype="float64"), 2)
    assert fitted(one_launch=True) == expected
