"""Shapes of arrays and of launches, and what else differs between the cases of a kernel: drawn, but always the same."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from kernel_cases import ORDERS, Array, Case, Memory, precision
from kernel_program import FORWARD, MIXED

from gpu_backprop.backend.cuda.kernel_instance import Instance, accumulator

FULL = os.environ.get("GPU_BACKPROP_PROOF") == "1"
"""Whether every case is run in every order; otherwise a few of each instance."""


@dataclass(frozen=True)
class Shape:
    """models × rows × cols, the block, and how many blocks share the rows (or the numbers of a flat buffer).

    cols is rounded up to a multiple of V.
    """

    models: int
    rows: int
    cols: int
    block: tuple[int, int]
    groups: int


SHAPES: dict[str, list[Shape]] = {}
SHAPES["columns"] = [
    Shape(1, 1, 1, (32, 8), 1),
    Shape(3, 70, 33, (32, 8), 3),
    Shape(2, 9, 5, (4, 64), 2),
    Shape(1, 300, 1, (1, 256), 2),
    Shape(3, 2, 33, (256, 1), 1),
    Shape(1, 3, 1000, (256, 1), 2),
    Shape(2, 0, 33, (32, 8), 1),
    Shape(1, 5, 1000, (32, 8), 1),
    Shape(2, 37, 3, (8, 4), 4),
    Shape(2, 600, 2, (1, 256), 2),
]
"""For blocks of (columns / V, rows): the rows of a block are a power of two. A launch over no rows is of no use to
anyone, but has to be harmless: sums are 0."""

SHAPES["rows"] = [
    Shape(1, 1, 1, (32, 8), 1),
    Shape(3, 70, 33, (32, 8), 3),
    Shape(2, 9, 5, (4, 64), 1),
    Shape(1, 600, 1, (1, 256), 2),
    Shape(2, 7, 33, (8, 4), 4),
    Shape(1, 3, 1000, (32, 8), 1),
    Shape(3, 2, 1000, (32, 1), 2),
    Shape(2, 0, 33, (32, 8), 1),
    Shape(3, 19, 10, (16, 2), 5),
    Shape(1, 40, 3, (2, 16), 2),
]
"""For blocks of (lanes, rows): the lanes are a power of two up to 32, the threads a multiple of 32."""

SHAPES["head"] = [
    Shape(1, 1, 1, (32, 8), 1),
    Shape(3, 70, 33, (32, 8), 3),
    Shape(2, 9, 5, (32, 2), 2),
    Shape(1, 41, 300, (32, 4), 2),
    Shape(2, 0, 33, (32, 8), 1),
    Shape(1, 100, 17, (32, 1), 18),
    Shape(3, 3, 130, (32, 3), 1),
]
"""For blocks of (32, warps); cols are the units below."""

SHAPES["flat"] = [
    Shape(1, 1, 1, (256, 1), 1),
    Shape(3, 1, 1000, (256, 1), 3),
    Shape(2, 1, 33, (32, 1), 4),
    Shape(1, 1, 1000, (32, 1), 5),
    Shape(1, 1, 0, (256, 1), 2),
    Shape(2, 1, 777, (64, 1), 2),
]
"""For blocks of 32 k threads over cols numbers."""

SHAPES["blocks"] = [
    Shape(1, 1, 1, (32, 8), 1),
    Shape(3, 23, 5, (32, 2), 1),
    Shape(2, 9, 33, (4, 8), 1),
    Shape(1, 40, 3, (1, 256), 1),
    Shape(2, 0, 5, (32, 1), 1),
    Shape(4, 17, 2, (64, 1), 1),
]
"""For a block a model: 32 k threads in all."""

THREADS = {
    "columns": [Shape(2, 37, 3, (8, 4), 4), Shape(1, 20, 33, (4, 16), 2)],
    "rows": [Shape(2, 21, 33, (8, 8), 4), Shape(3, 19, 10, (16, 2), 1)],
    "head": [Shape(2, 21, 40, (32, 2), 2), Shape(1, 9, 5, (32, 3), 1)],
    "flat": [Shape(2, 1, 130, (64, 1), 3), Shape(3, 1, 33, (32, 1), 1)],
    "blocks": [Shape(2, 9, 5, (32, 2), 1), Shape(1, 7, 33, (96, 1), 1)],
}
"""Small ones, for ThreadSanitizer."""

FIBERS = 2048
"""How many threads may be there at once where blocks are mixed: each switch between blocks has its price."""


class Draw:
    """One case of an instance: its shape, its memory and its random numbers."""

    def __init__(self, made: Instance, shape: Shape, seed: int) -> None:
        self.made, self.chosen, self.width = made, made.chosen, made.width
        self.models, self.rows, self.block, self.groups = shape.models, shape.rows, (*shape.block, 1), shape.groups
        self.cols = -(-shape.cols // self.width) * self.width
        self.random = np.random.default_rng([zlib.crc32(made.name.encode()), seed])
        self.memory = Memory(self.width)

    @property
    def T(self) -> np.dtype:
        return self.chosen["T"]

    @property
    def A(self) -> np.dtype:
        return accumulator(self.T)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.models, self.rows, self.cols

    @property
    def column_groups(self) -> int:
        return -(-self.cols // (self.width * self.block[0]))

    def flip(self, chance: float = 0.5) -> bool:
        return bool(self.random.random() < chance)

    def pick(self, *choices: Any) -> Any:
        return choices[self.random.integers(len(choices))]

    def numbers(self, shape: tuple[int, ...], dtype: Any, low: float = -4, high: float = 4) -> Array:
        return self.memory.holding(self.random.uniform(low, high, shape), dtype)

    def maybe(self, shape: tuple[int, ...], dtype: Any, low: float = -4, high: float = 4) -> Array | None:
        return self.numbers(shape, dtype, low, high) if self.flip() else None

    def per_model(self, n: int, dtype: Any, low: float = -4, high: float = 4) -> Array:
        """(models, n), in half of the cases with a gap between models."""
        return self.memory.models(
            self.models, n, dtype, self.random.uniform(low, high, (self.models, n)), self.pick(0, 3)
        )

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self.memory.empty(shape, dtype)

    def tickets(self, *shape: int) -> Array:
        return self.memory.holding(np.zeros(shape), np.uint32)

    def tolerance(self, terms: int = 0, of: Any = None) -> float:
        """64 roundings of the type that is worked in, and more for a sum of many terms."""
        return (64 + 2 * terms**0.5) * precision(self.A if of is None else of)

    def case(self, grid: tuple[int, int], parameters: dict[str, Any], expected: dict[str, Any], **more: Any) -> Case:
        return Case(self.made, self.memory, (*grid, self.models), self.block, parameters, expected, **more)


def exact(array: Array | None) -> Array | None:
    """The values of an array as the reference takes them, in float64: a copy."""
    return None if array is None else np.array(array, "f8")


def draws(made: Instance, number: int, layout: str, form: str) -> Iterator[tuple[Draw, list[tuple[int, int]]]]:
    """The cases of the instance with that number, and the orders to run each in.

    form: "full": each shape four times, in all orders; "once": each shape once, in all orders; "small": the first shape
    and five more, each in one order; "fewer": and three more; "threads": what ThreadSanitizer gets, three times.
    """
    shapes = THREADS[layout] if form == "threads" else SHAPES[layout]
    first, *rest = shapes
    repeats = {"full": 4, "threads": 3}.get(form, 1)
    chosen = [(shape, repeat) for repeat in range(repeats) for shape in shapes]
    if form in ("small", "fewer"):
        more = 5 if form == "small" else 3
        chosen = [(first, number), *((rest[(3 * number + k) % len(rest)], number + k) for k in range(more))]
    for k, (shape, seed) in enumerate(chosen):
        draw = Draw(made, shape, seed)
        blocks = draw.column_groups * draw.groups * draw.models
        few = blocks * shape.block[0] * shape.block[1] <= FIBERS
        orders = ORDERS if form in ("full", "once") else [ORDERS[(number + k) % len(ORDERS)]]
        yield draw, [(threads, after if after != MIXED or few else FORWARD) for threads, after in orders]
