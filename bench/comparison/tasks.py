"""The tasks of bench/compare.py: networks, data, and the loss and parameters that one epoch has to give."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from comparison.peers.task import Parameters, Task, load_parameters
from gpu_backprop.backend.formula import Array
from gpu_backprop.data.digits import load_digits

ADAM = (0.0001, 0.9, 0.999, 1e-10)
"""Rate, β₁, β₂ and ε. ε is so small because scikit-learn adds it to √v and not to √v̂, as the paper has it: so it
matters nowhere. The rate is small because Adam magnifies rounding: a unit that turns on or off for a single row by a
rounding error moves all its weights by a whole step."""

SGD = (0.05,)

LOSS_TOLERANCE = 1e-4
"""How far the mean loss of the first epoch may be from the reference, relative to it. Rounding gave up to 3e-5."""

PARAMETER_TOLERANCES = {"tanh, SGD": 0.001, "tanh, Adam": 0.03, "relu, SGD": 0.03, "relu, Adam": 0.03}
"""How far the parameters after it may be from the reference's, relative to how far these have moved, as norms over all
of them. Rounding gave up to 1e-5 with tanh and SGD. Where a rectified unit, or Adam, makes a step of a rounding error,
it gave up to 2e-2, on the deepest network and in several libraries alike."""


SHUFFLED = 0.75, 1.75
"""Between which shares of the reference's loss that of an epoch in a new order may lie. Two dozen orders of ours gave
0.87 to 1.39 with tanh and SGD on the deepest network, and 0.92 to 1.08 everywhere else."""


@dataclass(frozen=True)
class Configuration:
    """A network, its minibatches, and how many rows an epoch has.

    The rows are few, so that an epoch is short; they are a multiple of the batch, since some libraries need that.
    """

    widths: tuple[int, ...]
    batch: int
    rows: int
    name: str = ""

    def __str__(self) -> str:
        return f"{self.name or '-'.join(map(str, self.widths))}, B {self.batch}"

    @property
    def regression(self) -> bool:
        return self.widths[-1] == 1


CONFIGURATIONS = (
    Configuration((64, 64, 64, 10), 32, 1_792),
    Configuration((64, 128, 10), 256, 1_792),
    Configuration((8, 32, 32, 1), 64, 4_096),
    Configuration((784, 100, 10), 64, 8_192),
    Configuration((784, 512, 512, 10), 128, 4_096),
    Configuration((784, 512, 512, 10), 1024, 8_192),
    Configuration((1024, 1024, 1024, 1024, 10), 512, 4_096),
    Configuration((784, 2500, 2000, 1500, 1000, 500, 10), 256, 2_048),  # Cireşan et al. 2010
)
QUICK = (Configuration((64, 16, 10), 32, 128), Configuration((8, 8, 1), 16, 64))


@dataclass(frozen=True)
class TaskSpec:
    """A configuration with an activation and an optimizer."""

    configuration: Configuration
    activation: str
    optimizer: str

    def __str__(self) -> str:
        return f"{self.configuration}, {self.activation}, {self.optimizer}"

    def task(self, seed: int = 0) -> Task:
        c = self.configuration
        x, target = _numbers(c) if c.regression else _digits(c)
        return Task(
            x, target, first_parameters(c.widths, seed), c.batch, ADAM if self.optimizer == "Adam" else SGD,
            self.activation,
        )  # fmt: skip


def task_specs(configurations: tuple[Configuration, ...] = CONFIGURATIONS) -> Iterator[TaskSpec]:
    """Gives all tasks: tanh and relu, SGD and Adam; a regression with Adam only."""
    for configuration, activation, optimizer in itertools.product(configurations, ("tanh", "relu"), ("SGD", "Adam")):
        if optimizer == "Adam" or not configuration.regression:
            yield TaskSpec(configuration, activation, optimizer)


def first_parameters(widths: tuple[int, ...], seed: int) -> Parameters:
    """Uniform within ±√(6/(inputs + outputs)) (Glorot and Bengio 2010); b = 0."""
    rng, parameters = np.random.default_rng(seed), []
    for inputs, units in itertools.pairwise(widths):
        bound = np.sqrt(6 / (inputs + units))
        parameters.append((rng.uniform(-bound, bound, (inputs, units)).astype(np.float32), np.zeros(units, np.float32)))
    return parameters


def _digits(configuration: Configuration) -> tuple[Array, Array]:
    """The bundled 8×8 digits, again and again; for wider inputs each pixel is 4×4, and 28×28 are cut out for 784."""
    x, labels = load_digits()
    x, inputs = (x / 16).astype(np.float32), configuration.widths[0]
    if inputs > x.shape[1]:
        side = round(inputs**0.5)
        margin = (32 - side) // 2
        images = np.kron(x.reshape(-1, 8, 8), np.ones((4, 4), np.float32))
        x = images[:, margin : margin + side, margin : margin + side].reshape(len(x), inputs)
    rows = np.arange(configuration.rows) % len(x)
    return np.ascontiguousarray(x[rows]), labels[rows].astype(np.int64)


def _numbers(configuration: Configuration) -> tuple[Array, Array]:
    """A smooth function of normal numbers, with some noise."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((configuration.rows, configuration.widths[0]))
    y = np.tanh(x @ rng.standard_normal((configuration.widths[0], 3))).sum(axis=1, keepdims=True)
    return x.astype(np.float32), (y + 0.1 * rng.standard_normal(y.shape)).astype(np.float32)


