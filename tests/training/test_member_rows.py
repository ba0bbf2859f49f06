"""Rows of their own: each member learns from some of the rows, as a network would that is given them alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.errors import InputError, StateError
from gpu_backprop.backend.lazy_rows import LazyRows
from gpu_backprop.data import stratified_split

ROWS, SEEDS = 61, [5, 2, 9]
RNG = np.random.default_rng(4)
X = RNG.normal(size=(ROWS, 4))
LABELS = RNG.permutation(np.arange(ROWS) % 3)
NUMBERS = X[:, :2] + RNG.normal(size=(ROWS, 2))
WEIGHTS, OWN_WEIGHTS = RNG.uniform(0.5, 2, ROWS), RNG.uniform(0.5, 2, (3, ROWS))
UNEQUAL = [RNG.permutation(ROWS)[:n] for n in (21, 50, 8)]
"""Of 3, 7 and 1 minibatches."""
BOOTSTRAP = RNG.integers(0, ROWS, (3, 45))
SOME = RNG.random((3, ROWS)) < np.array([0.9, 0.5, 0.2])[:, None]
BY_CLASS: Any = [{0: 3.0}, "balanced", None]

DTYPES = {"float64": 1e-9, "float32": 2e-4}
"""NumPy, and compiled kernels where there is a compiler; and how near they are."""

METRICS = {"softmax": ["accuracy", "log_loss"], "identity": ["r2", "rmse", "median_absolute_error"]}


def trainer_of(activation="softmax", seed: Any = SEEDS, dtype="float64", **options):
    outputs = 3 if activation == "softmax" else 2
    layers = [gb.Dense(6, "tanh"), gb.Dropout(0.2), gb.Dense(outputs, activation)]
    net = gb.Network(4, layers, dtype=dtype, device="cpu", seed=seed)
    return gb.Trainer(net, None, gb.Adam(0.02), **{"batch_size": 8, "metrics": METRICS[activation], **options})


def fit(trainer, y: Any = LABELS, epochs=3, x: Any = X, **options):
    return trainer.fit(x, y, epochs, progress=False, **options)


def told(history, member: Any = ()):
    """What was measured in each epoch, of one member."""
    hidden = "epoch", "seconds", "samples_per_second"
    return np.array([[np.array(value)[member] for name, value in row.items() if name not in hidden] for row in history])


def assert_as_alone(together, member, alone, tolerance):
    """The network of a member, and what was told of it, are those of a trainer that trained it alone."""
    epochs = len(alone.history)
    near = {"rtol": tolerance, "atol": tolerance}
    np.testing.assert_allclose(told(together.history, member)[:epochs], told(alone.history), **near)
    np.testing.assert_allclose(together.network.parameters[member], alone.network.parameters, **near)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [UNEQUAL, BOOTSTRAP, SOME], ids=["unequal", "bootstrap", "bool"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weights": WEIGHTS},
        {"weights": OWN_WEIGHTS},
        {"class_weight": BY_CLASS},
        {"class_weight": "balanced", "weights": OWN_WEIGHTS},
        {"shuffle": False, "class_weight": {1: 0.0}},
        {"validation": "rest", "early_stopping": gb.EarlyStopping(patience=1), "weights": WEIGHTS},
    ],
    ids=["plain", "weights", "own weights", "class weights", "balanced", "in order", "rest"],
)
def test_a_member_is_as_a_network_of_its_rows_alone(options, rows, dtype):
    together = trainer_of(dtype=dtype)
    fit(together, rows=rows, **options)
    for member, seed in enumerate(SEEDS):
        own, given = np.arange(ROWS)[rows[member]], dict(options)
        for name in ("weights", "class_weight"):
            if np.ndim(given.get(name)) == 2 or isinstance(given.get(name), list):
                given[name] = given[name][member]
        if "validation" in given:
            rest = np.setdiff1d(np.arange(ROWS), own)
            given["validation"] = X[rest], LABELS[rest], WEIGHTS[rest]
        if given.get("weights") is not None:
            given["weights"] = given["weights"][own]
        alone = trainer_of(dtype=dtype, seed=seed)
        fit(alone, LABELS[own], x=X[own], **given)
        assert_as_alone(together, member, alone, DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_regression_on_the_rest(dtype):
    together = trainer_of("identity", dtype=dtype)
    fit(together, NUMBERS, rows=UNEQUAL, validation="rest")
    for member, (rows, seed) in enumerate(zip(UNEQUAL, SEEDS, strict=True)):
        alone, rest = trainer_of("identity", dtype=dtype, seed=seed), np.setdiff1d(np.arange(ROWS), rows)
        fit(alone, NUMBERS[rows], x=X[rows], validation=(X[rest], NUMBERS[rest]))
        assert_as_alone(together, member, alone, DTYPES[dtype])


@pytest.mark.parametrize(
    "options",
    [{"clip_norm": 0.3}, {"average": 0.9}, {"accumulate": 3}, {"batch_size": 100}],
    ids=["clip_norm", "average", "accumulate", "one minibatch"],
)
def test_what_else_a_step_does_counts_the_steps_of_a_member(options):
    together = trainer_of(**options)
    fit(together, rows=UNEQUAL, weights=WEIGHTS)
    for member, (rows, seed) in enumerate(zip(UNEQUAL, SEEDS, strict=True)):
        alone = trainer_of(seed=seed, **options)
        fit(alone, LABELS[rows], x=X[rows], weights=WEIGHTS[rows])
        assert_as_alone(together, member, alone, 1e-9)


def test_weights_of_0_leave_rows_out():
    """So that those of 0 and 1 are an index stream, and others besides are weights in it."""
    stream, ones, twice = trainer_of(), trainer_of(), trainer_of()
    for trainer, options in (
        (stream, {"rows": SOME}),
        (ones, {"weights": SOME * 1.0}),
        (twice, {"weights": SOME * 2.0}),
    ):
        fit(trainer, validation="rest", **options)
        np.testing.assert_allclose(told(trainer.history, 1), told(stream.history, 1), 1e-9)
    assert ones.network.parameters.tobytes() == stream.network.parameters.tobytes()


def test_members_of_equal_counts_have_no_weights():
    trainer, sources = trainer_of(), []
    for options in ({"rows": BOOTSTRAP}, {"weights": (np.arange(ROWS) < 20) * np.ones((3, 1))}):
        callbacks = [lambda _: sources.append(len(trainer.running.run.data.sources))]
        fit(trainer, epochs=1, callbacks=callbacks, **options)
    assert sources == [2, 2]  # x and y*


def test_rows_are_held_out_of_those_of_each_member():
    split, by_hand = trainer_of(), trainer_of()
    fit(split, rows=UNEQUAL, validation_split=0.2)
    rest, out = stratified_split(LABELS, 0.2, SEEDS[0])
    fit(by_hand, rows=[rows[np.isin(rows, rest)] for rows in UNEQUAL], validation=(X[out], LABELS[out]))
    assert told(split.history).tolist() == told(by_hand.history).tolist()


def test_folds_with_weights_are_exact():
    fold = RNG.permutation(np.repeat([0, 1, 2], [9, 20, 32]))
    together = trainer_of()
    fit(together, folds=fold, weights=WEIGHTS)
    for member, seed in enumerate(SEEDS):
        alone, own, out = trainer_of(seed=seed), fold != member, fold == member
        validation = X[out], LABELS[out], WEIGHTS[out]
        fit(alone, LABELS[own], x=X[own], weights=WEIGHTS[own], validation=validation)
        assert_as_alone(together, member, alone, 1e-9)


def test_a_resumed_fit_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda number: None)
    whole, begun, other = trainer_of(), trainer_of(), trainer_of()
    fit(whole, epochs=4, rows=UNEQUAL)
    stop = [gb.Checkpoint(tmp_path, every_steps=1), lambda state: state.epoch == 2]
    fit(begun, epochs=4, rows=UNEQUAL, callbacks=stop)
    other.resume(tmp_path)
    for rows in ([*UNEQUAL[:2], np.resize(UNEQUAL[2], 9)], [UNEQUAL[0][::-1], *UNEQUAL[1:]]):
        with pytest.raises(InputError, match="places of rows"):
            fit(other, epochs=4, rows=rows, callbacks=[gb.Checkpoint(tmp_path)])
    other = trainer_of()
    other.resume(tmp_path, force=True)  # since the second callback is none of it
    fit(other, epochs=4, rows=UNEQUAL)
    assert other.network.parameters.tobytes() == whole.network.parameters.tobytes()
    assert told(other.history).tolist() == told(whole.history).tolist()


def test_rows_that_every_member_holds_out_once_are_folds():
    trainer = trainer_of()
    fold = np.arange(ROWS) % 3
    fit(trainer, rows=fold != np.arange(3)[:, None], validation="rest")
    np.testing.assert_array_equal(trainer.folds[1], np.flatnonzero(fold == 1))
    fit(trainer, rows=BOOTSTRAP, validation="rest")
    with pytest.raises(StateError, match="the last fit had none"):
        trainer.out_of_fold()


@pytest.mark.parametrize("rows", [None, BOOTSTRAP])
def test_rows_to_be_measured_on_may_be_given(rows):
    trainer, which = trainer_of(), SOME
    history = fit(trainer, rows=rows, validation=which, weights=WEIGHTS, epochs=1)
    for member, own in enumerate(which):
        measured = trainer.evaluate(X[own], LABELS[own], WEIGHTS[own])
        assert {name: history[0][f"val_{name}"][member] for name in measured} == {
            name: pytest.approx(values[member]) for name, values in measured.items()
        }


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rows": UNEQUAL[:2]}, "each of the 3 members, one array each, got 2 of them"),
        ({"rows": 3}, "got int 3"),
        ({"rows": [0, 1, 2]}, r"rows of member 0 must be 61 truth values, or row numbers, got an array of int64"),
        ({"rows": np.ones((3, 60), bool)}, r"rows of member 0 must be 61 truth values.*of bool of the shape \(60,\)"),
        ({"rows": [UNEQUAL[0], UNEQUAL[1], np.array([0.5])]}, "rows of member 2 must be .* an array of float64"),
        ({"rows": [UNEQUAL[0], [3, 61], UNEQUAL[2]]}, "rows of member 1 must be numbers from 0 to 60, .* there is 61"),
        ({"rows": [UNEQUAL[0], [-1], UNEQUAL[2]]}, "there is -1"),
        ({"rows": [UNEQUAL[0], [], UNEQUAL[2]]}, "member 1 has no rows to learn from"),
        ({"rows": [[0], [1], [2]], "weights": np.eye(1, ROWS)[0]}, "member 1 has only rows of the weight 0 to"),
        ({"rows": [[0], [1], [2]], "weights": np.eye(3, ROWS)[[0, 2, 1]]}, "member 1 has no rows to learn from"),
        ({"rows": UNEQUAL, "folds": 3}, "folds and rows both say"),
        ({"weights": np.ones((2, ROWS))}, r"of shape \(61,\), or of each member, \(3, 61\), got the shape \(2, 61\)"),
        ({"validation": "rest"}, r"give rows=, or weights of the shape \(members, rows\)"),
        ({"validation": "best"}, "got 'best'"),
        ({"validation": SOME[:2]}, r"truth values of the members and the 61 rows.*got an array of the shape \(2, 61\)"),
        ({"validation": SOME & (np.arange(3) < 2)[:, None]}, "member 2 has no rows to be measured on"),
        ({"rows": [UNEQUAL[0], range(ROWS), UNEQUAL[2]], "validation": "rest"}, "no rows to be measured on"),
        ({"rows": UNEQUAL, "validation": "rest", "validation_split": 0.1}, "Give one of the two"),
        ({"class_weight": BY_CLASS[:2]}, "class_weight is 2 in a list, one a member, but the network has 3"),
        ({"class_weight": [None, "balance", None]}, "must be 'balanced' or"),
        ({"class_weight": [None, dict.fromkeys(range(3), 0.0), None]}, "gives every row of a member the weight 0"),
        ({"rows": UNEQUAL, "x": LazyRows(X.shape, X.dtype, lambda rows: X[rows])}, "read from disk in windows"),
    ],
)  # fmt: skip
def test_rows_that_are_none(options, said):
    with pytest.raises(InputError, match=said):
        fit(trainer_of(), **options)


def test_one_network_has_no_rows_of_members():
    trainer = trainer_of(seed=3)
    with pytest.raises(InputError, match=r"seed=range\(8\).*Give another one x\[rows\]"):
        fit(trainer, rows=[UNEQUAL[0]])
    with pytest.raises(InputError, match=r"one number a row, of shape \(61,\), got the shape \(1, 61\)"):
        fit(trainer, weights=np.ones((1, ROWS)))
    with pytest.raises(InputError, match="there is no models axis"):
        fit(trainer, class_weight=["balanced"])
