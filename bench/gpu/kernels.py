"""How fast each kernel is beside a copy on the same device, for bench/gpu_check.py.

One instance of each kernel and dtype, and of `update` one a rule: of the operations of some plans that launch it, the
one that moves the most.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import gpu_backprop as gb
from gpu.peaks import cache_size
from gpu.timing import Extent, GraphClock, Reference, clocks_up
from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.backend.operation import Operation
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.backend.signatures import heads
from gpu_backprop.backend.update_rule import UpdateRule
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.evaluation import Evaluation
from gpu_backprop.training.minibatches import DataSet
from gpu_backprop.training.optimizers import RULES

DTYPES = "float32", "bfloat16", "float16", "float64"
COLUMNS, STEP_ROWS = 1024, 1024
"""Units of the layers; rows of the second size, which lies in the device's cache, as the buffers of a step may."""

TINY_COLUMNS, TINY_ROWS = 64, 16

CLASSES = 10
"""That there are labels of, and outputs of a network whose last layer and loss are one kernel."""


NUMBERS = 16
"""Inputs that are embedded, of those that a row has: as many as a table may have columns."""


class Shape(NamedTuple):
    """Rows and columns of the arrays; optimizers get as many parameters."""

    rows: int
    cols: int


Planned = tuple[Plan, DataSet | None]