# What has to come out -------------------------------------------------------------------------------------------------


def reference(task: Task) -> tuple[float, Parameters]:
    """The mean loss of an epoch in the order of the rows, and the parameters after it: N2 written out, in float64."""
    parameters = [[p.astype(np.float64) for p in pair] for pair in task.parameters]
    m, v = ([[np.zeros_like(p) for p in pair] for pair in parameters] for _ in range(2))
    total = 0.0
    for step in range(1, task.steps + 1):
        rows = slice((step - 1) * task.batch, step * task.batch)
        loss, gradients = loss_and_gradients(task, parameters, task.x[rows].astype(np.float64), task.target[rows])
        total += loss
        for k, j in itertools.product(range(len(parameters)), range(2)):
            g = gradients[k][j]
            if not task.adam:
                parameters[k][j] -= task.settings[0] * g
                continue
            rate, beta1, beta2, epsilon = task.settings
            m[k][j] += (1 - beta1) * (g - m[k][j])
            v[k][j] += (1 - beta2) * (g * g - v[k][j])
            root = np.sqrt(v[k][j] / (1 - beta2**step))
            parameters[k][j] -= rate * (m[k][j] / (1 - beta1**step)) / (root + epsilon)
    return total / task.steps, [(w, b) for w, b in parameters]


def loss_and_gradients(
    task: Task, parameters: list[list[Array]], x: Array, target: Array
) -> tuple[float, list[list[Array]]]:
    """E and its ∇W and ∇b, layer by layer."""
    ys = [x]
    for w, b in parameters[:-1]:
        z = ys[-1] @ w + b
        ys.append(np.tanh(z) if task.activation == "tanh" else np.maximum(z, 0))
    z = ys[-1] @ parameters[-1][0] + parameters[-1][1]
    if task.labelled:
        z -= z.max(axis=1, keepdims=True)
        log_softmax = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        right = target[:, None] == np.arange(z.shape[1])
        loss, grad_z = -log_softmax[right].mean(), (np.exp(log_softmax) - right) / len(x)
    else:
        grad_z = z - target
        loss, grad_z = 0.5 * (grad_z**2).sum(axis=1).mean(), grad_z / len(x)
    gradients: list[list[Array]] = []
    for (w, _), y in zip(reversed(parameters), reversed(ys), strict=True):
        gradients.insert(0, [y.T @ grad_z, grad_z.sum(axis=0)])
        grad_z = (grad_z @ w.T) * (1 - y**2 if task.activation == "tanh" else y > 0)  # unused below the first layer
    return float(loss), gradients


@dataclass(frozen=True)
class Check:
    """A library that comes to the same loss and parameters as the reference has trained the same.

    Attributes:
        loss: of the epoch.
        first, after: the parameters before and after it.
        tolerance: how far others may be from where these have moved.
    """

    loss: float
    first: Parameters
    after: Parameters
    tolerance: float

    @classmethod
    def of(cls, task: Task) -> Check:
        loss, after = reference(task)
        return cls(
            loss, task.parameters, after, PARAMETER_TOLERANCES[f"{task.activation}, {'Adam' if task.adam else 'SGD'}"]
        )

    def distance(self, after: Parameters) -> float:
        """‖θ − θ*‖ / ‖θ* − θ₀‖, over all parameters."""

        def norm(one: Parameters, other: Parameters) -> float:
            pairs = zip(itertools.chain(*one), itertools.chain(*other), strict=True)
            return float(np.sqrt(sum(np.square(p - q, dtype=np.float64).sum() for p, q in pairs)))

        return norm(after, self.after) / norm(self.after, self.first)

    def fault(self, loss: float, distance: float) -> str:
        """Says what is wrong with an epoch that ended so; "" if nothing is."""
        if not abs(loss - self.loss) <= LOSS_TOLERANCE * abs(self.loss):  # not true of NaN either
            return f"it does other work: its loss after an epoch is {loss:.6g}, it should be {self.loss:.6g}"
        if not distance <= self.tolerance:
            return (
                f"it does other work: its loss after an epoch is {loss:.6g}, as it should be, but its parameters are "
                f"{distance:.2%} of their way from where they should be"
            )
        return ""

    def fault_shuffled(self, loss: float) -> str:
        """Says the same of an epoch in a new order: such epochs are timed, and each library draws its own orders."""
        if SHUFFLED[0] <= loss / self.loss <= SHUFFLED[1]:  # not true of NaN
            return ""
        return (
            f"it does other work: its loss after an epoch in a new order is {loss:.6g}, it should be about "
            f"{self.loss:.6g}"
        )

    def checked(self, loss: float, shuffled: float, parameters: Path) -> tuple[dict[str, float], str]:
        """Gives the two losses and the distance, for the record, and what is wrong with them."""
        after = load_parameters(parameters)
        shapes = [[p.shape for p in pair] for pair in self.first]
        distance = self.distance(after) if [[p.shape for p in pair] for pair in after] == shapes else float("nan")
        found = {"loss": loss, "distance": distance, "shuffled": shuffled}
        return found, self.fault(loss, distance) or self.fault_shuffled(shuffled)
