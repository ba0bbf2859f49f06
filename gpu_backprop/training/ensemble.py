"""DeepEnsemble: the mean of several networks, how far they are apart, and how far that can be relied on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu_backprop.backend.attributes import FixedAttributes
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.network.intervals import Intervals
from gpu_backprop.network.losses import loss as loss_of
from gpu_backprop.network.network import Network
from gpu_backprop.network.samples import Samples, samples
from gpu_backprop.training.calibration import calibrate, predicts_numbers, residuals
from gpu_backprop.training.folds import measure_outputs, predict_mean
from gpu_backprop.training.metrics import Given
from gpu_backprop.training.population import Population
from gpu_backprop.training.streaming import given_rows


class DeepEnsemble(FixedAttributes):
    """Several networks that have learned the same from other weights, in another order or on other rows: their mean
    predicts better than most of them, and where they differ they do not know (Lakshminarayanan, Pritzel and Blundell
    2017, "Simple and scalable predictive uncertainty estimation using deep ensembles").

    Args:
        members: a Population; a Network with a models axis; or a list of Networks that differ in their parameters, such
            as `[population.member(m) for m in best]`. They are copied.

    Raises:
        InputError: they are fewer than two, or not alike; or one has diverged.

    Attributes:
        network: a Network with a models axis that is `averaged`: all that it predicts is of the mean, its
            `predict_labels`, and after `calibrate` its `predict_interval`. `save` keeps it.
    """

    def __init__(self, members: Population | Network | Sequence[Network]) -> None:
        given = members.network if isinstance(members, Population) else members
        self.network = network = given.copy() if isinstance(given, Network) and given.models_shape else _stack(given)
        if network.models_shape == (1,):
            raise InputError("a deep ensemble needs two members at least, got one.")
        good = np.isfinite(network.device.to_host(network.parameters)).all(axis=1)
        if isinstance(members, Population) and members.history.diverged is not None:
            good &= np.array(members.history.diverged) == 0
        if not good.all():
            raise InputError(
                f"member {good.argmin()} has diverged. Give a list of the others, such as [population.member(m) for m "
                "in ...]."
            )
        network.averaged = True
        self._loss = loss_of(None, network.last).bind(network)
        self._numbers = predicts_numbers(network, self._loss)

    @explain_arguments
    def calibrate(self, x: Any, y: Any = None, weights: Any = None) -> DeepEnsemble:
        """Learns how sure the mean may be, from rows, as `Trainer.evaluate` takes them, that no member has learned
        from: of classes its temperature, see `gpu_backprop.calibrate`; of numbers its `Intervals`, without weights."""
        if self._numbers:
            data, mean = self._predict(x, y, weights)
            self.network.intervals = Intervals.fit(residuals(self.network, mean, data.target))
        else:
            calibrate(self.network, x, y, weights)
        return self

    @explain_arguments
    def predict(self, x: Any, batch_size: int = 1024) -> Array:
        """Computes the mean of the members' outputs, (rows, outputs), as `Network.predict` does."""
        return self.network.predict(x, batch_size)

    @explain_arguments
    def predict_variance(self, x: Any, batch_size: int = 1024) -> Array:
        """Computes the variance of the members' outputs, Σ(y_m − ȳ)²/M, float64 (rows, outputs); of numbers in the
        square of the units of the data. The noise of the targets is none of it; intervals have that too. x and
        batch_size are as of `Network.predict`."""
        members, prepared = self.network.predict_members(x, batch_size), self.network.preprocessing
        if self._numbers and prepared is not None:
            members = np.stack([prepared.inverse(y) for y in members])
        return np.asarray(members.var(axis=0, dtype=np.float64))

    @explain_arguments
    def disagreement(self, x: Any, batch_size: int = 1024) -> Array:
        """Computes how much the members differ about the class of each row, float64 (rows,), in nats: the entropy of
        the mean of their probabilities less the mean of their entropies, from 0 to log M. It is the mutual information
        of class and member (Houlsby et al. 2011), and 1/M of Σ KL(p_m ‖ p̄), the disagreement of Lakshminarayanan et
        al. Of several labels it is the sum over them. x and batch_size are as of `Network.predict`.

        Raises:
            InputError: the outputs are numbers.
        """
        if self._numbers:
            raise InputError("disagreement is about classes, and the outputs are numbers: use predict_variance.")
        p = self.network.predict_members(x, batch_size).astype(np.float64)[..., None]
        p = np.concatenate([1 - p, p], axis=-1) if self.network.last.activation.name == "sigmoid" else p
        surplus = _information(p.mean(axis=0)) - _information(p).mean(axis=0)
        return np.asarray(surplus.sum(axis=(1, 2)).clip(0, None))

    @explain_arguments
    def evaluate(
        self, x: Any, y: Any = None, weights: Any = None, metrics: Sequence[Given] | None = None, coverage: float = 0.9
    ) -> dict[str, float]:
        """Measures the mean of the members on some rows, as `Trainer.evaluate` takes them: by name the loss that suits
        the last layer, and metrics; of numbers, after `calibrate`, also as "coverage" the share of the targets that lie
        within the intervals of that coverage. By default of classes accuracy, log_loss and calibration_error, of
        numbers rmse, mae and r2."""
        data, mean = self._predict(x, y, weights)
        if metrics is None:
            metrics = ("rmse", "mae", "r2") if self._numbers else ("accuracy", "log_loss", "calibration_error")
        measured, intervals = measure_outputs(self.network, self._loss, metrics, mean, data), self.network.intervals
        if self._numbers and intervals is not None:
            inside = np.abs(residuals(self.network, mean, data.target)) <= intervals.half_widths(coverage)
            measured["coverage"] = float(np.average(inside.mean(axis=1), weights=data.weights))
        return measured

    def _predict(self, x: Any, y: Any, weights: Any) -> tuple[Samples, Array]:
        """Returns rows, on the host, and the mean of the members' outputs for them."""
        data = samples(self.network, self._loss, *given_rows(x, y, weights), values=True, idle=False)
        return data.on_host(self.network.device), predict_mean(self.network, data.x)


