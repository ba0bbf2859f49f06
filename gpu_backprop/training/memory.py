"""What training takes of a device's memory, by kind, told before any of it is allocated.

All of it comes from sketches: the code that makes the real thing makes it on a device where nothing is. On a CPU it is
left to the first allocation that fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gpu_backprop.backend.cuda.double_buffer import BUFFERS
from gpu_backprop.backend.device import memory_size
from gpu_backprop.backend.dry_run import DryRunDevice
from gpu_backprop.backend.plan import Plan
from gpu_backprop.backend.snapshot import Snapshot
from gpu_backprop.network.network import Network
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.evaluation import Evaluation
from gpu_backprop.training.minibatches import DataSet, ManualBatch
from gpu_backprop.training.run import Run
from gpu_backprop.training.streaming import MARGIN, chunk_forms, is_streamed

if TYPE_CHECKING:
    from gpu_backprop.training.trainer import Trainer

Needs = dict[str, int]
"""Bytes by kind."""


# What is needed -------------------------------------------------------------------------------------------------------


def step_needs(trainer: Trainer, feed: ManualBatch, rows: int, keep: bool = False) -> Needs:
    """What the first `trainer.step` of so many rows allocates."""
    dry_run = DryRunDevice(trainer.device)
    plan = trainer.build_step(feed, rows, trainer.manual_steps.total, keep, dry_run)
    if trainer.graph is True and not keep:  # under "auto" it is done without where there is no room
        _dry_run_comparison(plan, dry_run)
    with dry_run.kind("loss"):
        dry_run.copy(trainer.manual_steps.total)
    return dry_run.needs


def fit_needs(
    trainer: Trainer, data: Samples, held_out: Samples | None, batch_size: int, *, ends: bool = True
) -> Needs:
    """What `trainer.fit` allocates where all data lie on the device. Parameters and moments are there already.

    Args:
        ends: whether to count the plan of a last minibatch that is smaller than the others.

    Returns:
        "data" and "validation data" for the samples, which may be streamed instead. The rest is needed in any case:
        "row order"; "minibatch", "forward", "loss", "backward" and "update" for the plans of a step, and "validation"
        for those of a validation; "snapshots" for the way back where the loss is lost; "graphs" for what CUDA graphs
        are compared with; "scratch" and "matrix products" for what all plans share.
    """
    dry_run = DryRunDevice(trainer.device)
    run = Run(trainer, _source(trainer, data, batch_size, dry_run, ends), batch_size, shuffle=True)
    if trainer.graph is not False and not trainer.one_launch:  # one at a time, and all plans leave the same behind
        _dry_run_comparison(next(iter(run.steps.values())).plan, dry_run)
    if held_out is None:
        return dry_run.needs
    with dry_run.kind("validation"):
        Evaluation(trainer.network, trainer.loss, held_out, batch_size, device=dry_run)
    return _joined(dry_run.needs)


def _joined(needs: Needs) -> Needs:
    """All that is for validation as one kind, but for the data."""
    joined: Needs = {}
    for kind, size in needs.items():
        name = "validation" if kind.startswith("validation ") and kind != "validation data" else kind
        joined[name] = joined.get(name, 0) + size
    return joined


def evaluation_needs(trainer: Trainer, data: Samples, batch_size: int, *, ends: bool = True) -> Needs:
    """What `trainer.evaluate` allocates where the data lie on the device; see `fit_needs`."""
    dry_run = DryRunDevice(trainer.device)
    source = _source(trainer, data, batch_size, dry_run, ends)
    Evaluation(trainer.network, trainer.loss, data, batch_size, source=source, device=dry_run)
    return dry_run.needs


def _source(trainer: Trainer, data: Samples, batch_size: int, dry_run: DryRunDevice, ends: bool) -> DataSet:
    source = DataSet(trainer.network, data, dry_run)
    if not ends:
        source.rows = min(batch_size, source.rows)
    return source


def _dry_run_comparison(plan: Plan, dry_run: DryRunDevice) -> None:
    """What a Replay keeps while it compares: the state before a step and after it."""
    with dry_run.kind("graphs"):
        for _ in range(2):
            Snapshot(dry_run, plan.state())


# Whether it is there --------------------------------------------------------------------------------------------------


def require_step(trainer: Trainer, feed: ManualBatch, rows: int, keep: bool = False) -> None:
    """OutOfMemoryError where the device cannot give what `trainer.step` needs for so many rows."""

    def needs(rows: int, ends: bool) -> Needs:
        return step_needs(trainer, feed, rows, keep)

    MemoryEstimate(trainer, f"A step of {rows:,} rows", rows, needs, ()).require()


def require_fit(trainer: Trainer, data: Samples, held_out: Samples | None, shuffle: bool) -> list[int]:
    """OutOfMemoryError where the device cannot give what `trainer.fit` needs.

    Returns:
        How many bytes of the device there are for the data, and then for the validation data.
    """
    placings = [DataPlacement("data", data, shuffle)]
    if held_out is not None:
        placings.append(DataPlacement("validation data", held_out, False))

    def needs(batch_size: int, ends: bool) -> Needs:
        return fit_needs(trainer, data, held_out if ends else None, batch_size, ends=ends)

    return MemoryEstimate(trainer, _batches("A fit", trainer), trainer.batch_size, needs, placings).require()


def require_evaluation(trainer: Trainer, data: Samples) -> list[int]:
    """The same for `trainer.evaluate`."""

    def needs(batch_size: int, ends: bool) -> Needs:
        return evaluation_needs(trainer, data, batch_size, ends=ends)

    placings = [DataPlacement("data", data, False)]
    return MemoryEstimate(trainer, _batches("A measurement", trainer), trainer.batch_size, needs, placings).require()


def _batches(what: str, trainer: Trainer) -> str:
    return f"{what} with batches of {trainer.batch_size:,} rows"


class DataPlacement(NamedTuple):
    """Samples that lie on the device, or are streamed there, under a kind of needs."""

    kind: str
    samples: Samples
    shuffled: bool


class MemoryEstimate(NamedTuple):
    """What somebody wants of the memory of a device.

    Attributes:
        what: who, as the error begins.
        needs: what a batch size needs with all samples on the device; without `ends`, but for smaller last minibatches
            and for all samples but the first.
        placings: the samples.
    """

    trainer: Trainer
    what: str
    batch_size: int
    needs: Callable[[int, bool], Needs]
    placings: Sequence[DataPlacement]

    def require(self) -> list[int]:
        """OutOfMemoryError, or the room for each of the samples."""
        device = self.trainer.device
        if not device.counts_memory:
            return [0] * len(self.placings)
        needs, rooms = self._placed(self.batch_size, device.memory()[0], self.trainer.stream)
        device.require(needs, self.what, self._advice)
        return rooms

    def _placed(self, batch_size: int, free: int, stream: bool | str, ends: bool = True) -> tuple[Needs, list[int]]:
        """What is needed where those samples are streamed that are to be, and the room that there is for each."""
        needs, placings = self.needs(batch_size, ends), self.placings if ends else self.placings[:1]
        room, rooms = free - free // MARGIN - sum(needs.values()), []
        room += sum(needs.get(placing.kind, 0) for placing in placings)
        for placing in placings:
            rooms.append(room)
            if is_streamed(self.trainer.device, placing.samples, stream, room):
                _stream(self.trainer.network, needs, placing, batch_size)
            room -= needs.get(placing.kind, 0)
        if self.trainer.graph is not True:  # else they are done without where there is no room
            needs.pop("graphs", None)
        return needs, rooms

    def _advice(self, free: int) -> tuple[str, int | None]:
        """What to do where so much is free and that is too little, and the largest batch size that fits."""

        def fits(batch_size: int, stream: bool | str = self.trainer.stream, ends: bool = True) -> bool:
            return sum(self._placed(batch_size, free, stream, ends)[0].values()) <= free

        lengths = [placing.samples.rows for placing in self.placings]
        fitting = largest(self.batch_size - 1, fits, partial(fits, ends=False), lengths)
        told = [] if fitting is None else [f"A batch size of {fitting:,} would fit."]
        streamable = self.placings and self.trainer.stream is False and not self.trainer.one_launch
        if streamable and fits(self.batch_size, "auto"):
            told.append(f"{'Or use' if told else 'Use'} stream='auto', which leaves the data on the host.")
        if not told:
            one = memory_size(sum(self._placed(1, free, self.trainer.stream)[0].values()))
            told = [f"No batch size fits: with 1 row it needs {one}. Use a smaller network or fewer data."]
        return " ".join(told), fitting


def _stream(network: Network, needs: Needs, placing: DataPlacement, batch_size: int) -> None:
    """Puts what streaming takes in the place of samples that lie on the device, and of the order of their rows."""
    kind, samples, shuffled = placing
    dry_run = DryRunDevice(network.device)
    with dry_run.kind("row order"):
        dry_run.empty((*network.models_shape, samples.rows), np.int64)
    needs["row order" if kind == "data" else "validation"] -= dry_run.needs.pop("row order")
    rows, forms = chunk_forms(network, samples, batch_size, shuffled)
    for shape, dtype in [*forms, ((rows * math.prod(network.models_shape),), np.int64)]:
        dry_run.empty((BUFFERS * shape[0], *shape[1:]), dtype)
    dry_run.empty((BUFFERS,), np.int64)
    needs[kind] = sum(dry_run.needs.values())


def largest(
    most: int, fits: Callable[[int], bool], could: Callable[[int], bool], lengths: Sequence[int] = ()
) -> int | None:
    """The largest batch size up to `most` that fits, or None.

    A data set of n rows ends in a minibatch of n % b, which has buffers of its own. So a smaller b can take more memory
    than a larger one: as b falls, n % b rises by as much or more, until b divides n once more often.

    Args:
        fits: whether a batch size fits.
        could: whether it would but for such ends. That is so for all up to some batch size, and for none beyond.
        lengths: how many rows the data sets have.
    """
    low, high = 0, min(most, max(lengths, default=most))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if could(middle) else (low, middle - 1)
    while low and not fits(low):
        low = max((n // (n // low + 1) for n in lengths), default=0)
    return low or None
