"""How much of a device's memory training takes, by kind, told before any of it is allocated.

The numbers come from dry runs: the code that makes the real thing makes it on a DryRunDevice, which allocates nothing
and counts. A device that cannot tell how much is free is asked for nothing; there the first allocation that fails says
so.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from gpu_backprop.backend.device import memory_size
from gpu_backprop.backend.dry_run import DryRunDevice
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.open_device import open_dry_run
from gpu_backprop.backend.plan import Plan
from gpu_backprop.backend.snapshot import Snapshot
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.evaluation import Evaluation
from gpu_backprop.training.fit_schedule import FitSchedule
from gpu_backprop.training.history import History
from gpu_backprop.training.minibatches import DataSet, ManualBatch, minibatches
from gpu_backprop.training.run import Run, Settings
from gpu_backprop.training.step import TrainingStep
from gpu_backprop.training.streaming import MARGIN, StreamedData, WindowedData, in_windows, is_streamed

Needs = dict[str, int]
"""Bytes by kind."""


# What is needed -------------------------------------------------------------------------------------------------------


def step_needs(
    step: TrainingStep, batch: ManualBatch, rows: int, total: Array, graph: bool | str, fuse: bool = True
) -> Needs:
    """Counts what the first `trainer.step` of so many rows allocates."""
    dry_run = open_dry_run(step.device)
    plan = step.build(batch, rows, total, fuse, dry_run)
    if graph is True and fuse:  # under "auto" it is done without where there is no room
        _compare(plan, dry_run)
    with dry_run.kind("loss"):
        dry_run.copy(total)
    return dry_run.needs


def fit_needs(
    step: TrainingStep, settings: Settings, data: Samples, held_out: Samples | None, keeps_best: bool = False,
    halves: bool = False, schedule: FitSchedule | None = None, shuffle: bool = True,
) -> Needs:  # fmt: skip
    """Counts what `trainer.fit` allocates where all data lie on the device. Parameters and moments are there already.
    "data" and "validation data" may be streamed instead; the rest is needed in any case."""
    dry_run = open_dry_run(step.device)
    make_fit(dry_run, step, settings, data, held_out, keeps_best, halves, schedule, shuffle)
    needs, samples = dry_run.needs, "validation data"  # all else that is for validation becomes one kind
    joined = sum(needs.pop(kind) for kind in list(needs) if kind.startswith("validation") and kind != samples)
    return {**needs, "validation": joined} if held_out is not None else needs


def make_fit(
    dry_run: DryRunDevice, step: TrainingStep, settings: Settings, data: Samples, held_out: Samples | None,
    keeps_best: bool = False, halves: bool = False, schedule: FitSchedule | None = None, shuffle: bool = True,
) -> None:  # fmt: skip
    """Makes on a stand-in what `trainer.fit` makes on the device."""
    if keeps_best:
        with dry_run.kind("best parameters"):
            dry_run.copy(step.network.parameters)
    own = step.communicator.places([*minibatches(data.rows, settings.batch_size)])
    source = DataSet(step.network, data, dry_run, own, shuffled=shuffle)
    run = Run(step, source, settings, History(), shuffle, halves=halves, schedule=schedule)
    if settings.graph is not False and not run.in_one_launch:  # one at a time, and all plans have the same outputs
        _compare(next(iter(run.steps.values())).plan, dry_run)
    if held_out is not None:
        with dry_run.kind("validation"):
            _make_evaluation(dry_run, step, settings, held_out)


def evaluation_needs(step: TrainingStep, settings: Settings, data: Samples) -> Needs:
    """Counts what `trainer.evaluate` allocates where the data lie on the device; see `fit_needs`."""
    dry_run = open_dry_run(step.device)
    _make_evaluation(dry_run, step, settings, data)
    return dry_run.needs


def _make_evaluation(dry_run: DryRunDevice, step: TrainingStep, settings: Settings, data: Samples) -> None:
    rows = step.accumulation.rows_at_once(settings.batch_size)
    Evaluation(
        step.network, step.loss, data, rows, metrics=settings.metrics, device=dry_run, communicator=step.communicator
    )


def _compare(plan: Plan, dry_run: DryRunDevice) -> None:
    """Counts what a Replay keeps while it compares: what the plan leaves behind, before a step and after it, and what
    differs."""
    outputs = plan.outputs()
    with dry_run.kind("graphs"):
        copies = [Snapshot(dry_run, outputs).copies for _ in range(2)]
        dry_run.differing([(array, copies[1][name]) for name, array in outputs.items()])


# Whether it is there --------------------------------------------------------------------------------------------------


def require_step(
    step: TrainingStep, batch: ManualBatch, rows: int, total: Array, graph: bool | str, fuse: bool = True
) -> None:
    """Raises OutOfMemoryError where the device cannot give what `trainer.step` needs for so many rows."""
    needs = partial(step_needs, step, batch, total=total, graph=graph, fuse=fuse)
    MemoryEstimate(step, Settings(rows, graph), "A step of", needs, ()).require()


def require_fit(
    step: TrainingStep, settings: Settings, data: Samples, held_out: Samples | None, shuffle: bool,
    keeps_best: bool = False, halves: bool = False, schedule: FitSchedule | None = None,
) -> list[int]:  # fmt: skip
    """Does the same for `trainer.fit`. Returns how many bytes of the device there are for the data, and then for the
    validation data."""
    placings = [DataPlacement("data", data, shuffle)]
    if held_out is not None:
        placings.append(DataPlacement("validation data", held_out, False))

    def needs(batch_size: int) -> Needs:
        given = settings._replace(batch_size=batch_size), data, held_out, keeps_best, halves, schedule, shuffle
        return fit_needs(step, *given)

    fit = MemoryEstimate(step, settings, "A fit with batches of", needs, placings, settings.one_launch is not True)
    return fit.require()


def require_evaluation(step: TrainingStep, settings: Settings, data: Samples) -> list[int]:
    """Does the same for `trainer.evaluate`."""

    def needs(batch_size: int) -> Needs:
        return evaluation_needs(step, settings._replace(batch_size=batch_size), data)

    placings = [DataPlacement("data", data, False)]
    return MemoryEstimate(step, settings, "A measurement with batches of", needs, placings).require()


class DataPlacement(NamedTuple):
    """Samples that lie on the device, or are streamed there, under a kind of needs."""

    kind: str
    samples: Samples
    shuffled: bool


class MemoryEstimate(NamedTuple):
    """How much of a device's memory is wanted."""

    step: TrainingStep
    settings: Settings
    what: str  # as the error begins, which goes on with the batch size
    needs: Callable[[int], Needs]  # of a batch size, with all samples on the device
    placings: Sequence[DataPlacement]
    accumulates: bool = False  # whether minibatches can be worked through in parts

    def require(self) -> list[int]:
        """Raises OutOfMemoryError, or returns the room for each of the samples."""
        device = self.step.device
        if not device.counts_memory:
            return [0] * len(self.placings)
        needs, rooms = self._place(self.settings.batch_size, device.memory()[0], self.settings.stream)
        device.require(needs, f"{self.what} {self.settings.batch_size:,} rows", self._advise)
        return rooms

    def _place(self, batch_size: int, free: int, stream: bool | str) -> tuple[Needs, list[int]]:
        """Returns what is needed where those samples are streamed that are to be, and the room for each."""
        needs = self.needs(batch_size)
        room, rooms = free - free // MARGIN - sum(needs.values()), []
        room += sum(needs.get(placing.kind, 0) for placing in self.placings)
        for placing in self.placings:
            rooms.append(room)
            if is_streamed(self.step.device, placing.samples, stream, room):
                self._stream(needs, placing, batch_size)
            room -= needs.get(placing.kind, 0)
        if self.settings.graph is not True:  # else they are done without where there is no room
            needs.pop("graphs", None)
        return needs, rooms

    def _stream(self, needs: Needs, placing: DataPlacement, batch_size: int) -> None:
        """Counts what streaming takes in the place of samples that lie on the device."""
        kind, samples, shuffled = placing
        whole, streamed = open_dry_run(self.step.device), open_dry_run(self.step.device)
        own = self.step.communicator.places([*minibatches(samples.rows, batch_size)])
        DataSet(self.step.network, samples, whole, own, shuffled=shuffled)
        source = WindowedData if in_windows(samples) else StreamedData
        source(self.step.network, samples, batch_size, apart=shuffled, device=streamed, own=own)
        needs[kind] = streamed.needs["data"]
        order = "row order" if kind == "data" else "validation"
        needs[order] += streamed.needs["row order"] - whole.needs["row order"]

    def _advise(self, free: int) -> tuple[str, int | None]:
        """Says what to do where so much is free and that is too little, and names a batch size that fits."""

        def fits(batch_size: int, stream: bool | str = self.settings.stream) -> bool:
            return sum(self._place(batch_size, free, stream)[0].values()) <= free

        batch_size = self.settings.batch_size
        longest = max((placing.samples.rows for placing in self.placings), default=batch_size)
        fitting = largest(min(batch_size - 1, longest), fits)
        about = "about " if self.placings else ""  # a little more may fit, where it leaves a smaller last minibatch
        told = [] if fitting is None else [f"A batch size of {about}{fitting:,} would fit."]
        if fitting is not None and self.accumulates:
            needs, parts = self._place(fitting, free, self.settings.stream)[0], self.step.accumulation.parts
            sums = self.step.network.gradients.nbytes if parts == 1 else 0
            if sum(needs.values()) + sums <= free:
                told.append(
                    f"Or use Trainer(..., accumulate={parts * math.ceil(batch_size / fitting)}), which works through a "
                    "minibatch in parts and learns the same."
                )
        streamable = self.placings and self.settings.stream is False and self.settings.one_launch is not True
        if streamable and fits(batch_size, "auto"):
            told.append(f"{'Or use' if told else 'Use'} stream='auto', which leaves the data on the host.")
        if not told:
            one = memory_size(sum(self._place(1, free, self.settings.stream)[0].values()))
            told = [f"No batch size fits: with 1 row it needs {one}. Use a smaller network or fewer data."]
        return " ".join(told), fitting


def largest(most: int, fits: Callable[[int], bool]) -> int | None:
    """Returns a batch size up to `most` that fits, or None if not even 1 does. It is the largest, unless a smaller one
    takes more memory, for a last minibatch that has more rows and buffers of its own: then at least about its half."""
    return bisect_left(range(1, most + 1), True, key=lambda batch_size: not fits(batch_size)) or None
