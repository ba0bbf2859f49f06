"""What a network owes to rows that it has not learned from: its temperature, which is divided out of its last layer,
and its prediction intervals."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from gpu_backprop.backend.attributes import FixedAttributes
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.network.arrays import on_host
from gpu_backprop.network.intervals import Intervals
from gpu_backprop.network.layers import Dense
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.losses import loss as loss_of
from gpu_backprop.network.network import Network
from gpu_backprop.network.samples import Samples, samples
from gpu_backprop.training import temperature
from gpu_backprop.training.callbacks import FitState
from gpu_backprop.training.folds import predict_out_of_fold, rows_at
from gpu_backprop.training.metrics import NUMBERS, tasks_of
from gpu_backprop.training.streaming import given_rows

PROBABILITIES = "softmax", "sigmoid"
"""The activations whose z are logits."""

BLOCK = 1 << 13
"""Rows that are brought together at a time."""

ROWS = 2000
"""By which it is found out how much less sure the mean of members is than they are, at most."""


@explain_arguments
def calibrate(network: Network, x: Any, y: Any = None, weights: Any = None) -> Any:
    """Finds the temperature of a network on some rows that it has not learned from, and divides its logits by it, for
    good: W ← W/T and b ← b/T in the last layer, so that whatever computes or exports the network gives softmax(z/T), or
    sigmoid(z/T). No answer changes, only how sure it is. See `fit_temperature`.

    A second call starts from what the first has made, and finds 1 with the same rows; in `network.trained_by`, where
    that is set, "temperature" is the product.

    Args:
        x: (rows, inputs), or what `gpu_backprop.open_rows` gives.
        y: labels (rows,), or (rows, outputs).
        weights: (rows,), ≥ 0 and not all 0: how much each row counts.

    Returns:
        T, a float; with a models axis a list, one a member, each of which has its own.

    Raises:
        InputError: the last layer gives no probabilities, or the rows are not what is accepted.
        StateError: the network is being trained.
    """
    if not isinstance(network, Network):
        raise InputError(f"network must be a gpu_backprop.Network, got {type(network).__name__}.")
    check_calibratable(network, "calibrate")
    with network.exclusively("calibrate"):
        data = samples(network, loss_of(None, network.last), *given_rows(x, y, weights), values=True, idle=False)
        found = _fit(network, data)
        if found is None:
            raise InputError("the network has NaN or infinite outputs for these rows, so that nothing can be fitted.")
        divide_logits(network, found)
    if network.trained_by is not None:
        before = network.trained_by.get("temperature", 1.0)
        network.trained_by = network.trained_by | {"temperature": (found * before).tolist()}
    return found.tolist()


def check_calibratable(network: Network, who: str) -> None:
    """Raises InputError unless the last layer is one whose logits can be divided."""
    if not isinstance(network.last, Dense) or network.last.activation.name not in PROBABILITIES:
        raise InputError(
            f"{who} divides the logits of a last layer Dense(..., 'softmax') or Dense(..., 'sigmoid'), and this "
            f"network's is {network.last!r}."
        )


def divide_logits(network: Network, temperatures: Array) -> None:
    """Divides W and b of the last layer by T, one number, (), or one a member, (models,)."""
    device, last = network.device, network.last
    with device.computing():
        for name in last.parameter_shapes():
            array = getattr(last, name)
            factors = np.reshape(temperatures, np.shape(temperatures) + (1,) * (array.ndim - np.ndim(temperatures)))
            device.copy_in(array, array / device.from_host(factors.astype(device.master)))
    network.refresh()


def _fit(network: Network, data: Samples) -> Array | None:
    """Finds T on some rows, one number or one a member; None where an output is not finite."""
    p, target, weights = measure(network, data, network.predict_members)
    if not np.isfinite(p).all():
        return None
    several = network.last.activation.name == "sigmoid" and network.outputs > 1
    dtype = network.dtype.name

    def logits(p: Array, target: Array, weights: Array | None) -> temperature.Logits:
        return temperature.Logits.of(np, p, target, weights, multi_label=several, dtype=dtype)

    if data.counts is None and network.averaged:

        def loss(t: float) -> float:
            return float(logits(temperature.temper(p, t).mean(axis=0), target, weights).loss(np, 1.0))

        return np.array(temperature.minimize(loss))
    found = [float(temperature.fit(np, logits(one, target, weights))[0]) for one in p.reshape(-1, *p.shape[-2:])]
    if network.averaged:  # whose members have been measured one by one
        some = np.unique(np.linspace(0, len(target) - 1, ROWS).round().astype(np.int64))
        members = network.predict_members(rows_at(data.x, some, network.device))
        z = np.stack([logits(one, target[some], None).z for one in members])
        found = [temperature.fit_mean(z, found[0])]
    return np.reshape(found, p.shape[:-2])


def measure(
    network: Network, data: Samples, predict: Callable[[Array], Array] | None = None
) -> tuple[Array, Array, Array | None]:
    """Returns the outputs for all rows of some data, (..., rows, outputs), their targets and weights, on the host.
    Where members hold out a fold each, the outputs for a row are those of the one that has not learned from it.

    Args:
        predict: what gives the outputs; None: `network.predict`.
    """
    predict = network.predict if predict is None else predict
    device = network.device
    if data.counts is not None:
        weights = None if data.weights is None else on_host(data.weights, device).astype(np.float64)
        return predict_out_of_fold(network, data), on_host(data.target, device), weights
    places = np.arange(data.rows) if data.chosen is None else data.chosen

    with device.current():
        parts = [places[start : start + BLOCK] for start in range(0, len(places), BLOCK)]
        y = np.concatenate([predict(rows_at(data.x, part, device)) for part in parts], axis=-2)
        target = on_host(rows_at(data.target, places, device), device)
        weights = None if data.weights is None else on_host(rows_at(data.weights, places, device), device)
        weights = None if weights is None else weights.astype(np.float64)
    return y, target, weights


class AfterFit(FixedAttributes):
    """A callback that, at the end of a fit, looks at what the network gives for the fit's validation data: with early
    stopping it is that of the best epoch then, and with Trainer(average=...) the average. After an error nothing is
    done; after Ctrl-C it is."""

    needs_validation = True
    ends_last = True

    def __init__(self) -> None:
        self._around: BaseException | None = None  # in whose handler fit was called

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def on_start(self, state: FitState) -> None:
        """Checks the network."""
        self._around = sys.exception()
        self._begin(state.trainer)

    def on_end(self, state: FitState) -> None:
        """Looks at it, unless an error ended the fit."""
        error = sys.exception()
        if isinstance(error, Exception) and error is not self._around:
            return
        network, averaging = state.trainer.network, state.trainer.training_step.averaging
        average = averaging.average if averaging.begun else None
        if average is not None:  # which is about to take the parameters' place
            network.parameters = average
            network.refresh()
        self._finish(state.trainer)
        if average is not None:
            network.device.copy_in(average, network.parameters)

    def _begin(self, trainer: Any) -> None:
        """Raises InputError where the network is none for it."""
        raise NotImplementedError

    def _finish(self, trainer: Any) -> None:
        """Does it; nothing where outputs are not finite."""
        raise NotImplementedError


class TemperatureScaling(AfterFit):
    """A callback that, at the end of a fit, finds the temperature of the network on the fit's validation data, and
    divides its logits by it; see `gpu_backprop.calibrate`. With early stopping, the network is that of the best epoch
    then, and with Trainer(average=...) the average. After an error nothing is done; after Ctrl-C it is. A further fit
    goes on from the logits as they are, which is as good a beginning. With folds, all rows are measured, each by the
    member that has not learned from it, and all members get the same temperature.

    With Trainer(metrics=["calibrated_log_loss"]), `EarlyStopping("val_calibrated_log_loss")` chooses the epoch that is
    best after it.

    Attributes:
        temperature: T of the last fit, or a list, one a member; None before its end. It is `history.temperature` too,
            and in a file that `save(path, trainer)` writes.

    Raises:
        InputError: when a fit begins, the last layer gives no probabilities, or there are no validation data.
    """

    settable = ("temperature",)

    def __init__(self) -> None:
        super().__init__()
        self.temperature: float | list[float] | None = None

    def _begin(self, trainer: Any) -> None:
        self.temperature = None
        check_calibratable(trainer.network, "TemperatureScaling")

    def _finish(self, trainer: Any) -> None:
        found = _fit(trainer.network, trainer.running.held_out)
        if found is not None:
            divide_logits(trainer.network, found)
            self.temperature = trainer.history.temperature = found.tolist()


class ConformalIntervals(AfterFit):
    """A callback that, at the end of a fit, gives the network its prediction intervals, `network.intervals`: of how far
    its predictions are from the targets of the fit's validation data, in the units of the data. Then
    `network.predict_interval(x, 0.9)` says between which two numbers a target is, nine times out of ten. A further fit
    begins by forgetting them.

    Where the validation data have chosen the epoch, the predictions suit them a little better than other rows, and
    intervals are a little too narrow; of rows that had no part in it, `Intervals.fit` makes others. With folds, all
    rows are measured, each by the member that has not learned from it, which is off by more than the mean of all
    members: that makes up for some of it, not for all. Weights of rows are not heeded.

    Raises:
        InputError: when a fit begins, the outputs are no numbers, or those of several members; or there are no
            validation data.
    """

    def _begin(self, trainer: Any) -> None:
        network = trainer.network
        if not predicts_numbers(network, trainer.loss):
            raise InputError(
                "ConformalIntervals is for numbers, and the outputs of this network are probabilities of classes: "
                "TemperatureScaling is for those."
            )
        if network.models_shape and not network.averaged:
            raise InputError(
                "ConformalIntervals is for one network or the mean of its members, and the members of this one are "
                "several: set net.averaged = True, or net.intervals = gpu_backprop.Intervals.fit(residuals) of one."
            )

    def _finish(self, trainer: Any) -> None:
        network = trainer.network
        y, target, _ = measure(network, trainer.running.held_out)
        found = residuals(network, y, target)
        if np.isfinite(found).all():
            network.intervals = Intervals.fit(found)


def predicts_numbers(network: Network, loss: Loss) -> bool:
    """Tells whether the outputs are numbers, of which there are intervals, and no probabilities of classes."""
    return network.classes is None and NUMBERS in tasks_of(network, loss)


def residuals(network: Network, y: Array, target: Array) -> Array:
    """Returns y* − y, (rows, outputs), in the units of the data: of outputs and targets as the network has them."""
    prepared = network.preprocessing
    with np.errstate(all="ignore"):  # such as the overflow of a network that predicts nothing of use
        if prepared is None:
            return target.astype(np.float64) - y
        differences: Array = prepared.inverse(target, clip=False) - prepared.inverse(y)
    return differences
