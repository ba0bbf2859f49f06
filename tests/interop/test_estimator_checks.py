"""scikit-learn's checks of what an estimator has to be; MLPs, as its own, may fail none."""

from unittest import SkipTest

import pytest
from sklearn.utils.estimator_checks import check_sample_weight_equivalence_on_dense_data, parametrize_with_checks

from gpu_backprop import MLPClassifier, MLPRegressor, TabularClassifier, TabularRegressor
from gpu_backprop.interop.estimators.base import BaseMLP

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore::UserWarning")
NOT_FOR_THEM = "SCIPY_ARRAY_API is not set", "MLPClassifier does not have a decision_function"
SMALL = {"settings": {"layers": (32,), "periodic": 4}, "epochs": 20, "device": "cpu", "random_state": 0}
OF_TABLES = {
    "check_sample_weight_equivalence_on_dense_data": "rows that count double or not at all are in minibatches, in the "
    "validation share and in the preprocessing once, as other rows"
}


@parametrize_with_checks(
    [
        MLPClassifier(max_iter=100),
        MLPRegressor(max_iter=100),
        TabularClassifier(**SMALL),
        TabularRegressor(**SMALL),
    ],
    expected_failed_checks=lambda estimator: {} if isinstance(estimator, BaseMLP) else OF_TABLES,
)
def test_estimator(estimator, check):
    try:
        check(estimator)
    except SkipTest as reason:
        if not str(reason).startswith(NOT_FOR_THEM):
            raise


@pytest.mark.parametrize(
    "estimator",
    [MLPClassifier(max_iter=100, solver="lbfgs"), MLPRegressor(max_iter=100, solver="sgd", tol=1e-2, random_state=42)],
)
def test_weights_are_repetitions(estimator):
    check_sample_weight_equivalence_on_dense_data(type(estimator).__name__, estimator)
