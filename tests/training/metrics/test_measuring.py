"""Trainer(metrics=...), evaluate and the val_ columns: what they give is what `Scores` gives of the predictions."""

import math
import pickle

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.network.samples import samples
from gpu_backprop.training import memory
from gpu_backprop.training.evaluation import Evaluation
from gpu_backprop.training.metrics import METRICS, Scores

ROWS = 23
STREAM = np.random.default_rng(5)
X = STREAM.normal(size=(ROWS, 3))
WEIGHTS = STREAM.uniform(0, 3, ROWS) * (np.arange(ROWS) != 3)
LABELS, YES, Y = STREAM.integers(0, 7, ROWS), STREAM.integers(0, 2, (ROWS, 2)), STREAM.normal(size=(ROWS, 2))
EVERY_CLASS = ["f1_macro", "f1_weighted", "roc_auc", "average_precision", "log_loss", "brier_score"]
EVERY_CLASS += ["calibration_error"]
TASKS = {
    "classes": (7, "softmax", None, LABELS, [*EVERY_CLASS, "balanced_accuracy", "top_5_accuracy", "accuracy"]),
    "two classes": (2, "softmax", None, LABELS % 2, [*EVERY_CLASS, "f1"]),
    "one column": (1, "sigmoid", None, LABELS % 2, [*EVERY_CLASS, "f1"]),
    "labels": (2, "sigmoid", None, YES, [*EVERY_CLASS, "label_accuracy", "exact_match", "accuracy"]),
    "numbers": (2, "identity", gb.Quantile(0.2), Y, ["median_absolute_error", "quantile_loss", "quantile_0.2_loss"]),
    "shares": (7, "softmax", "squared_error", np.eye(7)[LABELS], ["accuracy", "roc_auc", "median_absolute_error"]),
}
EACH = pytest.mark.parametrize("task", TASKS)
WEIGHTED = pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])


def trainer_of(task, **settings):
    units, activation, loss, _, _ = TASKS[task]
    layers = [gb.Dense(6, "tanh"), gb.Dropout(0.4), gb.Dense(units, activation)]
    return gb.Trainer(gb.Network(3, layers, dtype="float64", seed=1), loss, batch_size=5, **settings)


def expected(task, y, weights):
    _, _, loss, target, names = TASKS[task]
    target = target[:, None] if y.shape[1] == 1 else target
    quantile = loss.q if isinstance(loss, gb.Quantile) else None
    scores = Scores(np, y, target, weights, multi_label=task == "labels", quantile=quantile)
    known = {**METRICS, "quantile_0.2_loss": METRICS["quantile_0.9_loss"]._replace(number=0.2)}
    return {name: known[name].value(scores) for name in names}


@EACH
@WEIGHTED
def test_evaluate(task, weights):
    *_, target, names = TASKS[task]
    trainer = trainer_of(task)
    plain = trainer.evaluate(X, target, weights)
    measured = trainer.evaluate(X, target, weights, metrics=names)
    assert list(measured) == ["loss", *names]
    wanted = expected(task, trainer.network.predict(X), weights)
    assert measured == pytest.approx({"loss": plain["loss"]} | wanted, rel=1e-12)
    trainer.metrics = names
    assert trainer.evaluate(X, target, weights) == measured
    assert trainer.evaluate(X, target, weights, metrics=["accuracy"] if "accuracy" in names else []).keys() <= {
        "loss", "accuracy",
    }  # fmt: skip


@EACH
def test_columns_of_the_history(task):
    *_, target, names = TASKS[task]
    trainer = trainer_of(task, metrics=names)
    history = trainer.fit(X, target, 2, validation=(X, target, WEIGHTS), progress=False)
    assert [c for c in history.columns if c.startswith("val_")] == ["val_loss", *(f"val_{name}" for name in names)]
    wanted = expected(task, trainer.network.predict(X), WEIGHTS)
    assert {name: history[-1][f"val_{name}"] for name in names} == pytest.approx(wanted, rel=1e-12)
    again = pickle.loads(pickle.dumps(trainer))
    assert list(again.metrics) == names


@pytest.mark.parametrize("monitor", ["val_roc_auc", "val_log_loss", "val_hits"])
def test_early_stopping_by_a_metric(monitor):
    def hits(y_true, y_pred):
        return (y_pred.argmax(axis=1) == y_true).sum()

    hits.larger_is_better = True
    trainer = trainer_of("classes", metrics=["roc_auc", "log_loss", hits])
    stop = gb.EarlyStopping(monitor=monitor, patience=50)
    history = trainer.fit(X, LABELS, 6, validation=(X, LABELS), early_stopping=stop, progress=False)
    values = np.array(history[monitor]) * (1 if monitor == "val_log_loss" else -1)
    assert history.best_epoch == values.argmin() + 1


