"""A minibatch that is worked through in parts, so that it takes the memory of one: its gradient is their sum."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.loss import Loss, Scaling
from gpu_backprop.network.network import Network
from gpu_backprop.network.numbers import positive
from gpu_backprop.training.minibatches import BatchSource, ManualBatch


class Accumulation:
    """Into how many parts a minibatch is divided, and where their gradients add up.

    Attributes:
        parts: ≥ 1; a minibatch of fewer rows has as many parts as rows.
    """

    def __init__(self, network: Network, parts: int) -> None:
        self.network, self.parts = network, positive("accumulate", parts)
        self._sum: Array | None = None
        if self.parts > 1:
            device, gradients = network.device, network.gradients
            device.require({"sum of gradients": gradients.nbytes}, "The accumulation of gradients")
            self._sum = device.zeros(gradients.shape, device.master)
            self._plain_sum = device.from_host(np.tile([1.0, 0.0], (*network.models_shape, 1)))

    def divide(self, rows: int) -> list[int]:
        """Returns how many rows each part of so many rows has; those that have one more come first."""
        count = max(1, min(self.parts, rows))
        return [rows // count + (part < rows % count) for part in range(count)]

    def rows_at_once(self, batch_size: int) -> int:
        """Returns how many rows of a minibatch are worked through at a time, at most."""
        return self.divide(batch_size)[0]

    def parts_of(
        self, plan: Plan, source: BatchSource | ManualBatch, loss: Loss, rows: int, total: Array
    ) -> Iterator[tuple[int, Scaling | None]]:
        """Yields the rows of each part of this rank's share of a minibatch, and the scaling of the loss where it is
        that of the whole one, and appends after each what adds its ∇ to those before. A plan that fuses nothing has one
        part; the share of a rank that has no row has none, and its ∇ is 0."""
        share, scaling = len(plan.communicator.share(rows)), None
        parts = self.divide(share) if plan.fuse else [share]
        if len(parts) > 1 or plan.communicator.ranks > 1:
            plan.phase = "data"
            weights = source.emit_weights(plan, share)
            plan.phase = "loss"
            scaling = loss.scale(plan, rows, weights, total)
        if not share:
            nothing = plan.named("0", plan.device.zeros(self.network.gradients.shape, plan.device.master))
            plan.add(Operations.copy, "∇ = 0", {"destination": "gradients"}, nothing, self.network.gradients)
            return
        for number, part in enumerate(parts, 1):
            plan.phase = "forward"
            yield part, scaling
            if len(parts) > 1:
                self._add(plan, first=number == 1, last=number == len(parts))
            if number < len(parts):
                source.emit_advance(plan, part)
                plan.first_row += part

    def _add(self, plan: Plan, first: bool, last: bool) -> None:
        """Appends what adds ∇ of a part to those before it; after the last one, ∇ is their sum."""
        assert self._sum is not None
        gradients, before = self.network.gradients, plan.named("∇ so far", self._sum)
        if first:
            plan.add(Operations.copy, "∇ so far = ∇", {}, gradients, before)
        elif not last:
            plan.add(Operations.blend, "∇ so far += ∇", {}, gradients, self._plain_sum, None, before)
        else:
            plan.add(
                Operations.blend, "∇ += ∇ so far", {"destination": "gradients"},
                before, self._plain_sum, None, gradients,
            )  # fmt: skip
