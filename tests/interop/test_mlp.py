"""MLPClassifier and MLPRegressor do what scikit-learn's do: the same numbers, attributes, lines and exceptions."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import sklearn.neural_network as theirs
from sklearn.exceptions import ConvergenceWarning

import gpu_backprop as gb

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 5))
Z = X @ RNG.normal(size=(5, 3))
WEIGHTS = RNG.uniform(0.5, 2.0, 40)
TARGETS = {
    "binary": ("MLPClassifier", Z[:, 0] > 0, {}),
    "words": ("MLPClassifier", np.array(["red", "green", "blue"])[Z.argmax(axis=1)], {}),
    "labels": ("MLPClassifier", (Z > 0).astype(int), {}),
    "number": ("MLPRegressor", Z[:, 0], {}),
    "numbers": ("MLPRegressor", Z, {}),
    "counts": ("MLPRegressor", np.exp(Z[:, 0]).round(), {"loss": "poisson"}),
}
SOLVERS = {
    "sgd": {"solver": "sgd", "momentum": 0.0},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False},
    "nesterov": {"solver": "sgd"},
    "adam": {"solver": "adam", "epsilon": 1e-14},
    "lbfgs": {"solver": "lbfgs", "tol": 1e-9},
}
EQUAL = {
    "hidden_layer_sizes": (7, 6), "shuffle": False, "random_state": 3, "max_iter": 8,
    "learning_rate_init": 0.01,
}  # fmt: skip


def both(target, **settings):
    """Returns scikit-learn's estimator and ours, which are not fitted, and the targets."""
    name, y, own = TARGETS[target]
    settings = EQUAL | own | settings
    return getattr(theirs, name)(**settings), getattr(gb, name)(**settings), y


def fitted(target, weights=None, **settings):
    """Returns both, fitted."""
    one, other, y = both(target, **settings)
    return one.fit(X, y, weights), other.fit(X, y, weights)


def parameters(estimator):
    return np.concatenate([array.ravel() for array in estimator.coefs_ + estimator.intercepts_])


def assert_the_same(one, other, atol=1e-13):
    np.testing.assert_allclose(parameters(other), parameters(one), rtol=0, atol=atol)
    predicted = one.predict(X)
    if predicted.dtype.kind == "f":
        np.testing.assert_allclose(other.predict(X), predicted, rtol=100 * atol, atol=100 * atol)
    else:
        np.testing.assert_array_equal(other.predict(X), predicted)
        np.testing.assert_allclose(other.predict_proba(X), one.predict_proba(X), rtol=0, atol=100 * atol)


# Numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("target", TARGETS)
def test_the_parameters_of_every_target(target, solver):
    one, other = fitted(target, WEIGHTS, activation="tanh", alpha=0.5, **SOLVERS[solver])
    assert_the_same(one, other, 1e-9 if solver in ("adam", "lbfgs") else 1e-13)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("activation", ["relu", "logistic", "tanh", "identity"])
def test_the_parameters_of_every_activation(activation, solver):
    # Where a relu bends, a rounding error decides how the search along a line ends.
    iterations = 4 if solver == "lbfgs" else 8
    one, other = fitted("words", activation=activation, alpha=0.0, max_iter=iterations, **SOLVERS[solver])
    assert_the_same(one, other, 1e-9 if solver in ("adam", "lbfgs") else 1e-13)
    if solver != "lbfgs":
        np.testing.assert_allclose(other.loss_curve_, one.loss_curve_, rtol=1e-10)
    assert other.loss_ == pytest.approx(one.loss_, rel=1e-10)


def test_the_epsilon_of_adam_stands_beside_the_corrected_root():
    """Theirs is added before the correction, so that it is larger in the first steps: 31 times in the first."""
    one, other = fitted("words", activation="tanh", alpha=0.0)
    assert 1e-13 < np.abs(parameters(one) - parameters(other)).max() < 1e-3


@pytest.mark.parametrize("target", TARGETS)
def test_the_initial_weights_are_theirs_to_the_bit(target):
    for activation in ("relu", "logistic"):
        one, other = fitted(target, activation=activation, solver="sgd", learning_rate_init=1e-300, max_iter=1)
        np.testing.assert_array_equal(parameters(other), parameters(one))


