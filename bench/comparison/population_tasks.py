"""What bench/population.py trains: three networks, of each as many members as are asked for, with Adam."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from comparison.peers.task import Stacked, Task
from comparison.tasks import Configuration, TaskSpec, reference

MEMBERS = 1, 4, 16, 64, 256, 1024, 4096
NETWORKS = (
    Configuration((8, 32, 32, 2), 64, 2_048),
    Configuration((64, 64, 64, 10), 32, 1_792),
    Configuration((30, 256, 256, 1), 128, 4_096),
)
"""An epoch has 32 steps, or 56."""

QUICK_MEMBERS = 1, 4
QUICK = tuple(replace(network, rows=4 * network.batch) for network in NETWORKS)

LOSS_TOLERANCE = 1e-3
"""How far the mean loss of a member's first epoch may be from that of the reference in float64, relative to it."""


@dataclass(frozen=True)
class PopulationSpec:
    """A network, and how many of it are trained."""

    network: Configuration
    members: int

    def __str__(self) -> str:
        return f"{self.network}, M {self.members}"

    def task(self) -> Task:
        """The weights are uniform within ±√(6/(inputs + units)), b = 0; two classes are told apart by the sign of what
        a regression would have learned."""
        *widths, outputs = self.network.widths
        numbers = outputs <= 2
        one = replace(self.network, widths=(*widths, 1)) if numbers else self.network
        task, rng, parameters = TaskSpec(one, "relu", "Adam").task(), np.random.default_rng(0), []
        for inputs, units in zip(widths, (*widths[1:], outputs), strict=True):
            bound = np.float32(np.sqrt(6 / (inputs + units)))
            weight = rng.random((self.members, inputs, units), np.float32)
            parameters.append((bound * (2 * weight - 1), np.zeros((self.members, units), np.float32)))
        target = (task.target[:, 0] > 0).astype(np.int64) if outputs == 2 else task.target
        return replace(task, parameters=parameters, target=target)


def specs(quick: bool) -> Iterator[PopulationSpec]:
    networks, members = (QUICK, QUICK_MEMBERS) if quick else (NETWORKS, MEMBERS)
    yield from (PopulationSpec(network, m) for network in networks for m in members)


def expected(task: Task) -> dict[int, float]:
    """The loss of the first epoch in the order of the rows, in float64, of the first and the last member."""
    stacked = Stacked(task)
    return {m: reference(stacked.alone(m))[0] for m in sorted({0, stacked.members - 1})}


def fault(losses: Sequence[float], wanted: dict[int, float]) -> str:
    """Says what is wrong with a first epoch that ended with these losses of the members; "" if nothing is."""
    for m, loss in wanted.items():
        if not abs(losses[m] - loss) <= LOSS_TOLERANCE * abs(loss):  # not true of NaN either
            return f"it does other work: the loss of member {m} is {losses[m]:.6g}, it should be {loss:.6g}"
    return ""
