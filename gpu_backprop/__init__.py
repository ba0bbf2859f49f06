"""gpu_backprop: multi-layer perceptrons, trained by back-propagation with every gradient derived by hand."""

from typing import Any

import gpu_backprop.starting  # noqa: F401 (first of all)
from gpu_backprop import interop, recipes
from gpu_backprop.backend.communicator import mpi
from gpu_backprop.backend.errors import (
    DeviceError,
    DivergedError,
    GpuBackpropError,
    GradientError,
    InputError,
    MissingExtraError,
    ModelFileError,
    OutOfMemoryError,
    RankError,
    StateError,
)
from gpu_backprop.backend.formula import Activation
from gpu_backprop.backend.operation import Operation
from gpu_backprop.backend.plan import Plan
from gpu_backprop.backend.rendezvous import distributed
from gpu_backprop.backend.update_rule import UpdateRule
from gpu_backprop.data.stored_rows import StoredRows, open_rows
from gpu_backprop.html_report.page import write_report
from gpu_backprop.inspection import Inspection, inspect_model
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.data_initialization import initialize_from_data
from gpu_backprop.network.focal import Focal
from gpu_backprop.network.gradient_check import GradientReport, check_gradients
from gpu_backprop.network.initializers import INITIALIZERS, Initializer, constant
from gpu_backprop.network.intervals import Intervals
from gpu_backprop.network.layers import Bias, Dense, Dropout, Scale
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.losses import (
    LOSSES,
    AbsoluteError,
    BinaryCrossEntropy,
    CrossEntropy,
    HalfSquaredError,
    Huber,
    MeanSquaredError,
    Poisson,
    Quantile,
    SquaredError,
)
from gpu_backprop.network.network import Network
from gpu_backprop.network.own_activations import register_activation
from gpu_backprop.network.own_losses import register_loss
from gpu_backprop.network.periodic import Periodic
from gpu_backprop.network.samples import one_hot
from gpu_backprop.network.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    Coslog4,
    Exponential,
    FlatCosine,
    OneCycle,
    Polynomial,
    Schedule,
    StepDecay,
    Warmup,
)
from gpu_backprop.training.calibration import ConformalIntervals, TemperatureScaling, calibrate
from gpu_backprop.training.callbacks import FitState
from gpu_backprop.training.checkpoints.checkpoint import Checkpoint
from gpu_backprop.training.early_stopping import EarlyStopping
from gpu_backprop.training.ensemble import DeepEnsemble
from gpu_backprop.training.full_batch import fit_lbfgs
from gpu_backprop.training.history import History
from gpu_backprop.training.metrics import METRICS
from gpu_backprop.training.optimizer import Optimizer
from gpu_backprop.training.optimizers import OPTIMIZERS, SGD, Adagrad, Adam, AdamW, Lion, NAdam, RAdam, RMSprop
from gpu_backprop.training.own_optimizers import register_optimizer
from gpu_backprop.training.perturbation import Perturb
from gpu_backprop.training.plateau import ReduceOnPlateau
from gpu_backprop.training.population import Population
from gpu_backprop.training.row_logs import JsonLines
from gpu_backprop.training.saving import load, save
from gpu_backprop.training.search import search
from gpu_backprop.training.search_result import SearchResult
from gpu_backprop.training.search_space import LogUniform, Uniform
from gpu_backprop.training.temperature import fit_temperature
from gpu_backprop.training.tensorboard import TensorBoard
from gpu_backprop.training.trainer import Trainer

__version__ = "0.1.0"

__all__ = [
    "ACTIVATIONS",
    "INITIALIZERS",
    "LOSSES",
    "METRICS",
    "OPTIMIZERS",
    "SCHEDULES",
    "SGD",
    "AbsoluteError",
    "Activation",
    "Adagrad",
    "Adam",
    "AdamW",
    "Bias",
    "BinaryCrossEntropy",
    "Checkpoint",
    "ConformalIntervals",
    "Constant",
    "Cosine",
    "Coslog4",
    "CrossEntropy",
    "DeepEnsemble",
    "Dense",
    "DeviceError",
    "DivergedError",
    "Dropout",
    "EarlyStopping",
    "Exponential",
    "FitState",
    "FlatCosine",
    "Focal",
    "GpuBackpropError",
    "GradientError",
    "GradientReport",
    "HalfSquaredError",
    "History",
    "Huber",
    "Initializer",
    "InputError",
    "Inspection",
    "Intervals",
    "JsonLines",
    "Lion",
    "LogUniform",
    "Loss",
    "MeanSquaredError",
    "MissingExtraError",
    "ModelFileError",
    "NAdam",
    "Network",
    "OneCycle",
    "Operation",
    "Optimizer",
    "OutOfMemoryError",
    "Periodic",
    "Perturb",
    "Plan",
    "Poisson",
    "Polynomial",
    "Population",
    "Quantile",
    "RAdam",
    "RMSprop",
    "RankError",
    "ReduceOnPlateau",
    "Scale",
    "Schedule",
    "SearchResult",
    "SquaredError",
    "StateError",
    "StepDecay",
    "StoredRows",
    "TemperatureScaling",
    "TensorBoard",
    "Trainer",
    "Uniform",
    "UpdateRule",
    "Warmup",
    "calibrate",
    "check_gradients",
    "constant",
    "distributed",
    "fit_lbfgs",
    "fit_temperature",
    "initialize_from_data",
    "inspect_model",
    "interop",
    "load",
    "mpi",
    "one_hot",
    "open_rows",
    "recipes",
    "register_activation",
    "register_loss",
    "register_optimizer",
    "save",
    "search",
    "write_report",
]

_ESTIMATORS = (
    "MLPClassifier", "MLPRegressor", "PopulationSearchCV", "TabularClassifier", "TabularRegressor", "cross_validate",
)  # fmt: skip
"""Of interop/sklearn.py: where the first is asked for, scikit-learn is imported, which not everybody has."""


def __getattr__(name: str) -> Any:
    if name in _ESTIMATORS:
        from gpu_backprop.interop import sklearn

        return getattr(sklearn, name)
    from gpu_backprop.backend.suggestions import suggest_attribute

    raise AttributeError(f"module 'gpu_backprop' has no attribute {name!r}.{suggest_attribute('gpu_backprop', name)}")


def __dir__() -> list[str]:
    return [*__all__, *_ESTIMATORS]
