"""Loss and metrics of data that is only measured: forward and loss as a plan, the sums on the device."""

from __future__ import annotations

from contextlib import closing
from functools import cached_property
from typing import Any

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import CORRECT, Array
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.arrays import blocks, on_host
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.network import Network
from gpu_backprop.network.samples import Samples, samples
from gpu_backprop.training.minibatches import BatchSource, DataSet
from gpu_backprop.training.replay import Replay
from gpu_backprop.training.sums import Sums


class Evaluation:
    """Measures one data set, as often as wanted.

    Args:
        loss: bound to the network.
        source: where plans take the rows of `data` from; None: they are put on the device.
        device: a DryRunDevice, for what is only looked at; None: the network's.

    A loss that counts right answers gives accuracy, the share of the rows whatever their weights; any other R², the
    mean over the outputs of 1 − Σw(y* − y)²/Σw(y* − ȳ*)², and MAE, the weighted mean of |y* − y|.
    """

    def __init__(
        self, network: Network, loss: Loss, data: Samples, batch_size: int, graph: bool | str = False, *,
        source: BatchSource | None = None, device: Device | None = None,
    ) -> None:  # fmt: skip
        self.network, self.loss, self.samples, self.rows = network, loss, data, data.rows
        self.device = network.device if device is None else device
        self.classifies = bool(loss.formula.accuracy)
        self.data = DataSet(network, data, self.device) if source is None else source
        models_shape, outputs = network.models_shape, 0 if self.classifies else network.outputs
        self._sums = Sums(self.device, total=(*models_shape, 3), residuals=(*models_shape, 2, outputs))
        self.total = self._sums["total"]
        self.batches = list(self.data.minibatches(batch_size))
        self.replays = {rows: Replay(self._plan(rows), graph) for rows in set(self.batches)}

    def _plan(self, rows: int) -> Plan:
        network, loss = self.network, self.loss
        plan = Plan(self.device, training=False)
        network.emit_parameters(plan)
        plan.named("E", self.total)
        x, target, weights = self.data.emit(plan, rows)
        z = network.emit_forward(plan, x, upto="z")
        plan.phase = "loss"
        y = loss.value(plan, network.last, z, target, weights, self.total)
        if not self.classifies:
            assert y is not None
            formula, sums = "Σ|y − y*|, Σ(y − y*)²", self._sums["residuals"]
            plan.add(Operations.residual_sums, formula, {"sums": "sums"}, y, target, weights, sums)
        self.data.emit_advance(plan, rows)
        return plan

    def run(self) -> dict[str, Any]:
        """Measures {"loss", "accuracy"} or {"loss", "r2", "mae"}: floats, or lists of one a member. It waits once."""
        self.network.refresh()
        self._sums.clear()
        with self.device.computing(), closing(self.data.parts(self.batches)) as parts:
            for part in parts:
                for rows in part:
                    self.replays[rows].run()
        sums = self._sums.read()
        total = sums["total"]
        measured: dict[str, Any] = {"loss": self.loss.reduce(total, self.rows).tolist()}
        if self.classifies:
            return measured | {"accuracy": (total[..., CORRECT] / self.rows).tolist()}
        absolute, squared = np.moveaxis(sums["residuals"], -2, 0)
        weight, spread = self._spread
        with np.errstate(all="ignore"):  # a constant target has no spread: R² is −∞, or NaN where it is met exactly
            r2 = (1 - squared / spread).mean(axis=-1)
        return measured | {"r2": r2.tolist(), "mae": (absolute / weight).mean(axis=-1).tolist()}

    @cached_property
    def _spread(self) -> tuple[float, Array]:
        """Σw, and Σw(y* − ȳ*)² of each output; read block by block, for the targets may be a file."""
        target, weights = on_host(self.samples.target, self.device), self.samples.weights
        w = np.ones(len(target)) if weights is None else np.asarray(on_host(weights, self.device), np.float64)
        chosen = self.samples.chosen
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


def held_out_samples(network: Network, loss: Loss, validation: Any) -> Samples | None:
    """Checks what `fit` was given as validation data."""
    if validation is None:
        return None
    if not isinstance(validation, (tuple, list)) or len(validation) not in (2, 3):
        raise InputError(f"validation must be (x, y) or (x, y, weights), got {type(validation).__name__}.")
    x, y, weights = (*validation, None)[:3]
    try:
        return samples(network, loss, x, y, weights, values=True, idle=False)
    except InputError as error:
        raise InputError(f"validation data: {error}") from None
