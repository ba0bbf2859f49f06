"""The task that every library is given, and the methods that each of them has."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

Parameters = list[tuple[Any, Any]]

CHECKED_EPOCHS = 2
"""Of a fit that is only to show that it does what it should."""


class Missing(Exception):
    """The library, or its CUDA device, is not here."""


@dataclass(frozen=True)
class Task:
    """What is trained on: hidden layers of one activation; under labels softmax and cross entropy, else Σ½(y − y*)².

    Attributes:
        x: float32 (rows, inputs), float64 where precision is; rows is a multiple of batch.
        target: int64 (rows,), labels; or of the dtype of x (rows, outputs).
        parameters: W (inputs, outputs) and b of each layer, to begin with.
        batch: rows of a minibatch, whose losses are averaged.
        settings: of the optimizer: the learning rate; for Adam β₁, β₂ and ε too.
        activation: "tanh" or "relu".
        device: "cpu" or "cuda".
        precision: of the products: "float32", "tf32", or "bfloat16", which x, z and y have too, beside float32 weights;
            or "float64", of everything.
        dropout: the rate of the dropout after each hidden layer.
        weights: of the rows, of the dtype of x (rows,), by which the mean of a minibatch is weighted; None: all count
            alike.
        validation: x and target of the rows that a fit measures after each epoch.
        epochs: of a fit.
        seed: of the orders and masks that a library draws.
    """

    x: Any
    target: Any
    parameters: Parameters
    batch: int
    settings: tuple[float, ...]
    activation: str = "relu"
    device: str = "cpu"
    precision: str = "float32"
    dropout: float = 0.0
    weights: Any = None
    validation: tuple[Any, Any] | None = None
    epochs: int = 20
    seed: int = 0

    @property
    def rows(self) -> int:
        return len(self.x)

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return self.rows // self.batch

    @property
    def labelled(self) -> bool:
        """Whether the targets are labels."""
        return bool(self.target.ndim == 1)

    @property
    def adam(self) -> bool:
        """Whether the optimizer is Adam; else it is plain SGD."""
        return len(self.settings) > 1

    @property
    def data(self) -> tuple[Any, ...]:
        """x and target, and weights where there are some."""
        return (self.x, self.target) if self.weights is None else (self.x, self.target, self.weights)

    @property
    def minibatch(self) -> tuple[Any, ...]:
        """The same of the first minibatch."""
        return tuple(a[: self.batch] for a in self.data)

    def save(self, folder: Path) -> None:
        # what is as usual is not written: a worker of an older checkout may not know it
        given = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not f.default}
        save_parameters(folder / "parameters.npz", given.pop("parameters"))
        if "validation" in given:
            given["validation_x"], given["validation_target"] = given.pop("validation")
        np.savez(folder / "task.npz", **given)

    @classmethod
    def load(cls, folder: Path) -> Task:
        with np.load(folder / "task.npz", allow_pickle=False) as file:
            given = {name: value if (value := file[name]).ndim else value.item() for name in file.files}
        given["settings"] = tuple(given["settings"].tolist())
        if "validation_x" in given:
            given["validation"] = given.pop("validation_x"), given.pop("validation_target")
        return cls(parameters=load_parameters(folder / "parameters.npz"), **given)


def save_parameters(path: Path, parameters: Parameters) -> None:
    named = {f"{kind}{k}": a for k, pair in enumerate(parameters) for kind, a in zip("wb", pair, strict=True)}
    np.savez(path, **named)


def load_parameters(path: Path) -> Parameters:
    with np.load(path, allow_pickle=False) as file:
        return [(file[f"w{k}"], file[f"b{k}"]) for k in range(len(file.files) // 2)]


def of_way(path: Path, way: str) -> Path:
    """The file beside that of the parameters after an epoch, for those after as many steps in another way."""
    return path.with_name(f"{way}-{path.name}")


class Peer:
    """A library that trains a task. A method returns when all that it has begun is done.

    Attributes:
        version: of the library, with its name.
        chunk: how many rows it infers at once, where it is given more.
    """

    version = ""
    chunk = 1 << 30

    def __init__(self, task: Task) -> None:
        self.task = task

    def reset(self) -> None:
        """Returns to the first parameters and a new state of the optimizer."""
        raise NotImplementedError

    def epoch(self, shuffle: bool) -> float:
        """Trains one and gives its mean loss."""
        raise NotImplementedError

    def steps(self, times: int) -> int:
        """Does so many steps or some more on the first minibatch, which is on the device; gives how many they were."""
        raise NotImplementedError

    def steps_by_hand(self, times: int) -> int:
        """Does so many steps on the first minibatch, of which each begins with its arrays of NumPy."""
        raise NotImplementedError

    def parameters(self) -> Parameters:
        """Gives the present ones, in NumPy."""
        raise NotImplementedError

    def evaluate(self) -> tuple[float, float]:
        """Gives the mean loss of the validation data and the share of right answers, without dropout."""
        raise NotImplementedError

    def infer(self, x: Any) -> Any:
        """Gives y of some rows; from NumPy, and to NumPy."""
        raise NotImplementedError

    def train(self) -> float:
        """Trains an epoch in a new order; gives its seconds."""
        started = time.perf_counter()
        self.epoch(shuffle=True)
        return time.perf_counter() - started

    def epochs(self, times: int) -> float:
        """Trains one epoch and then so many; gives the seconds of these. The first brings the data into the caches, and
        makes what a run of epochs makes once."""
        self.train()
        return sum(self.train() for _ in range(times))

    def fit(self) -> tuple[float, tuple[float, float]]:
        """Trains all epochs of a fit, and measures the validation data after each; gives their seconds, and what the
        last of these measurements has told."""
        started = time.perf_counter()
        for _ in range(self.task.epochs):
            self.epoch(shuffle=True)
            told = self.evaluate()
        return time.perf_counter() - started, told

    def predict(self) -> Any:
        """Gives y of all rows, in NumPy."""
        x = self.task.x
        parts = [self.infer(x[start : start + self.chunk]) for start in range(0, len(x), self.chunk)]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def predictions(self, times: int) -> int:
        """Predicts all rows so many times."""
        for _ in range(times):
            self.predict()
        return times

    def floor(self, times: int) -> int:
        """Runs the matrix products of a step alone so many times or some more, and gives how often; only ours can tell
        them apart."""
        raise NotImplementedError

    def peak(self, seconds: float) -> dict[str, float]:
        """Gives on how many threads the products of the last floor ran, and what so many reach that do nothing but
        multiply and add: flops in a nanosecond, the most within so many seconds. Nothing where that is not known."""
        raise NotImplementedError


class Stacked(Peer):
    """A library that trains many networks of one shape at once, whose parameters are stacked: W (members, inputs,
    outputs) and b (members, outputs). Each has a learning rate of its own, and an order of the rows.

    Attributes:
        rates: the learning rate of each, from that of the task to ten times as much.
    """

    def __init__(self, task: Task) -> None:
        self.members = len(task.parameters[0][0])
        self.rates = task.settings[0] * np.geomspace(1, 10, self.members)
        self.rng = np.random.default_rng(0)
        super().__init__(task)

    def order(self, shuffle: bool) -> Any:
        """The rows of each minibatch, (steps, members, batch)."""
        order = np.tile(np.arange(self.task.rows), (self.members, 1))
        if shuffle:
            self.rng.permuted(order, axis=1, out=order)
        return order.reshape(self.members, self.task.steps, self.task.batch).swapaxes(0, 1)

    def alone(self, member: int) -> Task:
        """The task of one of them."""
        parameters = [(w[member], b[member]) for w, b in self.task.parameters]
        return replace(self.task, parameters=parameters, settings=(self.rates[member], *self.task.settings[1:]))

    def steps(self, times: int) -> int:
        """Does whole epochs, for that is how populations are trained."""
        epochs = -(-times // self.task.steps)
        for _ in range(epochs):
            self.train()
        return epochs * self.task.steps
