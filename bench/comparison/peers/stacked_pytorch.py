"""PyTorch: torch.func.vmap of loss and gradient over stacked parameters, and Adam on these, written out."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from torch.nn import functional

from comparison.peers.task import Parameters, Stacked, Task

TRIED = 4
"""Steps that each number of threads is tried with."""


class TorchVmap(Stacked):
    """With as many threads as are the fastest for the task: one, or all."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.version = f"PyTorch {torch.__version__}"
        self.x, self.target = torch.from_numpy(task.x), torch.from_numpy(task.target)
        self.gradients = torch.func.vmap(torch.func.grad_and_value(self.loss))
        self.reset()
        torch.set_num_threads(min((1, int(os.environ["OMP_NUM_THREADS"])), key=self.seconds))
        self.reset()

    def seconds(self, threads: int) -> float:
        """How long some steps take with so many threads."""
        torch.set_num_threads(threads)
        rows = torch.from_numpy(self.order(shuffle=False)[:TRIED])
        self.run(rows[:1])
        started = time.perf_counter()
        self.run(rows)
        return time.perf_counter() - started

    def reset(self) -> None:
        arrays = [p for pair in self.task.parameters for p in pair]
        self.stacked = [torch.from_numpy(p).clone() for p in arrays]
        self.moments = [[torch.zeros_like(p) for p in self.stacked] for _ in range(2)]
        rates = torch.tensor(self.rates, dtype=torch.float32)
        self.own_rates = [rates.view(-1, *[1] * (p.ndim - 1)) for p in arrays]
        self.done, self.total = 0, torch.zeros(self.members)

    def loss(self, parameters: list[Any], x: Any, target: Any) -> Any:
        f = torch.tanh if self.task.activation == "tanh" else torch.relu
        *hidden, w, b = parameters
        for weight, bias in zip(hidden[::2], hidden[1::2], strict=True):
            x = f(x @ weight + bias)
        z = x @ w + b
        if self.task.labelled:
            return functional.cross_entropy(z, target)
        return 0.5 * z.shape[1] * functional.mse_loss(z, target)

    def run(self, order: Any) -> None:
        _, beta1, beta2, epsilon = self.task.settings
        for rows in order:
            gradients, loss = self.gradients(self.stacked, self.x[rows], self.target[rows])
            self.done += 1
            first, second = 1 - beta1**self.done, 1 - beta2**self.done
            for p, m, v, g, rate in zip(self.stacked, *self.moments, gradients, self.own_rates, strict=True):
                m.lerp_(g, 1 - beta1)
                v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
                p.addcdiv_(m * (rate / -first), (v / second).sqrt_().add_(epsilon))
            self.total += loss

    def epoch(self, shuffle: bool) -> Any:
        self.total.zero_()
        self.run(torch.from_numpy(self.order(shuffle)))
        return (self.total / self.task.steps).tolist()

    def parameters(self) -> Parameters:
        arrays = [p.numpy() for p in self.stacked]
        return list(zip(arrays[::2], arrays[1::2], strict=True))
