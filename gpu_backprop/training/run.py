"""The epochs of one fit: every minibatch of each, what was measured, and the way back where the loss is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from gpu_backprop.backend.errors import DivergedError
from gpu_backprop.backend.formula import CORRECT, LOSS, Array
from gpu_backprop.backend.snapshot import Snapshot
from gpu_backprop.training.minibatches import BatchSource
from gpu_backprop.training.one_launch import build_epoch, check_data
from gpu_backprop.training.progress import Progress
from gpu_backprop.training.replay import Replay
from gpu_backprop.training.sums import Sums

if TYPE_CHECKING:
    from gpu_backprop.training.trainer import Trainer


class Run:
    """The epochs of one fit.

    Args:
        data: where they lie; on a DryRunDevice, a run is there to look at.
        loss_every: after how many steps the loss is read, besides at the end of an epoch; None: never.

    Attributes:
        epoch_start: the state at the beginning of the running epoch.
        last_finite: the state before the last step of the epoch before: the latest whose loss is known to be finite.
        batches: how many rows each step of an epoch has.
        steps: the steps by their rows.
        sums: what the epoch adds up on the device: the loss's total, Σw² of the parameters, the loss scaling.
    """

    def __init__(
        self, trainer: Trainer, data: BatchSource, batch_size: int, shuffle: bool, loss_every: int | None = None
    ) -> None:
        self.trainer, self.data, self.batch_size = trainer, data, batch_size
        self.shuffle, self.loss_every = shuffle, loss_every
        device, network, scaling = data.device, trainer.network, trainer.scaling.state
        if trainer.one_launch:
            check_data(data, loss_every)
        shapes: dict[str, tuple[int, ...]] = {"total": (*network.models_shape, 3), "squares": network.models_shape}
        if scaling is not None:
            shapes["scaling"] = scaling.shape
        with device.kind("loss"):
            self.sums = Sums(device, **shapes)
        self.total = self.sums["total"]
        self.batches, self.steps = self._whole() if trainer.one_launch else self._minibatches()
        self._add_squares = device.sequence(device.ops.sum_of_squares(device, network.parameters, self.sums["squares"]))
        with device.kind("snapshots"):
            self.epoch_start, self.last_finite, self._spare = (Snapshot(device, changing(trainer)) for _ in range(3))

    def _minibatches(self) -> tuple[Sequence[int], Mapping[int, Replay]]:
        """The rows of each step of an epoch, and the steps by their rows."""
        trainer, batches = self.trainer, list(self.data.minibatches(self.batch_size))
        plans = {
            rows: trainer.build_step(self.data, rows, self.total, device=self.data.device) for rows in set(batches)
        }
        return batches, {rows: Replay(plan, trainer.graph) for rows, plan in plans.items()}

    def _whole(self) -> tuple[Sequence[int], Mapping[int, Replay]]:
        """The same where the only step is the epoch."""
        rows, plan = self.data.rows, build_epoch(self.trainer, self.data, self.batch_size, self.total)
        return [rows], {rows: Replay(plan, False)}

    def epoch(self, epoch: int, shown: Progress) -> dict[str, Any] | None:
        """Trains one epoch and returns its row, or None if it was stopped on the way."""
        trainer = self.trainer
        if self.shuffle:
            self.data.start(trainer.draw_order(self.data.rows))
        self.sums.clear()
        trainer.scaling.start_epoch()
        self.epoch_start.take()
        if not self._train(epoch, shown):
            return None
        sums = self._read()
        if not self._finite(sums):
            self._find_divergence(epoch)
        if len(self.batches) > 1:
            self.last_finite, self._spare = self._spare, self.last_finite
        else:
            self.last_finite, self.epoch_start = self.epoch_start, self.last_finite
        row = {"epoch": epoch} | self._measured(sums)
        if trainer.scaling.stuck:
            self._refuse_float16(epoch)
        return row

    def roll_back_if_diverged(self) -> str:
        """After an epoch that ended early: where its loss was no longer finite, goes back to the epoch before, and says
        so. To find the very step would take the time that nobody has then."""
        if self._finite(self._read()):
            return ""
        self._go_back(self.last_finite)
        epochs = len(self.trainer.history)
        kept = f"those of epoch {epochs}" if epochs else "those that fit began with"
        return f", after its loss became NaN or infinite: the parameters are {kept}"

    def _train(self, epoch: int, shown: Progress) -> bool:
        """The steps of an epoch, or those until the loss is lost; False if it was stopped on the way."""
        trainer, step, last = self.trainer, 0, len(self.batches)
        self._window = np.zeros(self.total.shape), 0
        rows_done = 0
        with trainer.device.computing(), closing(self.data.parts(self.batches)) as parts:
            for part in parts:
                for rows in part:
                    step, rows_done = step + 1, rows_done + rows
                    if step == last > 1:
                        self._spare.take()
                    self.steps[rows].run()
                    shown.advance(rows)
                    if trainer.stopping and step < last:
                        return False
                    due = self.loss_every is not None and step % self.loss_every == 0
                    if due and not self._look(epoch, step, rows_done, shown):
                        return True  # what is left of the epoch would be wasted
        return True

    def _look(self, epoch: int, step: int, rows: int, shown: Progress) -> bool:
        """Reads the loss of the steps since the last look, which waits for the device; whether it is finite."""
        trainer, (total_before, rows_before) = self.trainer, self._window
        total = trainer.device.to_host(self.total)
        with np.errstate(invalid="ignore"):  # ∞ − ∞
            loss = plain(trainer.loss.reduce(total - total_before, rows - rows_before))
        row = {"epoch": epoch, "step": step, "loss": loss}
        trainer.history.steps.append(row)
        shown.step(row)
        self._window = total, rows
        return finite_loss(total)

    def _read(self) -> dict[str, Array]:
        """All that the epoch has added up until now, and Σw², which tells whether W and b are finite: one wait."""
        trainer = self.trainer
        with trainer.device.computing():
            for call in self._add_squares:
                call()
        if trainer.scaling.state is not None:
            trainer.device.copy_in(self.sums["scaling"], trainer.scaling.state)
        return self.sums.read()

    def _measured(self, sums: Mapping[str, Array]) -> dict[str, Any]:
        trainer, total = self.trainer, sums["total"]
        row: dict[str, Any] = {"loss": plain(trainer.loss.reduce(total, self.data.rows))}
        if trainer.loss.formula.accuracy:
            row["accuracy"] = plain(total[..., CORRECT] / self.data.rows)
        if trainer.scaling.state is not None:
            row |= trainer.scaling.measured(sums["scaling"], len(self.batches))
        return row

    def _refuse_float16(self, epoch: int) -> NoReturn:
        history, last = self.trainer.history, len(self.batches)
        whose = " of a member" if self.trainer.network.models_shape else ""
        happened = f"every step{whose} in epoch {epoch} was skipped: its gradients overflow float16 even unscaled"
        history.stopped = happened
        raise DivergedError(
            f"{happened}. What was skipped changed no parameters. Use dtype='bfloat16' or 'float32', or make the "
            "gradients smaller: scale the targets to about −1 … 1, and use reduction='mean'.",
            epoch=epoch, step=last, history=history,
        )  # fmt: skip

    def _finite(self, sums: Mapping[str, Array]) -> bool:
        """Whether all losses of the running epoch are finite, and the parameters too."""
        device, parameters = self.trainer.device, self.trainer.network.parameters
        if not finite_loss(sums["total"]) or np.isfinite(sums["squares"]).all():
            return finite_loss(sums["total"])
        with device.computing():  # the squares of finite numbers can be more than float64 holds
            return bool(device.xp.isfinite(parameters).all())

    def _go_back(self, state: Snapshot) -> None:
        state.restore()
        self.trainer.network.refresh()

    def _find_divergence(self, epoch: int) -> NoReturn:
        """Runs the epoch again from its beginning, looking at the loss after every step; an epoch without trouble never
        pays for it. Leaves the state before the last step whose loss was finite, and raises DivergedError. If every
        loss was, the last step has spoilt the parameters, whose loss is not known yet."""
        trainer, device, history = self.trainer, self.trainer.device, self.trainer.history
        batches, steps = self._minibatches() if trainer.one_launch else (self.batches, self.steps)
        self._go_back(self.epoch_start)
        self.sums.clear()
        good, here, unused = self.last_finite, self.epoch_start, self._spare
        step, spoilt, what = 0, 0, "parameters"
        with device.computing(), closing(self.data.parts(batches)) as parts:
            for rows in (rows for part in parts for rows in part):
                steps[rows].plan.run()
                step += 1
                if not finite_loss(device.to_host(self.total)):
                    what = "loss"
                    break
                if not spoilt and not device.xp.isfinite(trainer.network.parameters).all():
                    good, spoilt = here, step  # which a later loss need not show: relu makes 0 of NaN on some devices
                if not spoilt:
                    unused.take()
                    good, here, unused = here, unused, good
        self._go_back(good)
        step = (spoilt or step) if what == "parameters" else step
        kept = "those of the last step whose loss was finite"
        if epoch == step == 1 and what == "loss":
            kept = "those that fit began with"
        elif (
            step == 1 and what == "loss" and trainer.one_launch
        ):  # which does not stop before the last step of an epoch
            kept = f"those that epoch {epoch - 1} began with"
        happened = f"the {what} became NaN or infinite in epoch {epoch}, step {step}"
        history.stopped = happened
        narrow = " float16 holds no number beyond 65,504; dtype='bfloat16' does."
        raise DivergedError(
            f"{happened} of {len(batches)}. The parameters are {kept}. Lower the learning rate "
            f"(now {trainer.optimizer.learning_rate}), or scale the inputs to about −1 … 1."
            f"{narrow if trainer.network.dtype == np.float16 else ''}",
            epoch=epoch, step=step, history=history,
        )  # fmt: skip


def changing(trainer: Trainer) -> dict[str, Array]:
    """Every array that a step changes and the next one reads."""
    network, optimizer, scaling = trainer.network, trainer.optimizer, trainer.scaling
    assert optimizer.hyper is not None
    return {
        "parameters": network.parameters,
        "random": network.random,
        "step": optimizer.hyper[..., 0],
        **optimizer.moments,
        **({} if scaling.state is None else {"loss scaling": scaling.state}),
    }


def finite_loss(total: Array) -> bool:
    """Whether all that a total, on the host, has added up is finite."""
    return bool(np.isfinite(total[..., LOSS]).all())


def plain(value: Array) -> Any:
    """A float, or a list of them with a models axis."""
    return np.asarray(value).tolist()
