"""scikit-learn's checks of what an estimator has to be, none of which may fail, as none does of its own MLP."""

from unittest import SkipTest

import pytest
from sklearn.utils.estimator_checks import check_sample_weight_equivalence_on_dense_data, parametrize_with_checks

from gpu_backprop import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore::UserWarning")
NOT_FOR_THEM = "SCIPY_ARRAY_API is not set", "MLPClassifier does not have a decision_function"


@parametrize_with_checks([MLPClassifier(max_iter=100), MLPRegressor(max_iter=100)])
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
