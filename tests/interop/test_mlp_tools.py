"""MLPClassifier and MLPRegressor are at home in scikit-learn: its tools take them, and so do files and processes."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from scipy import sparse
from sklearn import neural_network
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, cross_val_predict, cross_val_score, cross_validate
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import gpu_backprop as gb
from gpu_backprop import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 5))
Z = X @ RNG.normal(size=(5, 3))
WORDS = np.array(["red", "green", "blue"])[Z.argmax(axis=1)]
NUMBER = Z[:, 0]
LABELS = (Z > 0).astype(int)
CLASSES = np.unique(WORDS)


def classifier(**settings):
    return MLPClassifier(**{"hidden_layer_sizes": (7, 6), "max_iter": 5, "random_state": 3} | settings)


def regressor(**settings):
    return MLPRegressor(**{"hidden_layer_sizes": (7, 6), "max_iter": 5, "random_state": 3} | settings)


# Copies ---------------------------------------------------------------------------------------------------------------


def by_joblib(estimator, folder):
    joblib.dump(estimator, folder / "mlp.joblib")
    return joblib.load(folder / "mlp.joblib")


COPIES = {
    "pickle": lambda estimator, folder: pickle.loads(pickle.dumps(estimator)),
    "deepcopy": lambda estimator, folder: copy.deepcopy(estimator),
    "joblib": by_joblib,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"dropout": 0.2}, {"solver": "sgd", "learning_rate": "invscaling"}, {"early_stopping": True}],
    ids=str,
)
def test_a_copy_predicts_the_same_and_goes_on_the_same(how, dtype, settings, tmp_path):
    for make, y in ((classifier, WORDS), (regressor, NUMBER), (classifier, LABELS)):
        original = make(dtype=dtype, **settings).fit(X, y)
        copied = COPIES[how](original, tmp_path)
        np.testing.assert_array_equal(copied.predict(X), original.predict(X))
        for each in (original, copied):
            each.set_params(random_state=5)
            options = {"eval_set": (X[:20], y[:20])} if each.early_stopping else {}
            each.partial_fit(X[:30], y[:30], **options), each.partial_fit(X[30:], y[30:], **options)
        for one, other in zip(original.coefs_ + original.intercepts_, copied.coefs_ + copied.intercepts_, strict=True):
            np.testing.assert_array_equal(one, other)
        assert copied.loss_curve_ == original.loss_curve_
        assert copied.get_params().keys() == original.get_params().keys()


def test_a_copy_has_parameters_of_its_own():
    original = classifier().fit(X, WORDS)
    before = original.predict_proba(X)
    copied = copy.deepcopy(original)
    copied.coefs_[0][:] = 0
    assert not np.array_equal(copied.predict_proba(X), before)
    np.testing.assert_array_equal(original.predict_proba(X), before)


def test_a_clone_is_not_fitted_and_fits_the_same():
    original = classifier(solver=gb.Adam(0.01), loss=gb.Focal(1.5), activation=["mish", "relu"]).fit(X, WORDS)
    cloned = clone(original)
    assert not hasattr(cloned, "coefs_")
    np.testing.assert_array_equal(cloned.fit(X, WORDS).predict_proba(X), original.predict_proba(X))
    assert "MLPClassifier(" in repr(original)


def test_an_estimator_that_is_not_fitted_can_be_pickled_too():
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(classifier())).fit(X, WORDS).predict(X), classifier().fit(X, WORDS).predict(X)
    )


# Searches and scores --------------------------------------------------------------------------------------------------


def test_a_grid_search_in_several_processes():
    grid = {"hidden_layer_sizes": [(4,), (5, 3)]}
    alone, many = (
        GridSearchCV(classifier(), grid, cv=2, n_jobs=jobs).fit(X, WORDS).cv_results_["mean_test_score"]
        for jobs in (1, 2)
    )
    np.testing.assert_array_equal(alone, many)


def test_a_search_over_what_is_more():
    grid = {"dropout": [0.0, 0.3], "solver": ["adamw", gb.Lion(0.001)], "activation": ["mish", ["relu", "tanh"]]}
    search = RandomizedSearchCV(classifier(), grid, n_iter=4, cv=2, random_state=0, error_score="raise").fit(X, WORDS)
    assert search.best_estimator_.predict(X).shape == (60,)


def test_cross_validation():
    pipeline = make_pipeline(StandardScaler(), classifier(max_iter=60, learning_rate_init=0.03))
    assert cross_val_score(pipeline, X, WORDS, cv=3).mean() > 0.7
    assert cross_val_predict(pipeline, X, WORDS, cv=3, method="predict_proba").shape == (60, 3)
    scores = cross_validate(regressor(), X, NUMBER, cv=2, scoring=["r2", "neg_mean_absolute_error"])
    assert np.isfinite(scores["test_r2"]).all()


@pytest.mark.parametrize("method", ["sigmoid", "isotonic", "temperature"])
def test_calibration(method):
    p = CalibratedClassifierCV(classifier(), cv=2, method=method).fit(X, WORDS).predict_proba(X)
    np.testing.assert_allclose(p.sum(axis=1), 1)


def test_other_meta_estimators():
    for meta in (
        VotingClassifier([("a", classifier()), ("b", classifier(random_state=1))], voting="soft"),
        StackingClassifier([("a", classifier())], cv=2), BaggingClassifier(classifier(), n_estimators=2),
    ):  # fmt: skip
        assert meta.fit(X, WORDS).predict(X).shape == (60,)
    assert MultiOutputClassifier(classifier()).fit(X, LABELS).predict(X).shape == (60, 3)
    assert ClassifierChain(classifier()).fit(X, LABELS).predict(X).shape == (60, 3)
    scaled = TransformedTargetRegressor(regressor(), transformer=StandardScaler()).fit(X, NUMBER * 1000)
    assert scaled.predict(X).std() > 10


def test_inspection():
    mlp = classifier(max_iter=60, learning_rate_init=0.03).fit(X, WORDS)
    assert permutation_importance(mlp, X, WORDS, n_repeats=2, random_state=0).importances.max() > 0
    assert partial_dependence(mlp, X, [0], grid_resolution=5)["average"].shape == (3, 5)


# Frames ---------------------------------------------------------------------------------------------------------------

FRAME = pd.DataFrame(X, columns=list("abcde"))


def test_names_of_features():
    mlp = classifier().fit(FRAME, WORDS)
    assert mlp.feature_names_in_.tolist() == list("abcde") and mlp.n_features_in_ == 5
    np.testing.assert_array_equal(mlp.predict_proba(FRAME), classifier().fit(X, WORDS).predict_proba(X))
    with pytest.raises(ValueError, match="feature names"):
        mlp.predict(FRAME.rename(columns={"a": "z"}))
    with pytest.raises(ValueError, match="feature names"):
        mlp.predict(FRAME[list("bacde")])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        mlp.predict(X)


@pytest.mark.parametrize("kind", ["Float64", "Float32", "Int64", "boolean", "bool", "int8", "mixed"])
def test_frames_of_pandas(kind):
    dtypes = (
        dict(zip("abcde", ["Float64", "Int64", "boolean", "bool", "float32"], strict=True)) if kind == "mixed" else kind
    )
    whole = kind in ("Int64", "boolean", "bool", "int8", "mixed")
    frame = (FRAME > 0 if whole else FRAME).astype(dtypes)
    one, other = (classifier(dtype="float64").fit(x, WORDS) for x in (frame, frame.to_numpy("float64")))
    np.testing.assert_array_equal(one.predict_proba(frame), other.predict_proba(frame.to_numpy("float64")))


def test_targets_of_pandas():
    expected = classifier().fit(X, WORDS).predict(X)
    series = pd.Series(WORDS, index=range(100, 160))
    for y in (series, series.astype("category"), series.astype(object), series.to_frame()):
        mlp = classifier()
        if y.ndim == 2:
            with pytest.warns(sklearn.exceptions.DataConversionWarning):
                mlp.fit(FRAME, y)
        else:
            mlp.fit(FRAME, y)
        np.testing.assert_array_equal(mlp.predict(FRAME), expected)
    numbers = regressor().fit(X, NUMBER).predict(X)
    for y in (pd.Series(NUMBER), pd.Series(NUMBER, dtype="Float64")):
        np.testing.assert_array_equal(regressor().fit(FRAME, y).predict(FRAME), numbers)
    assert regressor().fit(FRAME, pd.DataFrame(Z)).predict(FRAME).shape == (60, 3)


def test_frames_of_polars():
    frame = pl.DataFrame({name: X[:, i] for i, name in enumerate("abcde")})
    mlp = classifier().fit(frame, pl.Series(WORDS.tolist()))
    assert mlp.feature_names_in_.tolist() == list("abcde")
    np.testing.assert_array_equal(mlp.predict(frame), classifier().fit(X, WORDS).predict(X))
    with pytest.raises(ValueError, match="feature names"):
        mlp.predict(frame.rename({"a": "z"}))


@pytest.mark.parametrize("form", [sparse.csr_array, sparse.csc_matrix, sparse.coo_array])
@pytest.mark.parametrize(
    "settings", [{}, {"early_stopping": True}, {"solver": "lbfgs"}, {"dtype": "float32", "batch_size": 16}], ids=str
)
def test_sparse_matrices(form, settings):
    x = np.where(X > 0.5, X, 0.0)
    for make, y in ((classifier, WORDS), (classifier, LABELS), (regressor, NUMBER)):
        one = make(**settings).fit(x, y, eval_set=(x[:20], y[:20]))
        other = make(**settings).fit(form(x), y, eval_set=(form(x[:20]), y[:20]))
        for W, V in zip(one.coefs_, other.coefs_, strict=True):
            np.testing.assert_allclose(W, V, rtol=0, atol=1e-6)
        np.testing.assert_allclose(one.validation_loss_curve_, other.validation_loss_curve_, rtol=1e-6)
        assert other.predict(form(x)).shape == y.shape


@pytest.mark.parametrize(
    "y",
    [WORDS.tolist(), WORDS.astype(object), [word == "red" for word in WORDS], (WORDS == "red").astype(float) * 7 - 3],
)
def test_labels_are_predicted_as_they_were_given(y):
    mlp = classifier(max_iter=100, learning_rate_init=0.03).fit(X, y)
    assert mlp.classes_.tolist() == sorted(set(y))
    assert (mlp.predict(X) == np.asarray(y)).mean() > 0.8
    assert mlp.predict(X).dtype == neural_network.MLPClassifier(max_iter=1).fit(X, y).predict(X).dtype


def test_a_column_transformer_and_set_output():
    frame = FRAME.assign(colour=np.where(Z[:, 1] > 0, "warm", "cold"))
    columns = ColumnTransformer(
        [("numbers", StandardScaler(), list("abcde")), ("text", OneHotEncoder(sparse_output=False), ["colour"])]
    )
    pipeline = Pipeline([("columns", columns.set_output(transform="pandas")), ("mlp", classifier())])
    pipeline.fit(frame, WORDS)
    assert pipeline[-1].feature_names_in_.tolist()[-2:] == ["text__colour_cold", "text__colour_warm"]
    assert pipeline.predict(frame).shape == (60,)
    assert pipeline.set_output(transform="polars").fit(frame, WORDS).predict_proba(frame).shape == (60, 3)


# Metadata -------------------------------------------------------------------------------------------------------------


def test_sample_weights_are_routed():
    weights = RNG.uniform(0.1, 3, 60)
    with sklearn.config_context(enable_metadata_routing=True):
        mlp = classifier().set_fit_request(sample_weight=True)
        pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), mlp)
        pipeline.fit(X, WORDS, sample_weight=weights)
        x = StandardScaler().fit_transform(X)
        np.testing.assert_array_equal(pipeline.predict_proba(X), classifier().fit(x, WORDS, weights).predict_proba(x))
        mlp.set_score_request(sample_weight=True)
        search = GridSearchCV(mlp, {"alpha": [0.1, 1.0]}, cv=2).fit(X, WORDS, sample_weight=weights)
        refit = classifier(alpha=search.best_params_["alpha"]).fit(X, WORDS, weights)
        np.testing.assert_array_equal(search.predict_proba(X), refit.predict_proba(X))
        with pytest.raises(ValueError, match="sample_weight"):
            GridSearchCV(classifier(), {"alpha": [0.1]}, cv=2).fit(X, WORDS, sample_weight=weights)


# Without scikit-learn -------------------------------------------------------------------------------------------------


def run(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_importing_the_package_imports_no_scikit_learn():
    names = "'sklearn', 'pandas', 'polars', 'scipy', 'joblib', 'pyarrow'"
    assert run(f"import sys, gpu_backprop; print([name for name in ({names}) if name in sys.modules])") == "[]\n"


def test_without_scikit_learn_the_extra_is_named():
    code = """
import sys
sys.modules["sklearn"] = None
import gpu_backprop as gb
for name in ("MLPClassifier", "MLPRegressor"):
    try:
        getattr(gb, name)
    except gb.MissingExtraError as error:
        print(error)
print("MLPClassifier" in dir(gb))
"""
    lines = run(code).splitlines()
    assert all("scikit-learn" in line and "gpu-backprop[sklearn]" in line for line in lines[:2])
    assert lines[2] == "True"
