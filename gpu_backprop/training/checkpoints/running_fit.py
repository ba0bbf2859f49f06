"""A fit that runs: what a checkpoint takes down of it."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from gpu_backprop.network.samples import Samples
from gpu_backprop.training.callbacks import Callbacks
from gpu_backprop.training.checkpoints.fingerprint import fingerprint
from gpu_backprop.training.checkpoints.recipe import describe
from gpu_backprop.training.run import Run


class RunningFit(NamedTuple):
    """What takes part in a fit.

    Attributes:
        first: the number of its first epoch, also where it goes on after another process.
    """

    trainer: Any
    run: Run
    callbacks: Callbacks
    data: Samples
    first: int

    def record(self) -> dict[str, Any]:
        """Returns all that the fit would go on from, plain data and arrays; waits for the device."""
        trainer, run = self.trainer, self.run
        position, state = run.position(), trainer.training_step.state()
        host = state.host | ({"shuffling": position.shuffling} if position.done else {})
        history = {name: value for name, value in vars(run.history).items() if name[0] != "_"}
        return {
            "version": sys.modules["gpu_backprop"].__version__,
            "device": trainer.device.name.partition(":")[0],
            "made": trainer.made | {"batch_size": run.settings.batch_size},
            "now": describe(trainer),
            "data": self.fingerprint(),
            "first": self.first,
            "shuffle": run.shuffle,
            "position": position._asdict(),
            "arrays": state.arrays,
            "host": host,
            "history": history,
            "callbacks": [[*key, state] for key, state in self.callbacks.states().items()],
            "changing": [list(key) for key in self.callbacks.changing()],
            "asked": self.callbacks.asked_by_callback,
        }

    def fingerprint(self) -> dict[str, Any]:
        """Tells its data from others."""
        data = self.data
        return fingerprint([data.x, data.target, data.weights, data.chosen], self.trainer.device.to_host)
