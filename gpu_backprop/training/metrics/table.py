"""The table of metrics, and the choice from it of what suits a network."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, NamedTuple

import numpy as np

from gpu_backprop.backend.errors import InputError, choose
from gpu_backprop.backend.formula import Array
from gpu_backprop.data.messages import shown
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.losses import Quantile
from gpu_backprop.network.network import Network
from gpu_backprop.training.metrics import classes, numbers, residuals
from gpu_backprop.training.metrics.residuals import Residuals
from gpu_backprop.training.metrics.scores import Scores

Given = str | Callable[..., Any]
"""A metric as a user gives it: a name, or a function of (y_true, y_pred) or (y_true, y_pred, weights)."""

CLASSES, TWO_CLASSES, LABELS, NUMBERS = "classes", "two classes", "several labels", "numbers"
"""What a network's outputs may be."""


class Metric(NamedTuple):
    """A metric: what it is called, and how it is worked out.

    Attributes:
        suits: for which kinds of outputs.
        of_scores: its value from all that a network gave for the rows; None where sums over the rows are enough.
        of_sums: its values from these, (...,), one a member.
        larger: whether larger is better; None: of a user's function, nobody knows.
        number: that in its name, k or q.
        undefined: when it is NaN.
        own: the user's function: it takes host arrays, the outputs as y_pred.
        iterates: whether it takes hundreds of operations one after the other, so that the host does few rows sooner.
        fitted: whether it is fitted to the rows that it is measured on: it compares epochs, and is no score.
    """

    name: str
    suits: tuple[str, ...]
    larger: bool | None
    of_scores: Callable[..., float] | None = None
    of_sums: Callable[[Residuals], Array] | None = None
    number: float | None = None
    undefined: str = ""
    own: Callable[..., Any] | None = None
    iterates: bool = False
    fitted: bool = False

    def value(self, scores: Scores) -> float:
        """Works it out; NaN where an output is not finite."""
        assert self.of_scores is not None
        if not scores.xp.isfinite(scores.y).all():
            return float("nan")
        with np.errstate(all="ignore"):
            return self.of_scores(scores, *(() if self.number is None else (self.number,)))


BOTH = CLASSES, LABELS
METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", BOTH, True, classes.accuracy),
        Metric("top_5_accuracy", (CLASSES,), True, classes.top_k_accuracy, number=5),
        Metric("balanced_accuracy", (CLASSES,), True, classes.balanced_accuracy),
        Metric("f1", (TWO_CLASSES,), True, classes.f1),
        Metric("f1_macro", BOTH, True, classes.f1_macro),
        Metric("f1_weighted", BOTH, True, classes.f1_weighted, undefined="no row has any of the labels"),
        Metric("roc_auc", BOTH, True, classes.roc_auc, undefined="it takes rows of a class and rows of others"),
        Metric("average_precision", BOTH, True, classes.average_precision, undefined="there are no rows of the class"),
        Metric("log_loss", BOTH, False, classes.log_loss),
        Metric("calibrated_log_loss", BOTH, False, classes.calibrated_log_loss, iterates=True, fitted=True),
        Metric("brier_score", BOTH, False, classes.brier_score),
        Metric("calibration_error", BOTH, False, classes.calibration_error),
        Metric("label_accuracy", (LABELS,), True, classes.label_accuracy),
        Metric("exact_match", (LABELS,), True, classes.exact_match),
        Metric("r2", (NUMBERS,), True, of_sums=residuals.r2, undefined="the target is the same in all rows"),
        Metric("mae", (NUMBERS,), False, of_sums=residuals.mae),
        Metric("rmse", (NUMBERS,), False, of_sums=residuals.rmse),
        Metric("median_absolute_error", (NUMBERS,), False, numbers.median_absolute_error),
        Metric("quantile_loss", (NUMBERS,), False, numbers.quantile_loss),
        Metric("quantile_0.9_loss", (NUMBERS,), False, numbers.quantile_loss, number=0.9),
    )
}
"""By name. The numbers in top_5_accuracy and quantile_0.9_loss may be others."""

NUMBERED = {r"top_([1-9]\d*)_accuracy": "top_5_accuracy", r"quantile_(0\.\d+)_loss": "quantile_0.9_loss"}
"""Patterns of names with a number, and the row of METRICS that each stands for."""


def metric_named(name: str) -> Metric:
    """Finds the row of METRICS of a name, with the number in it."""
    for pattern, row in NUMBERED.items():
        if found := re.fullmatch(pattern, name):
            return METRICS[row]._replace(name=name, number=float(found[1]))
    return choose("metric", name, METRICS)


