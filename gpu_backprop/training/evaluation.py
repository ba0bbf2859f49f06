"""Loss and metrics of data that is only measured: forward and loss as a plan, the sums on the device."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import closing
from functools import cached_property
from itertools import cycle, pairwise
from typing import Any

import numpy as np

from gpu_backprop.backend.communicator import ALONE, Communicator
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import CORRECT, Array
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.arrays import blocks, loaded, on_host
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.network import Network
from gpu_backprop.network.samples import Samples, samples
from gpu_backprop.training.metrics import LABELS, Given, Metric, Residuals, Scores, choose_metrics, tasks_of
from gpu_backprop.training.minibatches import BatchSource, DataSet, arrays_of, minibatches
from gpu_backprop.training.replay import Replay
from gpu_backprop.training.sums import Sums

FEW = 1 << 17
"""Outputs, with which some hundred NumPy calls take about as long as as many launches."""


class Evaluation:
    """Measures one data set, as often as wanted.

    Args:
        loss: bound to the network.
        metrics: besides the loss; None: accuracy where the loss counts right answers, else R² and MAE.
        source: where plans take the rows of `data` from; None: they are put on the device.
        device: a DryRunDevice, for what is only looked at; None: the network's.

    Where sums over the rows are enough for a metric, the plans form them; for any other, the outputs of all rows are
    kept on the device, and it is worked out there at the end. What no metric needs is not done.

    Where members have rows of their own, and not all as many, the sums are read whenever one has done all of its own:
    what the plans work out for it after that counts nothing.
    """

    def __init__(
        self, network: Network, loss: Loss, data: Samples, batch_size: int, graph: bool | str = False, *,
        metrics: Sequence[Given] | None = None, source: BatchSource | None = None, device: Device | None = None,
        communicator: Communicator = ALONE,
    ) -> None:  # fmt: skip
        self.network, self.loss, self.samples, self.rows = network, loss, data, data.rows
        self.device = network.device if device is None else device
        self.metrics = choose_metrics(metrics, network, loss)
        self.communicator = communicator
        self.counts = data.row_counts
        self.batches = minibatches_of(self.counts, batch_size)
        own = communicator.places(self.batches)
        self.data = DataSet(network, data, self.device, own) if source is None else source
        self._ends = np.unique(self.counts).tolist()
        if own is not None:
            order = np.zeros(self.rows, np.int64)
            order[own] = self._rows_of(communicator.rank)
            self.data.start(order)
        models_shape, outputs, self._undefined = network.models_shape, network.outputs, set[str]()
        summed = any(metric.of_sums for metric in self.metrics)
        self._sums = Sums(self.device, total=(*models_shape, 3), residuals=(*models_shape, 2, outputs * summed))
        self.total = self._sums["total"]
        kept = self.rows if any(metric.of_scores and not self._counted(metric) for metric in self.metrics) else 0
        with self.device.kind("outputs"):
            self._kept = self.device.empty((*models_shape, kept, outputs), self.device.master)
        self._outputs: dict[int, Array] = {}  # of a minibatch, by its rows
        shares = {len(communicator.share(rows)) for rows in self.batches} - {0}
        self.replays = {rows: Replay(self._plan(rows), graph) for rows in shares}

    def _rows_of(self, rank: int) -> Array:
        """Returns which rows a rank measures: as many of each minibatch as it has a share of, but such as lie side by
        side, so that it reads no others. A rank has as many before it as those of lower number have together."""
        sizes, begins = np.array(self.batches), np.array([0, *self._ends[:-1]])
        first = np.searchsorted(np.cumsum(sizes) - sizes, begins)  # minibatch of each stretch between two ends
        bounds = [begins + np.add.reduceat(edges, first) for edges in self.communicator.bounds(sizes, rank)]
        return np.concatenate([np.arange(*ends) for ends in zip(*bounds, strict=True)])

    def _plan(self, rows: int) -> Plan:
        network, loss = self.network, self.loss
        plan = Plan(self.device, training=False)
        network.emit_parameters(plan)
        plan.named("E", self.total)
        x, target, weights = self.data.emit(plan, rows)
        z = network.emit_forward(plan, x, upto="z")
        plan.phase = "loss"
        kept, sums = bool(self._kept.size), self._sums["residuals"]
        y = loss.value(plan, network.last, z, target, weights, self.total, needs_y=kept)
        if y is not None and sums.size:
            formula = "Σ|y − y*|, Σ(y − y*)²"
            plan.add(Operations.residual_sums, formula, {"sums": "sums"}, y, target, weights, sums)
        if y is not None and kept:
            self._outputs[rows] = y
        self.data.emit_advance(plan, rows)
        return plan.finish()

    def _counted(self, metric: Metric) -> bool:
        """Whether a metric is the count of right answers that the loss keeps."""
        return metric.name == "accuracy" and metric.own is None and bool(self.loss.formula.accuracy)

    def run(self) -> dict[str, Any]:
        """Measures the loss and the metrics, by name: floats, or lists of one a member. For what sums are enough for,
        it waits once.

        Warns:
            RuntimeWarning: a metric is undefined for these rows, and therefore NaN; said once.
        """
        self.network.refresh()
        self._sums.clear()
        done, sums = 0, dict[str, Array]()
        with self.device.computing(), closing(self.data.parts(self.batches)) as parts:
            for part in parts:
                for rows in part:
                    share = self.communicator.share(rows)
                    if share:
                        self.replays[len(share)].run()
                    if share and self._outputs:
                        kept = self._kept[..., done + share.start : done + share.stop, :]
                        self.device.copy_in(kept, self._outputs[len(share)])
                    done += rows
                    if done in self._ends[:-1]:
                        sums = self._joined(sums, done)
        sums = self._joined(sums, done)
        total = sums["total"]
        measured: dict[str, Any] = {"loss": self.loss.reduce(total, self.counts).tolist()}
        self._bring_outputs_together()
        members = self._members() if self._kept.size else []
        few = not self.device.on_host and self._kept.size <= FEW
        brought = {metric.name for metric in self.metrics if metric.own or (metric.iterates and few)}
        on_host = [member.on_host(self.device.to_host) for member in members] if brought else []
        for metric in self.metrics:
            if metric.of_sums is not None:
                values = metric.of_sums(self._residuals(sums["residuals"]))
            elif self._counted(metric):
                values = total[..., CORRECT] / self.counts
            else:
                values = self._of_scores(metric, on_host if metric.name in brought else members)
            measured[metric.name] = values.tolist()
        return measured

    def _joined(self, sums: dict[str, Array], done: int) -> dict[str, Array]:
        """Reads the sums, which waits; of members that had done all of their rows before, it returns those that are
        given."""
        read = {name: self.communicator.add_up(array) for name, array in self._sums.read().items()}
        for name, before in sums.items():
            read[name][self.counts < done] = before[self.counts < done]
        return read

    def _bring_outputs_together(self) -> None:
        """Gives every rank the outputs that the others have worked out."""
        if self.communicator.ranks == 1 or not self._kept.size:
            return
        outputs = self.device.to_host(self._kept)
        own = self.communicator.places(self.batches)
        shape = (*outputs.shape[:-2], -1, outputs.shape[-1])
        found = self.communicator.gather_arrays(outputs[..., own, :])
        for rank, one in enumerate(found):
            outputs[..., self._rows_of(rank), :] = one.reshape(shape)
        self.device.copy_in(self._kept, outputs)

    def _residuals(self, sums: Array) -> Residuals:
        absolute, squared = np.moveaxis(sums, -2, 0)
        return Residuals(absolute, squared, *self._spread)

    def _members(self) -> list[Scores]:
        """Returns the scores of each member, on the device."""
        xp, several = self.device.xp, LABELS in tasks_of(self.network, self.loss)
        members = self._kept.reshape(-1, *self._kept.shape[-2:])
        quantiles = np.broadcast_to(getattr(self.loss, "q", np.nan), self.network.models_shape).ravel().tolist()
        targets = [self._targets(chosen) for chosen in self.samples.places()]
        return [
            Scores(xp, y[: len(target)], target, weights, multi_label=several, quantile=q)
            for y, q, (target, weights) in zip(members, quantiles, cycle(targets), strict=False)
        ]

    def _targets(self, chosen: Array | None) -> tuple[Array, Array | None]:
        """Returns y* and, where there are any, w, on the device and in the order of the rows."""
        device = self.device
        _, *arrays = self.data.sources if isinstance(self.data, DataSet) else arrays_of(self.samples)
        if chosen is not None:
            arrays = [
                loaded(array, chosen) if isinstance(array, np.ndarray) else array[device.from_host(chosen)]
                for array in arrays
            ]
        target, weights = (*(device.from_host(array) for array in arrays), None)[:2]
        assert target is not None
        return target, weights

    def _of_scores(self, metric: Metric, members: Sequence[Scores]) -> Array:
        with self.device.computing():
            values = np.array([metric.value(member) for member in members])
        if np.isnan(values).any() and metric.undefined and metric.name not in self._undefined:
            self._undefined.add(metric.name)
            warnings.warn(f"{metric.name} is NaN: {metric.undefined}.", RuntimeWarning, stacklevel=3)
        return values.reshape(self.network.models_shape)

    @cached_property
    def _spread(self) -> tuple[float | Array, Array]:
        """Σw, and Σw(y* − ȳ*)² of each output; where members have rows of their own, of each."""
        found = [self._spread_of(chosen) for chosen in self.samples.places()]
        if self.samples.counts is None:
            return found[0]
        weights, spreads = zip(*found, strict=True)
        return np.array(weights)[:, None], np.stack(spreads)

    def _spread_of(self, chosen: Array | None) -> tuple[float, Array]:
        """Σw, and Σw(y* − ȳ*)² of each output; read block by block, for the targets may be a file."""
        target, weights = on_host(self.samples.target, self.device), self.samples.weights
        w = np.ones(len(target)) if weights is None else np.asarray(on_host(weights, self.device), np.float64)
        if chosen is not None:
            others = np.ones(len(w), np.bool_)
            others[chosen] = False
            w = np.where(others, 0.0, w)
        weight, first = float(w.sum()) or 1.0, np.asarray(target[0 if chosen is None else chosen[0]], np.float64)

        def moment(power: int, middle: Array) -> Array:
            """Sums Σw(y* − first − middle)ᵖ. `first` leaves the spread as it is, and exactly 0 where all y* are one."""
            sums = np.zeros_like(first)
            for start, part in blocks(target):
                sums += w[start : start + len(part)] @ (part.astype(np.float64) - first - middle) ** power
            return sums

        with np.errstate(all="ignore"):  # targets near the largest number there is overflow, and R² is then no number
            mean = moment(1, np.zeros_like(first)) / weight
            return weight, moment(2, mean)


def minibatches_of(counts: int | Array, batch_size: int) -> list[int]:
    """Returns the rows of the minibatches of an evaluation. Where members have rows of their own, (members,), and not
    all as many, one ends where a member has done all of its own."""
    ends = np.unique(counts).tolist()
    stretches = [end - begin for begin, end in pairwise([0, *ends])]
    return [rows for stretch in stretches for rows in minibatches(stretch, batch_size)]


def held_out_samples(
    network: Network, loss: Loss, validation: Any, data: Samples, communicator: Communicator = ALONE
) -> Samples | None:
    """Checks what `fit` was given as validation data beside `data`."""
    if validation is None:
        return None
    if not isinstance(validation, (tuple, list)) or len(validation) not in (2, 3):
        got = repr(validation) if isinstance(validation, str) else type(validation).__name__
        raise InputError(f"validation must be (x, y) or (x, y, weights), or 'rest' of rows, got {got}.")
    x, y, weights = (*validation, None)[:3]
    try:
        how: dict[str, Any] = {"values": True, "idle": False, "names": data.names, "communicator": communicator}
        return samples(network, loss, x, y, weights, **how)
    except InputError as error:
        raise InputError(f"validation data: {error}") from None