def _information(p: Array) -> Array:
    """−p log p, which add up to the entropy."""
    return np.asarray(-p * np.log(np.where(p > 0, p, 1.0)))


def _stack(networks: Any) -> Network:
    """Makes one network with a models axis of several without."""
    listed = isinstance(networks, (list, tuple)) and networks
    if not listed or any(not isinstance(one, Network) or one.models_shape for one in networks):
        accepted = "a Population, a Network with a models axis, or a list of Networks without"
        raise InputError(f"members must be {accepted}, got {networks!r:.200}.")
    first, told = networks[0], [_describe(one) for one in networks]
    for m, one in enumerate(told):
        if differ := [name for name, value in one.items() if value != told[0][name]]:
            raise InputError(f"members must be alike but for their parameters: {differ[0]} of member {m} differs.")
    form = first.architecture() | {"seed": [one.seed for one in networks]}
    made = Network.from_architecture(form, device=first.device.name, tf32=first.device.tf32, draw=False)
    for parameters, one in zip(made.parameters, networks, strict=True):
        made.device.copy_in(parameters, made.device.from_host(one.device.to_host(one.parameters)))
    made.preprocessing, made.classes = first.preprocessing, first.classes
    return made


def _describe(network: Network) -> dict[str, Any]:
    """Tells in what members must be alike; rates of dropout, which drops nothing in a prediction, may differ."""
    told, prepared = network.architecture(), network.preprocessing
    layers = [{name: value for name, value in layer.items() if name != "rate"} for layer in told["layers"]]
    known = {"preprocessing": prepared and prepared.to_dict(), "classes": network.classes}
    return {"inputs": told["inputs"], "layers": layers, "dtype": told["dtype"], **known}
