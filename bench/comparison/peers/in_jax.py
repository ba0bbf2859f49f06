"""JAX: a jitted step, and a whole epoch in one jitted call. The optimizer is written out: JAX itself has none.

The state's memory is taken over from step to step (donate_argnums). On a CPU the order of an epoch is drawn by NumPy,
as in JAX's own examples, which is faster there than jax.random.permutation.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from comparison.peers.task import Missing, Parameters, Peer, Task


class JaxStep(Peer):
    """A jitted step, rows gathered in it; losses are added up on the device."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.version = f"JAX {jax.__version__}"
        jax.clear_caches()  # of the task before
        try:
            device = jax.devices(task.device)[0]
        except RuntimeError as error:
            raise Missing(f"{self.version} finds no {task.device} device: {str(error).splitlines()[0]}") from None
        jax.config.update("jax_default_device", device)
        precision = "tensorfloat32" if task.precision == "tf32" else "highest"  # by default it takes TF32 too
        jax.config.update("jax_default_matmul_precision", precision)
        place = jax.numpy.array
        self.x, self.target = place(task.x), place(task.target, "int32" if task.labelled else None)
        self.minibatch = self.x[: task.batch], self.target[: task.batch]
        self.rate = task.settings[0]
        self.key, self.rng = jax.random.key(0), np.random.default_rng(0)
        self.permutation = jax.jit(jax.random.permutation)
        self.gathering = jax.jit(self.on_rows, donate_argnums=0)
        self.placed = jax.jit(self.update, donate_argnums=0)
        self.reset()

    def reset(self) -> None:
        parameters = jax.tree.map(jax.numpy.array, self.task.parameters)
        moments = [jax.tree.map(jax.numpy.zeros_like, parameters) for _ in range(2 if self.task.adam else 0)]
        self.state = (parameters, moments, jax.numpy.zeros((), "int32"), jax.numpy.zeros(()))

    def loss(self, parameters: Parameters, x: Any, target: Any) -> Any:
        f = jax.numpy.tanh if self.task.activation == "tanh" else jax.nn.relu
        if self.task.precision == "bfloat16":
            parameters, x = jax.tree.map(lambda a: a.astype("bfloat16"), (parameters, x))
        for w, b in parameters[:-1]:
            x = f(x @ w + b)
        w, b = parameters[-1]
        z = (x @ w + b).astype("float32")
        if not self.task.labelled:
            return 0.5 * ((z - target) ** 2).sum(axis=1).mean()
        return -jax.numpy.take_along_axis(jax.nn.log_softmax(z), target[:, None], axis=1).mean()

    def update(self, state: Any, x: Any, target: Any) -> Any:
        """One step on these rows: plain SGD, or Kingma and Ba 2015, algorithm 1."""
        parameters, moments, step, total = state
        loss, gradients = jax.value_and_grad(self.loss)(parameters, x, target)
        step, tree = step + 1, jax.tree
        if self.task.adam:
            (m, v), (_, beta1, beta2, epsilon) = moments, self.task.settings
            m = tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, m, gradients)
            v = tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, v, gradients)
            first, second, sqrt = 1 - beta1**step, 1 - beta2**step, jax.numpy.sqrt
            moments = [m, v]
            parameters = tree.map(
                lambda p, m, v: p - self.rate * (m / first) / (sqrt(v / second) + epsilon), parameters, m, v
            )
        else:
            parameters = tree.map(lambda p, g: p - self.rate * g, parameters, gradients)
        return parameters, moments, step, total + loss

    def on_rows(self, state: Any, x: Any, target: Any, rows: Any) -> Any:
        def take(a: Any) -> Any:
            return a.at[rows].get(mode="promise_in_bounds")

        return self.update(state, take(x), take(target))

    def order(self, shuffle: bool) -> Any:
        """The rows of each minibatch, int32 (steps, batch)."""
        if not shuffle:
            order = np.arange(self.task.rows, dtype=np.int32)
        elif self.task.device == "cpu":
            order = self.rng.permutation(self.task.rows).astype(np.int32)
        else:
            self.key, key = jax.random.split(self.key)
            order = self.permutation(key, jax.numpy.arange(self.task.rows, dtype="int32"))
        return order.reshape(-1, self.task.batch)

    def epoch(self, shuffle: bool) -> float:
        self.state = (*self.state[:3], jax.numpy.zeros(()))
        self.run(self.order(shuffle))
        return float(self.state[3]) / self.task.steps  # waits for the device

    def run(self, order: Any) -> None:
        for rows in order:
            self.state = self.gathering(self.state, self.x, self.target, rows)

    def steps(self, times: int) -> int:
        for _ in range(times):
            self.state = self.placed(self.state, *self.minibatch)
        jax.block_until_ready(self.state)
        return times

    def parameters(self) -> Parameters:
        return [(np.asarray(w), np.asarray(b)) for w, b in self.state[0]]


class JaxScan(JaxStep):
    """A whole epoch in one jitted call, its steps in lax.scan."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.gathering = jax.jit(self.through, donate_argnums=0)
        self.placed = jax.jit(self.through_one, donate_argnums=0)

    def through(self, state: Any, x: Any, target: Any, order: Any) -> Any:
        def body(state: Any, rows: Any) -> tuple[Any, None]:
            return self.on_rows(state, x, target, rows), None

        return jax.lax.scan(body, state, order)[0]

    def through_one(self, state: Any, x: Any, target: Any) -> Any:
        """As many steps as an epoch has, all on one minibatch."""

        def body(state: Any, _: None) -> tuple[Any, None]:
            return self.update(state, x, target), None

        return jax.lax.scan(body, state, None, length=self.task.steps)[0]

    def run(self, order: Any) -> None:
        self.state = self.gathering(self.state, self.x, self.target, order)

    def steps(self, times: int) -> int:
        calls = -(-times // self.task.steps)
        super().steps(calls)
        return calls * self.task.steps