@EACH
def test_files_of_which_some_rows_are_held_out(task, tmp_path):
    """They stay where they are: what is held out are places in them."""
    *_, target, names = TASKS[task]
    arrays, files = (X, target, WEIGHTS + 0.5), []
    for k, array in enumerate(arrays):
        np.save(tmp_path / f"{k}.npy", array)
        files.append(np.load(tmp_path / f"{k}.npy", mmap_mode="r"))
    histories = [
        trainer_of(task, metrics=names).fit(x, y, 1, weights=w, validation_split=0.4, progress=False)
        for x, y, w in (arrays, files)
    ]
    held, there = ({name: history[0][f"val_{name}"] for name in ("loss", *names)} for history in histories)
    assert there == pytest.approx(held, rel=1e-12)


@EACH
def test_a_member_measures_as_if_it_were_alone(task):
    units, activation, loss, target, names = TASKS[task]
    alone = [trainer_of(task).evaluate(X, target, WEIGHTS, names)]
    layers = [gb.Dense(6, "tanh"), gb.Dropout(0.4), gb.Dense(units, activation)]
    net = gb.Network(3, layers, dtype="float64", seed=[1, 2])
    both = gb.Trainer(net, loss, batch_size=5).evaluate(X, target, WEIGHTS, names)
    assert {name: values[0] for name, values in both.items()} == pytest.approx(alone[0], rel=1e-12)
    assert all(len(values) == 2 for values in both.values())


def test_the_quantile_of_each_member():
    net = gb.Network(3, [gb.Dense(2)], dtype="float64", seed=[1, 1])
    trainer = gb.Trainer(net, gb.Quantile([0.2, 0.7]))
    names = ["quantile_0.2_loss", "quantile_0.7_loss"]
    measured = trainer.evaluate(X, Y, metrics=["quantile_loss", *names])
    assert measured["quantile_loss"] == [measured[name][k] for k, name in enumerate(names)]
    assert measured["quantile_loss"] == pytest.approx([loss / 2 for loss in measured["loss"]])  # which sums outputs


# Own functions --------------------------------------------------------------------------------------------------------


def test_own_functions():
    seen = {}

    def cost(y_true, y_pred):
        seen["cost"] = y_true, y_pred
        return np.float32(2.5)

    def weighted(y_true, y_pred, weights):
        seen["weighted"] = weights
        return 7

    trainer = trainer_of("classes", metrics=[cost, "roc_auc", weighted])
    measured = trainer.evaluate(X, LABELS, WEIGHTS)
    assert measured["cost"] == 2.5 and measured["weighted"] == 7.0 and list(measured)[2] == "roc_auc"
    y_true, y_pred = seen["cost"]
    np.testing.assert_array_equal(y_true, LABELS)
    np.testing.assert_allclose(y_pred, trainer.network.predict(X), rtol=1e-13)
    np.testing.assert_array_equal(seen["weighted"], WEIGHTS)
    trainer.evaluate(X, LABELS)
    assert seen["weighted"] is None
    assert "val_cost" in trainer.fit(X, LABELS, 1, validation=(X, LABELS), progress=False).columns


def test_an_own_function_has_to_give_a_number():
    def words(y_true, y_pred):
        return "much"

    with pytest.raises(gb.InputError, match="metric words must give a number, got str 'much'"):
        trainer_of("classes").evaluate(X, LABELS, metrics=[words])

    def many(y_true, y_pred):
        return y_pred

    with pytest.raises(gb.InputError, match="many must give a number, got ndarray '") as caught:
        trainer_of("classes").evaluate(X, LABELS, metrics=[many])
    assert len(str(caught.value)) < 140


# What is undefined, and what it costs ---------------------------------------------------------------------------------


def test_what_is_undefined_is_nan_and_said_once():
    trainer = trainer_of("one column", metrics=["roc_auc", "f1"])
    with pytest.warns(RuntimeWarning, match="roc_auc is NaN: it takes rows of a class and rows of others") as told:
        history = trainer.fit(X, LABELS % 2, 3, validation=(X, np.zeros(ROWS, int)), progress=False)
    assert len(told) == 1 and all(map(math.isnan, history["val_roc_auc"]))


def test_what_no_metric_needs_is_not_done():
    for task, names, kept in (("classes", ["accuracy"], 0), ("classes", ["f1_macro"], ROWS), ("numbers", ["rmse"], 0)):
        trainer, target = trainer_of(task), TASKS[task][3]
        data = samples(trainer.network, trainer.loss, X, target, None, values=True)
        by_default = Evaluation(trainer.network, trainer.loss, data, 5)
        asked = Evaluation(trainer.network, trainer.loss, data, 5, metrics=names)
        assert asked._kept.shape[-2] == kept and not by_default._kept.size
        more = 1 if kept else 0
        assert len(asked.replays[5].plan.operations) == len(by_default.replays[5].plan.operations) + more


def test_memory_for_the_outputs_is_told_beforehand():
    needs = {}
    for names in (["accuracy"], ["roc_auc"]):
        trainer = trainer_of("classes", metrics=names)
        data = samples(trainer.network, trainer.loss, X, LABELS, None, values=True)
        needs[names[0]] = memory.evaluation_needs(trainer.training_step, trainer.settings, data)
    assert needs["roc_auc"]["outputs"] - needs["accuracy"].get("outputs", 0) == ROWS * 7 * 8
