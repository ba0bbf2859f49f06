"""Keras: model.fit, its own loop, on JAX, the fastest of its back ends on a CPU. A step alone is a train_on_batch."""

from __future__ import annotations

import os
import time
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras

from comparison.peers.task import Parameters, Peer, Task

STEPS = 8
"""In one call, at most (steps_per_execution); more made it no faster."""


class Clock(keras.callbacks.Callback):  # type: ignore[misc]
    """The seconds of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds.append(time.perf_counter() - self.started)


class KerasFit(Peer):
    """Trained up to z of the last layer, which its losses take."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.version = f"Keras {keras.__version__} on {keras.backend.backend()}"
        keras.utils.clear_session()
        jax.config.update("jax_enable_x64", task.precision == "float64")  # without it float64 is float32 in silence
        keras.config.set_floatx("float64" if task.precision == "float64" else "float32")
        *hidden, outputs = (w.shape[1] for w, _ in task.parameters)
        layers: list[Any] = [keras.Input((task.x.shape[1],))]
        for units in hidden:
            layers.append(keras.layers.Dense(units, task.activation))
            layers += [keras.layers.Dropout(task.dropout)] if task.dropout else []
        self.model = keras.Sequential([*layers, keras.layers.Dense(outputs)])
        self.softmax = keras.Sequential([self.model, keras.layers.Softmax()])
        self.optimizer = (keras.optimizers.Adam if task.adam else keras.optimizers.SGD)(*task.settings)
        self.model.compile(
            self.optimizer, loss_of(task), steps_per_execution=min(STEPS, task.steps),
            metrics=["accuracy"] if task.validation else None,
        )  # fmt: skip
        self.optimizer.build(self.model.trainable_variables)
        self.start = [variable.numpy() for variable in self.optimizer.variables]
        self.reset()

    def reset(self) -> None:
        self.model.set_weights([p for pair in self.task.parameters for p in pair])
        for variable, first in zip(self.optimizer.variables, self.start, strict=True):
            variable.assign(first)

    def epoch(self, shuffle: bool) -> float:
        return float(self._fit(1, shuffle)["loss"][0])

    def epochs(self, times: int) -> float:
        """In one fit, whose first epoch is the one that is not counted."""
        clock = Clock()
        self._fit(1 + times, callbacks=[clock])
        return sum(clock.seconds[-times:])

    def fit(self) -> tuple[float, tuple[float, float]]:
        started = time.perf_counter()
        told = self._fit(self.task.epochs, validation_data=self.task.validation, validation_batch_size=1024)
        return time.perf_counter() - started, (told["val_loss"][-1], told["val_accuracy"][-1])

    def _fit(self, epochs: int, shuffle: bool = True, **how: Any) -> dict[str, list[float]]:
        x, target, *weights = self.task.data
        how |= {"sample_weight": weights[0]} if weights else {}
        history = self.model.fit(x, target, self.task.batch, epochs, verbose=0, shuffle=shuffle, **how).history
        return {name: list(map(float, values)) for name, values in history.items()}

    def steps_by_hand(self, times: int) -> int:
        for _ in range(times):
            self.model.train_on_batch(*self.task.minibatch)
        return times

    steps = steps_by_hand

    def evaluate(self) -> tuple[float, float]:
        loss, accuracy = self.model.evaluate(*self.task.validation, batch_size=1024, verbose=0)
        return float(loss), float(accuracy)

    def infer(self, x: Any) -> Any:
        return keras.ops.convert_to_numpy(self.softmax.predict_on_batch(x))

    def parameters(self) -> Parameters:
        arrays = self.model.get_weights()
        return list(zip(arrays[::2], arrays[1::2], strict=True))


class HalfSquaredError(keras.losses.Loss):  # type: ignore[misc]
    """Σ½(y − y*)² of a row."""

    def call(self, target: Any, y: Any) -> Any:
        return 0.5 * keras.ops.sum(keras.ops.square(y - target), axis=-1)


def loss_of(task: Task) -> Any:
    """The one that divides by the sum of the weights."""
    reduction = "mean_with_sample_weight"
    if task.labelled:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    return HalfSquaredError(reduction=reduction)