@pytest.mark.parametrize("target", TARGETS)
def test_the_loss_has_the_penalty_of_the_weights_at_the_end(target):
    """Theirs has that of the weights before the step."""
    one, other = fitted(target, WEIGHTS, solver="sgd", alpha=0.5, max_iter=3)
    before, _ = fitted(target, WEIGHTS, solver="sgd", alpha=0.5, max_iter=2)
    squares = [sum((W * W).sum() for W in each.coefs_) for each in (one, before)]
    further = 0.5 / 2 / WEIGHTS.sum() * (squares[0] - squares[1])
    assert other.loss_ == pytest.approx(one.loss_ + further, rel=1e-10)


@pytest.mark.parametrize("rate", ["constant", "invscaling", "adaptive"])
def test_the_three_rates_of_sgd(rate):
    settings = {"learning_rate": rate, "momentum": 0.0, "tol": 0.1, "n_iter_no_change": 2, "max_iter": 40}
    one, other = fitted("words", solver="sgd", alpha=0.0, learning_rate_init=0.1, **settings)
    assert_the_same(one, other, 1e-12)
    assert (other.n_iter_, other.t_) == (one.n_iter_, one.t_)
    np.testing.assert_allclose(other.loss_curve_, one.loss_curve_, rtol=1e-12)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_early_stopping_holds_out_the_same_rows(target, weights):
    settings = {"solver": "sgd", "learning_rate_init": 0.05, "max_iter": 30, "n_iter_no_change": 3, "alpha": 0.1}
    one, other = fitted(target, weights, early_stopping=True, validation_fraction=0.3, **settings)
    np.testing.assert_allclose(other.validation_scores_, one.validation_scores_, rtol=1e-9, atol=1e-12)
    assert other.n_iter_ == one.n_iter_
    assert_the_same(one, other, 1e-11)


def test_the_last_minibatch_may_be_smaller():
    one, other = fitted("words", solver="sgd", alpha=0.0, batch_size=16, max_iter=5)
    assert_the_same(one, other)
    np.testing.assert_allclose(other.loss_curve_, one.loss_curve_, rtol=1e-12)


@pytest.mark.parametrize("target", TARGETS)
def test_a_warm_start_and_partial_fit_go_on_as_theirs(target):
    one, other, y = both(target, solver="sgd", alpha=0.0, warm_start=True, max_iter=3)
    for _ in range(2):
        one.fit(X, y), other.fit(X, y)
        assert_the_same(one, other)
    one, other, y = both(target, solver="sgd", alpha=0.0)
    classes = {"classes": np.unique(y)} if "Classifier" in type(one).__name__ and target != "labels" else {}
    if target == "labels":
        classes = {"classes": np.arange(3)}
    for start in (0, 20, 0):
        for each in (one, other):
            each.partial_fit(X[start : start + 20], y[start : start + 20], **classes)
        assert_the_same(one, other)
    assert (other.n_iter_, other.t_) == (one.n_iter_, one.t_)


# Attributes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "settings", [{}, {"early_stopping": True}, {"solver": "lbfgs"}], ids=["adam", "early", "lbfgs"]
)
def test_every_attribute_is_there_and_of_the_same_type(target, settings):
    one, other = fitted(target, validation_fraction=0.3, **settings)
    for name, value in vars(one).items():
        if name.startswith("_"):
            continue
        mine = getattr(other, name)
        assert type(mine) is type(value) or (isinstance(mine, float) and isinstance(value, float)), name
        if isinstance(value, np.ndarray):
            assert (mine.shape, mine.dtype) == (value.shape, value.dtype), name
        elif isinstance(value, list):
            assert [np.shape(each) for each in mine] == [np.shape(each) for each in value], name
        elif name not in ("loss_", "best_loss_", "best_validation_score_"):
            assert mine == value, name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_of_what_is_learned_and_predicted(dtype):
    for target in TARGETS:
        one, other, y = both(target)
        for each in (one, other):
            each.fit(X.astype(dtype), y)
        assert [W.dtype for W in other.coefs_ + other.intercepts_] == [W.dtype for W in one.coefs_ + one.intercepts_]
        assert other.predict(X.astype(dtype)).dtype == one.predict(X.astype(dtype)).dtype
        if hasattr(one, "predict_proba"):
            assert other.predict_proba(X.astype(dtype)).dtype == one.predict_proba(X.astype(dtype)).dtype


def test_parameters_have_their_names_and_defaults():
    for name in ("MLPClassifier", "MLPRegressor"):
        one, other = (getattr(package, name)().get_params() for package in (theirs, gb))
        assert other.items() >= {**one}.items() - {("loss", None)}


