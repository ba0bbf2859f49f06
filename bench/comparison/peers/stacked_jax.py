"""JAX: jax.vmap over the members of an epoch whose steps are in lax.scan, in one jitted call."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from comparison.peers.in_jax import JaxScan
from comparison.peers.task import Stacked, Task


class JaxVmap(Stacked, JaxScan):
    """JaxScan of every member; the orders are drawn by NumPy, as there on a CPU."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.own_rates = jax.numpy.array(self.rates, "float32")
        self.gathering = jax.jit(jax.vmap(self.of_member, in_axes=(0, None, 1, 0)), donate_argnums=0)

    def reset(self) -> None:
        super().reset()
        parameters, moments, _, total = self.state
        steps = jax.numpy.zeros(self.members, "int32")
        self.state = (parameters, moments, steps, jax.numpy.zeros(self.members, total.dtype))

    def of_member(self, state: Any, data: Any, order: Any, rate: Any) -> Any:
        self.rate = rate  # of the member that is traced
        return self.through(state, data, order)

    def epoch(self, shuffle: bool) -> Any:
        self.state = (*self.state[:3], jax.numpy.zeros(self.members))
        order = self.order(shuffle).astype(np.int32)
        self.state = self.gathering(self.state, self.data, order, self.own_rates)
        return (np.asarray(self.state[3]) / self.task.steps).tolist()  # waits for the device
