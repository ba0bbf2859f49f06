"""The tasks of bench/compare.py: networks, data, and the loss and parameters that one epoch has to give."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from comparison.peers.task import CHECKED_EPOCHS, Parameters, Task, load_parameters, of_way
from gpu_backprop.backend.formula import Array
from gpu_backprop.data.digits import load_digits

ADAM = (0.0001, 0.9, 0.999, 1e-10)
"""Rate, β₁, β₂ and ε. ε is so small because scikit-learn adds it to √v and not to √v̂, as the paper has it: so it
matters nowhere. The rate is small because Adam magnifies rounding: a unit that turns on or off for a single row by a
rounding error moves all its weights by a whole step."""

SGD = (0.05,)
SLOW_SGD = (0.01,)
"""Where a step has few rows: with more, 784-100-10 on one row a step leaves every other course within an epoch."""

LOSS_TOLERANCE = 1e-4
"""How far the mean loss of the first epoch may be from the reference, relative to it. Rounding gave up to 3e-5."""

PARAMETER_TOLERANCES = {"tanh, SGD": 0.001, "tanh, Adam": 0.03, "relu, SGD": 0.03, "relu, Adam": 0.03}
"""How far the parameters after it may be from the reference's, relative to how far these have moved, as norms over all
of them. Rounding gave up to 1e-5 with tanh and SGD. Where a rectified unit, or Adam, makes a step of a rounding error,
it gave up to 2e-2, on the deepest network and in several libraries alike."""


SHUFFLED = 0.75, 1.75
"""Between which shares of the reference's loss that of an epoch in a new order may lie. Two dozen orders of ours gave
0.87 to 1.39 with tanh and SGD on the deepest network, and 0.92 to 1.08 everywhere else."""

DROPPED = 0.012
"""How far the mean loss of the first epoch with dropout may be from the reference's, relative to it, whose masks are
others. A dozen seeds of masks gave up to 0.008. Without dropout the loss is 0.014 to 0.18 lower, and those of the rates
0.2 and 0.5 are 0.05 to 0.15 apart."""

VALIDATION = 0.01
"""How far loss and accuracy of the validation data after the first epoch may be from the reference's: the parameters
are within PARAMETER_TOLERANCES alike."""

FITTED = 0.02
"""How far they may be after CHECKED_EPOCHS of a fit, in other orders than the reference's. Orders gave up to 0.002; an
epoch more or less gives 0.13 and more."""

OUTPUTS = 1e-5
"""How far a probability may be from the reference's."""

TOLERANCES = {
    "loss": LOSS_TOLERANCE, "distance": PARAMETER_TOLERANCES, "shuffled": SHUFFLED, "dropped": DROPPED,
    "validation": VALIDATION, "fit": FITTED, "outputs": OUTPUTS,
}  # fmt: skip
"""All of them, for the record."""

MEASURED = {
    "end to end": "epochs", "step only": "steps", "by hand": "steps_by_hand", "predict": "predictions", "fit": "fit",
}  # fmt: skip
"""The ways in which something is timed, and the name of each in a worker's turn."""

SIZES = {"small": 1e7, "medium": 1e9, "large": math.inf}
"""How many operations the products of a step have, at most."""

MASKS = 8
"""How many epochs with dropout the reference trains."""

OTHER = "it does other work"

ONLINE = 8
"""Rows of a minibatch, at most, where rows come as a stream."""


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

    @property
    def flops(self) -> int:
        """Of the products of a step; ∂E/∂x of the first layer is none of them."""
        weights = [inputs * units for inputs, units in itertools.pairwise(self.widths)]
        return 2 * self.batch * (3 * sum(weights) - weights[0])

    @property
    def size(self) -> str:
        return next(name for name, most in SIZES.items() if self.flops < most)


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
SMALLEST, _, NUMBERS, IMAGES, WIDER_IMAGES, *_ = CONFIGURATIONS
TABLE = 30, 128, 64, 5
QUICK = (Configuration((64, 16, 10), 32, 128), Configuration((8, 8, 1), 16, 64))


