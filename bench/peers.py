"""The same training by others, for bench/gpu_check.py: a process of its own for each, so that none disturbs another.

    python bench/peers.py NAME FOLDER

FOLDER holds task.npz: the data, the initial weights and the settings. Each library does as its own documentation
advises for speed; the data stay on the device, products are in full float32, and an epoch's rows are drawn there anew.
First comes a line of JSON that says how the first epoch went, in the order of the rows: its mean loss. Then, for each
line that comes in, a line with the seconds of an epoch. It needs NumPy and the library, and nothing of this project.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Parameters = list[tuple[Any, Any]]


class Missing(Exception):
    """The library, or its CUDA device, is not here."""


@dataclass(frozen=True)
class Task:
    """What is trained on: rectified units under softmax and cross entropy, by Adam.

    Attributes:
        x: float32 (rows, inputs); rows is a multiple of batch.
        labels: int64 (rows,).
        parameters: W (inputs, outputs) and b of each layer.
        adam: the learning rate, β₁, β₂ and ε.
        device: "cuda", or "cpu" to see that it runs.
    """

    x: Any
    labels: Any
    parameters: Parameters
    batch: int
    adam: tuple[float, float, float, float]
    device: str

    @property
    def rows(self) -> int:
        return len(self.x)

    def save(self, folder: Path) -> None:
        named = {f"{kind}{k}": a for k, pair in enumerate(self.parameters) for kind, a in zip("wb", pair, strict=True)}
        settings = {"batch": self.batch, "adam": self.adam, "device": self.device}
        np.savez(folder / "task.npz", x=self.x, labels=self.labels, **named, **settings)

    @classmethod
    def load(cls, folder: Path) -> Task:
        with np.load(folder / "task.npz", allow_pickle=False) as file:
            layers = sum(name.startswith("w") for name in file.files)
            parameters = [(file[f"w{k}"], file[f"b{k}"]) for k in range(layers)]
            rate, beta1, beta2, epsilon = file["adam"].tolist()
            settings = int(file["batch"]), (rate, beta1, beta2, epsilon), str(file["device"])
            return cls(file["x"], file["labels"], parameters, *settings)


# PyTorch --------------------------------------------------------------------------------------------------------------


class TorchEager:
    """Operation by operation. Adam is the fused one, which the documentation names the fastest."""

    capturable = False

    def __init__(self, task: Task) -> None:
        import torch

        self.torch, self.task, device = torch, task, torch.device(task.device)
        self.version = f"PyTorch {torch.__version__}"
        if task.device == "cuda" and not torch.cuda.is_available():
            raise Missing(f"{self.version} finds no CUDA device")
        torch.set_float32_matmul_precision("highest")
        layers: list[Any] = []
        for w, b in task.parameters:
            layer = torch.nn.Linear(*w.shape, device=device)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(w.T.copy()))
                layer.bias.copy_(torch.from_numpy(b))
            layers += [layer, torch.nn.ReLU()]
        self.model = torch.nn.Sequential(*layers[:-1])
        self.x, self.labels = torch.from_numpy(task.x).to(device), torch.from_numpy(task.labels).to(device)
        rate, beta1, beta2, epsilon = task.adam
        self.adam = torch.optim.Adam(
            self.model.parameters(), rate, (beta1, beta2), epsilon, fused=True, capturable=self.capturable
        )
        self.total = torch.zeros((), device=device)
        self.prepare()

    def prepare(self) -> None:
        """What is done once."""

    def loss(self, x: Any, labels: Any) -> Any:
        return self.torch.nn.functional.cross_entropy(self.model(x), labels)

    def train(self, x: Any, labels: Any) -> None:
        self.adam.zero_grad(set_to_none=True)
        loss = self.loss(x, labels)
        loss.backward()
        self.adam.step()
        self.total += loss.detach()

    def step(self, rows: Any) -> None:
        self.train(self.x.index_select(0, rows), self.labels.index_select(0, rows))

    def epoch(self, shuffle: bool) -> float:
        """Trains one, and gives its mean loss."""
        torch, task = self.torch, self.task
        order = (torch.randperm if shuffle else torch.arange)(task.rows, device=self.x.device)
        self.total.zero_()
        for rows in order.split(task.batch):
            self.step(rows)
        return float(self.total) * task.batch / task.rows


class TorchCompiled(TorchEager):
    """Model and loss by torch.compile, in the mode for small batches, which replays CUDA graphs."""

    def prepare(self) -> None:
        torch, model = self.torch, self.model

        def loss(x: Any, labels: Any) -> Any:
            return torch.nn.functional.cross_entropy(model(x), labels)

        self.loss = torch.compile(loss, mode="reduce-overhead")  # type: ignore[method-assign]

    def step(self, rows: Any) -> None:
        self.torch.compiler.cudagraph_mark_step_begin()
        super().step(rows)


class TorchGraph(TorchEager):
    """The whole step as one CUDA graph, as in "Whole-network capture" of PyTorch's notes on CUDA semantics."""

    capturable = True

    def prepare(self) -> None:
        torch, batch = self.torch, self.task.batch
        if self.task.device != "cuda":
            raise Missing("CUDA graphs need a CUDA device")
        self.static_x, self.static_labels = self.x[:batch].clone(), self.labels[:batch].clone()
        start = [p.detach().clone() for p in self.model.parameters()]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self.train(self.static_x, self.static_labels)
        torch.cuda.current_stream().wait_stream(aside)
        self.adam.zero_grad(set_to_none=True)  # so that the captured backward makes gradients, and does not add to them
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            loss = self.loss(self.static_x, self.static_labels)
            loss.backward()
            self.adam.step()
            self.total += loss.detach()
        with torch.no_grad():  # back to the start, in the same memory
            for parameter, value in zip(self.model.parameters(), start, strict=True):
                parameter.copy_(value)
                for kept in self.adam.state[parameter].values():
                    kept.zero_()

    def step(self, rows: Any) -> None:
        self.torch.index_select(self.x, 0, rows, out=self.static_x)
        self.torch.index_select(self.labels, 0, rows, out=self.static_labels)
        self.graph.replay()


