"""JAX: a jitted step, and a whole epoch in one jitted call. Optimizer and dropout are written out: JAX itself has none.

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
        jax.config.update("jax_enable_x64", task.precision == "float64")
        try:
            device = jax.devices(task.device)[0]
        except RuntimeError as error:
            raise Missing(f"{self.version} finds no {task.device} device: {str(error).splitlines()[0]}") from None
        jax.config.update("jax_default_device", device)
        precision = "tensorfloat32" if task.precision == "tf32" else "highest"  # by default it takes TF32 too
        jax.config.update("jax_default_matmul_precision", precision)
        self.data = self.place(task.data)
        self.minibatch = jax.tree.map(lambda a: a[: task.batch], self.data)
        self.validation = self.place(task.validation or ())
        self.rate = task.settings[0]
        self.key, self.rng = jax.random.key(task.seed), np.random.default_rng(task.seed)
        self.permutation = jax.jit(jax.random.permutation)
        self.gathering = jax.jit(self.on_rows, donate_argnums=0)
        self.placed = jax.jit(self.update, donate_argnums=0)
        self.measuring = jax.jit(self.measure)
        self.softmax = jax.jit(lambda parameters, x: jax.nn.softmax(self.outputs(parameters, x)))
        self.reset()

    def place(self, arrays: Any) -> Any:
        return jax.tree.map(lambda a: jax.numpy.array(a, "int32" if a.dtype == np.int64 else None), arrays)

    def reset(self) -> None:
        parameters = jax.tree.map(jax.numpy.array, self.task.parameters)
        moments = [jax.tree.map(jax.numpy.zeros_like, parameters) for _ in range(2 if self.task.adam else 0)]
        self.state = (parameters, moments, jax.numpy.zeros((), "int32"), jax.numpy.zeros(()))

    def outputs(self, parameters: Parameters, x: Any, key: Any = None) -> Any:
        """z of the last layer; with a key there is dropout."""
        f = jax.numpy.tanh if self.task.activation == "tanh" else jax.nn.relu
        if self.task.precision == "bfloat16":
            parameters, x = jax.tree.map(lambda a: a.astype("bfloat16"), (parameters, x))
        for layer, (w, b) in enumerate(parameters[:-1]):
            x = f(x @ w + b)
            if key is not None:
                kept = 1 - self.task.dropout
                mask = jax.random.bernoulli(jax.random.fold_in(key, layer), kept, x.shape)
                x = jax.numpy.where(mask, x / kept, 0)
        w, b = parameters[-1]
        return (x @ w + b).astype("float64" if self.task.precision == "float64" else "float32")

    def loss(self, parameters: Parameters, key: Any, x: Any, target: Any, weights: Any = None) -> Any:
        z = self.outputs(parameters, x, key)
        if self.task.labelled:
            loss = -jax.numpy.take_along_axis(jax.nn.log_softmax(z), target[:, None], axis=1)[:, 0]
        else:
            loss = 0.5 * ((z - target) ** 2).sum(axis=1)
        return loss.mean() if weights is None else (weights * loss).sum() / weights.sum()

    def update(self, state: Any, *minibatch: Any) -> Any:
        """One step on these rows: plain SGD, or Kingma and Ba 2015, algorithm 1."""
        parameters, moments, step, total = state
        key = jax.random.fold_in(self.key, step) if self.task.dropout else None
        loss, gradients = jax.value_and_grad(self.loss)(parameters, key, *minibatch)
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

    def on_rows(self, state: Any, data: Any, rows: Any) -> Any:
        return self.update(state, *(a.at[rows].get(mode="promise_in_bounds") for a in data))

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
            self.state = self.gathering(self.state, self.data, rows)

    def steps(self, times: int) -> int:
        for _ in range(times):
            self.state = self.placed(self.state, *self.minibatch)
        jax.block_until_ready(self.state)
        return times

    def steps_by_hand(self, times: int) -> int:
        x, *targets = self.task.minibatch
        minibatch = x, *(a.astype(np.int32) if a.dtype == np.int64 else a for a in targets)
        for _ in range(times):
            self.state = self.placed(self.state, *minibatch)
        jax.block_until_ready(self.state)
        return times

    def measure(self, parameters: Parameters, x: Any, target: Any) -> Any:
        right = self.outputs(parameters, x).argmax(axis=1) == target
        return self.loss(parameters, None, x, target), right.mean()

    def evaluate(self) -> tuple[float, float]:
        loss, accuracy = self.measuring(self.state[0], *self.validation)
        return float(loss), float(accuracy)

    def infer(self, x: Any) -> Any:
        return np.asarray(self.softmax(self.state[0], x))

    def parameters(self) -> Parameters:
        return [(np.asarray(w), np.asarray(b)) for w, b in self.state[0]]


class JaxScan(JaxStep):
    """A whole epoch in one jitted call, its steps in lax.scan."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.gathering = jax.jit(self.through, donate_argnums=0)
        self.placed = jax.jit(self.through_one, donate_argnums=0)

    def through(self, state: Any, data: Any, order: Any) -> Any:
        def body(state: Any, rows: Any) -> tuple[Any, None]:
            return self.on_rows(state, data, rows), None

        return jax.lax.scan(body, state, order)[0]

    def through_one(self, state: Any, *minibatch: Any) -> Any:
        """As many steps as an epoch has, all on one minibatch."""

        def body(state: Any, _: None) -> tuple[Any, None]:
            return self.update(state, *minibatch), None

        return jax.lax.scan(body, state, None, length=self.task.steps)[0]

    def run(self, order: Any) -> None:
        self.state = self.gathering(self.state, self.data, order)

    def steps(self, times: int) -> int:
        calls = -(-times // self.task.steps)
        super().steps(calls)
        return calls * self.task.steps
