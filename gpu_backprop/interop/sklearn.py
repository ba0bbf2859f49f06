"""Estimators for scikit-learn, with the extra sklearn.

MLPClassifier and MLPRegressor have the parameters, defaults, attributes and behaviour of scikit-learn's own, and more;
TabularClassifier and TabularRegressor take a data frame as it is; PopulationSearchCV and cross_validate train many of
them side by side. They are also names of gpu_backprop. from_mlp and to_mlp are for scikit-learn's own MLPs.
"""

from gpu_backprop.backend.errors import MissingExtraError, install

try:
    import sklearn.base  # noqa: F401
except ImportError as error:
    raise MissingExtraError(f"the estimators need scikit-learn: {install('sklearn')}") from error

from gpu_backprop.interop.estimators.fitted import from_mlp, to_mlp
from gpu_backprop.interop.estimators.mlp import MLPClassifier, MLPRegressor
from gpu_backprop.interop.estimators.search import PopulationSearchCV, cross_validate
from gpu_backprop.interop.estimators.tabular import TabularClassifier, TabularRegressor

__all__ = [
    "MLPClassifier",
    "MLPRegressor",
    "PopulationSearchCV",
    "TabularClassifier",
    "TabularRegressor",
    "cross_validate",
    "from_mlp",
    "to_mlp",
]