# What is said ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"max_iter": 3}, {"max_iter": 60, "tol": 0.5, "n_iter_no_change": 2},
        {"max_iter": 60, "early_stopping": True, "n_iter_no_change": 2, "validation_fraction": 0.3},
        {"max_iter": 60, "tol": 0.5, "n_iter_no_change": 2, "learning_rate": "adaptive", "learning_rate_init": 1e-4},
    ],
)  # fmt: skip
def test_the_same_lines_are_printed(settings, capsys):
    lines = []
    for each in both("words", solver="sgd", momentum=0.0, alpha=0.0, verbose=True, **settings)[:2]:
        each.fit(X, TARGETS["words"][1])
        lines.append(capsys.readouterr().out)
    assert lines[0] == lines[1]


@pytest.mark.parametrize(
    ("settings", "warns"),
    [
        ({"max_iter": 2}, True), ({"max_iter": 60, "tol": 0.5, "n_iter_no_change": 2}, False),
        ({"max_iter": 2, "early_stopping": True, "validation_fraction": 0.3}, True), ({"batch_size": 50}, True),
        ({"max_iter": 2, "solver": "lbfgs"}, True), ({"solver": "lbfgs", "tol": 0.5}, False),
    ],
)  # fmt: skip
def test_the_same_warnings(settings, warns):
    kinds = []
    for each in both("words", **settings)[:2]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            each.fit(X, TARGETS["words"][1])
        kinds.append([(one.category, str(one.message)[:40]) for one in caught])
        assert all(one.filename == __file__ for one in caught) or each.__module__.startswith("sklearn")
    if settings.get("solver") == "lbfgs":
        kinds = [[kind for kind, _ in each] for each in kinds]
    assert kinds[0] == kinds[1]
    assert bool(kinds[1]) == warns


NAN = np.where(np.arange(40) == 3, np.nan, X[:, 0])
BAD_SETTINGS = [
    {"hidden_layer_sizes": -1}, {"hidden_layer_sizes": (5, 0)}, {"hidden_layer_sizes": "5"},
    {"hidden_layer_sizes": (5.5,)}, {"activation": "ghost"}, {"solver": "hadoken"}, {"alpha": -1}, {"batch_size": 0},
    {"batch_size": "all"}, {"batch_size": 2.5}, {"learning_rate": "converging"}, {"learning_rate_init": 0.0},
    {"learning_rate_init": "high"}, {"max_iter": 0}, {"max_iter": -1}, {"max_iter": 1.5}, {"shuffle": "true"},
    {"random_state": "x"}, {"tol": -1}, {"verbose": "loud"}, {"momentum": 2}, {"momentum": -0.5},
    {"nesterovs_momentum": "yes"}, {"early_stopping": "yes"}, {"validation_fraction": 1},
    {"validation_fraction": -0.1}, {"beta_1": 1}, {"beta_2": -0.5}, {"epsilon": -1}, {"n_iter_no_change": -1},
    {"n_iter_no_change": 0}, {"max_fun": 0}, {"warm_start": 5}, {"power_t": -1}, {"loss": "ghost"},
    {"early_stopping": True, "validation_fraction": 0.01},
]  # fmt: skip


def exception(do):
    with pytest.raises(Exception) as caught:  # noqa: PT011 (which class is what is compared)
        do()
    return caught.value


@pytest.mark.parametrize("settings", BAD_SETTINGS, ids=str)
def test_bad_parameters_raise_the_same_class(settings):
    if "loss" in settings:
        one, other, y = both("number", **settings)
    else:
        one, other, y = both("words", **settings)
    expected, found = (exception(lambda each=each: each.fit(X, y)) for each in (one, other))
    assert type(found) is type(expected)
    assert str(found)


