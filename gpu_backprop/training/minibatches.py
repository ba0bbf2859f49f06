"""Where the rows of a minibatch come from: gathered from a data set (fit), or given by hand (step).

Both emit the same three buffers into a plan: x, the target y* and the weights w.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.arrays import check_file, memory_map, whole
from gpu_backprop.network.network import Network
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.shuffling import Shuffling

Buffers = tuple[Array, Array, Array | None]

ALL = "all "
"""What the names of buffers begin with that hold rows of a whole minibatch, where it is worked through in parts."""


class BatchSource(ABC):
    """Samples whose rows a plan gathers: what lies on the device, a permutation and a cursor choose.

    Attributes:
        rows: how many samples there are, for the member that has the most.
        counts: how many there are, or of each member its own.
        learned: how many an epoch trains each member on: where there are weights, its own alone.
        own_counts: counts on the device, where weights become −0 from there on; None: they stay as they are.
        sources: x, y* and, where there are any, w, on the device: (places, ...).
        kept: the dtypes of the sources, but for what the CPU reads from a file as it is.
        own: which places of an epoch are this rank's, in their order, and the only ones that it brings to the device;
            None: all are.
        permutation: int64 (..., n): the order in which the places of the sources are used, one for each member.
        cursor: int64 (1,): how many of them have been used.
    """

    sources: list[Array]
    permutation: Array

    def __init__(
        self, network: Network, data: Samples, device: Device | None = None, own: Array | None = None
    ) -> None:  # fmt: skip
        device = self.device = network.device if device is None else device
        self.rows, self.models_shape, self._chosen, self.own = data.rows, network.models_shape, data.chosen, own
        self.counts = data.row_counts
        self.learned = self.rows if data.weights is None else self.counts
        self.own_counts: Array | None = None
        self.kept = kept_dtypes(data, device)
        self.cursor = device.zeros((1,), np.int64)
        self._beginning = device.zeros((1,), np.int64)  # there, so that nothing need be sent

    @abstractmethod
    def start(self, order: Array | None = None) -> None:
        """Begins an epoch, in the given order, (..., rows), or in that of the rows."""

    @abstractmethod
    def shuffle(self, shuffling: Shuffling) -> None:
        """Begins an epoch in a new order, each member in its own: what was drawn ahead, or else one drawn now."""

    @abstractmethod
    def parts(
        self, batch_sizes: Sequence[int], done: int = 0, following: Shuffling | None = None
    ) -> Generator[Sequence[int]]:
        """Yields the sizes of the minibatches of an epoch, in parts, without the first `done`. This rank's rows of a
        part are on the device together; its steps are queued before the next part is asked for. To be used inside
        device.computing().

        Args:
            following: what draws the order of the epoch that follows; a thread may do it, while steps of this one run.
        """

    def at(self, rows: Any) -> Any:
        """Returns how many of so many rows of an epoch are this rank's: where it is when these are done."""
        return rows if self.own is None else np.searchsorted(self.own, rows)

    def _places(self, order: Array | None) -> Array | None:
        """Returns where this rank's rows of an order lie among all that the data hold; None: side by side from the
        first on."""
        if self.own is not None:
            order = self.own if order is None else order[..., self.own]
        if self._chosen is None:
            return order
        return self._chosen if order is None else _taken(self._chosen, order)

    def rewind(self) -> None:
        """Goes back to the first place."""
        self.device.copy_in(self.cursor, self._beginning)

    def emit(self, plan: Plan, rows: int) -> Buffers:
        """Emits x, y* and w of the next rows, which one operation gathers."""
        names, outs = ("x", "y*", "w")[: len(self.sources)], []
        for name, source, dtype in zip(names, self.sources, [self.device.dtype, *self.kept[1:]], strict=True):
            row = () if name == "w" else source.shape[1:]
            outs.append(plan.empty(name, (*self.models_shape, rows, *row), dtype))
        plan.named("cursor", self.cursor)
        plan.named("order", self.permutation)
        for name, source in zip(names, self.sources, strict=True):
            plan.named(f"data {name}", source)
        plan.phase = "data"
        self._gather(plan, ", ".join(names), self.sources, outs)
        plan.phase = "forward"
        return outs[0], outs[1], outs[2] if len(outs) > 2 else None

    def emit_weights(self, plan: Plan, rows: int) -> Array | None:
        """Emits w alone of the next rows, for a minibatch in parts, or of several ranks, which need their sum first."""
        if len(self.sources) < 3:
            return None
        if not rows:
            return plan.named(f"{ALL}w", plan.device.zeros((*self.models_shape, 1), self.kept[2]))
        out = plan.empty(f"{ALL}w", (*self.models_shape, rows), self.kept[2])
        plan.named("data w", self.sources[2])
        plan.named("cursor", self.cursor)
        plan.named("order", self.permutation)
        self._gather(plan, f"{ALL}w", [None, None, self.sources[2]], [None, None, out])
        return out

    def _gather(self, plan: Plan, names: str, sources: Sequence[Array | None], outs: Sequence[Array | None]) -> None:
        counts = None if self.own_counts is None else plan.named("rows of each", self.own_counts)
        formula = f"{names} = data[order[cursor:]]"
        plan.add(Operations.gather, formula, {}, sources, self.permutation, self.cursor, outs, counts)

    def emit_advance(self, plan: Plan, rows: int) -> None:
        """Emits cursor += rows, the end of the step, or of a part of it."""
        plan.add(Operations.advance, f"cursor += {rows}", {}, self.cursor, rows)

    def minibatches(self, batch_size: int) -> Iterator[int]:
        """Yields how many rows each minibatch of an epoch has; the last one has what is left."""
        return minibatches(self.rows, batch_size)


