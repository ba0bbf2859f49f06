"""The epochs of one fit: their steps, what was measured, and the return to a finite state after a divergence."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, NoReturn

import numpy as np

from gpu_backprop.backend.errors import DivergedError
from gpu_backprop.backend.formula import CORRECT, LOSS, Array
from gpu_backprop.backend.plan import Plan
from gpu_backprop.backend.snapshot import Snapshot
from gpu_backprop.network.numbers import one_a_member
from gpu_backprop.training.agreement import Agreement, bring_together
from gpu_backprop.training.diagnosis import find_first_nonfinite, name_nonfinite
from gpu_backprop.training.fit_schedule import FitSchedule, FollowedSchedule
from gpu_backprop.training.history import History
from gpu_backprop.training.metrics import Given
from gpu_backprop.training.minibatches import BatchSource
from gpu_backprop.training.one_launch import CHOSEN, build_launch, check_data, obstacle_of_layers, rows_of_a_launch
from gpu_backprop.training.progress import Progress
from gpu_backprop.training.replay import Replay
from gpu_backprop.training.shuffling import Shuffling
from gpu_backprop.training.step import TrainingStep
from gpu_backprop.training.sums import Sums

ON_DIVERGENCE = _, HALVE_RATE, STOP = "raise", "halve_rate", "stop"
MOST_HALVINGS = 10
"""In one fit: a thousandth of a learning rate that does not lead out of a divergence is not what was wrong."""


class Settings(NamedTuple):
    """How a trainer runs its steps; see `Trainer`. one_launch is "auto" until a fit has decided: True (asked for),
    CHOSEN, or False; a Run of "auto" has ordinary steps."""

    batch_size: int
    graph: bool | str = "auto"
    stream: bool | str = "auto"
    one_launch: bool | str = "auto"
    metrics: Sequence[Given] | None = None


class Position(NamedTuple):
    """Where a run is; together with TrainingStep.state(), all that it goes on from.

    Attributes:
        epoch: which one goes on, or begins.
        done: how many steps of it are done. If it is 0, the rest is of no use.
        shuffling: what its order of rows was drawn from.
        total: on the host, what the losses of its steps have added up to.
        window: the same when the loss was read last within the epoch, and the rows until then.
        seconds: how long it has taken.
        epoch_start: the state that it began with, where what diverges goes back there.
        halving: what else an epoch that diverges begins again from, where it does.
    """

    epoch: int
    done: int = 0
    shuffling: Any = None
    total: Any = None
    window: Sequence[Any] = ()
    seconds: float = 0.0
    epoch_start: Any = None
    halving: Any = None


class Run:
    """The epochs of one fit.

    Args:
        data: where they lie; on a DryRunDevice, a run is there to look at.
        history: of the trainer; who runs the epochs appends their rows.
        loss_every: after how many steps the loss is read, besides at the end of an epoch; None: never.
        after_step: tells whether to end there. It is called after each step; where `by_step` is False, after some.
        repeats: whether steps may be done again, to find the one that diverged.
        halves: whether an epoch that diverges begins again with half the learning rate, see `_halve_rate`.
        schedule: what settings follow; None: nothing.
        stops: whether members that diverge stop by themselves, see `_go_on_without`.

    Attributes:
        number, done: of the running epoch or the one that has just ended, its number and how many `batches` are done.
        epoch_start: the state at the beginning of the running epoch.
        last_finite: the state before the last step of the epoch before: the latest whose loss is known to be finite.
        batches, steps: how many rows each step of an epoch has, and the steps by their rows. In one launch, what is
            called a step here is a launch: all of the epoch, or as many minibatches as take some 100 ms.
        in_one_launch: whether it is so in the running epoch.
        sums: what the epoch adds up on the device: the loss's total, Σw² of the parameters, the loss scaling.
        started: when the running epoch began, by time.perf_counter.
        whole: whether what is on the device is what the steps until now made: not in the middle of a step, and not
            where an older state was brought back.
    """

    def __init__(
        self, step: TrainingStep, data: BatchSource, settings: Settings, history: History, shuffle: bool,
        loss_every: int | None = None, after_step: Callable[[Run], bool] = lambda _: False,
        repeats: bool = True, halves: bool = False, schedule: FitSchedule | None = None, by_step: bool = True,
        stops: bool = False,
    ) -> None:  # fmt: skip
        self.step, self.data, self.settings, self.history = step, data, settings, history
        self.shuffle, self.loss_every, self.after_step = shuffle, loss_every, after_step
        self.repeats, self._stops, self._halvings = repeats, stops, MOST_HALVINGS if halves else 0
        self._by_step = by_step or loss_every is not None
        self._agreement = Agreement(step.communicator, data.device)
        self.number, self.done = len(history) + 1, 0
        self.started, self.whole = 0.0, True
        self._first = self.number
        self._begin = self._again = Position(self.number)  # where the epoch goes on, and what epoch_start has
        self._drawn_from: Any = None
        self._following: Shuffling | None = None  # what draws the next epoch's order
        device, network, scaling = data.device, step.network, step.scaling.state
        self.in_one_launch = self.one_launch
        self._launch_rows = data.rows
        if self.in_one_launch:
            check_data(data, loss_every, bool(schedule))
            self._launch_rows = rows_of_a_launch(step, data.rows, settings.batch_size)
        self.steps_an_epoch = -(-data.rows // settings.batch_size)
        steps = self.steps_an_epoch
        self._schedule = FollowedSchedule(schedule, schedule.epochs * steps, device) if schedule else None
        shapes: dict[str, tuple[int, ...]] = {"total": (*network.models_shape, 3), "squares": network.models_shape}
        if scaling is not None:
            shapes["scaling"] = scaling.shape
        with device.kind("loss"):
            self.sums = Sums(device, **shapes)
        self.total = self.sums["total"]
        self._key = self._settings_of_steps()
        self.batches, self.steps = self._build_epoch()
        self._add_squares = device.sequence(device.ops.sum_of_squares(device, network.parameters, self.sums["squares"]))
        with device.kind("snapshots"):
            arrays = step.state().arrays
            self.epoch_start, self.last_finite, self._spare = (Snapshot(device, arrays) for _ in range(3))
            self._best_start = Snapshot(device, arrays) if halves else None
        self._has_accuracy = bool(step.loss.formula.accuracy)
        self._least_loss, self._unhalved = np.full(network.models_shape, np.inf), self._halvings

    @property
    def steps_done(self) -> int:
        """How many steps of the running epoch, or the one that has just ended, are done."""
        return -(-sum(self.batches[: self.done]) // self.settings.batch_size)

    @property
    def begins_after(self) -> int:
        """How many steps of the epoch that comes are done already, where it goes on."""
        return self._begin.done

    @property
    def one_launch(self) -> bool:
        """Whether epochs run in one launch, but for those whose layers are set to what it has not."""
        return self.settings.one_launch in (True, CHOSEN)

    def _settings_of_steps(self) -> tuple[Any, ...]:
        """Returns what steps are built for: the layers' settings, and the row where an epoch goes on, in one launch,
        if no launch begins there of itself."""
        begin = min(self._begin.done * self.settings.batch_size, self.data.rows)
        return self.step.network.plan_key, begin % self._launch_rows if self.in_one_launch else 0

    def _build_epoch(self) -> tuple[list[int], dict[int, Replay]]:
        """Returns the rows of each step of an epoch, and the steps by their rows. The gradients of what is frozen,
        which no step fills, become 0."""
        network, settings = self.step.network, self.settings
        for layer in network.layers:
            layer.clear_frozen()
        if settings.one_launch == CHOSEN:
            self.in_one_launch = not obstacle_of_layers(network)
        if not self.in_one_launch:
            return self._build_steps()
        rows, begin = self.data.rows, min(self._begin.done * settings.batch_size, self.data.rows)
        ends = sorted({*range(0, rows, self._launch_rows), begin, rows})
        batches = [end - start for start, end in pairwise(ends)]
        plans = {n: build_launch(self.step, self.data, settings.batch_size, n, self.total) for n in set(batches)}
        return batches, {n: Replay(plan, False) for n, plan in plans.items()}

    def _build_steps(self) -> tuple[list[int], dict[int, Replay]]:
        """Returns the rows of each step of an epoch, and the steps by their rows."""
        batches = list(self.data.minibatches(self.settings.batch_size))
        plans = {rows: self._build_step(rows) for rows in set(batches)}
        return batches, {rows: Replay(plan, self.settings.graph) for rows, plan in plans.items()}

    def _build_step(self, rows: int) -> Plan:
        return self.step.build(self.data, rows, self.total, device=self.data.device, schedule=self._schedule)

    def epoch(self, epoch: int, shown: Progress, last: bool = True) -> dict[str, Any] | None:
        """Trains one epoch, which may be the last, and returns its row, or None if it was stopped on the way."""
        scaling = self.step.scaling
        if self._begin.epoch != epoch:
            self._begin = Position(epoch)
        self._follow_settings()
        self.step.network.refresh()  # a callback may have set parameters
        begin = self._begin
        self.number, self.started = epoch, time.perf_counter() - begin.seconds
        self._drawn_from = self.step.shuffling.states
        self._following = self.step.shuffling if self.shuffle and not last else None
        if self.shuffle:
            self.data.shuffle(self.step.shuffling)
        if not begin.done:
            scaling.start_epoch()
        self.epoch_start.take()
        self._again, self._unhalved = begin, self._halvings
        if begin.done and begin.epoch_start is not None:
            self.epoch_start.load(begin.epoch_start)
        if begin.done and begin.halving is not None:
            self._again, self._unhalved = Position(epoch), begin.halving["unhalved"]
        while True:
            self._go_to_begin()
            if self.done:
                shown.advance(sum(self.batches[: self.done]))
            with self.step.device.computing():
                if not self._train(shown):
                    return None
                sums = self._read()
            finite = self._finite(sums)
            if finite.all():
                break
            if self._stops:
                self._go_on_without(finite)
                break
            if not self._halvings:
                self._report_divergence()
            self._halve_rate(~finite, shown)
        bring_together(self.step, sums["squares"])
        row = {"epoch": epoch} | self._measured(sums)
        if self._best_start is not None:
            better = np.asarray(row["loss"]) < self._least_loss
            np.copyto(self._least_loss, row["loss"], where=better)
            self._best_start.copy_members(self.epoch_start, better)
        if len(self.batches) > 1:
            self.last_finite, self._spare = self._spare, self.last_finite
        else:
            self.last_finite, self.epoch_start = self.epoch_start, self.last_finite
        if halved := self._unhalved - self._halvings:
            row["rate_halved"] = halved
        if scaling.stuck:
            self._refuse_float16()
        return row

    def _go_to_begin(self) -> None:
        """Sets to what they were where the running epoch went on: the steps done, what they have added
        up, and where the schedules are."""
        begin = self._begin
        rows = min(begin.done * self.settings.batch_size, self.data.rows)
        self.done = [*accumulate(self.batches)].index(rows) + 1 if rows else 0
        self._window = begin.window or (np.zeros(self.total.shape), 0)
        self.sums.clear()
        if begin.done and self.step.communicator.rank == 0:  # to whose losses those of the other ranks are added
            self.step.device.copy_in(self.total, begin.total)
        if self._schedule is not None:
            self._schedule.start((self.number - self._schedule.first) * len(self.batches) + begin.done)

    def position(self) -> Position:
        """Returns where the run is, between steps; waits for the device if it is within an epoch."""
        if not self.done:
            return self._begin
        halving = None
        if self._best_start is not None:
            halving = {"left": self._halvings, "unhalved": self._unhalved, "least_loss": self._least_loss}
            halving |= {"best_start": self._best_start.copies}
        if len(self.history) >= self.number:
            return Position(self.number + 1, halving=halving)
        seconds, total = time.perf_counter() - self.started, self._read_total()
        start = self.epoch_start.copies if halving or self._stops else None
        return Position(self.number, self.steps_done, self._drawn_from, total, self._window, seconds, start, halving)

    def go_on(self, position: Position) -> None:
        """Lets the next epoch begin there. The state of the step is what it was there, but for `shuffling`."""
        self._begin = position
        if position.halving is not None and self._best_start is not None:
            self._halvings, self._least_loss = position.halving["left"], position.halving["least_loss"]
            self._best_start.load(position.halving["best_start"])

    def is_finite(self) -> bool:
        """Tells whether the losses of the running epoch and the parameters are finite, of some member where members
        stop by themselves; waits for the device."""
        finite = self._finite_now()
        return bool(finite.any() if self._stops else finite.all())

    def _finite_now(self) -> Array:
        with self.step.device.computing():
            return self._finite(self._read())

    def _follow_settings(self) -> None:
        """Builds the steps anew where they were built for something else."""
        if (key := self._settings_of_steps()) == self._key:
            return
        self._key, self.steps = key, {}  # their memory goes before other steps take theirs
        self.batches, self.steps = self._build_epoch()

    def roll_back_if_diverged(self) -> str:
        """Goes back to the epoch before if the loss of one that ended early is no longer finite, and says so. Whoever
        stopped the run is not kept waiting until the very step is found."""
        finite = self._finite_now()
        if finite.all():
            return ""
        if self._stops:
            self.whole = False
            return f", after {self._stop_diverged(finite)}"
        return f", after its loss became NaN or infinite: the parameters are {self._roll_back()}"

    def _roll_back(self) -> str:
        """Goes back to the epoch before, and says so."""
        self.whole = False
        self._restore(self.last_finite)
        epochs = len(self.history)
        return f"those of epoch {epochs}" if epochs >= self._first else "those that fit began with"

    def _train(self, shown: Progress) -> bool:
        """Runs the steps of an epoch, or those until a loss is read that is not finite; False if it was stopped. To be
        used inside device.computing()."""
        step, last, steps = self.done, len(self.batches), self.steps
        device, launched, waiting = self.data.device, None, self.step.communicator.waiting
        with closing(self.data.parts(self.batches, step, self._following)) as parts:
            for part in parts:
                for rows, count in self._at_once(part, step):
                    step += count
                    if step == last > 1:
                        self._spare.take()
                    with waiting("a step"):
                        steps[rows].often(count).run()
                    self.done = step
                    if self.in_one_launch and last > 1:  # the host is a launch ahead, so that Ctrl-C need not wait long
                        before, launched = launched, device.mark()
                        if before is not None:
                            device.wait(before)
                    shown.advance(rows * count)
                    due = self.loss_every is not None and step % self.loss_every == 0
                    if due and not self._read_loss(step, shown):
                        return True  # what is left of the epoch would be wasted
                    if self._ends_after_step() and step < last:
                        return False
        return True

    def _ends_after_step(self) -> bool:
        """Does what is done after steps, and tells whether the epoch is to end; of several ranks, all do it after the
        same step."""
        communicator = self.step.communicator
        if communicator.ranks == 1:
            return self.after_step(self)
        return self._agreement.comes(self._by_step) and communicator.any(self.after_step(self))

    def _at_once(self, part: Sequence[int], done: int) -> Iterator[tuple[int, int]]:
        """Yields the rows of the steps of a part of an epoch, of which so many are done before, and how many of these
        steps are one run. The last step of an epoch is one of its own."""
        at, single, steps = 0, self._by_step or self.in_one_launch, len(self.batches)
        while at < len(part):
            left = min(len(part) - at, steps - 1 - done - at)
            count = 1 if single else self.steps[part[at]].at_once(steps, left)
            yield part[at], count
            at += count

    def _read_loss(self, step: int, shown: Progress) -> bool:
        """Reads the loss of the steps since the last reading, which waits for the device; whether it is finite."""
        total_before, rows_before = self._window
        rows = min(step * self.batches[0], self.data.rows)
        total = self._read_total()
        with np.errstate(invalid="ignore"):  # ∞ − ∞
            loss = self.step.loss.reduce(total - total_before, rows - rows_before)
        row = {"epoch": self.number, "step": step, "loss": self._unless_diverged(loss)}
        self.history.steps.append(row)
        shown.step(row)
        self._window = total, rows
        if self._stops:
            return bool((np.isfinite(total[..., LOSS]) & ~self.step.ended).any())
        return finite_loss(total)

    def _read(self) -> dict[str, Array]:
        """Reads all that the epoch has added up so far, and Σw², which tells whether W and b are finite: one wait. To
        be used inside device.computing()."""
        device, scaling = self.step.device, self.step.scaling.state
        for call in self._add_squares:
            call()
        if scaling is not None:
            device.copy_in(self.sums["scaling"], scaling)
        sums = self.sums.read()
        return sums | {"total": self.step.communicator.add_up(sums["total"])}

    def _read_total(self) -> Array:
        """Reads what the losses of the epoch have added up to until now, on all ranks; waits for the device."""
        return self.step.communicator.add_up(self.step.device.to_host(self.total))

    def _measured(self, sums: Mapping[str, Array]) -> dict[str, Any]:
        loss, scaling, total = self.step.loss, self.step.scaling, sums["total"]
        row: dict[str, Any] = {"loss": self._unless_diverged(loss.reduce(total, self.data.rows))}
        if self._has_accuracy:
            row["accuracy"] = self._unless_diverged(total[..., CORRECT] / self.data.learned)
        if scaling.state is not None:
            row |= scaling.measured(sums["scaling"], len(self.batches))
        return row

    def _unless_diverged(self, measured: Array) -> Any:
        """Returns what was measured of each member, NaN of those that have diverged."""
        diverged = self.history.diverged
        return (measured if diverged is None else np.where(diverged, np.nan, measured)).tolist()

    def _halve_rate(self, diverged: Array, shown: Progress) -> None:
        """Goes back to the beginning of the epoch. Members that diverged get half their learning rate, and go back to
        the beginning of the epoch with their least loss: what came later may have been far off already, and finite."""
        optimizer, models_shape = self.step.optimizer, self.step.network.models_shape
        assert self._best_start is not None
        rates = np.where(diverged, 0.5, 1.0) * one_a_member("learning_rate", optimizer.learning_rate, models_shape)
        optimizer.learning_rate = rates.tolist()
        self.epoch_start.restore()
        self._best_start.restore_members(diverged)
        self.epoch_start.take()
        self.step.network.refresh()
        shown.advance(-sum(self.batches[: self.done]))
        if self._halvings == MOST_HALVINGS:
            warnings.warn(
                f"the loss became NaN or infinite in epoch {self.number}, which begins again with half the learning "
                f"rate, now {optimizer.learning_rate}; so will every epoch that does, {MOST_HALVINGS} times at most.",
                RuntimeWarning, stacklevel=7,
            )  # fmt: skip
        self._halvings -= 1
        self._begin = self._again

    def _go_on_without(self, finite: Array) -> None:
        """Stops the members that are not finite, and warns; raises DivergedError where no other is left."""
        happened, history = self._stop_diverged(finite), self.history
        if history.diverged and all(history.diverged) and not self.step.others:
            raise every_member_diverged(history, self.number, self.steps_an_epoch, f": {happened}")
        warnings.warn(f"{happened}; the other members go on without", RuntimeWarning, stacklevel=7)

    def _stop_diverged(self, finite: Array) -> str:
        """Stops the members that are not finite, with all that they had when the epoch began, and says so. The others
        never know of it."""
        step, history, members = self.step, self.history, self.step.numbers[~finite].tolist()
        self.epoch_start.restore_members(~finite)
        step.network.refresh()
        step.ended = step.ended | ~finite
        history.diverged = np.where(finite, history.diverged or 0, self.number).tolist()
        told = f"member{'s' if len(members) > 1 else ''} {', '.join(map(str, members))}"
        return (
            f"the loss or parameters of {told} became NaN or infinite in epoch {self.number}, and the parameters stay "
            "those that it began with"
        )

    def _refuse_float16(self) -> NoReturn:
        history, epoch, last = self.history, self.number, len(self.batches)
        whose = " of a member" if self.step.network.models_shape else ""
        happened = f"every step{whose} in epoch {epoch} was skipped: its gradients overflow float16 even unscaled"
        history.stopped = happened
        raise DivergedError(
            f"{happened}. What was skipped changed no parameters. Use dtype='bfloat16' or 'float32', or make the "
            "gradients smaller: scale the targets to about −1 … 1, and use reduction='mean'.",
            epoch=epoch, step=last, history=history,
        )  # fmt: skip

    def _finite(self, sums: Mapping[str, Array]) -> Array:
        """Tells of which members all losses of the running epoch are finite, and the parameters too; or have ended
        before."""
        device, parameters = self.step.device, self.step.network.parameters
        finite = np.isfinite(sums["squares"])
        if not finite.all():
            with device.computing():  # the squares of finite numbers can be more than float64 holds
                finite = device.to_host(device.xp.isfinite(parameters).all(axis=-1))
        return np.asarray(finite & np.isfinite(sums["total"][..., LOSS]) | self.step.ended)

    def _restore(self, snapshot: Snapshot) -> None:
        snapshot.restore()
        self.step.network.refresh()

    def _report_divergence(self) -> NoReturn:
        """Goes back to what is finite, and raises DivergedError: to before the very step, or, where a callback may have
        changed something after any step, so that none can be repeated, to the epoch before."""
        network, history, epoch = self.step.network, self.history, self.number
        first = ""
        if self.repeats:
            what, step, kept, first = self._find_divergence()
            happened = f"the {what} became NaN or infinite in epoch {epoch}, step {step}"
        else:
            step, kept = self.steps_an_epoch, self._roll_back()
            happened = f"the loss became NaN or infinite in epoch {epoch}, at the latest in step {step}"
        history.stopped = happened
        narrow = " float16 holds no number beyond 65,504; dtype='bfloat16' does."
        raise DivergedError(
            f"{happened} of {self.steps_an_epoch}{first and f', first in {first}'}. The parameters are {kept}. "
            f"Lower the learning rate (now {self.step.optimizer.learning_rate}), or scale the inputs to about −1 … 1."
            f"{narrow if network.dtype == np.float16 else ''}",
            epoch=epoch, step=step, history=history,
        )  # fmt: skip

    def _find_divergence(self) -> tuple[str, int, str, str]:
        """Runs the epoch again from its beginning and reads the loss after every step; an epoch without trouble never
        pays for it. Returns what is not finite, the step that made it so, what the parameters are: those before the
        last step whose loss was finite, and which layer's values went first. If every loss was finite, a step has made
        the parameters NaN or infinite, and no loss has shown it yet."""
        device, network, epoch = self.step.device, self.step.network, self.number
        batches, steps = self._build_steps() if self.in_one_launch else (self.batches, self.steps)
        self.whole, self._begin = False, self._again
        self._restore(self.epoch_start)
        self._go_to_begin()
        finite, current, spare = self.last_finite, self.epoch_start, self._spare
        begin = self.steps_done
        step, broken, what, first = begin, 0, "parameters", ""
        with device.computing(), closing(self.data.parts(batches, begin)) as parts:
            for rows in (rows for part in parts for rows in part):
                steps[rows].plan.run()
                step += 1
                if not finite_loss(self._read_total()):
                    what, first = "loss", first or self._find_layer(steps[rows].plan, rows, current)
                    break
                if not broken and not device.xp.isfinite(network.parameters).all():
                    finite, broken = current, step  # a later loss need not show it: relu makes 0 of NaN on some devices
                    first = name_nonfinite(network, device.to_host(network.parameters))
                if not broken:
                    spare.take()
                    finite, current, spare = current, spare, finite
        self._restore(finite)
        step = (broken or step) if what == "parameters" else step
        kept = "those of the last step whose loss was finite"
        if (epoch, step) == (self._first, begin + 1) and what == "loss":
            kept = "those that fit began with"
        elif step == 1 and what == "loss" and self.in_one_launch:  # which keeps no state within a launch
            whole = "" if len(self.batches) == 1 else "the last launch of "
            kept = f"those that {whole}epoch {epoch - 1} began with"
        return what, step, kept, first

    def _find_layer(self, plan: Plan, rows: int, before: Snapshot) -> str:
        """Repeats the step just done, an operation at a time and none joined, and names what is the first that is not
        finite."""
        before.restore()
        self.step.network.refresh()
        cursor, communicator = self.data.cursor, self.step.communicator
        self.step.device.copy_in(cursor, self.step.device.to_host(cursor) - len(communicator.share(rows)))
        return find_first_nonfinite(self.step.network, plan.trace(joined=False), communicator)


def every_member_diverged(history: History, epoch: int, step: int, happened: str = "") -> DivergedError:
    """Makes the error that ends a fit of which no member is left, and says so in the history."""
    history.stopped = f"every member has diverged, the last in epoch {epoch}"
    return DivergedError(
        f"{history.stopped}{happened}. Lower the learning rate, or scale the inputs to about −1 … 1.",
        epoch=epoch, step=step, history=history,
    )  # fmt: skip


def finite_loss(total: Array) -> bool:
    """Tells whether all that a total, on the host, has added up is finite."""
    return bool(np.isfinite(total[..., LOSS]).all())