def larger_is_better(column: str, metrics: Sequence[Given] = ()) -> bool:
    """Tells whether a larger value of a column of History is the better one: of a loss or metric, or its val_ twin.

    Args:
        metrics: those of the trainer; of a function among them, its attribute `larger_is_better` tells.

    Raises:
        InputError: of that column nobody has said it.
    """
    name = column.removeprefix("val_")
    for given in metrics:
        if not isinstance(given, str) and given.__name__ == name and hasattr(given, "larger_is_better"):
            return bool(given.larger_is_better)
    try:
        return name != "loss" and bool(metric_named(name).larger)
    except InputError:
        raise InputError(
            f"whether a larger {column} is better, nobody has said. Of a function f of your own, say it by "
            "f.larger_is_better = True, or False."
        ) from None


def tasks_of(network: Network, loss: Loss) -> tuple[str, ...]:
    """Tells what the outputs of a network are, as a metric can be for: see CLASSES and the others."""
    output, counts = network.last.activation.name, loss.formula.accuracy
    tasks: tuple[str, ...] = () if counts else (NUMBERS,)
    if counts == "argmax" or (output == "softmax" and not counts):
        tasks += (CLASSES, TWO_CLASSES) if network.outputs == 2 else (CLASSES,)
    elif counts or output == "sigmoid":
        tasks += (CLASSES, TWO_CLASSES) if network.outputs == 1 else (LABELS,)
    return tasks


def default_metrics(loss: Loss) -> tuple[str, ...]:
    """Names what is measured unless something else is asked for."""
    return ("accuracy",) if loss.formula.accuracy else ("r2", "mae")


def choose_metrics(given: Sequence[Given] | None, network: Network, loss: Loss) -> list[Metric]:
    """Finds the metrics that a user gave, or those by default: accuracy where the loss counts right answers, else R²
    and MAE.

    Raises:
        InputError: one is unknown, or not for such outputs, or there are two of one name.
    """
    if given is None:
        return [METRICS[name] for name in default_metrics(loss)]
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise InputError(f"metrics must be a list of names and functions, got {type(given).__name__} {given!r}.")
    chosen = [_suiting(one, network, loss) if isinstance(one, str) else _own(one) for one in given]
    names = [metric.name for metric in chosen]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"metrics must differ in their names, got {twice!r} twice.")
    return chosen


def _suiting(name: str, network: Network, loss: Loss) -> Metric:
    """Finds a metric by name, and checks that it suits the outputs."""
    metric, tasks, outputs = metric_named(name), tasks_of(network, loss), network.outputs
    if not set(metric.suits) & set(tasks):
        suiting = [name for name, row in METRICS.items() if set(row.suits) & set(tasks)]
        raise InputError(
            f"metric {name!r} is for {' or '.join(metric.suits)}, but the outputs of this network, with {loss.name}, "
            f"are {tasks[0]}. For these there are {', '.join(suiting)}."
        )
    if metric.of_scores is classes.top_k_accuracy and (metric.number or 0) >= outputs:
        raise InputError(f"metric {name!r} is always 1, for there are {outputs} classes. Use a smaller number.")
    if name == "quantile_loss" and not isinstance(loss, Quantile):
        raise InputError(f"metric {name!r} takes the q of the loss, and {loss.name} has none: write quantile_0.9_loss.")
    return metric


def _own(function: Any) -> Metric:
    """Makes a metric of a function of a user's."""
    accepted = "metrics must be names, or functions of (y_true, y_pred) or (y_true, y_pred, weights)"
    name = getattr(function, "__name__", None)
    if not callable(function):
        raise InputError(f"{accepted}, got {type(function).__name__} {function!r}.")
    if not isinstance(name, str) or not name.isidentifier() or name == "loss":
        raise InputError(
            f"a metric is called by its function's __name__, and cannot be called {name!r}. Define it by def, under a "
            "name of its own."
        )
    weighted = "weights" in signature(function).parameters
    try:
        signature(function).bind(None, None, **({"weights": None} if weighted else {}))
    except TypeError as error:
        raise InputError(f"{accepted}; {name} is not ({error}).") from None

    def value(scores: Scores) -> float:
        arguments = {"weights": scores.weights} if weighted else {}
        found = function(scores.target, scores.y, **arguments)
        try:
            return float(found)
        except (TypeError, ValueError):
            raise InputError(f"metric {name} must give a number, got {type(found).__name__} {shown(found)}.") from None

    return Metric(name, (), getattr(function, "larger_is_better", None), value, own=function)
