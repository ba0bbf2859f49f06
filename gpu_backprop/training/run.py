"""The epochs of one fit: every minibatch of each, what was measured, and the way back where the loss is lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from gpu_backprop.backend.errors import DivergedError
from gpu_backprop.backend.formula import HITS, LOSS, Array
from gpu_backprop.training.minibatches import DataSet
from gpu_backprop.training.progress import Progress
from gpu_backprop.training.replay import Replay

if TYPE_CHECKING:
    from gpu_backprop.training.trainer import Trainer


class Run:
    """The epochs of one fit.

    Attributes:
        before: the state at the beginning of the running epoch.
        good: the state before the last step of the epoch before: the latest whose loss is known to be finite.
    """

    def __init__(self, trainer: Trainer, data: DataSet, shuffle: bool) -> None:
        self.trainer, self.data, self.shuffle = trainer, data, shuffle
        self.batches = list(data.minibatches(trainer.batch_size))
        plans = {rows: trainer.build_step(data, rows, trainer._total) for rows in set(self.batches)}
        self.steps = {rows: Replay(plan, trainer.graph) for rows, plan in plans.items()}
        self.before = self.good = self._state()

    def epoch(self, epoch: int, shown: Progress) -> dict[str, Any] | None:
        """Trains one epoch and returns its row, or None if it was stopped on the way."""
        trainer, data, last = self.trainer, self.data, len(self.batches)
        order = np.stack([rng.permutation(data.rows) for rng in trainer._shuffling]) if self.shuffle else None
        data.start(None if order is None else order.reshape(data.permutation.shape))
        trainer.device.copy_in(trainer._total, trainer._nothing)
        self.before = before_last = self._state()
        with trainer.device.computing():
            for step, rows in enumerate(self.batches, 1):
                if step == last > 1:
                    before_last = self._state()
                self.steps[rows]()
                shown.advance(rows)
                if trainer._stop and step < last:
                    return None
        if not self._finite():
            self._find_divergence(epoch)
        self.good = before_last
        return {"epoch": epoch} | self._measured(trainer.device.to_host(trainer._total))

    def rescue(self) -> str:
        """After an epoch that ended early: where its loss was no longer finite, goes back to the epoch before, and says
        so. To find the very step would take the time that nobody has then."""
        if self._finite():
            return ""
        self._restore(self.good)
        epochs = len(self.trainer.history)
        kept = f"those of epoch {epochs}" if epochs else "those that fit began with"
        return f", after its loss became NaN or infinite: the parameters are {kept}"

    def _measured(self, total: Array) -> dict[str, Any]:
        row: dict[str, Any] = {"loss": plain(self.trainer.loss.reduce(total, self.data.rows))}
        if self.trainer.loss.formula.hit:
            row["accuracy"] = plain(total[..., HITS] / self.data.rows)
        return row

    def _finite(self) -> bool:
        """Whether all losses of the running epoch are finite, and the parameters too."""
        device, network = self.trainer.device, self.trainer.network
        with device.computing():
            return self._loss_is_finite() and bool(device.xp.isfinite(network.parameters).all())

    def _loss_is_finite(self) -> bool:
        return bool(np.isfinite(self.trainer.device.to_host(self.trainer._total)[..., LOSS]).all())

    def _changing(self) -> Mapping[str, Array]:
        """Every array that a step changes and the next one reads."""
        network, optimizer = self.trainer.network, self.trainer.optimizer
        assert optimizer.hyper is not None
        return {
            "parameters": network.parameters,
            "random": network.random,
            "step": optimizer.hyper[..., 0],
            **optimizer.moments,
        }

    def _state(self) -> dict[str, Array]:
        return {name: self.trainer.device.copy(array) for name, array in self._changing().items()}

    def _restore(self, state: Mapping[str, Array]) -> None:
        for name, array in self._changing().items():
            self.trainer.device.copy_in(array, state[name])
        self.trainer.network.refresh()

    def _find_divergence(self, epoch: int) -> NoReturn:
        """Runs the epoch again from its beginning, looking at the loss after every step; an epoch without trouble never
        pays for it. Leaves the state before the last step whose loss was finite, and raises DivergedError. If every
        loss was, the last step has spoilt the parameters, whose loss is not known yet."""
        trainer, device, history = self.trainer, self.trainer.device, self.trainer.history
        self._restore(self.before)
        self.data.rewind()
        device.copy_in(trainer._total, trainer._nothing)
        good, here, what = self.good, self.before, "loss"
        for step in range(1, len(self.batches) + 1):
            with device.computing():
                self.steps[self.batches[step - 1]].plan.run()
            if not self._loss_is_finite():
                break
            good, here = here, self._state()
        else:
            what = "parameters"
        self._restore(good)
        kept = "those of the last step whose loss was finite"
        if epoch == step == 1 and what == "loss":
            kept = "those that fit began with"
        happened = f"the {what} became NaN or infinite in epoch {epoch}, step {step}"
        history.stopped = happened
        raise DivergedError(
            f"{happened} of {len(self.batches)}. The parameters are {kept}. Lower the learning rate "
            f"(now {trainer.optimizer.learning_rate}), or scale the inputs to about −1 … 1.",
            epoch=epoch, step=step, history=history,
        )  # fmt: skip


def plain(value: Array) -> Any:
    """A float, or a list of them with a models axis."""
    return np.asarray(value).tolist()
