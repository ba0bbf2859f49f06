"""How fast each matrix product of the networks is beside a large one, for bench/gpu_check.py."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np
from launches import Case, build
from lib.timing import median, spread

from gpu.timing import Extent, GraphClock
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.backend.plan import Operation


@dataclass(frozen=True)
class Precision:
    """In what products are worked out."""

    name: str
    dtype: str
    tf32: bool = False


PRECISIONS = (
    Precision("float32", "float32"),
    Precision("tf32", "float32", tf32=True),
    Precision("float16", "float16"),
    Precision("bfloat16", "bfloat16"),
)


class Products:
    """The measurements of one precision.

    Attributes:
        peaks: TFLOP/s of the square product between which the others were timed.
        rows: one a product.
    """

    def __init__(self, precision: Precision, extent: Extent) -> None:
        self.precision, self.extent = precision, extent
        self.device = open_device("cuda", precision.dtype, precision.tf32)
        self.peaks: list[float] = []
        self.rows: list[dict[str, Any]] = []
        n = extent.square
        device = self.device
        with device.computing():
            self.clock = GraphClock(device, extent.rounds)
            rng = np.random.default_rng(0)
            a, b = (device.from_host(rng.standard_normal((n, n), np.float32), device.dtype) for _ in range(2))
            calls = device.blas.matmul(a, b, device.empty((n, n)), tf32=precision.tf32)
            self._square = self.clock.repeated(calls, extent.span_us)

    @property
    def peak(self) -> float:
        """TFLOP/s of the large square product."""
        return statistics.median(self.peaks)

    @property
    def door(self) -> str:
        """Through which door the products go."""
        return self.device.blas.reason

    def measure(self, case: Case) -> None:
        """Every product of a step of one network."""
        step = build(case, "cuda", self.precision.dtype, tf32=self.precision.tf32)
        with step.net.device.computing():
            step.plan.run()
            for operation in step.plan.operations:
                if operation.name == "matmul":
                    self.rows.append({"network": str(case), "batch": case.batch, **self.timed(operation)})

    def timed(self, operation: Operation) -> dict[str, Any]:
        """A product's row: beside the square one."""
        run, repeats = self.clock.repeated(operation.calls, self.extent.span_us)
        square, squares = self._square
        times = self.clock.in_turns({"square": square, "it": run})
        microseconds = [time.device / repeats for time in times["it"]]
        rates = [operation.flops / us / 1e6 for us in microseconds]
        beside = [2 * self.extent.square**3 * squares / time.device / 1e6 for time in times["square"]]
        self.peaks += beside
        left, right = (array.shape for array in operation.reads.values())
        return {
            "precision": self.precision.name,
            "product": kind(operation),
            "formula": operation.formula,
            "rows": left[-2],
            "inner": left[-1],
            "cols": right[-1],
            "us": median(microseconds),
            "tflop_s": median(rates, 3),
            "percent_of_peak": spread([100 * a / b for a, b in zip(rates, beside, strict=True)], 1),
        }


def kind(operation: Operation) -> str:
    """Which of the three products of a layer it is."""
    if operation.phase == "forward":
        return "forward"
    return "∇W" if operation.formula.startswith("∇W") else "∇x"