WORDS = TARGETS["words"][1]
BAD_DATA = {
    "a vector": lambda mlp: mlp.fit(X[:, 0], WORDS),
    "fewer targets": lambda mlp: mlp.fit(X, WORDS[:-1]),
    "NaN": lambda mlp: mlp.fit(np.column_stack([X[:, 1:], NAN]), WORDS),
    "infinity": lambda mlp: mlp.fit(np.column_stack([X[:, 1:], NAN / 0]), WORDS),
    "text": lambda mlp: mlp.fit(X.astype(str).astype(object) + "a", WORDS),
    "complex": lambda mlp: mlp.fit(X * 1j, WORDS),
    "three axes": lambda mlp: mlp.fit(X[:, :, None], WORDS),
    "no rows": lambda mlp: mlp.fit(X[:0], WORDS[:0]),
    "no columns": lambda mlp: mlp.fit(X[:, :0], WORDS),
    "no targets": lambda mlp: mlp.fit(X, None),
    "numbers that are no classes": lambda mlp: mlp.fit(X, Z[:, 0]),
    "several columns of classes": lambda mlp: mlp.fit(X, np.column_stack([Z.argmax(axis=1), Z.argmin(axis=1)])),
    "NaN in y": lambda mlp: mlp.fit(X, NAN),
    "fewer weights": lambda mlp: mlp.fit(X, WORDS, np.ones(39)),
    "weights with NaN": lambda mlp: mlp.fit(X, WORDS, NAN),
    "not fitted": lambda mlp: mlp.predict(X),
    "fewer features": lambda mlp: mlp.fit(X, WORDS).predict(X[:, 1:]),
    "NaN to predict": lambda mlp: mlp.fit(X, WORDS).predict(np.column_stack([X[:, 1:], NAN])),
    "no classes for partial_fit": lambda mlp: mlp.partial_fit(X, WORDS),
    "unknown classes for partial_fit": lambda mlp: mlp.partial_fit(X, WORDS, classes=["red", "green"]),
    "other classes": lambda mlp: [mlp.partial_fit(X, WORDS, classes=each) for each in (set("ab") | {*WORDS}, {*WORDS})],
    "classes with a warm start": lambda mlp: mlp.set_params(warm_start=True).fit(X, WORDS).fit(X, WORDS == "red"),
    "features with a warm start": lambda mlp: mlp.set_params(warm_start=True).fit(X, WORDS).fit(X[:, 1:], WORDS),
    "partial_fit of lbfgs": lambda mlp: mlp.set_params(solver="lbfgs").partial_fit(X, WORDS, classes=np.unique(WORDS)),
    "partial_fit and early_stopping": lambda mlp: mlp.set_params(early_stopping=True).partial_fit(
        X, WORDS, classes=np.unique(WORDS)
    ),
    "too few rows of a class": lambda mlp: mlp.set_params(early_stopping=True).fit(X[:4], ["a", "b", "b", "b"]),
    "an unknown parameter": lambda mlp: mlp.set_params(units=3),
    "no such argument": lambda mlp: mlp.fit(X, WORDS, epochs=3),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_raise_the_same_class(case):
    one, other, _ = both("words", max_iter=2)
    expected, found = (exception(lambda each=each: BAD_DATA[case](each)) for each in (one, other))
    assert isinstance(found, type(expected)), found


def test_weights_below_0_are_an_error():
    """Theirs walks uphill for them."""
    for options in ({"sample_weight": -WEIGHTS}, {"eval_set": (X, WORDS, -WEIGHTS)}):
        with pytest.raises(ValueError, match="Negative values.*sample_weight"):
            both("words")[1].fit(X, WORDS, **options)


def test_what_diverges_is_an_error_that_says_what_to_do():
    one, other, y = both("number", solver="sgd", learning_rate_init=1e200, activation="identity")
    with np.errstate(all="ignore"):
        assert isinstance(exception(lambda: one.fit(X, y)), ValueError)
    with pytest.raises(ValueError, match=r"non-finite parameter weights[^$]*learning rate"):
        other.fit(X, y)


def test_what_diverges_after_a_good_epoch_keeps_its_best_parameters():
    settings = {"solver": "sgd", "learning_rate_init": 1e3, "activation": "identity", "max_iter": 200}
    one, other, y = both("numbers", early_stopping=True, validation_fraction=0.3, **settings)
    with pytest.warns(ConvergenceWarning, match="the best parameters are kept"):
        other.fit(X, y)
    assert np.isfinite(other.predict(X)).all()
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one.fit(X, y)
    np.testing.assert_allclose(other.best_validation_score_, one.best_validation_score_, rtol=1e-9)


def test_ctrl_c_ends_the_training_and_keeps_what_was_learned(monkeypatch):
    class Interrupts:
        def on_epoch(self, state):
            if state.epoch == 3:
                raise KeyboardInterrupt

    _, other, y = both("words", max_iter=50)
    other.set_params(callbacks=[Interrupts()])
    with pytest.warns(UserWarning, match=r"^Training interrupted by user\.$"):
        other.fit(X, y)
    assert other.n_iter_ == len(other.loss_curve_) in (2, 3)
    three = other.set_params(callbacks=None, max_iter=other.n_iter_)
    learned = parameters(other)
    np.testing.assert_array_equal(parameters(three.fit(X, y)), learned)
