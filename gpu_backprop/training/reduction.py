"""The sum of the gradients over the ranks: after the backward pass, or, where a model says that it pays, in buckets of
layers. A captured graph sums up a bucket while it computes the gradients of the layers below."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import groupby

from gpu_backprop.backend.communicator import Communicator
from gpu_backprop.backend.device import Processors
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.layer import Layer
from gpu_backprop.network.network import Network
from gpu_backprop.training.launch_model import BYTES, LEAST, NODE
from gpu_backprop.training.reduction_model import NETWORK, NVLINK, all_reduce_seconds, choose_buckets

MATRIX_UNITS = 8
"""How many times as fast as others the products of 16 bits or TF32 are, at least: a T4's in its data sheet."""


class Reduction:
    """Sums up the gradients of one network, all of which lie in one buffer.

    What is decided here depends on the shapes, the settings, the ranks and the device of the first one alone, so that
    every rank does the same, also one that has no rows.

    Args:
        parts: of a minibatch, see `Accumulation`. The sum of several is there at once, so that it is one bucket.
    """

    def __init__(self, network: Network, communicator: Communicator, parts: int) -> None:
        self.network, self.parts = network, parts
        processors = communicator.agree(network.device.processors) if network.device.has_graphs else None
        self._processors = None if processors is None else Processors(*processors)

    def emit(self, plan: Plan, rows: int) -> None:
        """Appends ∇ = Σ∇ over the ranks, which share so many rows. The loss of each rank has the factor of the whole
        minibatch already."""
        if plan.communicator.ranks == 1:
            return
        plan.phase = "reduce"
        for name, gradients in self._buckets(plan.communicator, rows):
            if gradients is not self.network.gradients:
                plan.named(name, gradients)
            plan.add(Operations.all_reduce, f"{name} = Σ{name} of all ranks", {}, plan.communicator, gradients)

    def _buckets(self, communicator: Communicator, rows: int) -> Iterator[tuple[str, Array]]:
        """Yields the name and the gradients of each bucket, in the order of the backward pass."""
        network = self.network
        layers = [(layer, [*places]) for layer, places in groupby(network.places, lambda place: place[0])]
        starts = [places[0][3] for _, places in layers]
        if self._processors is None or network.models_shape or self.parts > 1 or len(layers) < 2:
            yield "∇", network.gradients
            return
        end, last = network.gradients.size, len(layers)
        sizes = [(b - a) * network.gradients.itemsize for a, b in zip(starts, [*starts[1:], end], strict=True)]
        seconds = [self._backward_seconds(layer, -(-rows // communicator.ranks)) for layer, _ in layers]
        link = NVLINK if communicator.machines == 1 else NETWORK
        reduce = partial(all_reduce_seconds, ranks=communicator.ranks, latency=link.latency, bandwidth=link.bandwidth)
        for count in choose_buckets(seconds[::-1], sizes[::-1], reduce):
            first = last - count
            if count == len(layers):
                yield "∇", network.gradients
            else:
                numbers = dict.fromkeys(str(layers[k][0].number) for k in (first, last - 1))
                yield f"∇{'–'.join(numbers)}", network.gradients[starts[first] : end]
            last, end = first, starts[first]

    def _backward_seconds(self, layer: Layer, rows: int) -> float:
        """Returns about how long a rank with so many rows takes for the gradients of a layer: two products with their
        launches, as long as their arithmetic or their traffic takes."""
        device, processors = self.network.device, self._processors
        assert processors is not None
        parameters = sum(math.prod(shape) for shape in layer.parameter_shapes().values())
        peak = 2 * processors.multiprocessors * processors.lanes * processors.megahertz
        if device.tf32 or device.dtype.itemsize == 2:
            peak *= MATRIX_UNITS
        traffic = (
            2 * parameters * device.master.itemsize + 3 * rows * (layer.inputs + layer.units) * device.dtype.itemsize
        )
        return 1e-6 * max(2 * (NODE + LEAST), 4 * rows * parameters / peak, traffic / BYTES)
