"""scikit-learn's checks of what an estimator has to be; MLPs, as its own, may fail none."""

from unittest import SkipTest

import pytest
from sklearn.utils.estimator_checks import check_sample_weight_equivalence_on_dense_data, parametrize_with_checks

from gpu_backprop import MLPClassifier, MLPRegressor, PopulationSearchCV, TabularClassifier, TabularRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore::UserWarning")
NOT_FOR_THEM = (
    "SCIPY_ARRAY_API is not set", "MLPClassifier does not have a decision_function",
    "PopulationSearchCV does not have a decision_function", "cupy is not installed", "torch is not installed",
    "dpnp is not installed",
)  # fmt: skip
MLP = MLPClassifier(max_iter=30, random_state=0)
SMALL = {"settings": {"layers": (32,), "periodic": 4}, "epochs": 20, "device": "cpu", "random_state": 0}
OF_TABLES = {
    "check_sample_weight_equivalence_on_dense_data": "rows that count double or not at all are in minibatches, in the "
    "validation share and in the preprocessing once, as other rows"
}
OF_SEARCHES = {
    "check_supervised_y_no_nan": "what scikit-learn's GridSearchCV says of an infinite y of a classifier, it says too",
}
FAILING = {TabularClassifier: OF_TABLES, TabularRegressor: OF_TABLES, PopulationSearchCV: OF_SEARCHES}


@parametrize_with_checks(
    [
        MLPClassifier(max_iter=100),
        MLPRegressor(max_iter=100),
        TabularClassifier(**SMALL),
        TabularRegressor(**SMALL),
        PopulationSearchCV(MLP, {"alpha": [0.1, 1.0]}, cv=2, error_score="raise"),
    ],
    expected_failed_checks=lambda estimator: FAILING.get(type(estimator), {}),
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
