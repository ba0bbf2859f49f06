"""gpu_backprop: many networks by `Population.fit`; and one after the other, in as many processes as there are cores."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from throughput import operations_by

import gpu_backprop as gb
from comparison.peers.ours import Ours, network_of, put
from comparison.peers.task import Parameters, Stacked, Task
from comparison.processes import POOLS
from gpu_backprop.backend.snapshot import Snapshot


class Population(Stacked):
    """As anybody would call it."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        layers, loss = network_of(task)
        settings = [{"seed": m, "learning_rate": float(rate)} for m, rate in enumerate(self.rates)]
        self.population = gb.Population(
            task.x.shape[1], layers, settings, loss=loss, optimizer=gb.Adam(*task.settings), batch_size=task.batch,
            device=task.device,
        )  # fmt: skip
        net, step = self.population.network, self.population.trainer.training_step
        put(net, task.parameters)
        self.version = f"gpu_backprop {gb.__version__}, {operations_by(net.device)}"
        self.start = Snapshot(net.device, step.state().arrays)

    def reset(self) -> None:
        self.start.restore()

    def epoch(self, shuffle: bool) -> Any:
        return self._fit(1, shuffle)[-1]["loss"]

    def train(self) -> float:
        return float(self._fit(1, shuffle=True)[-1]["seconds"])

    def epochs(self, times: int) -> float:
        """In one fit, whose first epoch is not counted."""
        return sum(self._fit(1 + times, shuffle=True)["seconds"][-times:])

    def _fit(self, epochs: int, shuffle: bool) -> gb.History:
        self.population.fit(self.task.x, self.task.target, epochs, shuffle=shuffle, progress=False)
        return self.population.history

    def parameters(self) -> Parameters:
        net = self.population.network
        return [(net.device.to_host(layer.weight), net.device.to_host(layer.bias)) for layer in net.layers]


class SoloLoop(Stacked):
    """In each process a share of the members, one by one. The seconds are those of the process that takes the longest;
    to make a network and its trainer is not counted."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        shares = min(self.members, int(os.environ["OMP_NUM_THREADS"]))
        os.environ.update(dict.fromkeys(POOLS, "1"))
        context = multiprocessing.get_context("spawn")
        self.processes = [
            ProcessPoolExecutor(1, context, _begin, ([self.alone(m) for m in range(k, self.members, shares)],))
            for k in range(shares)
        ]

    def reset(self) -> None:
        """Nothing: each member begins with its first parameters whenever it is trained."""

    def epoch(self, shuffle: bool) -> Any:
        found = self._train(1, shuffle)
        return [found[m % len(found)][m // len(found)][1] for m in range(self.members)]

    def train(self) -> float:
        return self.epochs(0)

    def epochs(self, times: int) -> float:
        return max(sum(seconds for seconds, _ in share) for share in self._train(1 + times, shuffle=True))

    def _train(self, epochs: int, shuffle: bool) -> list[list[tuple[float, float]]]:
        begun = [process.submit(_train, epochs, shuffle) for process in self.processes]
        return [share.result() for share in begun]


_share: list[Task] = []
_one: Ours
"""What a process of SoloLoop trains, and what it trains them with."""


def _begin(share: list[Task]) -> None:
    global _one
    _share[:], _one = share, Ours(share[0])


def _train(epochs: int, shuffle: bool) -> list[tuple[float, float]]:
    """The seconds of the epochs after the first, and the last loss, of each member."""
    found = []
    for task in _share:
        _one.reset()
        put(_one.net, task.parameters)
        _one.trainer.optimizer.learning_rate = task.settings[0]
        history = _one.trainer.fit(task.x, task.target, epochs, shuffle=shuffle, progress=False)
        found.append((sum(history["seconds"][-epochs:][1:]), history[-1]["loss"]))
    return found