# JAX ------------------------------------------------------------------------------------------------------------------


class JaxStep:
    """A jitted step that takes the memory of its state over. Adam is written out: JAX itself has none."""

    def __init__(self, task: Task) -> None:
        import jax

        self.jax, self.task, self.version = jax, task, f"JAX {jax.__version__}"
        try:
            device = jax.devices(task.device)[0]
        except RuntimeError as error:
            raise Missing(f"{self.version} finds no {task.device} device: {str(error).splitlines()[0]}") from None
        jax.config.update("jax_default_device", device)
        jax.config.update("jax_default_matmul_precision", "highest")  # else it takes TF32 where there is any
        place = jax.numpy.array
        self.x, self.labels = place(task.x), place(task.labels, "int32")
        parameters = [(place(w), place(b)) for w, b in task.parameters]
        zeros = jax.tree.map(jax.numpy.zeros_like, parameters)
        moments = (zeros, jax.tree.map(jax.numpy.copy, zeros))
        self.state = (parameters, moments, jax.numpy.zeros((), "int32"), jax.numpy.zeros(()))
        self.rows = jax.numpy.arange(task.rows, dtype="int32")
        self.key = jax.random.key(0)
        self.permutation = jax.jit(jax.random.permutation)
        self.train = jax.jit(self.from_cursor, donate_argnums=(0, 3))

    def loss(self, parameters: Parameters, x: Any, labels: Any) -> Any:
        jax = self.jax
        for w, b in parameters[:-1]:
            x = jax.nn.relu(x @ w + b)
        w, b = parameters[-1]
        log_softmax = jax.nn.log_softmax(x @ w + b)
        return -jax.numpy.take_along_axis(log_softmax, labels[:, None], axis=1).mean()

    def update(self, state: Any, rows: Any, x: Any, labels: Any) -> Any:
        """One step on these rows: Kingma and Ba 2015, algorithm 1."""
        parameters, (m, v), step, total = state
        rate, beta1, beta2, epsilon = self.task.adam
        tree, sqrt = self.jax.tree, self.jax.numpy.sqrt
        loss, gradients = self.jax.value_and_grad(self.loss)(parameters, x[rows], labels[rows])
        step = step + 1
        m = tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, m, gradients)
        v = tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, v, gradients)
        first, second = 1 - beta1**step, 1 - beta2**step
        parameters = tree.map(lambda p, m, v: p - rate * (m / first) / (sqrt(v / second) + epsilon), parameters, m, v)
        return parameters, (m, v), step, total + loss

    def from_cursor(self, state: Any, x: Any, labels: Any, cursor: Any, order: Any) -> Any:
        rows = self.jax.lax.dynamic_slice(order, (cursor,), (self.task.batch,))
        return self.update(state, rows, x, labels), cursor + self.task.batch

    def run(self, order: Any) -> None:
        cursor = self.jax.numpy.zeros((), "int32")
        for _ in range(self.task.rows // self.task.batch):
            self.state, cursor = self.train(self.state, self.x, self.labels, cursor, order)

    def epoch(self, shuffle: bool) -> float:
        """Trains one, and gives its mean loss."""
        order = self.rows
        if shuffle:
            self.key, key = self.jax.random.split(self.key)
            order = self.permutation(key, self.rows)
        self.state = (*self.state[:3], self.jax.numpy.zeros(()))
        self.run(order)
        return float(self.state[3]) * self.task.batch / self.task.rows  # waits for the device


class JaxScan(JaxStep):
    """A whole epoch in one jitted call, its steps in lax.scan."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.train = self.jax.jit(self.through, donate_argnums=0)

    def through(self, state: Any, x: Any, labels: Any, order: Any) -> Any:
        def body(state: Any, rows: Any) -> tuple[Any, None]:
            return self.update(state, rows, x, labels), None

        return self.jax.lax.scan(body, state, order.reshape(-1, self.task.batch))[0]

    def run(self, order: Any) -> None:
        self.state = self.train(self.state, self.x, self.labels, order)


PEERS = {
    "PyTorch, eager": TorchEager,
    "PyTorch, torch.compile": TorchCompiled,
    "PyTorch, CUDA graph": TorchGraph,
    "JAX, jitted step": JaxStep,
    "JAX, epoch in lax.scan": JaxScan,
}


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def main(name: str, folder: str) -> int:
    try:
        peer = PEERS[name](Task.load(Path(folder)))
        say(loss=peer.epoch(shuffle=False), version=peer.version)
        for _ in sys.stdin:
            started = time.perf_counter()
            peer.epoch(shuffle=True)
            say(seconds=time.perf_counter() - started)
    except Missing as missing:
        say(missing=str(missing))
    except ModuleNotFoundError as error:
        say(missing=f"{error.name} is not installed")
    except Exception as error:  # whatever a library raises: it is told, and the rest goes on
        say(failed=f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
