"""one_launch="auto": chosen where the model says that it is faster, and otherwise nobody hears of it."""

from __future__ import annotations

import logging
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.cuda import setup
from gpu_backprop.training import launch_model, one_launch
from gpu_backprop.training.run import Run
from gpu_backprop.training.streaming import StreamedData

pytestmark = pytest.mark.gpu

ROWS, INPUTS, OUTPUTS, BATCH = 40, 5, 3, 4
_random = np.random.default_rng(8)
X = _random.normal(0, 1, (ROWS, INPUTS))
LABELS = _random.integers(0, OUTPUTS, ROWS)
PLAIN = [gb.Dense(8, "tanh"), gb.Dense(OUTPUTS, "softmax")]


@pytest.fixture
def eager(monkeypatch):
    """An epoch need not be long."""
    monkeypatch.setattr(one_launch, "LEAST_SAVED", 0.0)


@pytest.fixture
def runs(monkeypatch):
    """Of each epoch of a fit, whether it ran in one launch."""
    told, epoch = [], Run.epoch

    def told_epoch(run, *args):
        row = epoch(run, *args)
        told.append(run.in_one_launch)
        return row

    monkeypatch.setattr(Run, "epoch", told_epoch)
    return told


def made(layers=PLAIN, seed=1, optimizer=None, loss=None, dtype="float32", **options):
    net = gb.Network(INPUTS, layers, device="cuda", dtype=dtype, seed=seed)
    return gb.Trainer(net, loss, optimizer or gb.Adam(0.01), batch_size=BATCH, **options)


