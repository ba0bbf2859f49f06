"""Training on all rows at once by L-BFGS: scipy's minimizer, with the gradient of the notes. For data that are small
enough to be gone through some hundred times, it finds a deeper minimum than steps on minibatches, and has no learning
rate."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from gpu_backprop.backend.device import ALIGNMENT
from gpu_backprop.backend.errors import DivergedError, InputError, MissingExtraError, install
from gpu_backprop.backend.formula import CORRECT, WEIGHT, Array
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.data.stored_rows import StoredRows
from gpu_backprop.network.layers import Dense, Dropout
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.losses import loss as loss_of
from gpu_backprop.network.network import Network
from gpu_backprop.network.numbers import number, positive
from gpu_backprop.network.samples import Samples, samples
from gpu_backprop.training.console import in_notebook
from gpu_backprop.training.description import describe_loss
from gpu_backprop.training.evaluation import Evaluation, held_out_samples
from gpu_backprop.training.history import INTERRUPTED, History
from gpu_backprop.training.metrics import Given
from gpu_backprop.training.minibatches import BatchSource
from gpu_backprop.training.progress import Progress, open_progress
from gpu_backprop.training.replay import Replay
from gpu_backprop.training.row_logs import CsvLog
from gpu_backprop.training.streaming import place_data
from gpu_backprop.training.unscaled import warn_of_unscaled

LEAST_FALL = 2.2e-9
"""Relative, how much an iteration has to lower the objective, or as much as the dtype can tell."""

MANY = 1 << 30
"""Evaluations: unless it is asked for, the iterations are limited instead."""


class FullBatch:
    """The loss of all rows and its gradient, worked out a minibatch after the other.

    Attributes:
        parameters: float64, flat: where it was worked out last.
        total: as plans add it up, on the host.
    """

    def __init__(self, network: Network, loss: Loss, data: Samples, batch_size: int, l2: float) -> None:
        device, n = network.device, network.parameters.shape[-1]
        self.network, self.loss, self.rows, self.device = network, loss.bind(network), data.rows, device
        self._summed = replace(loss, reduction="sum").bind(network)
        self._data = _placed(network, data, "training data", batch_size)
        self._total = device.zeros((3,), np.float64)
        self._gradient, self._plain_sum = device.zeros((n,), device.master), device.from_host(np.array([1.0, 0.0]))
        self._nothing = {3: device.zeros((3,), np.float64), n: device.zeros((n,), device.master)}
        self._batches = list(self._data.minibatches(batch_size))
        self._steps = {rows: Replay(self._plan(rows), "auto") for rows in set(self._batches)}
        table = network.group_factors(penalized=True)
        factors = np.ones((3, n)) if table is None else np.repeat(table, ALIGNMENT // device.master.itemsize, axis=1)
        self._moves = factors[0] != 0
        self._penalty = l2 * factors[2] * self._moves
        self.parameters, self.total = np.full(n, np.nan), np.zeros(3)

    def _plan(self, rows: int) -> Plan:
        """N2 without its last line; ∇ is the sum over all rows."""
        network, plan = self.network, Plan(self.device, training=True)
        network.emit_parameters(plan)
        plan.named("E", self._total)
        x, target, weights = self._data.emit(plan, rows)
        z = network.emit_forward(plan, x, upto="z")
        plan.phase = "loss"
        grad_z = self._summed.gradient(plan, network.last, z, target, weights, self._total)
        plan.phase = "backward"
        network.emit_backward(plan, grad_z, start="z")
        so_far = plan.named("Σ∇", self._gradient)
        plan.add(Operations.blend, "Σ∇ += ∇", {}, network.gradients, self._plain_sum, None, so_far)
        self._data.emit_advance(plan, rows)
        return plan.finish()

    def move(self, parameters: Array) -> None:
        """Copies parameters into the network."""
        self.device.copy_in(self.network.parameters, parameters)
        self.network.refresh()

    def __call__(self, parameters: Array) -> tuple[float, Array]:
        """Returns E + ½·Σ l2·W² and its gradient, in float64; the network then has these parameters."""
        self.move(parameters)
        for array in (self._total, self._gradient):
            self.device.copy_in(array, self._nothing[array.size])
        with self.device.computing(), closing(self._data.parts(self._batches)) as parts:
            for part in parts:
                for rows in part:
                    self._steps[rows].run()
        self.parameters, self.total = parameters.copy(), self.device.to_host(self._total).copy()
        gradient = self.device.to_host(self._gradient).astype(np.float64) * self._moves
        if self.loss.reduction == "mean":
            gradient /= self.total[WEIGHT] or self.rows
        slope = self._penalty * parameters
        return float(self.loss.reduce(self.total, self.rows)) + 0.5 * float(slope @ parameters), gradient + slope

    def measured(self) -> dict[str, float]:
        """Returns the loss of the data alone where it was worked out last, and the share of right answers."""
        row = {"loss": float(self.loss.reduce(self.total, self.rows))}
        return row | ({"accuracy": float(self.total[CORRECT] / self.rows)} if self.loss.formula.accuracy else {})


class Iterations:
    """The iterations of one search: their losses and gradients, their rows of the history, the parameters to keep.

    Attributes:
        kept: the parameters that the network is to have in the end, float64, flat: of the last iteration, or with
            `patience` of the best one.
    """

    def __init__(
        self, objective: FullBatch, evaluation: Evaluation | None, history: History, patience: int | None, log: CsvLog,
        shown: Progress,
    ) -> None:  # fmt: skip
        self.objective, self.evaluation, self.history, self.patience = objective, evaluation, history, patience
        self.kept = objective.device.to_host(objective.network.parameters).astype(np.float64)
        self._log, self._shown, self._least, self._best = log, shown, math.inf, 0
        self._begun = time.perf_counter()

    def work_out(self, parameters: Array) -> tuple[float, Array]:
        """Returns the objective and its gradient."""
        value, gradient = self.objective(parameters)
        self._shown.advance(self.objective.rows)
        if not (math.isfinite(value) and np.isfinite(gradient).all()):
            history, number = self.history, len(self.history) + 1
            history.stopped = f"the loss became NaN or infinite in iteration {number}"
            whose = f"epoch {self._best or len(history)}" if len(history) else "the beginning"
            raise DivergedError(
                f"{history.stopped}. The parameters are those of {whose}. Scale the inputs to about −1 … 1, or give an "
                "l2.", epoch=number, step=1, history=history,
            )  # fmt: skip
        return value, gradient

    def after(self, parameters: Array) -> None:
        """Measures an iteration, and tells it. StopIteration ends the search."""
        if not np.array_equal(parameters, self.objective.parameters):
            self.work_out(parameters)
        if self.patience is None:
            self.kept = parameters.copy()
        history, number = self.history, len(self.history) + 1
        row: dict[str, Any] = {"epoch": number} | self.objective.measured()
        if self.evaluation is not None:
            row |= {f"val_{name}": value for name, value in self.evaluation.run().items()}
        seconds, self._begun = time.perf_counter() - self._begun, time.perf_counter()
        history.append(row | {"seconds": seconds, "samples_per_second": self.objective.rows / seconds})
        self._log.write()
        self._shown.epoch(history[-1])
        if self.patience is not None and row["val_loss"] < self._least:
            self.kept, self._least = parameters.copy(), row["val_loss"]
            self._best = history.best_epoch = number
        if self.patience is not None and number - self._best >= self.patience:
            history.stopped = f"val_loss has not improved since epoch {self._best}"
            raise StopIteration

    def end(self, status: int) -> None:
        """Says in the history why the search has ended, by scipy's number."""
        done, dtype = f"after {len(self.history)} iterations", self.objective.network.dtype.name
        ended = {0: f"converged {done}", 2: f"ended {done}: no lower loss is found in {dtype}"}
        self.history.stopped = self.history.stopped or ended.get(status)