def shapes(device: CudaDevice, extent: Extent) -> list[Shape]:
    """Arrays beyond the device's cache, so that its memory bounds; and those of a step."""
    if not extent.bytes:
        return [Shape(TINY_ROWS, TINY_COLUMNS)]
    size = min(max(extent.bytes, 4 * cache_size(device)), device.memory()[1] // 64)
    return [Shape(size // (4 * COLUMNS), COLUMNS), Shape(STEP_ROWS, COLUMNS)]


# Plans that launch every kernel ---------------------------------------------------------------------------------------


def plans(dtype: str, shape: Shape) -> Iterator[Callable[[], Planned]]:
    """What makes each plan; only one of them lives at a time."""
    several = (
        gb.Bias("tanh"),
        gb.Scale(),
        gb.Dropout(0.5),
        gb.Dense(shape.cols, "softmax", bias=False),
        gb.Bias("softmax"),
    )
    yield partial(training, dtype, shape, several, "cross_entropy")
    yield partial(training, dtype, shape, (gb.Dense(shape.cols, "relu"), gb.Dense(CLASSES, "softmax")), "cross_entropy")
    yield partial(
        training, dtype, shape, (gb.Bias(), gb.Periodic(NUMBERS), gb.Dense(CLASSES, "softmax")), "cross_entropy"
    )
    yield partial(training, dtype, shape, (gb.Bias("sigmoid"),), "binary_cross_entropy")
    yield partial(training, dtype, shape, (gb.Bias("softmax"),), "focal")
    yield partial(training, dtype, shape, (gb.Bias(),), "huber")
    yield partial(measuring, dtype, shape)
    for rule in RULES:
        yield partial(updating, dtype, shape, rule)
    yield partial(flat, dtype, shape)


def training(dtype: str, shape: Shape, layers: tuple[gb.Layer, ...], loss: str) -> Planned:
    """A step on weighted rows."""
    net = gb.Network(shape.cols, list(layers), dtype=dtype, device="cuda")
    trainer = gb.Trainer(net, loss, "sgd", batch_size=shape.rows)
    data = DataSet(net, samples(shape, labels=trainer.loss.labels))
    return trainer.training_step.build(data, shape.rows, net.device.zeros((3,), np.float64)), data


def measuring(dtype: str, shape: Shape) -> Planned:
    """The loss and the residuals of data that is only measured."""
    net = gb.Network(shape.cols, [gb.Bias()], dtype=dtype, device="cuda")
    evaluation = Evaluation(net, gb.LOSSES["huber"].bind(net), samples(shape, labels=False), shape.rows)
    return evaluation.replays[shape.rows].plan, evaluation.data


def updating(dtype: str, shape: Shape, rule: UpdateRule) -> Planned:
    """A rule's step on a long row of parameters."""
    net = gb.Network(shape.rows * shape.cols, [gb.Bias()], dtype=dtype, device="cuda")
    plan = Plan(net.device)
    net.emit_parameters(plan)
    bound = gb.Optimizer(rule).bind(net)
    net.device.copy_in(bound.step_number(plan), np.array(1.0))
    bound.update(plan, net)
    return plan, None


def flat(dtype: str, shape: Shape) -> Planned:
    """The operations that are in no plain step: a copy, a sum of squares, and what bounds and averages weights."""
    net = gb.Network(1, [gb.Dense(1)], dtype=dtype, device="cuda")
    plan, n = Plan(net.device), shape.rows * shape.cols
    a, b, out = plan.empty("a", (n,)), plan.empty("b", (n,)), plan.empty("Σa²", (), np.float64)
    plan.add(Operations.copy, "b = a", {}, a, b)
    plan.add(Operations.sum_of_squares, "Σa²", {}, a, out)
    factor, numbers = plan.empty("factor", (), np.float64), plan.named("numbers", net.device.from_host(np.ones(2)))
    w, mean = (plan.empty(name, shape, net.device.master) for name in ("w", "mean of w"))
    half = None if net.half_parameters is None else plan.empty("half w", shape)
    table = net.device.from_host(np.ones((shape.rows, 1)))
    position, values = net.device.zeros((1,), np.int64), plan.empty("scheduled", (1,), np.float64)
    plan.add(
        Operations.follow_schedule, "scheduled = settings ⊙ table[position]", {}, table, position, table[0], values
    )
    plan.add(Operations.clip_factor, "min(1, c/‖a‖)", {}, out, out, None, factor)
    plan.add(Operations.blend, "mean of w", {}, w.reshape(-1), numbers, None, mean.reshape(-1))
    plan.add(Operations.limit_norms, "w·min(1, c/‖w‖)", {}, w, out, None, half)
    return plan, None


def samples(shape: Shape, labels: bool) -> Samples:
    rng = np.random.default_rng(0)
    some = rng.standard_normal((min(shape.rows, 1024), shape.cols), np.float32)
    x = np.resize(some, shape)
    target = np.arange(shape.rows) % CLASSES if labels else np.full(shape, 0.5, np.float32)
    return Samples(x, target, np.ones(shape.rows, np.float32))


# Measuring ------------------------------------------------------------------------------------------------------------


class Kernels:
    """The measurements of one run.

    Attributes:
        shapes: of the arrays.
        rows: one a `kind`, dtype and shape.
        copies: by shape, the copy of a float32 array of that shape, between which the kernels are timed; its rate is in
            GB/s, read and written bytes together.
    """

    def __init__(self, extent: Extent) -> None:
        device = self.device = open_device("cuda", "float32")
        self.extent = extent
        self.shapes = shapes(device, extent)
        self.rows: list[dict[str, Any]] = []
        self.copies: dict[Shape, Reference] = {}
        with device.computing():
            for shape in self.shapes:
                a, b = (device.zeros(shape, np.float32) for _ in range(2))
                copy = partial(b.data.copy_from_device_async, a.data, a.nbytes, device.stream)
                clock = GraphClock(device, extent.rounds)
                self.copies[shape] = Reference(clock, [copy], 2 * a.nbytes / 1e3, extent.span_us)

    def measure(self, dtype: str, shape: Shape) -> list[dict[str, Any]]:
        """Times every kernel of a dtype on arrays of a shape."""
        best: dict[str, dict[str, Any]] = {}
        found: dict[str, Any] = {}
        with clocks_up(self.device, self.extent, found):
            for make in plans(dtype, shape):
                plan, data = make()
                self._measure(plan, data, self.copies[shape], best)
                del plan, data
                gc.collect()  # before the next plan asks for memory
        rows = [{"dtype": dtype, "shape": list(shape), **best[name], **found} for name in sorted(best)]
        self.rows += rows
        return rows

    @staticmethod
    def _measure(plan: Plan, data: DataSet | None, copy: Reference, best: dict[str, dict[str, Any]]) -> None:
        chosen: dict[str, Operation] = {}
        for operation in plan.operations:
            kernels = [call.kernel for call in operation.calls if hasattr(call, "kernel")]
            if len(kernels) == len(operation.calls) == 1:
                name = kind(kernels[0])
                if operation.bytes > max(at.bytes if (at := chosen.get(name)) else 0, best.get(name, NOTHING)["bytes"]):
                    chosen[name] = operation
        if data is not None:
            data.start(np.random.default_rng(0).permutation(data.rows))
        with plan.device.computing():
            plan.run()  # so that there are numbers in all buffers
            if data is not None:
                data.rewind()
            for name, operation in chosen.items():
                us, rate, percent = copy.beside(operation.calls, operation.bytes / 1e3)
                best[name] = {
                    "kernel": operation.calls[0].kernel,
                    "bytes": operation.bytes,
                    "us": us,
                    "gb_s": round(rate, 1),
                    "percent_of_copy": percent,
                }

    def rates(self) -> dict[str, float]:
        """GB/s of the copies, by the shape of their arrays."""
        return {" × ".join(map(str, shape)): round(copy.rate, 1) for shape, copy in self.copies.items() if copy.rates}

    def left_out(self) -> list[str]:
        """The kernels that none of these plans launches by itself."""
        return sorted(set(heads()) - {kind(row["kernel"]).partition(" ")[0] for row in self.rows})


NOTHING = {"bytes": -1}


def kind(instance: str) -> str:
    """The kernel's name, without its template arguments but for the rule of an update, which decides what it moves."""
    name, _, arguments = instance.partition("<")
    return " ".join([name, *(a for a in arguments.split(", ") if a.startswith("update_"))])
