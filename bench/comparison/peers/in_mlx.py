"""MLX on its CPU device: a step by mx.compile, as its examples have it."""

from __future__ import annotations

from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn, optimizers
from mlx.utils import tree_map

from comparison.peers.task import Parameters, Peer, Task


class MlxStep(Peer):
    """Its arrays are evaluated after each step, or what is asked for would pile up. The order is drawn by NumPy."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.version = f"MLX {mx.__version__}"
        mx.set_default_device(mx.cpu)
        self.dtype = mx.float64 if task.precision == "float64" else mx.float32
        self.rng = np.random.default_rng(task.seed)
        self.data = [self.place(a) for a in task.data]
        self.minibatch = [a[: task.batch] for a in self.data]
        after = [nn.Tanh() if task.activation == "tanh" else nn.ReLU()]
        after += [nn.Dropout(task.dropout)] if task.dropout else []
        self.linear = [nn.Linear(*w.shape) for w, _ in task.parameters]
        layers = [module for linear in self.linear for module in (linear, *after)]
        self.model = nn.Sequential(*layers[: -len(after)])
        rate, *rest = task.settings
        self.optimizer = optimizers.Adam(rate, rest[:2], rest[2], True) if task.adam else optimizers.SGD(rate)
        self._copy(task.parameters)
        self.optimizer.init(self.model.trainable_parameters())
        self.start = tree_map(mx.array, self.optimizer.state)
        self.state = [self.model.state, self.optimizer.state, mx.random.state]
        gradient = nn.value_and_grad(self.model, self.loss)

        @partial(mx.compile, inputs=self.state, outputs=self.state)
        def step(*minibatch: Any) -> Any:
            loss, gradients = gradient(*minibatch)
            self.optimizer.update(self.model, gradients)
            return loss

        self.step = step

    def place(self, array: Any) -> Any:
        return mx.array(array, mx.int32 if array.dtype == np.int64 else self.dtype)

    def reset(self) -> None:
        self._copy(self.task.parameters)
        put(self.start, self.optimizer.state)

    def _copy(self, parameters: Parameters) -> None:
        for layer, (w, b) in zip(self.linear, parameters, strict=True):
            layer.weight, layer.bias = self.place(w.T), self.place(b)

    def loss(self, x: Any, target: Any, weights: Any = None) -> Any:
        z = self.model(x)
        loss = nn.losses.cross_entropy(z, target) if self.task.labelled else 0.5 * mx.square(z - target).sum(axis=1)
        return loss.mean() if weights is None else (weights * loss).sum() / weights.sum()

    def epoch(self, shuffle: bool) -> float:
        order = self.rng.permutation(self.task.rows) if shuffle else np.arange(self.task.rows)
        total = mx.array(0.0)
        for rows in mx.array(order.astype(np.int32)).reshape(-1, self.task.batch):
            total = total + self.step(*(a[rows] for a in self.data))
            mx.eval(total, self.state)
        return float(total) / self.task.steps

    def steps(self, times: int) -> int:
        return self._steps(times, lambda: self.minibatch)

    def steps_by_hand(self, times: int) -> int:
        return self._steps(times, lambda: map(self.place, self.task.minibatch))

    def _steps(self, times: int, minibatch: Any) -> int:
        for _ in range(times):
            mx.eval(self.step(*minibatch()), self.state)
        return times

    def infer(self, x: Any) -> Any:
        return np.array(mx.softmax(self.model(self.place(x)), axis=1))

    def parameters(self) -> Parameters:
        return [(np.array(layer.weight).T, np.array(layer.bias)) for layer in self.linear]


def put(values: Any, tree: Any) -> None:
    """Puts values into a tree of the same form, whose dicts stay: the compiled step knows these."""
    for key, value in values.items():
        if isinstance(value, dict):
            put(value, tree[key])
        elif isinstance(value, list):
            for one, other in zip(value, tree[key], strict=True):
                put(one, other)
        else:
            tree[key] = value