@explain_arguments
def fit_lbfgs(
    network: Network, x: Any, y: Any, loss: str | Loss | None = None, *, iterations: int = 200, l2: float = 0.0,
    tolerance: float = 1e-5, memory: int = 10, evaluations: int = MANY, weights: Any = None, validation: Any = None,
    patience: int | None = None, batch_size: int = 8192, csv: str | os.PathLike[str] | None = None,
    progress: bool = True, metrics: Sequence[Given] | None = None,
) -> History:  # fmt: skip
    """Trains a network on all rows at once by L-BFGS (Liu and Nocedal 1989), the limited-memory form of scipy: each
    iteration goes along a line until the loss has fallen, which takes one or more passes over the data. It needs the
    extra lbfgs, which brings scipy.

    Args:
        network: it is trained in place, in float32 or float64, without a models axis, dropout and max_norm. Layers that
            are not trainable stay.
        x, y, loss, weights, validation, csv, progress, metrics: as `Trainer` and `Trainer.fit` take them.
        iterations: the most, ≥ 1.
        l2: the penalty ½·l2·ΣW² is added to the loss, with the factors of `penalty_factor`; scikit-learn's alpha, over
            the number of rows.
        tolerance: it ends where no number of the gradient is larger.
        evaluations: after how many of the loss it ends too, ≥ 1.
        memory: how many past steps it makes the curvature of; it keeps twice as many arrays like the parameters, on the
            host, in float64.
        patience: it ends when val_loss has not improved for so many iterations, and the parameters are those of the
            best one, however it ends; None: those of the last one.
        batch_size: rows that are worked through at once, which decides nothing but the memory.

    Returns:
        The history: loss and metrics after each iteration, as an epoch. Its loss is that of the data alone. `stopped`
        says how it ended; None: with the last iteration.

    Raises:
        MissingExtraError: scipy is not installed.
        InputError: what was given cannot be trained on.
        DivergedError: the loss became NaN or infinite; the parameters are those of the last iteration before.
        KeyboardInterrupt: Ctrl-C; the parameters are those of the last iteration. In a notebook, it returns instead.

    Warns:
        RuntimeWarning: as `Trainer.fit` does, of columns that nobody has scaled.
    """
    try:
        from scipy.optimize import minimize
    except ImportError as error:
        raise MissingExtraError(f"L-BFGS needs scipy: {install('lbfgs')}") from error
    if not isinstance(network, Network):
        raise InputError(f"network must be a gpu_backprop.Network, got {type(network).__name__}.")
    if isinstance(x, StoredRows):
        raise InputError("L-BFGS goes through all rows many times, and takes arrays: train on rows by Trainer.fit.")
    _check(network)
    loss = loss_of(loss, network.last)
    iterations, memory = positive("iterations", iterations), positive("memory", memory)
    evaluations = positive("evaluations", evaluations)
    batch_size, l2 = positive("batch_size", batch_size), number("l2", l2, "a finite number ≥ 0", _at_least_0)
    tolerance = number("tolerance", tolerance, "a finite number ≥ 0", _at_least_0)
    if patience is not None and validation is None:
        raise InputError("patience is for the loss of validation data, and there are none: give validation=(x, y).")
    patience = None if patience is None else positive("patience", patience)
    with network.exclusively("fit_lbfgs"):
        data = samples(network, loss, x, y, weights, values=True, idle=False, learn=True)
        warn_of_unscaled(data, loss, network.device, network.preprocessing is not None, stacklevel=4)
        held_out = held_out_samples(network, loss, validation, data)
        objective, history = FullBatch(network, loss, data, batch_size, l2), History()
        evaluation = None
        if held_out is not None:
            source = _placed(network, held_out, "validation data", batch_size)
            evaluation = Evaluation(network, objective.loss, held_out, batch_size, source=source, metrics=metrics)
        network.trained_by = network.intervals = None
        network.classes = network.classes if data.names is None else data.names
        least_fall = max(LEAST_FALL, float(np.finfo(network.dtype).eps))
        options = {
            "maxiter": iterations,
            "maxfun": evaluations,
            "maxcor": memory,
            "gtol": tolerance,
            "ftol": least_fall,
        }
        with CsvLog(csv, history) as log, open_progress(progress, iterations, data.rows, history) as shown:
            run = Iterations(objective, evaluation, history, patience, log, shown)
            try:
                result = minimize(
                    run.work_out, run.kept, method="L-BFGS-B", jac=True, callback=run.after, options=options
                )
                run.end(result.status)
            except KeyboardInterrupt:
                history.stopped = f"{INTERRUPTED} in iteration {len(history) + 1}; what was learned until then is kept"
                if not in_notebook():
                    raise
            finally:
                objective.move(run.kept)
        settings = {"name": "lbfgs", "l2": l2, "tolerance": tolerance, "memory": memory}
        network.trained_by = {"optimizer": settings, "loss": describe_loss(loss), "epochs": len(history)}
        return history


def _placed(network: Network, data: Samples, name: str, batch_size: int) -> BatchSource:
    return place_data(network, data, name, batch_size, stream=False, room=0, shuffled=False)


def _at_least_0(value: float) -> bool:
    return 0 <= value < math.inf


def _check(network: Network) -> None:
    """Raises InputError where L-BFGS cannot train a network: it says why."""
    network.check_trainable()
    if network.models_shape:
        raise InputError("L-BFGS trains one network, and this one has members: train each by itself.")
    if network.dtype != network.device.master:
        raise InputError(
            f"L-BFGS compares losses that differ little, for which {network.dtype.name} is too coarse: use "
            "dtype='float32' or 'float64'."
        )
    for layer in network.layers:
        drops = isinstance(layer, Dropout) and layer.rate != 0
        if drops or (isinstance(layer, Dense) and layer.max_norm is not None):
            what = "draws anew each time the loss is worked out" if drops else "has a max_norm, which only steps keep"
            raise InputError(f"L-BFGS cannot train layer {layer.number}, {layer!r}: it {what}. Leave that out.")
