"""scikit-learn's estimators on a CUDA device: the same as on the CPU, with parameters that are copies."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import gpu_backprop as gb

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]

RNG = np.random.default_rng(5)
X = RNG.normal(size=(60, 4))
LABELS = np.array(["low", "middle", "high"])[(X[:, :3] + RNG.normal(size=(60, 3))).argmax(axis=1)]
SETTINGS = {"hidden_layer_sizes": (6,), "max_iter": 5, "random_state": 0, "batch_size": 20}


def classifier(device: str, **settings: object) -> gb.MLPClassifier:
    return gb.MLPClassifier(**{**SETTINGS, "device": device, **settings})


@pytest.mark.parametrize(
    "settings", [{}, {"solver": "sgd", "learning_rate": "invscaling"}, {"solver": "lbfgs"}, {"early_stopping": True}]
)
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_as_on_the_cpu(settings, dtype):
    there, here = (classifier(device, dtype=dtype, **settings).fit(X, LABELS) for device in ("cuda", "cpu"))
    assert there.network_.device.name.startswith("cuda")
    tolerance = 1e-6 if dtype is None else 1e-3
    for ours, theirs in zip(there.coefs_ + there.intercepts_, here.coefs_ + here.intercepts_, strict=True):
        assert type(ours) is np.ndarray and ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, atol=tolerance)
    np.testing.assert_allclose(there.predict_proba(X), here.predict_proba(X), atol=tolerance)
    np.testing.assert_allclose(there.loss_curve_, here.loss_curve_, rtol=tolerance)


def test_rows_that_come_in_parts():
    there, here = (classifier(device) for device in ("cuda", "cpu"))
    for start in (0, 30):
        rows = slice(start, start + 30)
        for mlp in (there, here):
            mlp.partial_fit(X[rows], LABELS[rows], classes=["low", "middle", "high"])
    np.testing.assert_allclose(there.coefs_[0], here.coefs_[0], atol=1e-6)
    again = pickle.loads(pickle.dumps(there))
    assert np.array_equal(again.predict_proba(X), there.predict_proba(X))
    there.partial_fit(X[:30], LABELS[:30])
    again.partial_fit(X[:30], LABELS[:30])
    assert np.array_equal(again.coefs_[0], there.coefs_[0])


def test_parameters_in_the_place_of_others():
    mlp = classifier("cuda").fit(X, LABELS)
    mlp.coefs_[-1] = np.zeros_like(mlp.coefs_[-1])
    mlp.intercepts_[-1] = np.zeros(3)
    np.testing.assert_allclose(mlp.predict_proba(X), 1 / 3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits(dtype):
    mlp = classifier("cuda", dtype=dtype, max_iter=20, learning_rate_init=0.05).fit(X, LABELS)
    assert mlp.coefs_[0].dtype == np.float32
    assert mlp.score(X, LABELS) > 0.6


@pytest.mark.parametrize("settings", [{}, {"early_stopping": True, "validation_fraction": 0.3}])
def test_a_search_whose_networks_train_side_by_side(settings):
    grid = {"alpha": [0.01, 10.0], "learning_rate_init": [0.01, 0.1], "n_iter_no_change": [1, 3], "tol": [0.02]}
    there, here = (
        gb.PopulationSearchCV(classifier(device, **settings), grid, cv=2).fit(X, LABELS) for device in ("cuda", "cpu")
    )
    assert there.best_estimator_.network_.device.name.startswith("cuda") and there.best_params_ == here.best_params_
    np.testing.assert_allclose(there.cv_results_["mean_test_score"], here.cv_results_["mean_test_score"])