@dataclass(frozen=True)
class TaskSpec:
    """A configuration with an activation and an optimizer, and what is not as usual.

    Attributes:
        dropout: the rate, after each hidden layer.
        weighted: whether the rows have weights.
        way: the first of the ways in which it is timed.
        epochs: of a fit.
    """

    configuration: Configuration
    activation: str
    optimizer: str
    dropout: float = 0.0
    dtype: str = "float32"
    weighted: bool = False
    way: str = "end to end"
    epochs: int = 20

    def __str__(self) -> str:
        """Its name: what is as usual is not said."""
        words = [str(self.configuration), self.activation, *([] if self.way == "predict" else [self.optimizer])]
        words += [f"dropout {self.dropout}"] * (self.dropout > 0) + [self.dtype] * (self.dtype != "float32")
        words += ["weights"] * self.weighted + [self.way] * (self.way != "end to end")
        return ", ".join(words)

    @property
    def kind(self) -> str:
        """Which rows it is summed up with."""
        usual = "online" if self.configuration.batch <= ONLINE else self.configuration.size
        kinds = {self.way: self.way != "end to end", "dropout": self.dropout, self.dtype: self.dtype != "float32",
                 "weights": self.weighted}  # fmt: skip
        return next((kind for kind, it_is in kinds.items() if it_is), usual)

    @property
    def ways(self) -> tuple[str, ...]:
        """Those in which it is timed. A step by hand stands beside the plan alone."""
        return (self.way, "step only") if self.way in ("end to end", "by hand") else (self.way,)

    @property
    def rounds(self) -> int:
        return 7 if self.kind in ("small", "medium") else 5

    def check(self, task: Task) -> Check | Predicted:
        return (Predicted if self.way == "predict" else Check).of(task)

    def takes_part(self, name: str) -> bool:
        return name not in ONLY or ONLY[name](self)

    def task(self, seed: int = 0) -> Task:
        c, held_out = self.configuration, self.configuration.rows // 10 if self.way == "fit" else 0
        x, target = _data(replace(c, rows=c.rows + held_out))
        dtype, parameters = np.dtype(self.dtype), first_parameters(c.widths, seed)
        sgd = SLOW_SGD if self.kind == "online" else SGD
        x, target = (np.ascontiguousarray(a, a.dtype if a.dtype == np.int64 else dtype) for a in (x, target))
        return Task(
            x[: c.rows], target[: c.rows], [(w.astype(dtype), b.astype(dtype)) for w, b in parameters],
            1 if self.way == "predict" else c.batch, ADAM if self.optimizer == "Adam" else sgd, self.activation,
            precision=self.dtype, dropout=self.dropout, weights=_weights(c).astype(dtype) if self.weighted else None,
            validation=(x[c.rows :], target[c.rows :]) if held_out else None, epochs=self.epochs, seed=seed,
        )  # fmt: skip


ONLY: Mapping[str, Callable[[TaskSpec], bool]] = {
    # nowhere the fastest, and it compiles for a long time: only among the first tasks, and where it can fuse masks
    "PyTorch, torch.compile": lambda spec: spec.kind in (*SIZES, "dropout"),
    "JAX, jitted step": lambda spec: spec.way != "fit",  # the scan is faster
    "JAX, epoch in lax.scan": lambda spec: spec.way in ("end to end", "fit"),
    "scikit-learn, partial_fit": lambda spec: not spec.dropout,  # it has none
    "Keras, model.fit": lambda spec: spec.configuration.size != "large" and spec.way != "by hand",
    # its products on a CPU take a hundred times as long as anybody's
    "MLX, compiled step": lambda spec: spec.configuration.size == "small" and spec.way != "fit",
    "onnxruntime": lambda spec: spec.way == "predict",  # nothing else
}
"""In which tasks who does not take part in all of them does."""