def fit(trainer, epochs=2, y=LABELS, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return trainer.fit(X, y, epochs, progress=False, **options)


def parameters(trainer):
    return trainer.device.to_host(trainer.network.parameters)


# When it is chosen ----------------------------------------------------------------------------------------------------


def test_it_is_the_default_and_chosen_for_long_epochs_alone(runs, caplog):
    """By the model such an epoch is shorter by 1 ms from some 100 steps on."""
    caplog.set_level(logging.INFO, "gpu_backprop")
    trainer = made()
    assert trainer.one_launch == "auto"
    fit(trainer)
    assert runs == [False, False] and "one launch" not in caplog.text
    many = np.tile(X, (20, 1)), np.tile(LABELS, 20)
    other, asked = made(), made(one_launch=True)
    for one in (other, asked):
        one.fit(*many, 1, progress=False)
    assert runs[2:] == [True, True]
    assert "cuda:0: epochs of 800 rows run in one launch each, or in some: by the model" in caplog.text
    np.testing.assert_array_equal(parameters(other), parameters(asked))


def test_what_it_saves_has_to_be_worth_it(eager, runs, monkeypatch):
    monkeypatch.setattr(one_launch, "GAIN", 0.0)
    fit(made())
    assert runs == [False, False]


def test_a_device_that_is_not_known_keeps_ordinary_steps(eager, runs, monkeypatch):
    monkeypatch.setattr(setup, "PROCESSORS", {})
    fit(made())
    assert runs == [False, False]
    fit(made(one_launch=True), 1)  # whose launches are cut as on the slowest device
    assert runs == [False, False, True]


def test_what_it_is_decided_by():
    """The device, as it says of itself; more members than multiprocessors take turns."""
    trainer = made(seed=range(3))
    found = trainer.device.processors
    attribute = trainer.device.xp.cuda.runtime.deviceGetAttribute
    capability = attribute(75, 0), attribute(76, 0)
    assert (found.multiprocessors, (found.lanes, found.megahertz)) == (
        attribute(16, 0), (setup.PROCESSORS[capability][0], setup.PROCESSORS[capability][2])
    )  # fmt: skip
    double = gb.Network(2, [gb.Dense(1)], device="cuda", dtype="float64").device.processors
    assert double.lanes == setup.PROCESSORS[capability][1]
    layout = one_launch.layout(trainer.network, trainer.loss, 2)
    of = [launch_model.resident_step(layout, n * found.multiprocessors, BATCH, 60_000, found) for n in (1, 2, 3)]
    assert of == pytest.approx([of[0], 2 * of[0], 3 * of[0]])
    assert launch_model.resident_step(layout, found.multiprocessors + 1, BATCH, 60_000, found) == of[1]


def test_the_same_seed_gives_the_same_bits(eager, runs):
    first, second, split = made(), made(), made()
    for trainer in (first, second):
        fit(trainer, 4)
    fit(split, 1)
    fit(split, 3)
    assert all(runs) and len(runs) == 12
    for trainer in (second, split):
        np.testing.assert_array_equal(parameters(trainer), parameters(first))


# Where it cannot be ---------------------------------------------------------------------------------------------------

ORDINARY = {
    "graph": lambda: fit(made(graph=True)),
    "stream": lambda: fit(made(stream=True)),
    "16 bits": lambda: fit(made(dtype="float16")),
    "dropout": lambda: fit(made([gb.Dropout(0.1), *PLAIN])),
    "softmax, another loss": lambda: fit(made(loss="half_squared_error"), y=gb.one_hot(LABELS, OUTPUTS)),
    "too large": lambda: fit(made([gb.Dense(9000, "relu"), *PLAIN]), 1),
    "weights": lambda: fit(made(), weights=np.ones(ROWS) + np.arange(ROWS) / ROWS),
    "clip_norm": lambda: fit(made(clip_norm=1.0)),
    "average": lambda: fit(made(average=0.9)),
    "accumulate": lambda: fit(made(accumulate=2)),
    "max_norm": lambda: fit(made([gb.Dense(4, "relu", max_norm=2.0), PLAIN[-1]])),
    "loss_every": lambda: fit(made(), loss_every=2),
    "on_step": lambda: fit(made(), callbacks=[SimpleNamespace(on_step=lambda _: None)]),
    "checkpoints within": None,
    "schedule": lambda: fit(made(optimizer=gb.Adam(0.01, schedule="cosine"))),
    "focal": lambda: fit(made(loss="focal")),
    "asked not to": lambda: fit(made(one_launch=False)),
}


@pytest.mark.parametrize("case", ORDINARY)
def test_steps_are_ordinary_where_it_cannot_be(eager, runs, case, tmp_path):
    run = ORDINARY[case] or (lambda: fit(made(), callbacks=[gb.Checkpoint(tmp_path, every_steps=4)]))
    run()
    assert runs and not any(runs)


def test_a_timed_checkpoint_leaves_it_one_launch(eager, runs, tmp_path):
    fit(made(), callbacks=[gb.Checkpoint(tmp_path, every_seconds=60)])
    assert runs == [True, True]


def test_each_fit_decides_anew(eager, runs):
    trainer = made()
    fit(trainer, 1)
    fit(trainer, 1, loss_every=2)
    trainer.optimizer.schedule = "cosine"
    fit(trainer, 1)
    trainer.optimizer.schedule = None
    fit(trainer, 1)
    trainer.step(X[:4], LABELS[:4])
    assert runs == [True, False, False, True]


def test_a_layer_that_is_set_within_a_fit_to_what_it_has_not(eager, runs):
    trainer = made()

    def bound(state):
        state.trainer.network.layers[0].max_norm = {1: None, 2: 0.5, 3: None, 4: None}[state.epoch]

    fit(trainer, 4, callbacks=[bound])
    assert runs == [True, True, False, True]
    with pytest.raises(gb.InputError, match="only ordinary steps have max_norm"):
        fit(made(one_launch=True), 4, callbacks=[bound])


def test_data_that_do_not_fit_stream_into_ordinary_steps(eager, runs, monkeypatch):
    """They take what ordinary steps take, and it is looked whether that is there."""
    trainer, needs = made(), []
    monkeypatch.setattr("gpu_backprop.training.fit.is_streamed", lambda *_: True)
    monkeypatch.setattr(
        type(trainer), "place", lambda self, data, name, room, shuffled: StreamedData(self.network, data, BATCH)
    )
    require = trainer.device.require
    monkeypatch.setattr(
        type(trainer.device), "require", lambda self, found, *rest: needs.append(found) or require(found, *rest)
    )
    fit(trainer)
    assert runs == [False, False]
    assert "forward" not in needs[0] and needs[-1]["forward"] > 0


# Members --------------------------------------------------------------------------------------------------------------


def test_members_that_are_stopped(eager, runs):
    """They are measured and learn nothing, as with ordinary steps."""
    histories, trained = [], []
    for options in ({}, {"one_launch": False, "graph": False}):
        trainer = made(seed=[1, 2, 3], optimizer=gb.Adam([0.3, 0.0001, 0.05]), dtype="float64", **options)
        stopper = gb.EarlyStopping(patience=1, min_delta=0.01)
        history = fit(trainer, 8, validation=(X[:9], LABELS[:9]), early_stopping=stopper)
        histories.append(history)
        trained.append([*map(trainer.device.to_host, (trainer.network.parameters, trainer.optimizer.hyper))])
    assert runs[: len(histories[0])] == [True] * len(histories[0]) and not any(runs[len(histories[0]) :])
    assert histories[0].best_epoch == histories[1].best_epoch
    for one, other in zip(*trained, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(histories[0]["loss"], histories[1]["loss"], rtol=1e-9)
    steps = trained[0][1][:, 0]
    assert len({*steps}) > 1  # one was stopped before another


# Going on in another process ------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


def kill(state):
    if state.epoch == 3:
        raise Killed


def killed(tmp_path, trainer):
    with pytest.raises(Killed):
        fit(trainer, 4, callbacks=[gb.Checkpoint(tmp_path), kill])


@pytest.mark.parametrize("chosen", [True, False])
def test_a_fit_that_goes_on_does_what_it_did(eager, runs, monkeypatch, tmp_path, chosen):
    """Also where the model says otherwise by then: a checkpoint says how its epochs ran."""
    whole, begun, resumed = made(), made(), made()
    monkeypatch.setattr(one_launch, "GAIN", float(chosen))
    fit(whole, 4)
    killed(tmp_path, begun)
    monkeypatch.setattr(one_launch, "GAIN", float(not chosen))
    resumed.resume(tmp_path)
    fit(resumed, 4)
    assert len(runs) > 4 + 3 and set(runs) == {chosen}
    np.testing.assert_array_equal(parameters(resumed), parameters(whole))


ASKING = {
    "loss_every": ({"loss_every": 2}, ", for loss_every=2"),
    "on_step": ({"callbacks": [SimpleNamespace(on_step=lambda _: None)]}, ", for on_step of SimpleNamespace"),
    "weights": ({"weights": np.ones(ROWS) + np.arange(ROWS) / ROWS}, ""),
}


@pytest.mark.parametrize("case", ASKING)
def test_a_fit_that_can_go_on_in_ordinary_steps_alone_says_so(eager, runs, tmp_path, case):
    options, why = ASKING[case]
    trainer = made()
    killed(tmp_path, made())
    trainer.resume(tmp_path)
    match = f"not go on .*epochs have ordinary steps here{why}, and ran in one launch in the checkpoint.*force=True"
    with pytest.raises(gb.InputError, match=match):
        fit(trainer, 4, **options)
    trainer.resume(tmp_path, force=True)
    fit(trainer, 4, **options)
    assert len(trainer.history) == 4 and runs[:3] == [True] * 3 and runs[3:] and not any(runs[3:])


def test_a_layer_that_was_set_when_the_checkpoint_was_written(eager, runs, tmp_path):
    """To what one launch has not, and is set back later: nothing differs."""
    whole, resumed = made(), made()

    def bound(state):
        state.trainer.network.layers[0].max_norm = {2: 0.5}.get(state.epoch)

    fit(whole, 4, callbacks=[bound])

    def kill(state):
        if state.epoch == 2:
            raise Killed

    kill.only_reads = True
    with pytest.raises(Killed):
        fit(made(), 4, callbacks=[bound, gb.Checkpoint(tmp_path), kill])
    resumed.resume(tmp_path)
    fit(resumed, 4, callbacks=[bound])
    assert runs == [True, True, False, True, True, True, False, True]
    np.testing.assert_array_equal(parameters(resumed), parameters(whole))


def test_a_fit_that_goes_on_on_the_cpu(eager, runs, tmp_path):
    killed(tmp_path, made())
    trainer = gb.Trainer(gb.Network(INPUTS, PLAIN, device="cpu", seed=1), None, gb.Adam(0.01), batch_size=BATCH)
    with pytest.warns(RuntimeWarning, match="was written on cuda, and this is cpu"):
        trainer.resume(tmp_path)
    fit(trainer, 4)
    assert runs[:3] == [True] * 3 and runs[3:] and not any(runs[3:])


@pytest.mark.parametrize("mode", ["auto", True, False])
def test_a_network_that_a_callback_freezes_is_refused_in_every_mode(eager, mode):
    trainer = made(one_launch=mode)

    def freeze(state):
        for layer in trainer.network.layers:
            layer.trainable = False

    with pytest.raises(gb.InputError, match="no layer is trainable"):
        fit(trainer, callbacks=[freeze])
    assert len(trainer.history) == 1
