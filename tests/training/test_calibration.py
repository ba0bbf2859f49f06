"""Temperature scaling: the temperature that is found, and that it is in the network, for whatever computes that; and
intervals of predicted numbers."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.data import Preprocessing, Table
from gpu_backprop.data.encoding import TABULAR
from gpu_backprop.training.calibration import BLOCK

RNG = np.random.default_rng(11)
X = RNG.normal(size=(240, 4))
CLASSES = (X[:, :3] + 1.5 * RNG.normal(size=(240, 3))).argmax(axis=1)
YES = (X[:, 0] + RNG.normal(size=240) > 0).astype(int)
SEVERAL = (X[:, :2] + RNG.normal(size=(240, 2)) > 0).astype(int)
TASKS = {"classes": (3, "softmax", CLASSES), "yes": (1, "sigmoid", YES), "several": (2, "sigmoid", SEVERAL)}


def logits(rows, classes, scale, seed=0):
    """Probabilities whose logits are too large by a factor, and labels drawn from the right ones."""
    generator = np.random.default_rng(seed)
    z = generator.normal(size=(rows, classes)) * 2
    right, given = (np.exp(factor * z) / np.exp(factor * z).sum(axis=1, keepdims=True) for factor in (1.0, scale))
    labels = (right.cumsum(axis=1) < generator.random((rows, 1))).sum(axis=1)
    return given, labels


def sure(task="classes", seed=0, dtype="float64", **options):
    """A network that thinks too much of itself: its logits were made three times as large."""
    units, activation, y = TASKS[task]
    net = gb.Network(4, [gb.Dense(16, "tanh"), gb.Dense(units, activation)], seed=seed, dtype=dtype, device="cpu")
    trainer = gb.Trainer(net, optimizer=gb.Adam(0.02), batch_size=30, **options)
    trainer.fit(X[:120], y[:120], 8, progress=False)
    net.last.weight *= 3
    net.last.bias *= 3
    trainer.history = gb.History()
    return trainer, X[120:], y[120:]


# The temperature ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
def test_what_the_logits_were_multiplied_by(scale):
    p, labels = logits(20_000, 4, scale)
    assert gb.fit_temperature(p, labels) == pytest.approx(scale, rel=0.03)
    assert gb.fit_temperature(p.astype(np.float32), gb.one_hot(labels, 4)) == pytest.approx(scale, rel=0.03)
    two, answers = logits(20_000, 2, scale)
    found = gb.fit_temperature(two, answers)
    assert found == pytest.approx(scale, rel=0.05)
    assert gb.fit_temperature(two[:, 1:], answers) == pytest.approx(found, rel=1e-9)
    labels_of_two = np.hstack([two[:10_000, 1:], two[10_000:, 1:]]), np.stack([answers[:10_000], answers[10_000:]], 1)
    assert gb.fit_temperature(*labels_of_two) == pytest.approx(found, rel=1e-9)


def test_a_weight_is_a_row_as_often_and_members_are_by_themselves():
    p, labels = logits(300, 3, 2.0)
    weights = np.arange(300) % 4
    again = np.repeat(np.arange(300), weights)
    whole = gb.fit_temperature(p[again], labels[again])
    assert gb.fit_temperature(p, labels, weights) == pytest.approx(whole, rel=1e-2)  # but for the one row more
    other, _ = logits(300, 3, 5.0)
    found = gb.fit_temperature(np.stack([p, other]), labels)
    assert found.tolist() == [gb.fit_temperature(p, labels), gb.fit_temperature(other, labels)]


def test_few_rows_and_those_that_are_all_right_or_all_wrong():
    p, labels = np.array([[0.6, 0.4], [0.3, 0.7]]), np.array([0, 1])
    assert 0.1 < gb.fit_temperature(p, labels) < 1  # surer, and not as sure as can be
    many = np.tile(p, (50_000, 1))
    assert gb.fit_temperature(np.tile(p, (5_000, 1)), np.tile(labels, 5_000)) < gb.fit_temperature(p, labels)
    assert gb.fit_temperature(many, np.tile(labels, 50_000)) == 0.1
    assert gb.fit_temperature(p, 1 - labels) == 10
    assert gb.fit_temperature(np.array([[1.0, 0.0], [0.0, 1.0]]), labels) == 1  # nothing is better
    assert gb.fit_temperature(np.full((5, 3), 1 / 3), np.zeros(5, int)) == 1  # all are as good
    zeros = np.array([[1.0], [0.0], [1.0], [1.0]], np.float32)
    assert 1 < gb.fit_temperature(zeros, [1, 0, 1, 0]) <= 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.5], [1]), r"probabilities must have the axes \(rows, classes\), .* of one column it is p\[:, None\]"),
        (([[1.5, 0]], [1]), "probabilities must be from 0 to 1, but there is 1.5 at row 0, column 0"),
        (([[np.nan, 0]], [1]), "1 value is NaN or infinite in probabilities"),
        (([[0.5, 0.5]], [2]), "labels must be from 0 to 1, because there are 2 classes, but there is 2"),
        (([[0.5, 0.5]], [[1, 0, 0]]), r"y must have the shape \(1,\) or \(1, 2\), got \(1, 3\)"),
        (([[0.5]], [3]), "y must be from 0 to 1, but there is 3"),
        (([[0.5]], [1], [0]), "all weights are 0"),
        (([[0.5]], [1], [-1]), "weights must be ≥ 0, but there is -1"),
        (([[0.5]], [1], [1, 1]), r"weights must be one number a row, of shape \(1,\), got the shape \(2,\)"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(gb.InputError, match=message):
        gb.fit_temperature(*arguments)


# In the network -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("seed", [0, [0, 1]], ids=["one", "members"])
@pytest.mark.parametrize("task", TASKS)
def test_the_logits_are_divided(task, seed, dtype, tmp_path):
    trainer, x, y = sure(task, seed, dtype)
    net, before = trainer.network, trainer.evaluate(x, y)["loss"]
    p = net.predict(x)
    expected = gb.fit_temperature(p, y)
    weight = np.array(net.last.weight)
    found = gb.calibrate(net, x, y)
    assert found == pytest.approx(expected if isinstance(seed, int) else expected.tolist(), rel=1e-6)
    assert np.greater(found, 1.2).all()
    np.testing.assert_allclose(net.last.weight * np.reshape(found, (-1, 1, 1)[-weight.ndim :]), weight, rtol=1e-5)
    after = trainer.evaluate(x, y, metrics=["log_loss", "calibrated_log_loss"])
    assert np.less(after["loss"], before).all()
    np.testing.assert_allclose(after["calibrated_log_loss"], after["log_loss"], rtol=1e-5)
    assert (net.predict(x).argmax(axis=-1) == p.argmax(axis=-1)).all()
    assert gb.calibrate(net, x, y) == pytest.approx(1.0 if isinstance(seed, int) else [1.0, 1.0], abs=1e-4)
    gb.save(tmp_path / "net", net)
    np.testing.assert_array_equal(gb.load(tmp_path / "net", device="cpu").predict(x), net.predict(x))


def test_rows_of_a_file_and_weights(tmp_path):
    trainer, x, y = sure()
    rows = BLOCK // len(x) + 2
    np.save(tmp_path / "x.npy", np.tile(x, (rows, 1)))
    twin = trainer.network.copy()
    stored = gb.open_rows(np.load(tmp_path / "x.npy", mmap_mode="r"), np.tile(y, rows))
    found = gb.calibrate(trainer.network, stored)
    assert found == gb.calibrate(twin, np.tile(x, (rows, 1)), np.tile(y, rows), np.full(len(x) * rows, 0.5))


def test_what_cannot_be_calibrated():
    for layers in ([gb.Dense(3)], [gb.Dense(3), gb.Bias("softmax")]):
        net = gb.Network(4, layers)
        for call in (
            lambda net=net: gb.calibrate(net, X, CLASSES),
            lambda net=net: gb.Trainer(net, "squared_error").fit(
                X, gb.one_hot(CLASSES), 1, validation_split=0.1, callbacks=[gb.TemperatureScaling()], progress=False
            ),
        ):
            with pytest.raises(gb.InputError, match=r"divides the logits of a last layer Dense\(\.\.\., 'softmax'\)"):
                call()
    with pytest.raises(gb.InputError, match="must be a gpu_backprop.Network, got Trainer"):
        gb.calibrate(gb.Trainer(net, "squared_error"), X, CLASSES)
    trainer, x, y = sure()
    with pytest.raises(
        gb.InputError, match="TemperatureScaling is fitted to validation data, but there are no validation data"
    ):
        trainer.fit(x, y, 1, callbacks=[gb.TemperatureScaling()], progress=False)
    trainer.network.parameters[...] = np.nan
    with pytest.raises(gb.InputError, match="NaN or infinite outputs"):
        gb.calibrate(trainer.network, x, y)


# At the end of a fit --------------------------------------------------------------------------------------------------


def fit(trainer, epochs=6, **options):
    y = TASKS["classes"][2]
    options = {"early_stopping": gb.EarlyStopping("val_accuracy", patience=99), "progress": False} | options
    return trainer.fit(X[:120], y[:120], epochs, validation=(X[120:], y[120:]), **options)


@pytest.mark.parametrize("seed", [0, [0, 1]], ids=["one", "members"])
@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize("options", [{}, {"average": 0.9}], ids=["plain", "averaged"])
def test_the_best_epoch_is_what_is_divided(options, early_stopping, seed):
    """The same fit without it, and its network calibrated afterwards, come to the same bits."""
    scaling, rest = gb.TemperatureScaling(), {} if early_stopping else {"early_stopping": None}
    (trainer, x, y), (plain, _, _) = (sure(seed=seed, **options) for _ in range(2))
    history = fit(trainer, callbacks=[scaling], **rest)
    fit(plain, **rest)
    assert plain.history.temperature is None
    found = gb.calibrate(plain.network, x, y)
    assert scaling.temperature == history.temperature == found
    assert np.not_equal(found, 1.0).all()
    np.testing.assert_array_equal(trainer.network.parameters, plain.network.parameters)
    assert history.best_epoch == plain.history.best_epoch
    fit(trainer, 1, early_stopping=None)  # goes on, and forgets
    assert trainer.history.temperature is None


def test_a_file_tells_the_temperature(tmp_path):
    trainer, x, _ = sure()
    fit(trainer, callbacks=[gb.TemperatureScaling()])
    gb.save(tmp_path / "net", trainer)
    net = gb.load(tmp_path / "net", device="cpu")
    assert net.trained_by["temperature"] == trainer.history.temperature
    np.testing.assert_array_equal(net.predict(x), trainer.network.predict(x))
    found = gb.calibrate(net, X[:50], CLASSES[:50])
    assert net.trained_by["temperature"] == pytest.approx(found * trainer.history.temperature)


def test_after_an_error_it_does_nothing_and_after_ctrl_c_it_does():
    def raising(error):
        def act(state):
            if state.epoch == 3:
                raise error

        return act

    for error in (ValueError("no"), KeyboardInterrupt()):
        (trainer, x, y), scaling = sure(), gb.TemperatureScaling()
        with pytest.raises(type(error)):
            fit(trainer, callbacks=[raising(error), scaling])
        done = isinstance(error, KeyboardInterrupt)
        assert (scaling.temperature is not None) == done
        assert (gb.calibrate(trainer.network, x, y) == pytest.approx(1, abs=1e-5)) == done
    try:
        raise ValueError("of before")
    except ValueError:
        assert sys.exception() is not None
        trainer, _, _ = sure()
        fit(trainer, callbacks=[scaling])
        assert scaling.temperature is not None


def test_a_resumed_fit_is_divided_once(tmp_path):
    whole, scaling = sure()[0], gb.TemperatureScaling()
    fit(whole, callbacks=[scaling])
    begun, _, _ = sure()
    fit(begun, callbacks=[gb.TemperatureScaling(), gb.Checkpoint(tmp_path), lambda state: state.epoch == 3])
    assert begun.history.temperature is not None
    resumed, later = sure()[0], gb.TemperatureScaling()
    resumed.resume(tmp_path)
    fit(resumed, callbacks=[later, gb.Checkpoint(tmp_path)])
    assert later.temperature == scaling.temperature
    np.testing.assert_array_equal(resumed.network.parameters, whole.network.parameters)
    ended, last = sure()[0], gb.TemperatureScaling()
    ended.resume(tmp_path)
    fit(ended, callbacks=[last])  # whose epochs are all done
    assert last.temperature == scaling.temperature


def test_the_epoch_by_the_loss_after_it():
    trainer, x, y = sure(metrics=["calibrated_log_loss"])
    stopping = gb.EarlyStopping("val_calibrated_log_loss", patience=99)
    history = fit(trainer, early_stopping=stopping, callbacks=[gb.TemperatureScaling()])
    values = history["val_calibrated_log_loss"]
    assert history.best_epoch == int(np.argmin(values)) + 1
    assert trainer.evaluate(x, y)["loss"] == pytest.approx(min(values), rel=1e-9)


def test_with_folds_all_rows_have_one_temperature():
    trainer, x, y = sure(seed=[0, 1, 2])
    twin, weights = sure(seed=[0, 1, 2])[0], np.arange(len(x)) % 3 + 1.0
    options = {"folds": 3, "weights": weights, "progress": False}
    twin.fit(x, y, 2, **options)
    trainer.fit(x, y, 2, callbacks=[gb.TemperatureScaling()], **options)
    found = trainer.history.temperature
    assert found == pytest.approx(gb.fit_temperature(twin.out_of_fold(), y, weights))
    np.testing.assert_allclose(trainer.network.last.weight * found, twin.network.last.weight, rtol=1e-12)
    assert gb.fit_temperature(trainer.out_of_fold(), y, weights) == pytest.approx(1, abs=1e-6)


# Prediction intervals -------------------------------------------------------------------------------------------------


def regression(rows, seed=0, **options):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, 3))
    y = np.stack([x.sum(axis=1) + generator.normal(size=rows), x[:, 0] + 5 * generator.normal(size=rows)], axis=1)
    net = gb.Network(3, [gb.Dense(8, "tanh"), gb.Dense(2)], seed=options.pop("members", 0))
    return gb.Trainer(net, optimizer=gb.Adam(0.02), batch_size=32, **options), x, y


@pytest.mark.parametrize("options", [{}, {"average": 0.9}], ids=["plain", "averaged"])
def test_intervals_of_the_validation_rows(options, tmp_path):
    trainer, x, y = regression(3000, seed=1, **options)
    stopping, net = gb.EarlyStopping(patience=2), trainer.network
    validation = x[500:1000], y[500:1000]
    trainer.fit(
        x[:500], y[:500], 6, validation=validation, early_stopping=stopping, callbacks=[gb.ConformalIntervals()],
        progress=False,
    )  # fmt: skip
    residuals = np.sort(abs(validation[1] - net.predict(validation[0])), axis=0)
    np.testing.assert_allclose(net.intervals.residuals, residuals.T, atol=1e-6)
    for coverage in (0.5, 0.9):
        low, high = net.predict_interval(x[1000:], coverage)
        inside = ((low <= y[1000:]) & (y[1000:] <= high)).mean(axis=0)
        assert inside == pytest.approx(coverage, abs=0.05)
    trainer.fit(x[:500], y[:500], 1, progress=False)
    assert net.intervals is None  # it is another network now


def test_intervals_are_in_the_units_of_the_data():
    _, x, y = regression(60)
    table = Table("t", {"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": y[:, 0] * 1000 + 5000})
    prepared = Preprocessing.fit(table, "y", rows=np.arange(40), encoding=TABULAR)
    net = gb.Network(3, [gb.Dense(1)], seed=1)
    net.preprocessing = prepared
    inputs, target = prepared.transform(table), prepared.targets(table)
    trainer = gb.Trainer(net)
    validation = inputs[40:], target[40:]
    trainer.fit(inputs[:40], target[:40], 3, validation=validation, callbacks=[gb.ConformalIntervals()], progress=False)
    off = abs(table.columns["y"][40:] - prepared.inverse(net.predict(inputs[40:]))[:, 0])
    np.testing.assert_allclose(net.intervals.residuals[0], np.sort(off), rtol=1e-6)
    low, high = net.predict_interval(inputs, 0.5)
    np.testing.assert_allclose((low + high) / 2, prepared.inverse(net.predict(inputs)), rtol=1e-6)


def test_intervals_of_all_rows_with_folds():
    trainer, x, y = regression(50, members=[0, 1])
    trainer.network.averaged = True
    trainer.fit(x, y, 2, folds=2, callbacks=[gb.ConformalIntervals()], progress=False)
    intervals = trainer.network.intervals
    off = np.sort(abs(y - trainer.out_of_fold()), axis=0)
    np.testing.assert_allclose(intervals.residuals, off.T, rtol=1e-6)
    low, high = trainer.network.predict_interval(x, 0.9)
    np.testing.assert_allclose((low + high) / 2, trainer.network.predict(x), rtol=1e-5)


def test_where_there_are_no_intervals():
    trainer, x, y = sure()
    with pytest.raises(gb.InputError, match="ConformalIntervals is for numbers, .* TemperatureScaling is for those"):
        trainer.fit(x, y, 1, validation_split=0.2, callbacks=[gb.ConformalIntervals()], progress=False)
    trainer, x, y = regression(40, members=[0, 1])
    with pytest.raises(gb.InputError, match="is for one network or the mean of its members, and"):
        trainer.fit(x, y, 1, validation_split=0.2, callbacks=[gb.ConformalIntervals()], progress=False)
    with pytest.raises(gb.InputError, match="ConformalIntervals is fitted to validation data, but there are no"):
        trainer.fit(x, y, 1, callbacks=[gb.ConformalIntervals()], progress=False)
    assert repr(gb.ConformalIntervals()) == "ConformalIntervals()"
