"""Which rows a fit learns from and how much each counts: validation_split and class_weight."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.data import stratified_split

ROWS = 83
RNG = np.random.default_rng(2)
X = RNG.normal(size=(ROWS, 5))
LABELS = np.repeat([0, 1, 2], [60, 20, 3])[RNG.permutation(ROWS)]
WEIGHTS = RNG.uniform(0.5, 2, ROWS).astype(np.float32)
ONE_HOT = gb.one_hot(LABELS)
YES = (LABELS == 0)[:, None].astype(float)
NUMBERS = RNG.normal(size=(ROWS, 2))

DTYPES = ["float64", "float32"]
"""NumPy, and compiled kernels where there is a compiler."""

TASKS = {
    "labels": (LABELS, "softmax", 3, LABELS),
    "one-hot": (ONE_HOT, "softmax", 3, LABELS),
    "one yes or no": (YES, "sigmoid", 1, YES[:, 0]),
    "numbers": (NUMBERS, "identity", 2, np.zeros(ROWS)),
    "many labels": ((NUMBERS > 0).astype(float), "sigmoid", 2, np.zeros(ROWS)),
}
"""The targets, what is to give them, and the class of each row, as the split sees it."""


def trainer_of(activation="softmax", outputs=3, dtype="float64", seed=6, **options):
    net = gb.Network(5, [gb.Dense(7, "tanh"), gb.Dense(outputs, activation)], dtype=dtype, device="cpu", seed=4)
    return gb.Trainer(net, optimizer=gb.SGD(0.1), batch_size=16, seed=seed, **options)


def fit(trainer, x=X, y=LABELS, epochs=2, **options):
    return trainer.fit(x, y, epochs, progress=False, **options)


def measured(history):
    times = "seconds", "samples_per_second"
    return [{name: value for name, value in row.items() if name not in times} for row in history]


def check_same(one, other):
    assert measured(one.history) == measured(other.history)
    assert one.network.parameters.tobytes() == other.network.parameters.tobytes()


# validation_split -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("shuffle", [False, True])
def test_it_is_a_fit_on_the_rest_that_validates_on_the_rows_held_out(task, shuffle, dtype):
    y, activation, outputs, classes = TASKS[task]
    rest, out = stratified_split(classes, 0.2, seed=6)
    split, given = (trainer_of(activation, outputs, dtype) for _ in range(2))
    fit(split, y=y, weights=WEIGHTS, validation_split=0.2, shuffle=shuffle)
    held_out = X[out], y[out], WEIGHTS[out]
    fit(given, X[rest], y[rest], weights=WEIGHTS[rest], validation=held_out, shuffle=shuffle)
    check_same(split, given)


def test_classes_are_held_out_alike_and_one_row_stays():
    y = LABELS.copy()
    y[np.flatnonzero(y == 2)[1:]] = 0  # one row is left of class 2
    rest, out = stratified_split(y, 0.1, seed=6)
    assert np.bincount(y[out], minlength=3).tolist() == [6, 2, 0]
    seen = []
    trainer = trainer_of()
    fit(trainer, y=y, validation_split=0.1, callbacks=[lambda state: seen.append(state.step)])
    assert seen == [-(-len(rest) // 16)] * 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_of_files_the_places_of_rows_are_chosen(tmp_path, dtype):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", NUMBERS)
    mapped = [np.load(tmp_path / name, mmap_mode="r") for name in ("x.npy", "y.npy")]
    files, arrays = (trainer_of("identity", 2, dtype) for _ in range(2))
    fit(files, *mapped, validation_split=0.2)
    fit(arrays, X, NUMBERS, validation_split=0.2)
    for one, other in zip(measured(files.history), measured(arrays.history), strict=True):
        assert one == pytest.approx(other, rel=1e-6)
    np.testing.assert_allclose(files.network.parameters, arrays.network.parameters, rtol=1e-5, atol=1e-7)


def test_a_further_fit_and_a_copy_hold_the_same_rows_out():
    import pickle

    trainer = trainer_of(seed=9)
    fit(trainer, validation_split=0.2)
    copied = pickle.loads(pickle.dumps(trainer))
    fit(trainer, validation_split=0.2)
    fit(copied, validation_split=0.2)
    check_same(trainer, copied)
    _, out = stratified_split(LABELS, 0.2, seed=9)
    assert trainer.history[-1]["val_loss"] == trainer.evaluate(X[out], LABELS[out])["loss"]


def test_early_stopping_without_validation_data_holds_a_tenth_out():
    given, by_default = trainer_of(), trainer_of()
    fit(given, validation_split=0.1, early_stopping=True)
    fit(by_default, early_stopping=True)
    check_same(given, by_default)
    assert fit(trainer_of(), early_stopping=gb.EarlyStopping("loss")).columns[1:3] == ["loss", "accuracy"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_split": 1}, r"validation_split must be a number in \[0, 1\), got 1"),
        ({"validation_split": -0.1}, "validation_split must be a number in"),
        ({"validation_split": 0.1, "validation": (X, LABELS)}, "validation data were given, and validation_split=0.1"),
        ({"validation_split": 0.001}, "validation_split=0.001: 83 rows in 3 classes are too few to hold out 0.001"),
        (
            {"validation_split": 0.99},
            r"give more rows or another fraction, or validation=\(x, y\)",
        ),
    ],
)
def test_splits_that_cannot_be(options, message):
    with pytest.raises(gb.InputError, match=message):
        fit(trainer_of(), **options)


# class_weight ---------------------------------------------------------------------------------------------------------

BALANCED = [83 / (3 * 60), 83 / (3 * 20), 83 / (3 * 3)]
"""sklearn.utils.class_weight.compute_class_weight("balanced", classes=np.arange(3), y=LABELS) of scikit-learn 1.7 gives
0.46111111, 1.38333333, 9.22222222."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "weights"])
@pytest.mark.parametrize("y", [LABELS, ONE_HOT], ids=["labels", "one-hot"])
def test_balanced(y, weights, dtype):
    np.testing.assert_allclose(BALANCED, [0.46111111, 1.38333333, 9.22222222], rtol=1e-8)
    one, other, third = (trainer_of(dtype=dtype) for _ in range(3))
    own = np.ones(ROWS) if weights is None else weights
    fit(one, y=y, weights=weights, class_weight="balanced")
    fit(other, y=y, weights=own * np.array(BALANCED)[LABELS])
    fit(third, y=y, weights=weights, class_weight=dict(enumerate(BALANCED)))
    check_same(one, other)
    check_same(one, third)


