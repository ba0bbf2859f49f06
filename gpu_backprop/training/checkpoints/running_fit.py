"""A fit that runs: what a checkpoint takes down of it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gpu_backprop.backend.formula import Array
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.callbacks import Callbacks
from gpu_backprop.training.checkpoints.fingerprint import fingerprint
from gpu_backprop.training.checkpoints.recipe import describe, shapes
from gpu_backprop.training.metrics import choose_metrics
from gpu_backprop.training.run import Run


@dataclass(frozen=True)
class RunningFit:
    """What takes part in a fit.

    Attributes:
        held_out: what is measured after every epoch; None: nothing.
        first: the number of its first epoch, also where it goes on after another process.
    """

    trainer: Any
    run: Run
    callbacks: Callbacks
    data: Samples
    held_out: Samples | None
    on_divergence: str
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
            "begun": trainer.begun,
            "now": describe(trainer),
            "shapes": shapes(trainer.network),
            "given": self.given,
            "data": self.fingerprints,
            "validation": self.held_out_fingerprints,
            "first": self.first,
            "position": position._asdict(),
            "in_one_launch": run.one_launch,
            "arrays": state.arrays,
            "host": host,
            "history": history,
            "callbacks": self.callbacks.states(),
            "settings": self.callbacks.settings(),
            "asked": self.callbacks.asked_by_callback,
        }

    @cached_property
    def given(self) -> dict[str, Any]:
        """What decides what it does, besides data, epochs and callbacks."""
        trainer = self.trainer
        metrics = choose_metrics(trainer.metrics, trainer.network, trainer.loss)
        names = ", ".join(metric.name for metric in metrics)
        given = {"shuffle": self.run.shuffle, "on_divergence": self.on_divergence, "metrics": names}
        return given if self.data.names is None else given | {"classes": [*self.data.names]}

    @cached_property
    def fingerprints(self) -> dict[str, Any]:
        """Tells its data from others."""
        return self._fingerprints(self.data)

    @cached_property
    def held_out_fingerprints(self) -> dict[str, Any]:
        """Tells what is measured from others."""
        return {} if self.held_out is None else self._fingerprints(self.held_out)

    def _fingerprints(self, of: Samples) -> dict[str, Any]:
        arrays: dict[str, list[Array | None]] = {
            "x": [of.x], "y": [of.target], "weights": [of.weights], "places of rows": [of.chosen, of.counts],
        }  # fmt: skip
        to_host = self.trainer.device.to_host
        return {name: fingerprint(some, to_host) for name, some in arrays.items() if some[0] is not None}
