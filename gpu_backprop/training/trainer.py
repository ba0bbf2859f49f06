"""Trainer: a network, a loss and an optimizer; a step is a plan, and an epoch runs it for every minibatch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.plan import Operation, Plan
from gpu_backprop.backend.profile import Profile, profile
from gpu_backprop.network.arrays import as_array
from gpu_backprop.network.layers import positive
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.losses import loss as loss_of
from gpu_backprop.network.network import Network
from gpu_backprop.network.samples import Samples, samples
from gpu_backprop.training.evaluation import Evaluation
from gpu_backprop.training.history import CsvLog, History
from gpu_backprop.training.minibatches import DataSet, Feed
from gpu_backprop.training.optimizers import Optimizer
from gpu_backprop.training.optimizers import optimizer as optimizer_of
from gpu_backprop.training.progress import open_progress
from gpu_backprop.training.replay import Replay
from gpu_backprop.training.run import Run

STEP_PLANS = 8
"""How many plans of `step` are kept: one for each number of rows, the oldest forgotten first."""


class Trainer:
    """Trains a network.

    Args:
        network: it is trained in place.
        loss: a name or a Loss; None chooses by the output activation: cross_entropy for softmax, binary_cross_entropy
            for sigmoid, half_squared_error for all others.
        optimizer: a name or an Optimizer; the trainer works on a copy, `trainer.optimizer`.
        batch_size: rows of a minibatch, ≥ 1; more than there are make one minibatch of all.
        seed: of shuffling and dropout; None: the network's.
        graph: whether a step is captured as a CUDA graph and replayed, which costs one launch. "auto": where it can be,
            and its first replay gives what the step gave before, bit for bit; if not, one warning says why. True: else
            an error. False: never.
        stream: whether `fit` leaves the data on the host and streams them to the CUDA device. "auto": where they do
            not fit there.
        resident: whether whole epochs run in one launch, a network a block, with its parameters in the block's own
            memory: for small networks on CUDA. It gives what the ordinary steps give, to rounding.

    Attributes:
        history: the History of the last `fit`.
    """

    def __init__(
        self, network: Network, loss: str | Loss | None = None, optimizer: str | Optimizer = "adam", *,
        batch_size: int = 128, seed: int | None = None, graph: bool | str = "auto", stream: bool | str = "auto",
        resident: bool = False,
    ) -> None:  # fmt: skip
        if not isinstance(network, Network):
            raise InputError(f"network must be a gpu_backprop.Network, got {type(network).__name__}.")
        self.network, self.device = network, network.device
        self.loss = loss_of(loss, network.last)
        self.optimizer = optimizer_of(optimizer).bind(network)
        self.batch_size = positive("batch_size", batch_size)
        self.graph, self.stream = self._mode("graph", graph), self._mode("stream", stream)
        self.resident = resident
        self.history = History()
        seeds = network.reseed(seed)
        self._shuffling = [np.random.default_rng([s, 1]) for s in seeds]
        self._total = self.device.zeros((*network.lead, 3), np.float64)
        self._fed_total = self.device.zeros((*network.lead, 3), np.float64)
        self._nothing = self.device.zeros((*network.lead, 3), np.float64)  # there, so that a step need not send zeros
        self._fed: dict[tuple[Any, ...], Replay] = {}
        self._stop = False

    def _mode(self, name: str, value: bool | str) -> bool | str:
        if not isinstance(value, bool) and value != "auto":
            raise InputError(f"{name} must be 'auto', True or False, got {value!r}.")
        if value is True and self.device.name == "cpu":
            raise InputError(f"{name}=True is for CUDA devices; this network is on the CPU ({self.device.reason}).")
        return value

    # The step: note N2 in five lines ----------------------------------------------------------------------------------

    def build_step(self, source: DataSet | Feed, rows: int, total: Array, keep: bool = False) -> Plan:
        """One minibatch from its rows to new weights, as a plan."""
        plan = Plan(self.device, training=True, keep=keep)
        self.network.emit_parameters(plan)
        plan.named("E", total)
        x, target, weights = source.emit(plan, rows)
        z = self.network.emit_forward(plan, x, upto="z")  # its activation is left to the loss, which may fuse it
        plan.phase = "loss"
        grad_z = self.loss.gradient(plan, self.network.last, z, target, weights, total)
        plan.phase = "backward"
        self.network.emit_backward(plan, grad_z, start="z")
        plan.phase = "update"
        self.optimizer.update(plan, self.network)
        self.network.emit_next_masks(plan)
        source.emit_advance(plan, rows)
        return plan

    # One minibatch by hand --------------------------------------------------------------------------------------------

    def step(self, x: Any, y: Any, weights: Any = None) -> StepLoss:
        """Trains on one minibatch of any size.

        Args:
            x: (rows, inputs), finite. Only shapes and dtypes are checked.
            y: labels (rows,) as integers, or (rows, outputs). A label that is out of range makes the loss NaN, and its
                row does not count in the gradient.
            weights: (rows,), ≥ 0, or None.

        Returns:
            The loss before the step; float() of it waits for the device.
        """
        data = self._fed_samples(x, y, weights)
        run = self._fed_plan(data.rows, data.labelled, data.weights is not None)
        self._load(run.plan, data)
        with self.device.computing():
            run()
        return StepLoss(self, self.device.copy(self._fed_total), data.rows)

    def trace(self, x: Any, y: Any, weights: Any = None) -> Iterator[tuple[Operation, dict[str, Array]]]:
        """A step, one operation at a time, each with host copies of what it wrote, by name: every z, y and ∇.

        Nothing is fused or overwritten in it. It is a real step: after the last operation, the network has learned.
        """
        data = self._fed_samples(x, y, weights)
        plan = self._fed_plan(data.rows, data.labelled, data.weights is not None, keep=True).plan
        self._load(plan, data)
        return plan.trace()

    def profile(self, x: Any, y: Any, weights: Any = None, *, runs: int = 30) -> Profile:
        """How long each operation of a step takes, the median of some runs; print it. It learns nothing: parameters
        and all else are afterwards what they were.
        """
        runs = positive("runs", runs)
        data = self._fed_samples(x, y, weights)
        plan = self._fed_plan(data.rows, data.labelled, data.weights is not None).plan
        self._load(plan, data)
        before = {name: self.device.copy(array) for name, array in plan.state().items()}
        try:
            return profile(plan, runs)
        finally:
            for name, array in plan.state().items():
                self.device.copy_in(array, before[name])

    def plan(
        self, rows: int | None = None, *, labels: bool | None = None, weights: bool = False, keep: bool = False
    ) -> Plan:
        """The plan of `step`, to look at: `trainer.plan().describe()`.

        Args:
            rows: of the minibatch; None: batch_size.
            labels: whether targets are class labels; None: where the loss takes them.
            weights: whether there are sample weights.
            keep: share no buffers and fuse nothing.
        """
        rows = self.batch_size if rows is None else positive("rows", rows)
        return self._fed_plan(rows, self.loss.labels if labels is None else labels, weights, keep).plan

    def _fed_samples(self, x: Any, y: Any, weights: Any) -> Samples:
        x = as_array(x, "x", self.device)
        lead = self.network.lead if x.ndim == 3 else ()
        return samples(self.network, self.loss, x, y, weights, values=False, lead=lead)

    def _fed_plan(self, rows: int, labelled: bool, weighted: bool, keep: bool = False) -> Replay:
        key = (rows, labelled, weighted, keep)
        if key not in self._fed:
            while len(self._fed) >= STEP_PLANS:
                del self._fed[next(iter(self._fed))]
            plan = self.build_step(Feed(self.network, labelled, weighted), rows, self._fed_total, keep)
            self._fed[key] = Replay(plan, self.graph)
        return self._fed[key]

    def _load(self, plan: Plan, data: Samples) -> None:
        self.network.refresh()
        Feed.load(plan, data)
        self.device.copy_in(self._fed_total, self._nothing)

    # Whole epochs -----------------------------------------------------------------------------------------------------

    def fit(
        self, x: Any, y: Any, epochs: int = 10, *, weights: Any = None, validation: Any = None, shuffle: bool = True,
        csv: str | os.PathLike[str] | None = None, progress: bool = True,
    ) -> History:  # fmt: skip
        """Trains for some epochs.

        Args:
            x: (rows, inputs), finite.
            y: labels (rows,), or (rows, outputs).
            epochs: ≥ 1; a further fit goes on where this one ended.
            weights: (rows,), ≥ 0: how much each row counts.
            validation: (x, y) or (x, y, weights) that are only measured, after every epoch.
            shuffle: a new order in every epoch, drawn from the seed.
            csv: a file, replaced if it is there, to which each epoch's row is written as soon as it is known.
            progress: whether to show how it goes.

        Returns:
            The History: loss and metrics of each epoch. Ctrl-C ends the run and keeps what was learned; in
            `History.stopped` it says so.

        Raises:
            InputError: what was given cannot be trained on; nothing has happened then.
            DivergedError: the loss became NaN or infinite; the parameters are the last ones whose loss was finite.
        """
        self._stop = False
        epochs = positive("epochs", epochs)
        data = samples(self.network, self.loss, x, y, weights, values=True)
        held_out = self._held_out(validation)
        run = Run(self, DataSet(self.network, data), shuffle)
        self.network.refresh()
        with CsvLog(csv) as log, open_progress(progress, epochs, data.rows) as shown:
            self.history = history = History()
            try:
                for epoch in range(1, epochs + 1):
                    started = time.perf_counter()
                    row = run.epoch(epoch, shown)
                    if row is None:
                        history.stopped = f"stopped in epoch {epoch}, as asked{run.rescue()}"
                        break
                    seconds = time.perf_counter() - started
                    if held_out is not None:
                        row |= {f"val_{name}": value for name, value in held_out.run().items()}
                    row |= {"seconds": seconds, "samples_per_second": data.rows / seconds}
                    history.append(row)
                    log.write(row)
                    shown.epoch(row)
                    if self._stop and epoch < epochs:
                        history.stopped = f"stopped after epoch {epoch}, as asked"
                        break
            except KeyboardInterrupt:
                kept = run.rescue() or "; what was learned until then is kept"
                history.stopped = f"interrupted in epoch {len(history) + 1}{kept}"
        return history

    def stop(self) -> None:
        """Asks a running fit to end after its current step; callable from a signal handler or another thread."""
        self._stop = True

    def evaluate(self, x: Any, y: Any, weights: Any = None) -> dict[str, Any]:
        """The loss and the metrics of some data, without dropout: accuracy for classes, R² and MAE for numbers.

        With a models axis each value is a list, one number a member.
        """
        return self._evaluation(x, y, weights).run()

    def _evaluation(self, x: Any, y: Any, weights: Any) -> Evaluation:
        data = samples(self.network, self.loss, x, y, weights, values=True)
        return Evaluation(self.network, self.loss, data, self.batch_size)

    def _held_out(self, validation: Any) -> Evaluation | None:
        if validation is None:
            return None
        if not isinstance(validation, (tuple, list)) or len(validation) not in (2, 3):
            raise InputError(f"validation must be (x, y) or (x, y, weights), got {type(validation).__name__}.")
        x, y, weights = (*validation, None)[:3]
        try:
            return self._evaluation(x, y, weights)
        except InputError as error:
            raise InputError(f"validation data: {error}") from None


class StepLoss:
    """The loss of one step, still on the device. float() waits for it; np.asarray() gives one loss a member."""

    def __init__(self, trainer: Trainer, total: Array, rows: int) -> None:
        self._trainer, self._total, self._rows = trainer, total, rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        total = self._trainer.device.to_host(self._total)
        return np.asarray(self._trainer.loss.reduce(total, self._rows), dtype)

    def __float__(self) -> float:
        losses = np.asarray(self)
        if losses.ndim:
            raise InputError(f"there are {losses.size} losses, one a member: use np.asarray(loss).")
        return float(losses)

    def __repr__(self) -> str:
        return f"StepLoss({np.asarray(self).tolist()})"

    def __format__(self, spec: str) -> str:
        return format(float(self), spec)