def test_names_of_classes():
    named, plain = trainer_of(), trainer_of()
    named.network.classes = ["a", "b", "c"]
    fit(named, class_weight={"b": 2, "a": 1, "c": 0})
    fit(plain, class_weight={0: 1, 1: 2, 2: 0})
    check_same(named, plain)


def test_one_output_has_two_classes():
    weighted, given = (trainer_of("sigmoid", 1) for _ in range(2))
    fit(weighted, y=YES, class_weight={0: 3, 1: 0.5})
    fit(given, y=YES, weights=np.where(YES[:, 0] == 1, 0.5, 3))
    check_same(weighted, given)


def test_classes_alike_need_no_weights():
    """So that the fit is the one without, also where weights cannot be, as with one_launch."""
    x, y, one, other = X[:60], np.arange(60) % 3, trainer_of(), trainer_of()
    fit(one, x, y, class_weight="balanced")
    fit(other, x, y)
    check_same(one, other)


def test_validation_rows_count_as_they_are():
    trainer, (_, out) = trainer_of(), stratified_split(LABELS, 0.2, seed=6)
    history = fit(trainer, weights=WEIGHTS, class_weight="balanced", validation_split=0.2)
    expected = trainer.evaluate(X[out], LABELS[out], WEIGHTS[out])
    assert {name: history[-1][f"val_{name}"] for name in expected} == expected


def test_only_training_rows_are_balanced():
    (rest, out), split, given = stratified_split(LABELS, 0.2, seed=6), trainer_of(), trainer_of()
    fit(split, class_weight="balanced", validation_split=0.2)
    fit(given, X[rest], LABELS[rest], class_weight="balanced", validation=(X[out], LABELS[out]))
    check_same(split, given)


def test_a_class_that_is_not_named_counts_as_it_is():
    one, other = trainer_of(), trainer_of()
    fit(one, class_weight={1: 3})
    fit(other, class_weight={0: 1, 1: 3, 2: 1})
    check_same(one, other)


@pytest.mark.parametrize(
    ("y", "class_weight", "message"),
    [
        (LABELS, {0: 1, 1: 1, 7: 1}, "class_weight names 7, which is no class: there are 0, 1, 2"),
        (LABELS, {0: 1, 1: 1, 2: -1}, "class_weight of 2 must be a finite number ≥ 0, got -1"),
        (LABELS, {0: 0, 1: 0, 2: 0}, "gives every row the weight 0, so that none counts"),
        (LABELS, [1, 1, 2], "class_weight is 3 in a list, one a member, but there is no models axis"),
        (ONE_HOT * 0.8 + (1 - ONE_HOT) * 0.1, "balanced", "class_weight is for classes: labels, rows with a 1 among"),
    ],
)
def test_what_is_refused(y, class_weight, message):
    with pytest.raises(gb.InputError, match=message):
        fit(trainer_of(), y=y, class_weight=class_weight)
