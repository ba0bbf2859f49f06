"""The epochs of one fit: their steps, what was measured, and the return to a finite state after a divergence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, NamedTuple, NoReturn

import numpy as np

from gpu_backprop.backend.errors import DivergedError
from gpu_backprop.backend.formula import CORRECT, LOSS, Array
from gpu_backprop.backend.plan import Plan
from gpu_backprop.backend.snapshot import Snapshot
from gpu_backprop.training.fit_schedule import FitSchedule, FollowedSchedule
from gpu_backprop.training.history import History
from gpu_backprop.training.minibatches import BatchSource
from gpu_backprop.training.one_launch import build_epoch, check_data
from gpu_backprop.training.progress import Progress
from gpu_backprop.training.replay import Replay
from gpu_backprop.training.step import TrainingStep
from gpu_backprop.training.sums import Sums


class Settings(NamedTuple):
    """How a trainer runs its steps; see `Trainer`."""

    batch_size: int
    graph: bool | str = "auto"
    stream: bool | str = "auto"
    one_launch: bool = False


class Run:
    """The epochs of one fit.

    Args:
        data: where they lie; on a DryRunDevice, a run is there to look at.
        history: of the trainer; who runs the epochs appends their rows.
        loss_every: after how many steps the loss is read, besides at the end of an epoch; None: never.
        after_step: is called after each step, and tells whether to end there.
        schedule: what settings follow; None: nothing.

    Attributes:
        number, done: of the running epoch or the one that has just ended, its number and how many steps are done.
        epoch_start: the state at the beginning of the running epoch.
        last_finite: the state before the last step of the epoch before: the latest whose loss is known to be finite.
        batches, steps: how many rows each step of an epoch has, and the steps by their rows.
        sums: what the epoch adds up on the device: the loss's total, Σw² of the parameters, the loss scaling.
    """

    def __init__(
        self, step: TrainingStep, data: BatchSource, settings: Settings, history: History, shuffle: bool,
        loss_every: int | None = None, after_step: Callable[[Run], bool] = lambda _: False,
        repeats: bool = True, schedule: FitSchedule | None = None,
    ) -> None:  # fmt: skip
        self.step, self.data, self.settings, self.history = step, data, settings, history
        self.shuffle, self.loss_every, self.after_step = shuffle, loss_every, after_step
        self.repeats = repeats
        self.number, self.done = len(history) + 1, 0
        self._first = self.number
        device, network, scaling = data.device, step.network, step.scaling.state
        self._plan_key = network.plan_key
        if settings.one_launch:
            check_data(data, loss_every, bool(schedule))
        steps = -(-data.rows // settings.batch_size)
        self._schedule = FollowedSchedule(schedule, schedule.epochs * steps, device) if schedule else None
        shapes: dict[str, tuple[int, ...]] = {"total": (*network.models_shape, 3), "squares": network.models_shape}
        if scaling is not None:
            shapes["scaling"] = scaling.shape
        with device.kind("loss"):
            self.sums = Sums(device, **shapes)
        self.total = self.sums["total"]
        self.batches, self.steps = self._build_epoch()
        self._add_squares = device.sequence(device.ops.sum_of_squares(device, network.parameters, self.sums["squares"]))
        with device.kind("snapshots"):
            arrays = step.state().arrays
            self.epoch_start, self.last_finite, self._spare = (Snapshot(device, arrays) for _ in range(3))

    def _build_epoch(self) -> tuple[list[int], dict[int, Replay]]:
        """Returns the rows of each step of an epoch, and the steps by their rows; in one launch the epoch is the only
        step. The gradients of what is frozen, which no step fills, become 0."""
        for layer in self.step.network.layers:
            layer.clear_frozen()
        if not self.settings.one_launch:
            return self._build_steps()
        plan = build_epoch(self.step, self.data, self.settings.batch_size, self.total)
        return [self.data.rows], {self.data.rows: Replay(plan, False)}

    def _build_steps(self) -> tuple[list[int], dict[int, Replay]]:
        """Returns the rows of each step of an epoch, and the steps by their rows."""
        batches = list(self.data.minibatches(self.settings.batch_size))
        plans = {rows: self._build_step(rows) for rows in set(batches)}
        return batches, {rows: Replay(plan, self.settings.graph) for rows, plan in plans.items()}

    def _build_step(self, rows: int) -> Plan:
        return self.step.build(self.data, rows, self.total, device=self.data.device, schedule=self._schedule)

    def epoch(self, epoch: int, shown: Progress) -> dict[str, Any] | None:
        """Trains one epoch and returns its row, or None if it was stopped on the way."""
        scaling = self.step.scaling
        self._follow_settings()
        self.step.network.refresh()  # a callback may have set parameters
        self.number, self.done = epoch, 0
        if self.shuffle:
            self.data.start(self.step.draw_order(self.data.rows))
        self._start_schedule()
        self.sums.clear()
        scaling.start_epoch()
        self.epoch_start.take()
        if not self._train(shown):
            return None
        sums = self._read()
        if not self._finite(sums):
            self._report_divergence()
        if len(self.batches) > 1:
            self.last_finite, self._spare = self._spare, self.last_finite
        else:
            self.last_finite, self.epoch_start = self.epoch_start, self.last_finite
        row = {"epoch": epoch} | self._measured(sums)
        if scaling.stuck:
            self._refuse_float16()
        return row

    def _start_schedule(self) -> None:
        """Goes to the first step of the running epoch."""
        if self._schedule is not None:
            self._schedule.start((self.number - self._first) * len(self.batches))

    def _follow_settings(self) -> None:
        """Builds the steps anew where the layers' settings are not those that they were built for."""
        network = self.step.network
        if (key := network.plan_key) == self._plan_key:
            return
        self._plan_key, self.steps = key, {}  # their memory goes before other steps take theirs
        self.batches, self.steps = self._build_epoch()

    def roll_back_if_diverged(self) -> str:
        """Goes back to the epoch before if the loss of one that ended early is no longer finite, and says so. Whoever
        stopped the run is not kept waiting until the very step is found."""
        if self._finite(self._read()):
            return ""
        return f", after its loss became NaN or infinite: the parameters are {self._roll_back()}"

    def _roll_back(self) -> str:
        """Goes back to the epoch before, and says so."""
        self._restore(self.last_finite)
        epochs = len(self.history)
        return f"those of epoch {epochs}" if epochs >= self._first else "those that fit began with"

    def _train(self, shown: Progress) -> bool:
        """Runs the steps of an epoch, or those until a loss is read that is not finite; False if it was stopped."""
        step, last, steps, after_step = 0, len(self.batches), self.steps, self.after_step
        self._window = np.zeros(self.total.shape), 0
        with self.step.device.computing(), closing(self.data.parts(self.batches)) as parts:
            for part in parts:
                for rows in part:
                    step += 1
                    if step == last > 1:
                        self._spare.take()
                    steps[rows].run()
                    self.done = step
                    shown.advance(rows)
                    if after_step(self) and step < last:
                        return False
                    due = self.loss_every is not None and step % self.loss_every == 0
                    if due and not self._read_loss(step, shown):
                        return True  # what is left of the epoch would be wasted
        return True

    def _read_loss(self, step: int, shown: Progress) -> bool:
        """Reads the loss of the steps since the last reading, which waits for the device; whether it is finite."""
        total_before, rows_before = self._window
        rows = min(step * self.batches[0], self.data.rows)
        total = self.step.device.to_host(self.total)
        with np.errstate(invalid="ignore"):  # ∞ − ∞
            loss = self.step.loss.reduce(total - total_before, rows - rows_before).tolist()
        row = {"epoch": self.number, "step": step, "loss": loss}
        self.history.steps.append(row)
        shown.step(row)
        self._window = total, rows
        return finite_loss(total)

    def _read(self) -> dict[str, Array]:
        """Reads all that the epoch has added up so far, and Σw², which tells whether W and b are finite: one wait."""
        device, scaling = self.step.device, self.step.scaling.state
        with device.computing():
            for call in self._add_squares:
                call()
        if scaling is not None:
            device.copy_in(self.sums["scaling"], scaling)
        return self.sums.read()

    def _measured(self, sums: Mapping[str, Array]) -> dict[str, Any]:
        loss, scaling, total = self.step.loss, self.step.scaling, sums["total"]
        row: dict[str, Any] = {"loss": loss.reduce(total, self.data.rows).tolist()}
        if loss.formula.accuracy:
            row["accuracy"] = (total[..., CORRECT] / self.data.rows).tolist()
        if scaling.state is not None:
            row |= scaling.measured(sums["scaling"], len(self.batches))
        return row

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

    def _finite(self, sums: Mapping[str, Array]) -> bool:
        """Tells whether all losses of the running epoch are finite, and the parameters too."""
        device, parameters = self.step.device, self.step.network.parameters
        if not finite_loss(sums["total"]) or np.isfinite(sums["squares"]).all():
            return finite_loss(sums["total"])
        with device.computing():  # the squares of finite numbers can be more than float64 holds
            return bool(device.xp.isfinite(parameters).all())

    def _restore(self, snapshot: Snapshot) -> None:
        snapshot.restore()
        self.step.network.refresh()

    def _report_divergence(self) -> NoReturn:
        """Goes back to what is finite, and raises DivergedError: to before the very step, or, where a callback may have
        changed something after any step, so that none can be repeated, to the epoch before."""
        network, history, epoch = self.step.network, self.history, self.number
        if self.repeats:
            what, step, kept = self._find_divergence()
            happened = f"the {what} became NaN or infinite in epoch {epoch}, step {step}"
        else:
            step, kept = len(self.batches), self._roll_back()
            happened = f"the loss became NaN or infinite in epoch {epoch}, at the latest in step {step}"
        history.stopped = happened
        narrow = " float16 holds no number beyond 65,504; dtype='bfloat16' does."
        raise DivergedError(
            f"{happened} of {len(self.batches)}. The parameters are {kept}. Lower the learning rate "
            f"(now {self.step.optimizer.learning_rate}), or scale the inputs to about −1 … 1."
            f"{narrow if network.dtype == np.float16 else ''}",
            epoch=epoch, step=step, history=history,
        )  # fmt: skip

    def _find_divergence(self) -> tuple[str, int, str]:
        """Runs the epoch again from its beginning and reads the loss after every step; an epoch without trouble never
        pays for it. Returns what is not finite, the step that made it so, and what the parameters are: those before the
        last step whose loss was finite. If every loss was, a step has made the parameters NaN or infinite, and no loss
        has shown it yet."""
        device, network, epoch = self.step.device, self.step.network, self.number
        batches, steps = self._build_steps() if self.settings.one_launch else (self.batches, self.steps)
        self._restore(self.epoch_start)
        self._start_schedule()
        self.sums.clear()
        finite, current, spare = self.last_finite, self.epoch_start, self._spare
        step, broken, what = 0, 0, "parameters"
        with device.computing(), closing(self.data.parts(batches)) as parts:
            for rows in (rows for part in parts for rows in part):
                steps[rows].plan.run()
                step += 1
                if not finite_loss(device.to_host(self.total)):
                    what = "loss"
                    break
                if not broken and not device.xp.isfinite(network.parameters).all():
                    finite, broken = current, step  # a later loss need not show it: relu makes 0 of NaN on some devices
                if not broken:
                    spare.take()
                    finite, current, spare = current, spare, finite
        self._restore(finite)
        step = (broken or step) if what == "parameters" else step
        kept = "those of the last step whose loss was finite"
        if (epoch, step) == (self._first, 1) and what == "loss":
            kept = "those that fit began with"
        elif step == 1 and what == "loss" and self.settings.one_launch:  # which keeps no state within an epoch
            kept = f"those that epoch {epoch - 1} began with"
        return what, step, kept


def finite_loss(total: Array) -> bool:
    """Tells whether all that a total, on the host, has added up is finite."""
    return bool(np.isfinite(total[..., LOSS]).all())
