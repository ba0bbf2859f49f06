"""Folds: each member learns from all rows but those of its fold; and the mean of the members."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.errors import InputError, StateError
from gpu_backprop.backend.lazy_rows import LazyRows
from gpu_backprop.data import stratified_folds
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.member_rows import of_members
from gpu_backprop.training.minibatches import DataSet
from gpu_backprop.training.shuffling import Shuffling
from gpu_backprop.training.temperature import fit_mean, temper

ROWS, SEEDS = 61, [5, 2, 9]
RNG = np.random.default_rng(4)
X = RNG.normal(size=(ROWS, 4))
LABELS = RNG.permutation(np.arange(ROWS) % 3)
NUMBERS = X[:, :2] + RNG.normal(size=(ROWS, 2))
WEIGHTS = RNG.uniform(0.5, 2, ROWS)
UNEQUAL = RNG.permutation(np.repeat([0, 1, 2], [9, 20, 32]))
EVEN = np.arange(60) % 3

DTYPES = ["float64", "float32"]
"""NumPy, and compiled kernels where there is a compiler."""

METRICS = {"softmax": ["accuracy", "log_loss"], "identity": ["r2", "rmse", "median_absolute_error"]}


def trainer_of(activation="softmax", seed: Any = SEEDS, dtype="float64", **options):
    outputs = 3 if activation == "softmax" else 2
    layers = [gb.Dense(6, "tanh"), gb.Dropout(0.2), gb.Dense(outputs, activation)]
    net = gb.Network(4, layers, dtype=dtype, device="cpu", seed=seed)
    return gb.Trainer(net, None, gb.Adam(0.02), batch_size=8, metrics=METRICS[activation], **options)


def fit(trainer, y: Any = LABELS, epochs=3, x: Any = X, folds: Any = 3, **options):
    return trainer.fit(x, y, epochs, folds=folds, progress=False, **options)


def told(history, member: Any = slice(None)):
    """What was measured in each epoch, of one member."""
    hidden = "epoch", "seconds", "samples_per_second"
    return np.array([[np.array(value)[member] for name, value in row.items() if name not in hidden] for row in history])


# What a member learns from --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"class_weight": {0: 3.0}}, {"weights": WEIGHTS[:60]}, {"shuffle": False}])
def test_a_member_is_as_a_network_that_never_saw_its_fold(options, dtype):
    x, y = X[:60], LABELS[:60]
    ensemble = trainer_of(dtype=dtype)
    fit(ensemble, y, x=x, folds=EVEN, early_stopping=gb.EarlyStopping(patience=1), **options)
    weights = options.pop("weights", None)
    for member, seed in enumerate(SEEDS):
        rest, out = member != EVEN, member == EVEN
        alone, given = trainer_of(dtype=dtype, seed=seed), {}
        outside = [x[out], y[out]]
        if weights is not None:
            given, outside = {"weights": weights[rest]}, [*outside, weights[out]]
        stop = gb.EarlyStopping(patience=1)
        fit(alone, y[rest], x=x[rest], folds=None, early_stopping=stop, validation=outside, **given, **options)
        tolerance = 1e-9 if dtype == "float64" else 2e-4
        done = len(alone.history)
        np.testing.assert_allclose(told(ensemble.history, member)[:done], told(alone.history, ()), tolerance, tolerance)
        assert ensemble.history.best_epoch[member] == alone.history.best_epoch
        np.testing.assert_allclose(
            ensemble.network.parameters[member], alone.network.parameters, 10 * tolerance, 10 * tolerance
        )


@pytest.mark.parametrize("folds", [3, UNEQUAL])
def test_in_an_epoch_each_member_takes_all_its_rows_and_no_row_of_its_fold(folds):
    fold = stratified_folds(LABELS, 3, SEEDS[0]) if isinstance(folds, int) else folds
    data = of_members(Samples(X, NUMBERS, None), [np.flatnonzero(fold != member) for member in range(3)])
    net = trainer_of("identity").network
    source, shuffling = DataSet(net, data, shuffled=True), Shuffling(SEEDS, (3,))
    most = (fold != np.bincount(fold).argmin()).sum()
    for _ in range(3):
        source.shuffle(shuffling)
        for member, order in enumerate(source.permutation):
            own = np.flatnonzero(fold != member)
            assert len(order) == source.rows == most
            assert set(order) == set(own) and set(order[: len(own)]) == set(own)


def test_the_extra_rows_of_a_member_are_others_in_each_epoch():
    draw = Shuffling([1, 2], (2,))
    orders = [draw.draw_order(np.array([9, 5])) for _ in range(8)]
    for order in orders:
        assert sorted(order[0]) == [*range(9)] and sorted(order[1][:5]) == [*range(5)] and len(set(order[1][5:])) == 4
    assert len({order[1][5] for order in orders}) > 2
    alone = Shuffling([1], ())
    np.testing.assert_array_equal([order[0] for order in orders], [alone.draw_order(9) for _ in orders])


def test_the_seed_says_the_folds():
    histories = [fit(trainer_of(seed=seed)) for seed in (SEEDS, SEEDS, [6, 2, 9])]
    assert told(histories[0]).tolist() == told(histories[1]).tolist() != told(histories[2]).tolist()


@pytest.mark.parametrize("activation", METRICS)
def test_in_parts_it_learns_the_same(activation):
    y = LABELS if activation == "softmax" else NUMBERS
    whole, parts = (fit(trainer_of(activation, accumulate=n), y, folds=UNEQUAL, weights=WEIGHTS) for n in (1, 3))
    np.testing.assert_allclose(told(whole), told(parts), 1e-9)


# What is measured -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("activation", METRICS)
@pytest.mark.parametrize("folds", [3, UNEQUAL])
def test_each_member_is_measured_on_all_of_its_fold_and_nothing_else(folds, activation, weights, dtype):
    y = LABELS if activation == "softmax" else NUMBERS
    trainer = trainer_of(activation, dtype=dtype)
    history = fit(trainer, y, folds=folds, weights=weights, epochs=1)
    assert sorted(np.concatenate(trainer.folds)) == [*range(ROWS)]
    out_of_fold = trainer.evaluate_out_of_fold()
    for member, rows in enumerate(trainer.folds):
        if not isinstance(folds, int):
            np.testing.assert_array_equal(rows, np.flatnonzero(member == UNEQUAL))
        of_fold = trainer.evaluate(X[rows], y[rows], None if weights is None else weights[rows])
        for name, value in of_fold.items():
            tolerance = 1e-9 if dtype == "float64" else 2e-6
            assert history[0][f"val_{name}"][member] == pytest.approx(value[member], tolerance, tolerance)
            assert out_of_fold["folds"][member][name] == pytest.approx(value[member], tolerance, tolerance)


def test_functions_are_given_the_rows_of_the_fold():
    seen: list[Any] = []

    def largest(y_true, y_pred, weights):
        seen.append((len(y_true), len(y_pred), len(weights)))
        return float(y_true.max())

    trainer = trainer_of("identity")
    trainer.metrics = [largest]
    history = fit(trainer, NUMBERS, folds=UNEQUAL, weights=WEIGHTS, epochs=1)
    assert seen == [(n, n, n) for n in np.bincount(UNEQUAL)]
    assert history[0]["val_largest"] == [pytest.approx(NUMBERS[m == UNEQUAL].max()) for m in range(3)]


@pytest.mark.parametrize("activation", METRICS)
def test_the_outputs_for_a_row_are_those_of_the_member_that_has_not_learned_from_it(activation):
    y = LABELS if activation == "softmax" else NUMBERS
    trainer = trainer_of(activation)
    fit(trainer, y, early_stopping=True)
    found, members = trainer.out_of_fold(), trainer.network.predict(X)
    for member, rows in enumerate(trainer.folds):
        np.testing.assert_allclose(found[rows], members[member][rows], 1e-12)
    pooled = trainer.evaluate_out_of_fold()
    if activation == "softmax":
        p = found[np.arange(ROWS), LABELS]
        assert pooled["loss"] == pytest.approx(-np.log(p).mean())
        assert pooled["accuracy"] == pytest.approx((found.argmax(axis=1) == LABELS).mean())
    else:
        assert pooled["loss"] == pytest.approx(0.5 * ((found - y) ** 2).sum(axis=1).mean())
        assert pooled["r2"] == pytest.approx((1 - ((found - y) ** 2).mean(axis=0) / y.var(axis=0)).mean())
    assert list(trainer.evaluate_out_of_fold(metrics=[])) == ["loss", "folds"]


def test_the_best_epoch_of_each_member_is_what_is_scored():
    trainer = trainer_of()
    history = fit(trainer, epochs=12, early_stopping=gb.EarlyStopping(patience=2))
    for member, (epoch, fold) in enumerate(
        zip(history.best_epoch, trainer.evaluate_out_of_fold()["folds"], strict=True)
    ):
        assert fold["loss"] == pytest.approx(history[epoch - 1]["val_loss"][member])


def test_a_resumed_fit_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda number: None)
    whole, begun, other = trainer_of(), trainer_of(), trainer_of()
    fit(whole, epochs=4, early_stopping=True)
    stop = [gb.Checkpoint(tmp_path, every_steps=1), lambda state: state.epoch == 2]
    fit(begun, epochs=4, early_stopping=True, callbacks=stop)
    other.resume(tmp_path)
    with pytest.raises(InputError, match="places of rows"):
        fit(other, epochs=4, folds=np.arange(ROWS) % 3, early_stopping=True, callbacks=[gb.Checkpoint(tmp_path)])
    other = trainer_of()
    other.resume(tmp_path, force=True)  # since the second callback is none of it
    fit(other, epochs=4, early_stopping=True)
    assert other.network.parameters.tobytes() == whole.network.parameters.tobytes()
    assert told(other.history).tolist() == told(whole.history).tolist()
    np.testing.assert_array_equal(other.out_of_fold(), whole.out_of_fold())


# The mean of the members ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", METRICS)
def test_the_mean_is_measured_as_one_network(activation, dtype):
    y = LABELS if activation == "softmax" else NUMBERS
    trainer = trainer_of(activation, dtype=dtype)
    fit(trainer, y)
    net = trainer.network
    members = net.predict(X)
    net.averaged = True
    mean = net.predict(X, batch_size=7)
    assert mean.dtype == dtype and mean.shape == members.shape[1:]
    np.testing.assert_allclose(mean, members.astype(np.float64).mean(axis=0), 1e-6)
    np.testing.assert_array_equal(net.predict_members(X), members)
    measured = trainer.evaluate(X, y, WEIGHTS)
    e = -np.log(mean[np.arange(ROWS), y]) if activation == "softmax" else 0.5 * ((mean - y) ** 2).sum(axis=1)
    assert measured["loss"] == pytest.approx(np.average(e, weights=WEIGHTS), 1e-6)
    assert list(measured) == ["loss", *METRICS[activation]]
    net.averaged = False
    assert isinstance(trainer.evaluate(X, y)["loss"], list)


@pytest.mark.parametrize(
    "loss", [gb.Huber(0.3), gb.Quantile(0.7), "mean_squared_error", gb.HalfSquaredError(reduction="sum")]
)
def test_of_members_that_are_one_the_mean_has_their_loss(loss):
    net = gb.Network(4, [gb.Dense(2)], dtype="float64", device="cpu", seed=[3, 3])
    trainer = gb.Trainer(net, loss)
    of_each = trainer.evaluate(X, NUMBERS, WEIGHTS)
    net.averaged = True
    of_mean = trainer.evaluate(X, NUMBERS, WEIGHTS)
    assert of_mean == {name: pytest.approx(value[0], 1e-9) for name, value in of_each.items()}


def test_a_file_and_copies_keep_that_the_mean_is_meant(tmp_path):
    net = trainer_of().network
    gb.save(tmp_path / "a", net)
    assert gb.load(tmp_path / "a", device="cpu").averaged is False
    net.averaged = True
    gb.save(tmp_path / "b", net)
    loaded = gb.load(tmp_path / "b", device="cpu")
    for one in (loaded, net.copy(), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert one.averaged is True
        np.testing.assert_array_equal(one.predict(X), net.predict(X))


def test_what_no_row_tells_is_said_once():
    trainer = trainer_of()
    trainer.metrics = ["roc_auc"]
    with pytest.warns(RuntimeWarning, match="roc_auc is NaN"):
        fit(trainer, np.zeros(ROWS, int), epochs=1)
    with pytest.warns(RuntimeWarning, match="roc_auc is NaN") as warned:
        assert np.isnan(trainer.evaluate_out_of_fold()["roc_auc"])
    assert len(warned) == 1


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folds", "said"),
    [
        (4, "folds=4, but the network has 3 members"),
        (0, "folds must be an integer ≥ 1"),
        (2.5, "folds must be an integer"),
        (np.zeros(ROWS, int), "numbers from 0 to 2, each of which some rows have"),
        (np.arange(ROWS), "numbers from 0 to 2"),
        (np.arange(ROWS) % 3 + 0.5, "an integer for each of the 61 rows, got an array of float64"),
        (np.arange(9) % 3, r"got an array of int64 of the shape \(9,\)"),
    ],
)
def test_folds_that_are_none(folds, said):
    with pytest.raises(InputError, match=said):
        fit(trainer_of(), folds=folds)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"validation": (X, LABELS)}, "validation data were given too"),
        ({"validation_split": 0.1}, "validation_split=0.1 were given too"),
        ({"x": X[:2], "y": LABELS[:2]}, "2 rows cannot be 3 folds"),
        ({"x": LazyRows(X.shape, X.dtype, lambda rows: X[rows])}, "read from disk in windows"),
    ],
)
def test_what_folds_cannot_be_with(options, said):
    with pytest.raises(InputError, match=said):
        fit(trainer_of(), **options)


def test_one_network_has_no_folds_and_no_mean():
    trainer = trainer_of(seed=3)
    with pytest.raises(InputError, match=r"seed=range\(8\)"):
        fit(trainer)
    with pytest.raises(InputError, match="averaged is for a network with a models axis"):
        trainer.network.averaged = True
    trainer.network.averaged = False
    with pytest.raises(InputError, match="True or False"):
        trainer.network.averaged = 1
    for call in (trainer.out_of_fold, trainer.evaluate_out_of_fold, lambda: trainer.folds):
        with pytest.raises(StateError, match="the last fit had none"):
            call()


def test_a_mean_is_of_rows_that_all_members_are_given():
    net = trainer_of().network
    net.averaged = True
    with pytest.raises(InputError, match=r"x must have the axes \(rows, inputs\)"):
        net.predict(np.stack([X] * 3))


def test_a_loss_with_a_number_for_each_member_has_no_mean():
    net = gb.Network(4, [gb.Dense(2)], dtype="float64", device="cpu", seed=[3, 4])
    net.averaged = True
    with pytest.raises(InputError, match="Huber's delta"):
        gb.Trainer(net, gb.Huber([0.5, 1.0])).evaluate(X, NUMBERS)


# Temperature ----------------------------------------------------------------------------------------------------------


def test_with_one_temperature_for_all_members_their_mean_is_as_sure_as_they_are_at_theirs():
    y = (X[:, :3] + 0.5 * RNG.normal(size=(ROWS, 3))).argmax(axis=1)
    plain, scaled = trainer_of(), trainer_of()
    scaled.network.averaged = True
    fit(plain, y, epochs=20)
    fit(scaled, y, epochs=20, callbacks=[gb.TemperatureScaling()])
    of_members, found = gb.fit_temperature(plain.out_of_fold(), y), scaled.history.temperature
    np.testing.assert_allclose(scaled.network.last.weight, plain.network.last.weight / found)
    assert 0.1 < found < of_members < 10

    def entropy(p):
        return -(p * np.log(p)).sum(axis=-1).mean()

    z = np.log(plain.network.predict(X)) / of_members
    members = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    assert entropy(scaled.network.predict(X)) == pytest.approx(entropy(members), 1e-4)


def test_the_mean_of_members_that_are_one_has_their_temperature():
    z = RNG.normal(size=(1, 20, 3)).repeat(4, axis=0)
    assert fit_mean(z, 1.7) == pytest.approx(1.7, 1e-4)
    assert fit_mean(z + RNG.normal(size=z.shape), 1.7) < 1.5


def test_probabilities_at_another_temperature():
    z = RNG.normal(size=(20, 3))
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    expected = np.exp(z / 3) / np.exp(z / 3).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(temper(p, 3.0), expected)
    np.testing.assert_allclose(temper(1 / (1 + np.exp(-z)), 0.5), 1 / (1 + np.exp(-2 * z)))
    np.testing.assert_array_equal(temper(np.array([[0.0], [1.0]]), 2.0), [[0.0], [1.0]])


def test_rows_that_no_member_has_learned_from_calibrate_the_mean():
    y = (X[:, :3] + 0.5 * RNG.normal(size=(ROWS, 3))).argmax(axis=1)
    trainer = trainer_of()
    fit(trainer, y, epochs=20)
    net = trainer.network
    net.averaged = True
    before = trainer.evaluate(X, y)["loss"]
    members = net.predict_members(X)
    found = gb.calibrate(net, X, y)
    assert trainer.evaluate(X, y)["loss"] < before
    losses = [-np.log(temper(members, t).mean(axis=0)[np.arange(ROWS), y]).mean() for t in (0.99 * found, found)]
    assert trainer.evaluate(X, y)["loss"] == pytest.approx(losses[1]) and losses[1] < losses[0]
    assert gb.calibrate(net, X, y) == pytest.approx(1, 1e-3)
