"""Early stopping, rows that are held out, class weights, a halved rate and the focal loss on CUDA: as on the CPU."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.data import stratified_split
from gpu_backprop.network.samples import samples
from gpu_backprop.training import memory, streaming
from gpu_backprop.training.members import copy_member, member_network, take_members
from gpu_backprop.training.minibatches import DataSet
from gpu_backprop.training.run import Run

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("error")]

RNG = np.random.default_rng(5)
ROWS = 60
X = RNG.normal(size=(ROWS, 4)).astype(np.float32)
LABELS = (X[:, :3] + 2 * RNG.normal(size=(ROWS, 3))).argmax(axis=1)
VALIDATION = X[40:], LABELS[40:]
WAYS = [{"graph": False}, {"graph": True}, {"one_launch": True}]


def trainer_of(device="cuda", *, seed=1, rate=0.05, dtype="float64", loss=None, output="softmax", **options):
    layers = [gb.Dense(12, "tanh"), gb.Dense(3, output)]
    net = gb.Network(4, layers, dtype=dtype, device=device, seed=seed)
    return gb.Trainer(net, loss, gb.Adam(rate), batch_size=16, **options)


def parameters(trainer):
    return trainer.device.to_host(trainer.network.parameters)


def fit(trainer, epochs=12, **options):
    options = {"validation": VALIDATION, "progress": False} | options
    return trainer.fit(X[:40], LABELS[:40], epochs, **options)


def same(one, other):
    np.testing.assert_allclose(parameters(one), parameters(other), rtol=1e-9, atol=1e-11)
    names = set(one.history.columns) - {"seconds", "samples_per_second"}
    for name in names:
        np.testing.assert_allclose(one.history[name], other.history[name], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("seed", "rate"), [(1, 0.1), ([1, 2], [0.3, 0.02])], ids=["one", "members"])
@pytest.mark.parametrize("options", [{"graph": False}, {"one_launch": True}, {"graph": False, "average": 0.9}], ids=str)
def test_the_best_epoch_remains(seed, rate, options):
    stopper = gb.EarlyStopping(patience=3)
    trainer, alike = trainer_of(seed=seed, rate=rate, **options), trainer_of("cpu", seed=seed, rate=rate)
    history = fit(trainer, early_stopping=stopper)
    if "average" not in options:
        assert history.best_epoch == fit(alike, early_stopping=gb.EarlyStopping(patience=3)).best_epoch
        np.testing.assert_allclose(parameters(trainer), parameters(alike), rtol=1e-8, atol=1e-10)
    epochs, losses = np.atleast_1d(history.best_epoch), np.array(history["val_loss"]).reshape(len(history), -1)
    measured = np.atleast_1d(trainer.evaluate(*VALIDATION)["loss"])
    for member, epoch in enumerate(epochs):
        assert measured[member] == losses[epoch - 1, member]


def test_rows_are_held_out_where_they_lie(monkeypatch):
    """Data on the device stay there: no more than the targets and results is read back."""
    import cupy

    trainer, alike = trainer_of(graph=False), trainer_of("cpu")
    x, y = cupy.asarray(X), cupy.asarray(LABELS)
    to_host = type(trainer.device).to_host
    read = []
    monkeypatch.setattr(
        type(trainer.device), "to_host", lambda device, array: read.append(array.shape) or to_host(device, array)
    )
    trainer.fit(x, y, 3, validation_split=0.2, class_weight="balanced", progress=False)
    assert read.count(X.shape) == 1  # for the advice on columns, of a sample of the rows
    assert not [shape for shape in read if shape in ((48, 4), (12, 4))]
    monkeypatch.undo()
    alike.fit(X, LABELS, 3, validation_split=0.2, class_weight="balanced", progress=False)
    same(trainer, alike)


def test_rows_of_files_are_held_out_while_they_stream(monkeypatch, tmp_path):
    monkeypatch.setattr(streaming, "BLOCK", 3 * 16 * (4 * 4 + 8))
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    rest, out = stratified_split(LABELS, 0.2, 1)
    streamed, given = trainer_of(stream=True, graph=False), trainer_of(graph=False)
    streamed.fit(mapped, LABELS, 3, validation_split=0.2, progress=False)
    given.fit(X[rest], LABELS[rest], 3, validation=(X[out], LABELS[out]), progress=False)
    same(streamed, given)


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_a_rate_is_halved(options):
    def made(device, **how):
        net = gb.Network(4, [gb.Dense(6, "relu"), gb.Dense(2)], dtype="float64", device=device, seed=1)
        return gb.Trainer(net, "squared_error", gb.SGD(64.0, momentum=0.5), batch_size=6, **how)

    y, rates = X[:, :2].astype(np.float64), []
    for trainer in (made("cuda", **options), made("cpu")):
        with pytest.warns(RuntimeWarning, match="which begins again with half the learning rate"):
            trainer.fit(X, y, 2, on_divergence="halve_rate", progress=False)
        rates.append([row.get("rate_halved", 0) for row in trainer.history])
        assert np.isfinite(parameters(trainer)).all()
    assert rates[0] == rates[1]
    assert rates[0][0] > 0


def members(rates, device="cuda", dropout=False, **how):
    layers = [gb.Dense(6, "tanh"), *([gb.Dropout(0.2)] if dropout else []), gb.Dense(2)]
    net = gb.Network(4, layers, dtype="float64", device=device, seed=[1, 2, 3])
    return gb.Trainer(net, "squared_error", gb.SGD(rates, momentum=0.5), batch_size=6, **how)


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_members_that_diverge_stop(options):
    """With what their epoch began with; the others come to the same bits as without them."""
    y, rates = X[:, :2].astype(np.float64), [0.01, 1e200, 0.02]
    calm = members([0.01, 0.01, 0.02], **options)
    calm.fit(X, y, 3, progress=False)
    for trainer in (members(rates, **options), members(rates, "cpu")):
        initial = np.array(parameters(trainer))
        with pytest.warns(RuntimeWarning, match="member 1 became NaN or infinite in epoch 1"):
            history = trainer.fit(X, y, 3, on_divergence="stop", progress=False)
        assert history.diverged == [0, 1, 0] and np.isnan(history["loss"]).tolist() == [[False, True, False]] * 3
        assert parameters(trainer)[1].tobytes() == initial[1].tobytes()
        if trainer.device.name != "cpu":
            assert parameters(trainer)[[0, 2]].tobytes() == parameters(calm)[[0, 2]].tobytes()


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_members_that_are_taken_go_on(options):
    class Take:
        only_reads = True

        def on_epoch(self, state):
            if state.epoch == 2:
                self.taken = take_members(state.trainer, [2, 0])

    y, take = X[:, :2].astype(np.float64), Take()
    whole = members([0.01, 0.03, 0.02], dropout="one_launch" not in options, **options)
    whole.fit(X, y, 4, progress=False, callbacks=[take])
    take.taken.fit(X, y, 4, progress=False)
    np.testing.assert_allclose(parameters(take.taken), parameters(whole)[[2, 0]], rtol=1e-12)
    alone = member_network(whole.network, 1)
    np.testing.assert_allclose(alone.predict(X), whole.network.predict(X)[1], rtol=1e-12)
    copy_member(whole, 2, 1)
    assert parameters(whole)[1].tobytes() == parameters(whole)[2].tobytes()


def test_what_both_take_is_told():
    import cupy

    pool = cupy.get_default_memory_pool()
    trainer = trainer_of(dtype="float32", graph=False, stream=False)
    data = samples(trainer.network, trainer.loss, X, LABELS, None, values=True)
    gc.collect()
    told = memory.fit_needs(trainer.training_step, trainer.settings, data, None, keeps_best=True, halves=True)
    before = pool.used_bytes()
    best = trainer.device.copy(trainer.network.parameters)
    placed = DataSet(trainer.network, data, shuffled=True)
    run = Run(trainer.training_step, placed, trainer.settings, trainer.history, shuffle=True, halves=True)
    assert pool.used_bytes() - before == sum(told.values())
    assert told["best parameters"] == best.nbytes
    del run


@pytest.mark.parametrize(
    ("loss", "output", "y"),
    [
        (gb.Focal(1.5), "softmax", LABELS),
        (gb.Focal(), "softmax", gb.one_hot(LABELS, 3)),
        (gb.Focal(alpha=0.3), "sigmoid", gb.one_hot(LABELS, 3)),
    ],
    ids=repr,
)
def test_focal(loss, output, y):
    one, other = (trainer_of(device, loss=loss, output=output) for device in ("cuda", "cpu"))
    for trainer in (one, other):
        trainer.fit(X, y, 2, validation=(X, y), progress=False)
        trainer.loss.gamma = 0.5
        trainer.fit(X, y, 1, validation=(X, y), progress=False)
    same(one, other)


def test_focal_in_one_launch():
    with pytest.raises(gb.InputError, match="of the losses with softmax, focal has no such epoch"):
        trainer_of(loss="focal", one_launch=True)
    one, other = (trainer_of(device, loss=gb.Focal(alpha=0.3), output="sigmoid") for device in ("cuda", "cpu"))
    launched = gb.Trainer(one.network, gb.Focal(alpha=0.3), gb.Adam(0.05), batch_size=16, one_launch=True)
    y = gb.one_hot(LABELS, 3)
    for trainer in (launched, other):
        trainer.fit(X, y, 2, progress=False)
    same(launched, other)
