"""Loss and metrics of data that is only measured: forward and loss as a plan, the sums on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_backprop.backend.formula import HITS, Array
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.arrays import on_host
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.network import Network
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.minibatches import DataSet


class Evaluation:
    """Measures one data set, as often as wanted.

    A loss that counts right answers gives accuracy, the share of the rows, whatever they weigh; any other R², the mean
    over the outputs of 1 − Σw(y* − y)²/Σw(y* − ȳ*)², and MAE, the weighted mean of |y* − y|.
    """

    def __init__(self, network: Network, loss: Loss, data: Samples, batch_size: int) -> None:
        self.network, self.loss, self.device, self.rows = network, loss, network.device, data.rows
        device = network.device
        self.classifies = bool(loss.formula.hit)
        self.data = DataSet(network, data)
        self.total = device.zeros((*network.lead, 3), np.float64)
        self.sums = device.zeros((*network.lead, 2, network.outputs), np.float64)
        self.batches = list(self.data.minibatches(batch_size))
        self.plans = {rows: self._plan(rows) for rows in set(self.batches)}
        if not self.classifies:
            weights = None if data.weights is None else on_host(data.weights, device)
            self.weight, self.spread = _spread(on_host(data.target, device), weights)

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
            calls = plan.device.ops.residual_sums(plan.device, y, target, weights, self.sums)
            writes = {"sums": self.sums}
            plan.add("residual_sums", "Σ|y − y*|, Σ(y − y*)²", calls, (y, target, weights), writes, 5 * y.size)
        self.data.emit_advance(plan, rows)
        return plan

    def run(self) -> dict[str, Any]:
        """{"loss", "accuracy"} or {"loss", "r2", "mae"}: floats, or lists of one a member."""
        device = self.device
        self.network.refresh()
        self.data.rewind()
        device.copy_in(self.total, np.zeros(3))
        device.copy_in(self.sums, np.zeros(1))
        with device.computing():
            for rows in self.batches:
                self.plans[rows].run()
        total = device.to_host(self.total)
        measured: dict[str, Any] = {"loss": self.loss.reduce(total, self.rows).tolist()}
        if self.classifies:
            return measured | {"accuracy": (total[..., HITS] / self.rows).tolist()}
        absolute, squared = np.moveaxis(device.to_host(self.sums), -2, 0)
        with np.errstate(all="ignore"):  # a constant target has no spread: R² is −∞, or NaN where it is met exactly
            r2 = (1 - squared / self.spread).mean(axis=-1)
        return measured | {"r2": r2.tolist(), "mae": (absolute / self.weight).mean(axis=-1).tolist()}


def _spread(target: Array, weights: Array | None) -> tuple[float, Array]:
    """Σw, and Σw(y* − ȳ*)² of each output."""
    target = np.asarray(target, np.float64)
    w = np.ones(len(target)) if weights is None else np.asarray(weights, np.float64)
    weight = float(w.sum()) or 1.0
    with np.errstate(all="ignore"):  # targets near the largest number there is overflow, and R² is then no number
        target = target - target[0]  # the spread stays, and where all are the same it is exactly 0
        mean = w @ target / weight
        return weight, w @ (target - mean) ** 2