def task_specs(configurations: tuple[Configuration, ...] = CONFIGURATIONS) -> Iterator[TaskSpec]:
    """Gives the first tasks: tanh and relu, SGD and Adam; a regression with Adam only."""
    for configuration, activation, optimizer in itertools.product(configurations, ("tanh", "relu"), ("SGD", "Adam")):
        if optimizer == "Adam" or not configuration.regression:
            yield TaskSpec(configuration, activation, optimizer)


def further_specs() -> Iterator[TaskSpec]:
    """Gives the others: what many train and the first ones leave out."""
    for configuration, rate in itertools.product((SMALLEST, IMAGES, WIDER_IMAGES), (0.2, 0.5)):
        yield TaskSpec(configuration, "relu", "Adam", dropout=rate)
    for configuration in CONFIGURATIONS[:6]:
        yield TaskSpec(configuration, "relu", "Adam", dtype="float64")
    for configuration in CONFIGURATIONS[:2]:
        yield TaskSpec(configuration, "tanh", "Adam", dtype="float64")
    for configuration, batch in itertools.product((SMALLEST, NUMBERS, IMAGES), (1, ONLINE)):
        online = replace(configuration, batch=batch, rows=512)
        yield TaskSpec(online, "tanh", "Adam" if configuration.regression else "SGD")
    for configuration in (SMALLEST, NUMBERS, IMAGES):
        yield TaskSpec(configuration, "relu", "Adam", weighted=True)
    for configuration in (SMALLEST, IMAGES):
        yield TaskSpec(configuration, "relu", "Adam", way="by hand")
    for rows in (1, 64, 2_000, 1_000_000):
        yield TaskSpec(Configuration(TABLE, rows, rows), "relu", "Adam", way="predict")
    yield TaskSpec(Configuration(TABLE, 1_000, 200_000), "relu", "Adam", way="fit")


def quick_specs() -> Iterator[TaskSpec]:
    """Gives some of each kind, of which none takes long."""
    yield from task_specs(QUICK)
    digits, table = QUICK[0], Configuration(TABLE, 100, 200)
    yield TaskSpec(SMALLEST, "relu", "Adam", dropout=0.5)  # of fewer steps a loss with dropout would tell too little
    yield TaskSpec(digits, "tanh", "SGD", dtype="float64")
    yield TaskSpec(replace(digits, batch=1, rows=32), "tanh", "SGD")
    yield TaskSpec(digits, "relu", "Adam", weighted=True)
    yield from (TaskSpec(table, "relu", "Adam", way=way, epochs=2) for way in ("by hand", "predict", "fit"))


def first_parameters(widths: tuple[int, ...], seed: int) -> Parameters:
    """Uniform within ±√(6/(inputs + outputs)) (Glorot and Bengio 2010); b = 0."""
    rng, parameters = np.random.default_rng(seed), []
    for inputs, units in itertools.pairwise(widths):
        bound = np.sqrt(6 / (inputs + units))
        parameters.append((rng.uniform(-bound, bound, (inputs, units)).astype(np.float32), np.zeros(units, np.float32)))
    return parameters


def _data(configuration: Configuration) -> tuple[Array, Array]:
    """x and target, float64 but for labels."""
    if configuration.widths[0] in DIGITS:
        return _digits(configuration)
    return _numbers(configuration)


DIGITS = 64, 784, 1024
"""How many inputs those have that are shown digits."""


def _digits(configuration: Configuration) -> tuple[Array, Array]:
    """The bundled 8×8 digits, again and again; for wider inputs each pixel is 4×4, and 28×28 are cut out for 784."""
    x, labels = load_digits()
    x, inputs = x / 16, configuration.widths[0]
    if inputs > x.shape[1]:
        side = round(inputs**0.5)
        margin = (32 - side) // 2
        images = np.kron(x.reshape(-1, 8, 8), np.ones((4, 4)))
        x = images[:, margin : margin + side, margin : margin + side].reshape(len(x), inputs)
    rows = np.arange(configuration.rows) % len(x)
    return x[rows], labels[rows].astype(np.int64)


