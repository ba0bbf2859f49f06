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

from gpu_backprop.backend.cuda_device import CudaDevice
from gpu_backprop.backend.cuda_streaming import HALVES
from gpu_backprop.backend.device import memory_size
from gpu_backprop.backend.plan import Plan
from gpu_backprop.backend.sketch import Sketch
from gpu_backprop.backend.snapshot import Snapshot
from gpu_backprop.network.network import Network
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.evaluation import Evaluation
from gpu_backprop.training.minibatches import DataSet, Feed
from gpu_backprop.training.run import Run
from gpu_backprop.training.streaming import MARGIN, chunk_forms, is_streamed

if TYPE_CHECKING:
    from gpu_backprop.training.trainer import Trainer

Needs = dict[str, int]
"""Bytes by kind."""


# What is needed -------------------------------------------------------------------------------------------------------


def step_needs(trainer: Trainer, feed: Feed, rows: int, keep: bool = False) -> Needs:
    """What the first `trainer.step` of so many rows allocates."""
    sketch = Sketch(trainer.device)
    plan = trainer.build_step(feed, rows, trainer.fed_steps.total, keep, sketch)
    if trainer.graph is True and not keep:  # under "auto" it is done without where there is no room
        _sketch_comparison(plan, sketch)
    with sketch.kind("loss"):
        sketch.copy(trainer.fed_steps.total)
    return sketch.needs


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
    sketch = Sketch(trainer.device)
    run = Run(trainer, _source(trainer, data, batch_size, sketch, ends), batch_size, shuffle=True)
    if trainer.graph is not False and not trainer.resident:  # one at a time, and all plans leave the same behind
        _sketch_comparison(next(iter(run.steps.values())).plan, sketch)
    if held_out is None:
        return sketch.needs
    with sketch.kind("validation"):
        Evaluation(trainer.network, trainer.loss, held_out, batch_size, device=sketch)
    return _joined(sketch.needs)


def _joined(needs: Needs) -> Needs:
    """All that is for validation as one kind, but for the data."""
    joined: Needs = {}
    for kind, size in needs.items():
        name = "validation" if kind.startswith("validation ") and kind != "validation data" else kind
        joined[name] = joined.get(name, 0) + size
    return joined


def evaluation_needs(trainer: Trainer, data: Samples, batch_size: int, *, ends: bool = True) -> Needs:
    """What `trainer.evaluate` allocates where the data lie on the device; see `fit_needs`."""
    sketch = Sketch(trainer.device)
    source = _source(trainer, data, batch_size, sketch, ends)
    Evaluation(trainer.network, trainer.loss, data, batch_size, source=source, device=sketch)
    return sketch.needs


def _source(trainer: Trainer, data: Samples, batch_size: int, sketch: Sketch, ends: bool) -> DataSet:
    source = DataSet(trainer.network, data, sketch)
    if not ends:
        source.rows = min(batch_size, source.rows)
    return source


def _sketch_comparison(plan: Plan, sketch: Sketch) -> None:
    """What a Replay keeps while it compares: the state before a step and after it."""
    with sketch.kind("graphs"):
        for _ in range(2):
            Snapshot(sketch, plan.state())


# Whether it is there --------------------------------------------------------------------------------------------------


def require_step(trainer: Trainer, feed: Feed, rows: int, keep: bool = False) -> None:
    """OutOfMemoryError where the device cannot give what `trainer.step` needs for so many rows."""

    def needs(rows: int, ends: bool) -> Needs:
        return step_needs(trainer, feed, rows, keep)

    _Claim(trainer, f"A step of {rows:,} rows", rows, needs, ()).require()


def require_fit(trainer: Trainer, data: Samples, held_out: Samples | None, shuffle: bool) -> list[int]:
    """OutOfMemoryError where the device cannot give what `trainer.fit` needs.

    Returns:
        How many bytes of the device there are for the data, and then for the validation data.
    """
    placings = [Placing("data", data, shuffle)]
    if held_out is not None:
        placings.append(Placing("validation data", held_out, False))

    def needs(batch_size: int, ends: bool) -> Needs:
        return fit_needs(trainer, data, held_out if ends else None, batch_size, ends=ends)

    return _Claim(trainer, _batches("A fit", trainer), trainer.batch_size, needs, placings).require()


def require_evaluation(trainer: Trainer, data: Samples) -> list[int]:
    """The same for `trainer.evaluate`."""

    def needs(batch_size: int, ends: bool) -> Needs:
        return evaluation_needs(trainer, data, batch_size, ends=ends)

    placings = [Placing("data", data, False)]
    return _Claim(trainer, _batches("A measurement", trainer), trainer.batch_size, needs, placings).require()


def _batches(what: str, trainer: Trainer) -> str:
    return f"{what} with batches of {trainer.batch_size:,} rows"


class Placing(NamedTuple):
    """Samples that lie on the device, or are streamed there, under a kind of needs."""

    kind: str
    samples: Samples
    shuffled: bool


class _Claim(NamedTuple):
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
    placings: Sequence[Placing]

    def require(self) -> list[int]:
        """OutOfMemoryError, or the room for each of the samples."""
        device = self.trainer.device
        if not isinstance(device, CudaDevice):
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
        streamable = self.placings and self.trainer.stream is False and not self.trainer.resident
        if streamable and fits(self.batch_size, "auto"):
            told.append(f"{'Or use' if told else 'Use'} stream='auto', which leaves the data on the host.")
        if not told:
            one = memory_size(sum(self._placed(1, free, self.trainer.stream)[0].values()))
            told = [f"No batch size fits: with 1 row it needs {one}. Use a smaller network or fewer data."]
        return " ".join(told), fitting


def _stream(network: Network, needs: Needs, placing: Placing, batch_size: int) -> None:
    """Puts what streaming takes in the place of samples that lie on the device, and of the order of their rows."""
    kind, samples, shuffled = placing
    sketch = Sketch(network.device)
    with sketch.kind("row order"):
        sketch.empty((*network.lead, samples.rows), np.int64)
    needs["row order" if kind == "data" else "validation"] -= sketch.needs.pop("row order")
    rows, forms = chunk_forms(network, samples, batch_size, shuffled)
    for shape, dtype in [*forms, ((rows * math.prod(network.lead),), np.int64)]:
        sketch.empty((HALVES * shape[0], *shape[1:]), dtype)
    sketch.empty((HALVES,), np.int64)
    needs[kind] = sum(sketch.needs.values())


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