class DataSet(BatchSource):
    """Samples that lie on the device as a whole; on a CPU, a memory map that has another dtype stays as it is.

    A device that works while the host does something else gets the next order while it works: into memory beside the
    permutation, which is then copied there. On a CPU the thread would only take the steps' time.

    Args:
        shuffled: whether epochs follow each other in orders that are drawn.
    """

    def __init__(
        self, network: Network, data: Samples, device: Device | None = None, own: Array | None = None, *,
        shuffled: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(network, data, device, own)
        device = self.device
        with device.kind("data"):
            self.sources = [
                array if device.on_host and memory_map(array) is not None else device.from_host(array, dtype)
                for array, dtype in zip(arrays_of(data), self.kept, strict=True)
            ]
        with device.kind("row order"):
            self.permutation = device.zeros((*self.models_shape, int(self.at(self.rows))), np.int64)
            if data.weights is not None and data.counts is not None:
                self.own_counts = device.from_host(np.asarray(self.at(data.counts)))
            self._coming = None
            if shuffled and not device.on_host:
                self._coming = device.double_buffer([((self.permutation.size,), np.dtype(np.int64))], 1)
        self.start()

    def start(self, order: Array | None = None) -> None:
        places = self._places(order)
        self.device.copy_in(self.permutation, np.arange(self.rows) if places is None else places)
        self.rewind()

    def shuffle(self, shuffling: Shuffling) -> None:
        if shuffling.take() is None:
            self.start(shuffling.draw_order(self.counts))
            return
        assert self._coming is not None
        self.device.copy_in(self.permutation, self._coming.arrays[0].reshape(self.permutation.shape))
        self._coming.release(0)

    def parts(
        self, batch_sizes: Sequence[int], done: int = 0, following: Shuffling | None = None
    ) -> Generator[Sequence[int]]:
        if self.device.on_host:
            for source in self.sources:
                check_file(source)
        self.rewind()
        if done:
            self.device.copy_in(self.cursor, np.array([self.at(sum(batch_sizes[:done]))]))
        if following is not None and self._coming is not None:
            yield batch_sizes[done : done + 1]  # with which the device has work before the thread has
            following.work_ahead(self._draw_ahead)
            done += 1
        yield batch_sizes[done:]

    def _draw_ahead(self, shuffling: Shuffling) -> bool:
        """Draws the next order and brings it to the device, in a thread; True when it is there."""
        assert self._coming is not None
        with self.device.computing():
            (pinned,) = self._coming.pinned(0)
            pinned_order = pinned.reshape(self.permutation.shape)
            order = shuffling.draw_order(self.counts, pinned_order if self.own is None else None)
            if (places := self._places(order)) is not order and places is not None:
                np.copyto(pinned_order, places)
            self._coming.send(0, len(pinned))
            self._coming.pinned(0)  # waits until it is there: nobody else has to, nor when the memory is used again
        return True


def _taken(places: Array, order: Array) -> Array:
    """Returns the places in an order, (..., rows), each member's own where members have such: of either."""
    apart = places.ndim > 1 and order.ndim > 1
    taken: Array = np.take_along_axis(places, order, -1) if apart else places[..., order]
    return taken


def minibatches(rows: int, batch_size: int) -> Iterator[int]:
    """Yields how many rows each minibatch of so many rows has; the last one has what is left."""
    yield from [batch_size] * (rows // batch_size)
    if rows % batch_size:
        yield rows % batch_size


def arrays_of(data: Samples) -> list[Array]:
    """Lists x, y* and, where there are any, w."""
    return [data.x, data.target, *([] if data.weights is None else [data.weights])]


def kept_dtypes(data: Samples, device: Device) -> list[np.dtype[Any]]:
    """Chooses the dtypes in which x, y* and w are kept. x keeps its own where that is no wider than the working one and
    the device converts it while rows are gathered; else it is converted once, to the working one."""
    dtype = data.x.dtype
    narrow = dtype.itemsize <= device.dtype.itemsize and dtype.name in device.gathered_dtypes
    x = dtype.newbyteorder("=") if narrow else device.dtype
    target = np.dtype(np.int64) if data.labelled else device.master
    return [x, target, *([] if data.weights is None else [device.master])]


class ManualBatch:
    """A minibatch that is copied in by hand: it has no cursor."""

    cursor: Array | None = None

    def __init__(self, network: Network, labelled: bool, weighted: bool) -> None:
        self.network, self.labelled, self.weighted = network, labelled, weighted

    def emit(self, plan: Plan, rows: int) -> Buffers:
        """Emits x, y* and w: the buffers that `load` fills, or those of a part, which it gathers from them."""
        outs = self._empty(plan, rows, "")
        if f"{ALL}x" in plan.buffers:
            names, axes = [plan.name_of(out) for out in outs], len(self.network.models_shape)
            whole = [plan.buffers[f"{ALL}{name}"] for name in names]
            sources = [plan.named(plan.name_of(a), a.reshape(-1, *a.shape[axes + 1 :])) for a in whole]
            row = plan.first_row - plan.begin
            first = plan.named(f"row {row}", plan.device.from_host(np.array([row])))
            plan.phase = "data"
            formula = f"{', '.join(names)} = {ALL}[{row}:{row + rows}]"
            plan.add(Operations.gather, formula, {}, sources, plan.buffers["order"], first, outs)
            plan.phase = "forward"
        x, target, weights = (*outs, None)[:3]
        assert x is not None and target is not None
        return x, target, weights

    def emit_weights(self, plan: Plan, rows: int) -> Array | None:
        """Makes room for a minibatch that is worked through in parts; returns w."""
        shape = self.network.models_shape
        order = np.arange(math.prod(shape) * rows).reshape(*shape, rows)
        plan.named("order", plan.device.from_host(order))
        return (*self._empty(plan, rows, ALL), None)[2]

    def _empty(self, plan: Plan, rows: int, prefix: str) -> list[Array]:
        network, master, shape = self.network, plan.device.master, (*self.network.models_shape, rows)
        arrays = [plan.empty(f"{prefix}x", (*shape, network.inputs))]
        targets = (shape, np.int64) if self.labelled else ((*shape, network.outputs), master)
        arrays.append(plan.empty(f"{prefix}y*", *targets))
        return [*arrays, plan.empty(f"{prefix}w", shape, master)] if self.weighted else arrays

    def emit_advance(self, plan: Plan, rows: int) -> None:
        """Emits nothing: the next minibatch is copied in again."""

    @staticmethod
    def place(plan: Plan, name: str) -> Array:
        """Returns the buffer of a plan into which x, y* or w is copied."""
        return plan.buffers[f"{ALL}{name}" if f"{ALL}{name}" in plan.buffers else name]

    @classmethod
    def load(cls, plan: Plan, data: Samples) -> None:
        """Copies this rank's share of a minibatch into the buffers of a plan."""
        share, inner = plan.communicator.share(data.rows), 0 if data.labelled else 1
        for name, array, after in (("x", data.x, 1), ("y*", data.target, inner), ("w", data.weights, 0)):
            if array is not None and share:
                to = cls.place(plan, name)
                given = whole(array)
                if len(share) < data.rows:
                    axes = (slice(None),) * (array.ndim - 1 - after)
                    given = given[*axes, share.start : share.stop]
                plan.device.copy_in(to, given)