def _numbers(configuration: Configuration) -> tuple[Array, Array]:
    """A smooth function of normal numbers, with some noise; of several outputs, which is the largest."""
    rng, (inputs, *_, outputs) = np.random.default_rng(0), configuration.widths
    x = rng.standard_normal((configuration.rows, inputs))
    y = np.tanh(x @ rng.standard_normal((inputs, 3 * outputs))).reshape(-1, 3, outputs).sum(axis=1)
    y += 0.1 * rng.standard_normal(y.shape)
    return x, y if configuration.regression else y.argmax(axis=1)


def _weights(configuration: Configuration) -> Array:
    """From ¼ to 1¼, and of the same sum in each minibatch in the order of the rows: a mean over minibatches is then one
    over rows too. The sum is not the number of rows, by which nobody is to divide."""
    rng, shape = np.random.default_rng(0), (configuration.rows // configuration.batch, configuration.batch)
    return rng.permuted(np.broadcast_to(np.linspace(0.25, 1.25, configuration.batch), shape), axis=1).ravel()


# What has to come out -------------------------------------------------------------------------------------------------


def reference(
    task: Task, masks: np.random.Generator | None = None, minibatches: Sequence[int] | None = None
) -> tuple[float, Parameters]:
    """The mean loss of some steps and the parameters after them: N2 written out, in float64.

    Args:
        masks: what the masks of dropout are drawn by; None: there is no dropout.
        minibatches: which one each step takes; None: those of an epoch in the order of the rows.
    """
    parameters = [[p.astype(np.float64) for p in pair] for pair in task.parameters]
    m, v = ([[np.zeros_like(p) for p in pair] for pair in parameters] for _ in range(2))
    total, minibatches = 0.0, range(task.steps) if minibatches is None else minibatches
    for step, k in enumerate(minibatches, 1):
        rows = slice(k * task.batch, (k + 1) * task.batch)
        x, *targets = (a[rows] for a in task.data)
        loss, gradients = loss_and_gradients(task, parameters, x.astype(np.float64), *targets, masks=masks)
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
    return total / len(minibatches), [(w, b) for w, b in parameters]


def loss_and_gradients(
    task: Task, parameters: list[list[Array]], x: Array, target: Array, weights: Array | None = None,
    masks: np.random.Generator | None = None,
) -> tuple[float, list[list[Array]]]:  # fmt: skip
    """E and its ∇W and ∇b, layer by layer."""
    share = np.full(len(x), 1 / len(x)) if weights is None else weights / weights.sum(dtype=np.float64)
    ys, slopes = [x], [np.ones_like(x)]  # the one below the first layer is not used
    for w, b in parameters[:-1]:
        z = ys[-1] @ w + b
        y = np.tanh(z) if task.activation == "tanh" else np.maximum(z, 0)
        kept = np.ones_like(y) if masks is None else (masks.random(y.shape) >= task.dropout) / (1 - task.dropout)
        ys.append(kept * y)
        slopes.append(kept * (1 - y**2 if task.activation == "tanh" else y > 0))
    z = ys[-1] @ parameters[-1][0] + parameters[-1][1]
    if task.labelled:
        z -= z.max(axis=1, keepdims=True)
        log_softmax = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        right = target[:, None] == np.arange(z.shape[1])
        loss, grad_z = share @ -log_softmax[right], np.exp(log_softmax) - right
    else:
        grad_z = z - target
        loss = share @ (0.5 * (grad_z**2).sum(axis=1))
    grad_z *= share[:, None]
    gradients: list[list[Array]] = []
    for (w, _), y, slope in zip(reversed(parameters), reversed(ys), reversed(slopes), strict=True):
        gradients.insert(0, [y.T @ grad_z, grad_z.sum(axis=0)])
        grad_z = (grad_z @ w.T) * slope
    return float(loss), gradients


def outputs(task: Task, parameters: Parameters, x: Array) -> Array:
    """The probabilities of the classes, in float64."""
    y = x.astype(np.float64)
    for w, b in parameters[:-1]:
        y = np.tanh(y @ w + b) if task.activation == "tanh" else np.maximum(y @ w + b, 0)
    z = y @ parameters[-1][0] + parameters[-1][1]
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


def measured(task: Task, parameters: Parameters) -> tuple[float, float]:
    """The mean loss of the validation data, and the share of right answers."""
    x, target = task.validation or ()
    y = outputs(task, parameters, x)
    return float(-np.log(y[np.arange(len(y)), target]).mean()), float((y.argmax(axis=1) == target).mean())


@dataclass(frozen=True)
class Check:
    """A library that comes to the same loss and parameters as the reference has trained the same.

    Attributes:
        loss: of the epoch, without dropout.
        first, after: the parameters before and after it.
        repeated: the parameters after as many steps on the first minibatch.
        tolerance: how far others may be from where these have moved.
        dropped: the loss of the epoch with dropout, as the mean over some masks; without dropout, loss.
        validation, fitted: loss and accuracy of the validation data after the epoch, and after CHECKED_EPOCHS.
    """

    loss: float
    first: Parameters
    after: Parameters
    repeated: Parameters
    tolerance: float
    dropped: float
    validation: tuple[float, float] | None
    fitted: tuple[float, float] | None

    command = "load"

    @classmethod
    def of(cls, task: Task) -> Check:
        loss, after = reference(task)
        dropped = [reference(task, np.random.default_rng(seed))[0] for seed in range(MASKS if task.dropout else 0)]
        _, repeated = reference(task, minibatches=[0] * task.steps)
        validation = fitted = None
        if task.validation:
            validation = measured(task, after)
            fitted = measured(task, reference(task, minibatches=[*range(task.steps)] * CHECKED_EPOCHS)[1])
        return cls(
            loss, task.parameters, after, repeated,
            PARAMETER_TOLERANCES[f"{task.activation}, {'Adam' if task.adam else 'SGD'}"],
            sum(dropped) / MASKS if dropped else loss, validation, fitted,
        )  # fmt: skip

    def described(self) -> dict[str, Any]:
        """What the reference came to, for the record."""
        dropped = {"dropped": self.dropped} if self.dropped != self.loss else {}
        fit = {"validation": self.validation, "fit": self.fitted} if self.validation else {}
        return {"loss": self.loss, **dropped, **fit}

    def distance(self, after: Parameters, right: Parameters | None = None) -> float:
        """‖θ − θ*‖ / ‖θ* − θ₀‖, over all parameters; θ* is what they should be, after the epoch unless told otherwise.
        NaN where they have other shapes."""
        right = self.after if right is None else right
        if [[p.shape for p in pair] for pair in after] != [[p.shape for p in pair] for pair in right]:
            return math.nan

        def norm(one: Parameters, other: Parameters) -> float:
            pairs = zip(itertools.chain(*one), itertools.chain(*other), strict=True)
            return float(np.sqrt(sum(np.square(p - q, dtype=np.float64).sum() for p, q in pairs)))

        return norm(after, right) / norm(right, self.first)

    def fault_dtype(self, after: Parameters) -> str:
        """Says what is wrong with the dtypes of parameters: rounding is too little to be told by `fault`, since not all
        libraries add Adam's ε at the same place."""
        wrong = {(p.dtype, q.dtype) for p, q in zip(itertools.chain(*after), itertools.chain(*self.first), strict=True)}
        return next((f"{OTHER}: its parameters are {p}, they should be {q}" for p, q in wrong if p != q), "")

    def fault(self, loss: float, distance: float) -> str:
        """Says what is wrong with an epoch that ended so; "" if nothing is."""
        if not abs(loss - self.loss) <= LOSS_TOLERANCE * abs(self.loss):  # not true of NaN either
            return f"{OTHER}: its loss after an epoch is {loss:.6g}, it should be {self.loss:.6g}"
        if not distance <= self.tolerance:
            return (
                f"{OTHER}: its loss after an epoch is {loss:.6g}, as it should be, but its parameters are "
                f"{distance:.2%} of their way from where they should be"
            )
        return ""

    def fault_dropped(self, loss: float) -> str:
        """Says the same of an epoch with dropout in the order of the rows: each library draws its own masks."""
        if abs(loss / self.dropped - 1) <= DROPPED:
            return ""
        return f"{OTHER}: its loss after an epoch with dropout is {loss:.6g}, it should be about {self.dropped:.6g}"

    def fault_shuffled(self, loss: float, reordered: bool = True) -> str:
        """Says the same of an epoch in a new order: such epochs are timed, and each library draws its own orders.

        Args:
            reordered: whether the parameters after it differ from those after the one in the order of the rows.
        """
        if not reordered:
            return f"{OTHER}: its new order is that of the rows"
        if SHUFFLED[0] <= loss / self.dropped <= SHUFFLED[1]:  # not true of NaN
            return ""
        return f"{OTHER}: its loss after an epoch in a new order is {loss:.6g}, it should be about {self.dropped:.6g}"

    def fault_validation(self, found: Sequence[float]) -> str:
        """Says the same of loss and accuracy of the validation data."""
        if self.validation is None or np.allclose(found, self.validation, VALIDATION, VALIDATION):
            return ""
        return f"{OTHER}: loss and accuracy of the validation data are {found}, they should be {self.validation}"

    def fault_fit(self, found: Sequence[float]) -> str:
        """Says the same of what a fit measured last: each library draws its own orders."""
        if self.fitted is None or np.allclose(found, self.fitted, FITTED, FITTED):
            return ""
        return f"{OTHER}: its fit ends with loss and accuracy of {found}, they should be about {self.fitted}"

    def fault_repeated(self, distances: Mapping[str, float]) -> str:
        """Says the same of steps on the first minibatch, by the way in which they are done."""
        for way, distance in distances.items():
            if not distance <= self.tolerance:
                told = f"after {way.replace('_', ' ')} its parameters are {distance:.2%} of their way from"
                return f"{OTHER}: {told} where they should be"
        return ""

    def checked(self, answer: Mapping[str, Any], parameters: Path) -> tuple[dict[str, Any], str]:
        """Gives what a worker has told and the distances, for the record, and what is wrong with them."""
        after = load_parameters(parameters)
        distance = self.distance(after)
        told = {name: value for name, value in answer.items() if name not in ("version", "repeated")}
        repeated = {
            way: self.distance(load_parameters(of_way(parameters, way)), self.repeated)
            for way in answer.get("repeated", ())
        }
        return {"distance": distance, **repeated, **told}, (
            self.fault(answer["loss"], distance)
            or self.fault_dtype(after)
            or self.fault_dropped(answer.get("dropped", self.dropped))
            or self.fault_shuffled(answer["shuffled"], answer.get("reordered", True))
            or self.fault_validation(answer.get("validation", ()))
            or self.fault_fit(answer.get("fit", self.fitted))
            or self.fault_repeated(repeated)
        )


@dataclass(frozen=True)
class Predicted:
    """A library whose outputs are those of the reference predicts the same.

    Attributes:
        y: the probabilities.
        dtype: theirs, which is that of the rows.
    """

    y: Array
    dtype: Any

    command = "load_to_predict"

    @classmethod
    def of(cls, task: Task) -> Predicted:
        return cls(outputs(task, task.parameters, task.x), task.x.dtype)

    def described(self) -> dict[str, Any]:
        return {}

    def checked(self, answer: Mapping[str, Any], file: Path) -> tuple[dict[str, Any], str]:
        with np.load(file, allow_pickle=False) as arrays:
            y = arrays["y"]
        farthest = float(abs(y - self.y).max()) if y.shape == self.y.shape else math.nan
        if not farthest <= OUTPUTS:
            return {"farthest": farthest}, f"{OTHER}: its outputs are up to {farthest:.2g} from where they should be"
        wrong = f"{OTHER}: its outputs are {y.dtype}, they should be {self.dtype}"
        return {"farthest": farthest}, "" if y.dtype == self.dtype else wrong
