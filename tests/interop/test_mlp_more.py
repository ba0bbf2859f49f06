"""MLPClassifier and MLPRegressor have what scikit-learn's have not."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

import gpu_backprop as gb
from gpu_backprop import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 5))
Z = X @ RNG.normal(size=(5, 3))
WORDS = np.array(["red", "green", "blue"])[Z.argmax(axis=1)]
NUMBER = Z[:, 0]
CLASSES = np.unique(WORDS)


def classifier(**settings):
    return MLPClassifier(**{"hidden_layer_sizes": (7, 6), "max_iter": 5, "random_state": 3} | settings)


def regressor(**settings):
    return MLPRegressor(**{"hidden_layer_sizes": (7, 6), "max_iter": 5, "random_state": 3} | settings)


def parameters(estimator):
    return np.concatenate([array.ravel() for array in estimator.coefs_ + estimator.intercepts_])


def assert_equal_bits(one, other):
    np.testing.assert_array_equal(parameters(one), parameters(other))


# Where, and in which type ---------------------------------------------------------------------------------------------


def test_device_and_dtype_of_the_network():
    mlp = classifier(device="cpu", dtype="float32").fit(X, WORDS)
    assert str(mlp.network_.device.name).startswith("cpu") and mlp.network_.dtype == "float32"
    assert {W.dtype for W in mlp.coefs_} == {np.dtype("float32")} and mlp.predict_proba(X).dtype == "float32"
    wide = classifier(device="cpu").fit(X, WORDS)
    np.testing.assert_allclose(mlp.predict_proba(X), wide.predict_proba(X), atol=1e-4)
    assert regressor(dtype="float32").fit(X, NUMBER).predict(X).dtype == "float32"


def test_a_device_that_is_not_there_is_an_error_that_says_what_to_do():
    with pytest.raises(ValueError, match="cpu"):
        classifier(device="gpu").fit(X, WORDS)


# Layers ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", gb.ACTIVATIONS)
def test_any_activation(activation):
    for make in (classifier, regressor):
        y = WORDS if make is classifier else NUMBER
        mlp = make(activation=activation).fit(X, y)
        hidden = [layer for layer in mlp.network_.layers if isinstance(layer, gb.Dense)][:-1]
        assert [layer.activation.name for layer in hidden] == [activation] * 2
        assert np.isfinite(mlp.predict_proba(X) if make is classifier else mlp.predict(X)).all()


def test_an_activation_for_each_layer_and_an_object():
    mlp = classifier(activation=["logistic", gb.ACTIVATIONS["mish"]]).fit(X, WORDS)
    assert [layer.activation.name for layer in mlp.network_.layers] == ["sigmoid", "mish", "softmax"]
    assert_equal_bits(mlp, classifier(activation=("sigmoid", "mish")).fit(X, WORDS))
    with pytest.raises(ValueError, match="activation has 1 entries for 2 hidden layers"):
        classifier(activation=["relu"]).fit(X, WORDS)


def test_dropout_of_all_layers_and_of_each():
    mlp = classifier(dropout=0.3).fit(X, WORDS)
    rates = [layer.rate for layer in mlp.network_.layers if isinstance(layer, gb.Dropout)]
    assert rates == [0.3, 0.3]
    assert_equal_bits(mlp, classifier(dropout=[0.3, 0.3]).fit(X, WORDS))
    assert np.abs(parameters(mlp) - parameters(classifier().fit(X, WORDS))).max() > 1e-4
    np.testing.assert_array_equal(mlp.predict_proba(X), mlp.predict_proba(X))
    one = classifier(dropout=[0.0, 0.5]).fit(X, WORDS)
    assert [type(layer).__name__ for layer in one.network_.layers] == ["Dense", "Dense", "Dropout", "Dense"]
    with pytest.raises(ValueError, match="dropout has 3 entries for 2 hidden layers"):
        classifier(dropout=[0.1, 0.1, 0.1]).fit(X, WORDS)


@pytest.mark.parametrize(
    "steps", [{"dropout": 0.3}, {"clip_norm": 1.0}, {"callbacks": [print]}, {"learning_rate": "cosine"}], ids=str
)
def test_what_belongs_to_steps_is_not_for_lbfgs(steps):
    with pytest.raises(ValueError, match=f"{next(iter(steps))} is for .*solver='lbfgs'"):
        classifier(solver="lbfgs", **steps).fit(X, WORDS)


# Weights of classes ---------------------------------------------------------------------------------------------------

COUNTS = {word: int((word == WORDS).sum()) for word in CLASSES}
BY_CLASS = {
    "balanced": {word: len(WORDS) / (3 * count) for word, count in COUNTS.items()},
    "dict": {"red": 2.0, "green": 0.5},
}


@pytest.mark.parametrize("kind", BY_CLASS)
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_class_weights_are_sample_weights(kind, solver):
    by_hand = np.array([BY_CLASS[kind].get(word, 1.0) for word in WORDS])
    given = "balanced" if kind == "balanced" else BY_CLASS[kind]
    own = RNG.uniform(0.5, 2, 60)
    for weights in (None, own):
        one = classifier(class_weight=given, solver=solver).fit(X, WORDS, weights)
        other = classifier(solver=solver).fit(X, WORDS, by_hand if weights is None else by_hand * weights)
        assert_equal_bits(one, other)


def test_class_weights_of_two_classes_and_of_labels():
    y = np.where(NUMBER > 0.5, "yes", "no")
    assert_equal_bits(
        classifier(class_weight={"yes": 3}).fit(X, y), classifier().fit(X, y, np.where(y == "yes", 3.0, 1.0))
    )
    labels = (Z > 0).astype(int)
    weighted = classifier(class_weight=[{0: 1, 1: 2}, {0: 1, 1: 1}, {0: 1, 1: 1}]).fit(X, labels)
    assert_equal_bits(weighted, classifier().fit(X, labels, 1.0 + labels[:, 0]))


def test_class_weights_of_rows_that_lack_the_class():
    mlp = classifier(class_weight={"red": 2.0}).partial_fit(X, WORDS, classes=CLASSES)
    by_hand = classifier().partial_fit(X, WORDS, np.where(WORDS == "red", 2.0, 1.0), classes=CLASSES)
    for each in (mlp, by_hand):
        each.partial_fit(X[WORDS != "red"], WORDS[WORDS != "red"])
    assert_equal_bits(mlp, by_hand)
    with pytest.raises(ValueError, match="compute_class_weight"):
        classifier(class_weight="balanced").partial_fit(X, WORDS, classes=CLASSES)


def test_a_class_that_is_not_there_has_no_weight():
    with pytest.raises(ValueError, match="class_weight"):
        classifier(class_weight={"purple": 2}).fit(X, WORDS)


# Losses ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss", ["absolute_error", "huber", "quantile", "half_squared_error", gb.Quantile(0.9), gb.Huber(2.0)]
)
def test_losses_of_numbers(loss):
    mlp = regressor(loss=loss, max_iter=60, learning_rate_init=0.02).fit(X, NUMBER)
    assert mlp.loss_ < mlp.loss_curve_[0] / 2
    assert mlp.out_activation_ == "identity"
    many = regressor(loss=loss).fit(X, Z)
    assert many.predict(X).shape == (60, 3)


def test_a_quantile_lies_above_that_share_of_the_rows():
    for q in (0.1, 0.9):
        mlp = regressor(loss=gb.Quantile(q), max_iter=300, learning_rate_init=0.01).fit(X, NUMBER)
        assert (mlp.predict(X) > NUMBER).mean() == pytest.approx(q, abs=0.2)


def test_poisson_by_name_and_as_an_object():
    counts = np.exp(NUMBER).round()
    named, made = (regressor(loss=loss).fit(X, counts) for loss in ("poisson", gb.Poisson()))
    assert_equal_bits(named, made)
    assert named.loss_curve_ == made.loss_curve_ and made.out_activation_ == "exp"
    assert (made.predict(X) > 0).all()
    with pytest.raises(ValueError, match="≥ 0 for poisson"):
        regressor(loss="poisson").fit(X, NUMBER)


@pytest.mark.parametrize("loss", ["focal", gb.Focal(1.5), gb.CrossEntropy(label_smoothing=0.1), "cross_entropy"])
def test_losses_of_classes(loss):
    mlp = classifier(loss=loss, max_iter=60, learning_rate_init=0.02).fit(X, WORDS)
    assert mlp.loss_ < mlp.loss_curve_[0]
    assert mlp.score(X, WORDS) > 0.9


@pytest.mark.parametrize(
    ("mlp", "y", "match"),
    [
        (classifier(loss="huber"), WORDS, "unknown loss 'huber'. Known: log_loss, cross_entropy"),
        (classifier(loss=gb.Poisson()), WORDS, "none of several classes. Take one of log_loss, cross_entropy"),
        (classifier(loss="binary_cross_entropy"), WORDS, "none of several classes"),
        (classifier(loss=gb.Huber()), NUMBER > 0, "none of two classes or several labels. Take one of log_loss"),
        (regressor(loss="mae"), NUMBER, "Did you mean 'absolute_error'"),
        (regressor(loss="focal"), NUMBER, "unknown loss 'focal'. Known: squared_error"),
        (regressor(loss=gb.Focal()), NUMBER, "is one of classes. Take one of squared_error"),
    ],
)  # fmt: skip
def test_a_loss_that_does_not_suit_is_an_error_that_says_what_does(mlp, y, match):
    with pytest.raises(ValueError, match=match):
        mlp.fit(X, y)
    with pytest.raises(NotFittedError):
        mlp.predict(X)


def test_two_classes_are_smoothed_as_several_are():
    """Cross entropy of two outputs and of one, with targets between 0 and 1, is the same loss."""
    Y = NUMBER > 0
    one = classifier(loss=gb.CrossEntropy(label_smoothing=0.2), max_iter=3).fit(X, Y)
    target = np.where(Y, 0.9, 0.1)[:, None]
    net = classifier(max_iter=1).fit(X, Y).network_
    net.parameters = one.network_.parameters
    p = net.predict(X).astype(float)
    by_hand = -(target * np.log(p) + (1 - target) * np.log1p(-p)).mean()
    trained = one._trainer.evaluate(X, target)["loss"]
    assert trained == pytest.approx(by_hand, rel=1e-6)
    for loss in ("cross_entropy", gb.CrossEntropy()):
        same = classifier(loss=loss, max_iter=3).fit(X, Y)
        np.testing.assert_array_equal(same.coefs_[0], classifier(max_iter=3).fit(X, Y).coefs_[0])
    assert not np.array_equal(one.coefs_[0], same.coefs_[0])


def test_dropout_of_no_layer_and_a_schedule_of_parts_are_errors():
    with pytest.raises(ValueError, match="hidden_layer_sizes names none"):
        classifier(hidden_layer_sizes=(), dropout=0.1).fit(X, WORDS)
    with pytest.raises(ValueError, match="leave learning_rate out"):
        classifier(learning_rate="cosine").partial_fit(X, WORDS, classes=np.unique(WORDS))


def test_the_rate_is_set_between_parts():
    mlp = classifier(solver="sgd", learning_rate_init=0.1)
    mlp.partial_fit(X, WORDS, classes=np.unique(WORDS))
    mlp.learning_rate_init = 1e-9
    before = mlp.coefs_[0].copy()
    np.testing.assert_allclose(mlp.set_params(momentum=0.0).partial_fit(X, WORDS).coefs_[0], before, atol=1e-6)


# Steps ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "solver", [*gb.OPTIMIZERS, gb.AdamW(0.01, weight_decay=0.1), gb.SGD(0.05, momentum=0.9, clip_value=1.0)]
)
def test_any_solver(solver):
    mlp = classifier(solver=solver, learning_rate_init=0.01, max_iter=10).fit(X, WORDS)
    assert mlp.loss_ < mlp.loss_curve_[0]
    mlp.partial_fit(X, WORDS)


def test_an_optimizer_of_ones_own_is_left_as_it_was():
    adam = gb.Adam(0.01)
    before = dict(adam.settings)
    one, other = (classifier(solver=adam).fit(X, WORDS) for _ in range(2))
    assert_equal_bits(one, other)
    assert dict(adam.settings) == before
    assert_equal_bits(one, classifier(learning_rate_init=0.01, alpha=0.0).fit(X, WORDS))


@pytest.mark.parametrize(
    "rate", [*gb.SCHEDULES, gb.Cosine(end=0.1), gb.Warmup(0.2), lambda step, steps: 1 - step / steps]
)
def test_any_schedule_with_any_solver(rate):
    for solver in ("adam", "sgd"):
        mlp = classifier(learning_rate=rate, solver=solver, learning_rate_init=0.01, max_iter=6).fit(X, WORDS)
        assert np.isfinite(mlp.loss_)


def test_a_schedule_is_a_factor_over_all_iterations():
    slow = classifier(learning_rate=lambda step, steps: 0.5).fit(X, WORDS)
    assert_equal_bits(slow, classifier(learning_rate_init=0.0005).fit(X, WORDS))
    seen = []
    classifier(learning_rate=lambda step, steps: seen.append(steps) or 1.0, batch_size=20).fit(X, WORDS)
    assert set(seen) == {15}


def test_clipping():
    free = classifier(solver="sgd", momentum=0.0, learning_rate_init=1.0, alpha=0.0, max_iter=1)
    start = parameters(copy.deepcopy(free).set_params(learning_rate_init=1e-300).fit(X, WORDS))
    free.fit(X, WORDS)
    assert np.linalg.norm(parameters(free) - start) > 0.1
    for name, norm in (("clip_norm", np.linalg.norm), ("clip_value", lambda v: np.abs(v).max())):
        clipped = copy.deepcopy(free).set_params(**{name: 0.01}).fit(X, WORDS)
        assert norm(parameters(clipped) - start) == pytest.approx(0.01, rel=1e-5)
    with pytest.raises(ValueError, match="clip_norm"):
        classifier(clip_norm=0).fit(X, WORDS)


# Validation data of one's own -----------------------------------------------------------------------------------------

X2, WORDS2 = X[40:], WORDS[40:]


def test_validation_data_in_every_form():
    weights = RNG.uniform(0.5, 2, 20)
    forms = [(X2, WORDS2), [(X2, WORDS2)], [X2, WORDS2], (X2.tolist(), WORDS2.tolist()), (X2, WORDS2, None)]
    curves = [classifier().fit(X, WORDS, eval_set=form).validation_loss_curve_ for form in forms]
    assert all(curve == curves[0] for curve in curves) and len(curves[0]) == 5
    weighted = classifier().fit(X, WORDS, eval_set=(X2, WORDS2, weights))
    p = weighted.predict_proba(X2)[np.arange(20), np.searchsorted(CLASSES, WORDS2)]
    assert weighted.validation_loss_curve_[-1] == pytest.approx(np.average(-np.log(p), weights=weights))
    assert weighted.validation_scores_[-1] == pytest.approx(weighted.score(X2, WORDS2, weights))
    assert_equal_bits(weighted, classifier().fit(X, WORDS))


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize(
    ("make", "y"),
    [(classifier, WORDS), (classifier, NUMBER > 0), (classifier, Z > 0), (regressor, NUMBER), (regressor, Z)],
)
def test_the_score_heeds_the_weights_of_the_validation_data(make, y, solver):
    weights = RNG.uniform(0.1, 3, 20)
    mlp = make(solver=solver).fit(X, y, eval_set=(X2, y[40:], weights))
    assert mlp.validation_scores_[-1] == pytest.approx(mlp.score(X2, y[40:], weights))
    assert mlp.best_validation_score_ == max(mlp.validation_scores_)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_the_curve_is_the_loss_and_the_score_of_these_rows(solver):
    mlp = classifier(solver=solver).fit(X, WORDS, eval_set=(X2, WORDS2))
    p = mlp.predict_proba(X2)[np.arange(20), np.searchsorted(CLASSES, WORDS2)]
    assert mlp.validation_loss_curve_[-1] == pytest.approx(-np.log(p).mean())
    assert mlp.validation_scores_[-1] == mlp.score(X2, WORDS2)
    assert mlp.best_validation_score_ == max(mlp.validation_scores_)
    numbers = regressor(solver=solver).fit(X, NUMBER, eval_set=(X2, NUMBER[40:]))
    assert numbers.validation_scores_[-1] == pytest.approx(numbers.score(X2, NUMBER[40:]))
    squares = ((numbers.predict(X2) - NUMBER[40:]) ** 2).mean() / 2
    assert numbers.validation_loss_curve_[-1] == pytest.approx(squares)


def test_without_validation_data_there_is_no_curve():
    assert classifier().fit(X, WORDS).validation_loss_curve_ is None
    mlp = classifier(early_stopping=True).fit(X, WORDS)
    assert len(mlp.validation_loss_curve_) == len(mlp.validation_scores_) == mlp.n_iter_


def test_early_stopping_goes_by_the_validation_data_and_learns_from_every_row():
    mlp = classifier(early_stopping=True, max_iter=200, n_iter_no_change=3, learning_rate_init=0.05)
    mlp.fit(X, WORDS, eval_set=(X2, WORDS2))
    assert mlp.n_iter_ < 200 and "Validation score did not improve" in mlp.stopped_
    assert mlp.score(X2, WORDS2) == mlp.best_validation_score_ == max(mlp.validation_scores_)
    assert mlp.t_ == 60 * mlp.n_iter_


@pytest.mark.parametrize(
    ("eval_set", "match"),
    [
        ((X2, np.where(WORDS2 == "red", "purple", WORDS2)), "purple"), ((X2[:, 1:], WORDS2), "features"),
        ((X2,), r"must be \(X, y\)"), (X2, r"must be \(X, y\)"), ((X2, WORDS2[1:]), "inconsistent"),
        (0.2, r"must be \(X, y\)"), ([(X2, WORDS2), (X2, WORDS2)], "eval_set"), ({"X": X2}, "eval_set"),
        ((X2, WORDS2, np.ones(3)), "sample_weight"), ((X2[:0], WORDS2[:0]), "0 sample"),
    ],
)  # fmt: skip
def test_what_is_no_validation_data(eval_set, match):
    with pytest.raises(ValueError, match=match):
        classifier().fit(X, WORDS, eval_set=eval_set)


def test_validation_data_have_the_columns_of_the_training_data():
    for make, y, other, match in (
        (regressor, NUMBER, Z, "has 3 columns.* has 1"), (regressor, Z, NUMBER, "has 1 columns.* has 3"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"eval_set {match}"):
            make().fit(X, y, eval_set=(X2, other[40:]))


@pytest.mark.parametrize("make", [classifier, regressor])
def test_partial_fit_stops_and_brings_the_best_back(make):
    y, y2 = (WORDS, WORDS2) if make is classifier else (NUMBER, NUMBER[40:])
    first = {"classes": CLASSES} if make is classifier else {}
    mlp = make(early_stopping=True, n_iter_no_change=2, learning_rate_init=0.1, solver="sgd")
    calls, best, seen = 0, None, -math.inf
    while calls < 200:
        mlp.partial_fit(X, y, eval_set=(X2, y2), **first)
        calls += 1
        if mlp.stopped_:
            break
        if mlp.score(X2, y2) > seen:
            seen, best = mlp.score(X2, y2), parameters(mlp)
    assert calls < 200 and "Validation score did not improve" in mlp.stopped_
    assert mlp.best_validation_score_ == pytest.approx(seen)
    np.testing.assert_array_equal(parameters(mlp), best)
    scores, curve = list(mlp.validation_scores_), list(mlp.loss_curve_)
    mlp.partial_fit(X, y, eval_set=(X2, y2))
    np.testing.assert_array_equal(parameters(mlp), best)
    assert (mlp.validation_scores_, mlp.loss_curve_) == (scores, curve) and mlp.stopped_
    with pytest.raises(ValueError, match="eval_set"):
        mlp.partial_fit(X, y)


def test_partial_fit_of_several_labels():
    labels = (Z > 0).astype(int)
    mlp = classifier(learning_rate_init=0.05)
    for _ in range(60):
        mlp.partial_fit(X, labels, classes=[0, 1, 2])
    assert mlp.score(X, labels) > 0.8


def test_callbacks_are_called_and_may_end_it():
    epochs = []

    def after_three(state):
        epochs.append((state.epoch, state.row["loss"]))
        return len(epochs) == 3

    mlp = classifier(max_iter=50, callbacks=[after_three]).fit(X, WORDS)
    assert mlp.n_iter_ == len(epochs) == 3
    assert len(mlp.history_) == 3


# Parameters that are replaced -----------------------------------------------------------------------------------------


def test_replaced_parameters_are_predicted_with_and_learned_from():
    mlp = classifier().fit(X, WORDS)
    before = mlp.predict_proba(X)
    mlp.coefs_[1] = np.zeros_like(mlp.coefs_[1])
    changed = mlp.predict_proba(X)
    assert not np.array_equal(changed, before) and np.allclose(changed, changed[0])
    mlp.coefs_[0][:] = 0
    mlp.intercepts_[-1][:] = [0, 50, 0]
    assert (mlp.predict(X) == CLASSES[1]).all()
    mlp.coefs_ = [np.full_like(W, 0.01) for W in mlp.coefs_]
    mlp.partial_fit(X, WORDS)
    assert np.abs(mlp.coefs_[0] - 0.01).max() < 0.01


def test_parameters_of_another_shape_are_an_error():
    mlp = classifier().fit(X, WORDS)
    mlp.coefs_[0] = np.zeros((4, 4))
    with pytest.raises(ValueError, match="shape"):
        mlp.predict(X)


def test_a_warm_start_with_other_layers_is_an_error_that_says_so():
    mlp = classifier(warm_start=True).fit(X, WORDS)
    mlp.set_params(hidden_layer_sizes=(7, 5))
    with pytest.raises(ValueError, match="hidden_layer_sizes"):
        mlp.fit(X, WORDS)
    mlp.set_params(hidden_layer_sizes=(7,))
    for go_on in (mlp.fit, mlp.partial_fit):
        with pytest.raises(ValueError, match="hidden_layer_sizes"):
            go_on(X, WORDS)
    numbers = regressor(warm_start=True).fit(X, NUMBER)
    with pytest.raises(ValueError, match=r"\[5, 7, 6, 1\].*\[5, 7, 6, 3\]"):
        numbers.fit(X, Z)


def test_the_network_can_be_saved(tmp_path):
    mlp = classifier(dtype="float32").fit(X, WORDS)
    gb.save(tmp_path / "mlp.safetensors", mlp.network_)
    network = gb.load(tmp_path / "mlp.safetensors")
    np.testing.assert_array_equal(network.predict(X.astype("float32")), mlp.predict_proba(X.astype("float32")))
    assert list(network.classes) == list(CLASSES)
