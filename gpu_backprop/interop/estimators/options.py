"""What the parameters of scikit-learn's MLP are called here, and what they may be."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar, cast

import numpy as np
from sklearn.utils._param_validation import Interval, InvalidParameterError, Options, StrOptions

from gpu_backprop.backend.errors import InputError, choose
from gpu_backprop.backend.formula import Activation
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.layer import Layer
from gpu_backprop.network.layers import Dense, Dropout
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.losses import LOSSES, HalfSquaredError
from gpu_backprop.network.own_losses import OwnLoss
from gpu_backprop.network.schedules import SCHEDULES, Schedule
from gpu_backprop.training.optimizer import Optimizer
from gpu_backprop.training.optimizers import OPTIMIZERS

T = TypeVar("T")

LBFGS = "lbfgs"
RATES = INVSCALING, ADAPTIVE = "invscaling", "adaptive"
"""scikit-learn's rules for the learning rate of sgd, besides a constant one."""

NAMED_ACTIVATIONS: Mapping[str, Activation] = ChainMap(ACTIVATIONS, {"logistic": ACTIVATIONS["sigmoid"]})
"""The activations by name, scikit-learn's among them, and those that are registered later."""

OF_CLASSES: Mapping[str, Loss | None] = {
    "log_loss": None, "cross_entropy": None, **{name: LOSSES[name] for name in ("binary_cross_entropy", "focal")},
}  # fmt: skip
OF_NUMBERS: Mapping[str, Loss] = {
    "squared_error": LOSSES["half_squared_error"],
    "poisson": LOSSES["poisson"],
    **{
        name: LOSSES[name]
        for name in ("absolute_error", "huber", "quantile", "mean_squared_error", "half_squared_error")
    },
}
"""The losses by name, and what they are here; None is cross entropy, of two classes or of several."""

_MOMENTS = {"beta1": "beta_1", "beta2": "beta_2", "epsilon": "epsilon"}
"""The settings of Adam and its kin, and the parameters that they come from."""

_FROM_0 = Interval(Real, 0, None, closed="left")
_ABOVE_0 = Interval(Real, 0, None, closed="neither")
_FROM_1 = Interval(Integral, 1, None, closed="left")
_SHARE = Interval(Real, 0, 1, closed="left")

SOLVERS = cast(set[str], ChainMap({LBFGS: None}, cast(dict[str, Any], OPTIMIZERS)).keys())
"""Also those that are registered later."""

CONSTRAINTS: Mapping[str, Sequence[Any]] = {
    "hidden_layer_sizes": ["array-like", _FROM_1],
    "activation": [str, Activation, list, tuple],
    "solver": [StrOptions(SOLVERS), Optimizer],
    "alpha": [_FROM_0],
    "batch_size": [StrOptions({"auto"}), _FROM_1],
    "learning_rate": [StrOptions({*RATES, *SCHEDULES}), Schedule, callable],
    "learning_rate_init": [_ABOVE_0],
    "power_t": [_FROM_0],
    "max_iter": [_FROM_1],
    "shuffle": ["boolean"],
    "random_state": ["random_state"],
    "tol": [_FROM_0],
    "verbose": ["verbose"],
    "warm_start": ["boolean"],
    "momentum": [Interval(Real, 0, 1, closed="both")],
    "nesterovs_momentum": ["boolean"],
    "early_stopping": ["boolean"],
    "validation_fraction": [_SHARE],
    "beta_1": [_SHARE],
    "beta_2": [_SHARE],
    "epsilon": [_ABOVE_0],
    "n_iter_no_change": [_FROM_1, Options(Real, {np.inf})],
    "max_fun": [_FROM_1],
    "dropout": [_SHARE, list, tuple],
    "clip_norm": [None, _ABOVE_0],
    "clip_value": [None, _ABOVE_0],
    "callbacks": [None, list, tuple],
    "device": [str],
    "dtype": [None, StrOptions({"float16", "bfloat16", "float32", "float64"})],
}


def hidden_layers(sizes: Sequence[int], activation: Any, dropout: Any) -> list[Layer]:
    """Makes the hidden layers.

    Args:
        activation: of all of them, or one for each.
        dropout: the rate after each of them, or one for each.
    """
    layers: list[Layer] = []
    if not sizes and dropout:
        raise ValueError(f"dropout={dropout!r} is for hidden layers, and hidden_layer_sizes names none.")
    activations, rates = (_of_each(name, given, sizes) for name, given in zip(
        ("activation", "dropout"), (activation, dropout), strict=True
    ))  # fmt: skip
    for units, f, rate in zip(sizes, activations, rates, strict=True):
        layers.append(Dense(units, _named("activation", f, NAMED_ACTIVATIONS) if isinstance(f, str) else f))
        if rate:
            layers.append(Dropout(rate))
    return layers


def _of_each(name: str, given: Any, sizes: Sequence[int]) -> Sequence[Any]:
    if not isinstance(given, (list, tuple)):
        return [given] * len(sizes)
    if len(given) != len(sizes):
        raise ValueError(
            f"{name} has {len(given)} entries for {len(sizes)} hidden layers. Give one for all of them, or one each."
        )
    return given


def choose_loss(loss: str | Loss, names: Mapping[str, Loss | None]) -> Loss | None:
    """Returns the loss that is given or named, of these or of those that are registered; None is the one that suits the
    output layer."""
    own = {name: one for name, one in LOSSES.items() if isinstance(one, OwnLoss)}
    return _named("loss", loss, {**names, **own}) if isinstance(loss, str) else loss


def _named(parameter: str, name: str, table: Mapping[str, T]) -> T:
    """Returns the row of a table; scikit-learn's error of a parameter, and the nearest name, where there is none."""
    try:
        return choose(parameter, name, table)
    except InputError as error:
        raise InvalidParameterError(str(error)) from None


def divisor(loss: Loss, outputs: int) -> int:
    """Returns what scikit-learn divides a loss of several outputs by when it reports it, which is a sum here."""
    return outputs if isinstance(loss, HalfSquaredError) or loss.name == "poisson" else 1


def make_optimizer(estimator: Any, penalty: float) -> Optimizer:
    """Makes the optimizer that an estimator's parameters describe.

    Args:
        penalty: alpha over the rows of a minibatch: the factor of ½ΣW² in the loss of a row.
    """
    solver, rate, follows = estimator.solver, estimator.learning_rate_init, estimator.learning_rate
    if isinstance(solver, Optimizer):
        return solver
    settings: dict[str, Any] = {"schedule": None if follows in (*RATES, "constant") else follows}
    settings["weight_decay" if solver == "adamw" else "l2"] = estimator.alpha if solver == "adamw" else penalty
    if solver == "sgd":
        momentum = min(estimator.momentum, 1 - 2**-53)
        settings |= {"momentum": momentum, "nesterov": estimator.nesterovs_momentum and momentum > 0}
    elif _MOMENTS.keys() <= OPTIMIZERS[solver]().settings.keys():
        settings |= {ours: getattr(estimator, theirs) for ours, theirs in _MOMENTS.items()}
    return OPTIMIZERS[solver](learning_rate=rate, **settings)
