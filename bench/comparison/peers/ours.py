"""gpu_backprop: epochs by `Trainer.fit`, as anybody would call it, and a step by its plan."""

from __future__ import annotations

import time
from typing import Any

from blas import Missing, peak
from lib.timing import in_order
from throughput import operations_by, products

import gpu_backprop as gb
from comparison.peers.task import Parameters, Peer, Task
from gpu_backprop.backend.compiled.program import PLACES
from gpu_backprop.backend.formula import Call
from gpu_backprop.backend.snapshot import Snapshot
from gpu_backprop.network.layer import Layer


def network_of(task: Task) -> tuple[list[Layer], str]:
    """The layers of a task, and the name of its loss."""
    *hidden, outputs = (w.shape[-1] for w, _ in task.parameters)
    output, loss = ("softmax", "cross_entropy") if task.labelled else ("identity", "half_squared_error")
    layers: list[Layer] = []
    for units in hidden:
        layers += [gb.Dense(units, task.activation), *([gb.Dropout(task.dropout)] if task.dropout else [])]
    return [*layers, gb.Dense(outputs, output)], loss


def dense(net: gb.Network) -> list[gb.Dense]:
    """The layers that have parameters."""
    return [layer for layer in net.layers if isinstance(layer, gb.Dense)]


def put(net: gb.Network, parameters: Parameters) -> None:
    for layer, (w, b) in zip(dense(net), parameters, strict=True):
        layer.weight[...], layer.bias[...] = map(net.device.from_host, (w, b))


class Ours(Peer):
    """Its own shuffling, gathering and reading of the loss are all in an epoch."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        layers, loss = network_of(task)
        dtype, tf32 = ("float32", True) if task.precision == "tf32" else (task.precision, False)
        net = gb.Network(task.x.shape[1], layers, dtype=dtype, tf32=tf32, device=task.device, seed=task.seed)
        put(net, task.parameters)
        optimizer = gb.Adam(*task.settings) if task.adam else gb.SGD(*task.settings)
        self.net, self.trainer = net, gb.Trainer(net, loss, optimizer, batch_size=task.batch)
        self.version = f"gpu_backprop {gb.__version__}, {operations_by(net.device)}"
        self.replay = self.trainer.manual_steps.load(self.trainer.manual_steps.minibatch(*task.minibatch))
        self.products = net.device.sequence([call for o in products(self.replay.plan) for call in o.calls])
        self.start = Snapshot(net.device, self.replay.plan.outputs())

    def reset(self) -> None:
        self.start.restore()

    def epoch(self, shuffle: bool) -> float:
        return float(self._fit(1, shuffle)[-1]["loss"])

    def train(self) -> float:
        return float(self._fit(1, shuffle=True)[-1]["seconds"])

    def epochs(self, times: int) -> float:
        """In one fit, whose first epoch is the one that is not counted."""
        return sum(self._fit(1 + times, shuffle=True)["seconds"][-times:])

    def _fit(self, epochs: int, shuffle: bool, validation: Any = None) -> gb.History:
        task = self.task
        return self.trainer.fit(
            task.x, task.target, epochs, weights=task.weights, shuffle=shuffle, validation=validation, progress=False
        )

    def fit(self) -> tuple[float, tuple[float, float]]:
        started = time.perf_counter()
        last = self._fit(self.task.epochs, shuffle=True, validation=self.task.validation)[-1]
        return time.perf_counter() - started, (last["val_loss"], last["val_accuracy"])

    def evaluate(self) -> tuple[float, float]:
        assert self.task.validation is not None
        found = self.trainer.evaluate(*self.task.validation)
        return found["loss"], found["accuracy"]

    def infer(self, x: Any) -> Any:
        return self.net.predict(x)

    def steps_by_hand(self, times: int) -> int:
        minibatch = self.task.minibatch
        for _ in range(times):
            loss = self.trainer.step(*minibatch)
        float(loss)
        return times

    def steps(self, times: int) -> int:
        return self._run(self.replay.run, times)

    def floor(self, times: int) -> int:
        run = in_order(self.products)
        done = self._run(run, times // 8)  # in which a program finds out on how many threads it is the fastest
        before = self._level()
        done += self._run(run, times)
        self.threads = max(before, self._level())
        return done

    def _level(self) -> int:
        """How many threads the products run on now; 0 where they are no programs."""
        return max(int(call.holds[0][PLACES["level"]]) if hasattr(call, "holds") else 0 for call in self.products)

    def peak(self, seconds: float) -> dict[str, float]:
        try:
            gflops = peak(self.threads, self.net.device.dtype.name, seconds) if self.threads else 0
        except Missing:  # the kernels are prebuilt, and there is no compiler
            gflops = 0
        return {"threads": self.threads, "peak_gflops": gflops} if gflops else {}

    def _run(self, call: Call, times: int) -> int:
        with self.net.device.computing():
            for _ in range(times):
                call()
        return times

    def parameters(self) -> Parameters:
        to_host = self.net.device.to_host
        return [(to_host(layer.weight), to_host(layer.bias)) for layer in dense(self.net)]
