"""The sum of the gradients over the ranks: one operation, between the backward pass and the update."""

from __future__ import annotations

from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.network import Network


class Reduction:
    """Sums up the gradients of one network, all of which lie in one buffer."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def emit(self, plan: Plan) -> None:
        """Appends ∇ = Σ∇ over the ranks. The loss of each rank has the factor of the whole minibatch already."""
        if plan.communicator.ranks > 1:
            plan.phase = "reduce"
            plan.add(Operations.all_reduce, "∇ = Σ∇ of all ranks", {}, plan.communicator, self.network.gradients)
