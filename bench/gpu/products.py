"""How fast each matrix product of the networks is beside a large one, for bench/gpu_check.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from launches import Case, build

from gpu.timing import Extent, GraphClock, Reference
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.backend.operation import Operation


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
        square: a large square product, between which the others are timed; its rate is in TFLOP/s.
        rows: one a product.
    """

    def __init__(self, precision: Precision, extent: Extent) -> None:
        self.precision, self.extent = precision, extent
        self.device = open_device("cuda", precision.dtype, precision.tf32)
        self.rows: list[dict[str, Any]] = []
        n = extent.square
        device = self.device
        with device.computing():
            rng = np.random.default_rng(0)
            a, b = (device.from_host(rng.standard_normal((n, n), np.float32), device.dtype) for _ in range(2))
            calls = device.blas.matmul(a, b, device.empty((n, n)), tf32=precision.tf32)
            self.square = Reference(GraphClock(device, extent.rounds), calls, 2 * n**3 / 1e6, extent.span_us)

    @property
    def door(self) -> str:
        """The function that computes the products, and why it was chosen."""
        return self.device.blas.reason

    def measure(self, case: Case) -> None:
        """Times every product of a step of one network."""
        step = build(case, "cuda", self.precision.dtype, tf32=self.precision.tf32)
        with step.net.device.computing():
            step.plan.run()
            for operation in step.plan.operations:
                if operation.name == "matmul":
                    self.rows.append({"network": str(case), "batch": case.batch, **self.timed(operation)})

    def timed(self, operation: Operation) -> dict[str, Any]:
        """Times a product beside the square one, and makes its row."""
        us, rate, percent = self.square.beside(operation.calls, operation.flops / 1e6)
        left, right = (array.shape for array in operation.reads.values())
        return {
            "precision": self.precision.name,
            "product": kind(operation),
            "formula": operation.formula,
            "rows": left[-2],
            "inner": left[-1],
            "cols": right[-1],
            "us": us,
            "tflop_s": round(rate, 3),
            "percent_of_peak": percent,
        }


def kind(operation: Operation) -> str:
    """Tells which of the three products of a layer it is."""
    if operation.phase == "forward":
        return "forward"
    return "∇W" if operation.formula.startswith("∇W") else "∇x"
