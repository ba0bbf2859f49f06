"""Trainer: a network, a loss and an optimizer; a step is a plan, and an epoch runs it for every minibatch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

from gpu_backprop.backend.errors import DivergedError, InputError
from gpu_backprop.backend.formula import HITS, LOSS, Array
from gpu_backprop.backend.plan import Operation, Plan
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
from gpu_backprop.training.progress import Progress, open_progress

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

    Attributes:
        history: the History of the last `fit`.
    """

    def __init__(
        self, network: Network, loss: str | Loss | None = None, optimizer: str | Optimizer = "adam", *,
        batch_size: int = 128, seed: int | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(network, Network):
            raise InputError(f"network must be a gpu_backprop.Network, got {type(network).__name__}.")
        self.network, self.device = network, network.device
        self.loss = loss_of(loss, network.last)
        self.optimizer = optimizer_of(optimizer).bind(network)
        self.batch_size = positive("batch_size", batch_size)
        self.history = History()
        seeds = network.reseed(seed)
        self._shuffling = [np.random.default_rng([s, 1]) for s in seeds]
        self._total = self.device.zeros((*network.lead, 3), np.float64)
        self._fed_total = self.device.zeros((*network.lead, 3), np.float64)
        self._nothing = self.device.zeros((*network.lead, 3), np.float64)  # there, so that a step need not send zeros
        self._fed: dict[tuple[Any, ...], Plan] = {}
        self._stop = False

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
        plan = self._fed_plan(data.rows, data.labelled, data.weights is not None)
        self._load(plan, data)
        with self.device.computing():
            plan.run()
        return StepLoss(self, self.device.copy(self._fed_total), data.rows)

    def trace(self, x: Any, y: Any, weights: Any = None) -> Iterator[tuple[Operation, dict[str, Array]]]:
        """A step, one operation at a time, each with host copies of what it wrote, by name: every z, y and ∇.

        Nothing is fused or overwritten in it. It is a real step: after the last operation, the network has learned.
        """
        data = self._fed_samples(x, y, weights)
        plan = self._fed_plan(data.rows, data.labelled, data.weights is not None, keep=True)
        self._load(plan, data)
        return plan.trace()

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
        return self._fed_plan(rows, self.loss.labels if labels is None else labels, weights, keep)

    def _fed_samples(self, x: Any, y: Any, weights: Any) -> Samples:
        x = as_array(x, "x", self.device)
        lead = self.network.lead if x.ndim == 3 else ()
        return samples(self.network, self.loss, x, y, weights, values=False, lead=lead)

    def _fed_plan(self, rows: int, labelled: bool, weighted: bool, keep: bool = False) -> Plan:
        key = (rows, labelled, weighted, keep)
        if key not in self._fed:
            while len(self._fed) >= STEP_PLANS:
                del self._fed[next(iter(self._fed))]
            self._fed[key] = self.build_step(Feed(self.network, labelled, weighted), rows, self._fed_total, keep)
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
        training = _Training(self, DataSet(self.network, data), shuffle)
        self.network.refresh()
        with CsvLog(csv) as log, open_progress(progress, epochs, data.rows) as shown:
            self.history = history = History()
            try:
                for epoch in range(1, epochs + 1):
                    started = time.perf_counter()
                    row = training.epoch(epoch, shown)
                    if row is None:
                        history.stopped = f"stopped in epoch {epoch}, as asked{training.rescue()}"
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
                kept = training.rescue() or "; what was learned until then is kept"
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


class _Training:
    """The epochs of one fit.

    Attributes:
        before: the state at the beginning of the running epoch.
        good: the state before the last step of the epoch before: the latest whose loss is known to be finite.
    """

    def __init__(self, trainer: Trainer, data: DataSet, shuffle: bool) -> None:
        self.trainer, self.data, self.shuffle = trainer, data, shuffle
        self.batches = list(data.minibatches(trainer.batch_size))
        self.plans = {rows: trainer.build_step(data, rows, trainer._total) for rows in set(self.batches)}
        self.before = self.good = self._state()

    def epoch(self, epoch: int, shown: Progress) -> dict[str, Any] | None:
        """Trains one epoch and returns its row, or None if it was stopped on the way."""
        trainer, data, last = self.trainer, self.data, len(self.batches)
        order = np.stack([rng.permutation(data.rows) for rng in trainer._shuffling]) if self.shuffle else None
        data.start(None if order is None else order.reshape(data.permutation.shape))
        trainer.device.copy_in(trainer._total, trainer._nothing)
        self.before = before_last = self._state()
        with trainer.device.computing():
            for step, rows in enumerate(self.batches, 1):
                if step == last > 1:
                    before_last = self._state()
                self.plans[rows].run()
                shown.advance(rows)
                if trainer._stop and step < last:
                    return None
        if not self._finite():
            self._find_divergence(epoch)
        self.good = before_last
        return {"epoch": epoch} | self._measured(trainer.device.to_host(trainer._total))

    def rescue(self) -> str:
        """After an epoch that ended early: where its loss was no longer finite, goes back to the epoch before, and says
        so. To find the very step would take the time that nobody has then."""
        if self._finite():
            return ""
        self._restore(self.good)
        epochs = len(self.trainer.history)
        kept = f"those of epoch {epochs}" if epochs else "those that fit began with"
        return f", after its loss became NaN or infinite: the parameters are {kept}"

    def _measured(self, total: Array) -> dict[str, Any]:
        row: dict[str, Any] = {"loss": plain(self.trainer.loss.reduce(total, self.data.rows))}
        if self.trainer.loss.formula.hit:
            row["accuracy"] = plain(total[..., HITS] / self.data.rows)
        return row

    def _finite(self) -> bool:
        """Whether all losses of the running epoch are finite, and the parameters too."""
        device, network = self.trainer.device, self.trainer.network
        with device.computing():
            return self._loss_is_finite() and bool(device.xp.isfinite(network.parameters).all())

    def _loss_is_finite(self) -> bool:
        return bool(np.isfinite(self.trainer.device.to_host(self.trainer._total)[..., LOSS]).all())

    def _changing(self) -> Mapping[str, Array]:
        """Every array that a step changes and the next one reads."""
        network, optimizer = self.trainer.network, self.trainer.optimizer
        assert optimizer.hyper is not None
        return {
            "parameters": network.parameters,
            "random": network.random,
            "step": optimizer.hyper[..., 0],
            **optimizer.moments,
        }

    def _state(self) -> dict[str, Array]:
        return {name: self.trainer.device.copy(array) for name, array in self._changing().items()}

    def _restore(self, state: Mapping[str, Array]) -> None:
        for name, array in self._changing().items():
            self.trainer.device.copy_in(array, state[name])
        self.trainer.network.refresh()

    def _find_divergence(self, epoch: int) -> NoReturn:
        """Runs the epoch again from its beginning, looking at the loss after every step; an epoch without trouble never
        pays for it. Leaves the state before the last step whose loss was finite, and raises DivergedError. If every
        loss was, the last step has spoilt the parameters, whose loss is not known yet."""
        trainer, device, history = self.trainer, self.trainer.device, self.trainer.history
        self._restore(self.before)
        self.data.rewind()
        device.copy_in(trainer._total, trainer._nothing)
        good, here, what = self.good, self.before, "loss"
        for step in range(1, len(self.batches) + 1):
            with device.computing():
                self.plans[self.batches[step - 1]].run()
            if not self._loss_is_finite():
                break
            good, here = here, self._state()
        else:
            what = "parameters"
        self._restore(good)
        kept = "those of the last step whose loss was finite"
        if epoch == step == 1 and what == "loss":
            kept = "those that fit began with"
        happened = f"the {what} became NaN or infinite in epoch {epoch}, step {step}"
        history.stopped = happened
        raise DivergedError(
            f"{happened} of {len(self.batches)}. The parameters are {kept}. Lower the learning rate "
            f"(now {trainer.optimizer.learning_rate}), or scale the inputs to about −1 … 1.",
            epoch=epoch, step=step, history=history,
        )  # fmt: skip


def plain(value: Array) -> Any:
    """A float, or a list of them with a models axis."""
    return np.asarray(value).tolist()
