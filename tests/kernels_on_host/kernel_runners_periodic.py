"""How a case of a kernel of periodic.cu is made, as in kernel_runners."""

from __future__ import annotations

from typing import Any

import numpy as np
from kernel_cases import Array, Case, Near, reference
from kernel_draws import Draw, exact

from gpu_backprop.backend import numpy_ops

SUMS, UNITS = 8, 6


class Embedding:
    """A layer's sizes and arrays, with numbers that are all of the inputs or some of them."""

    def __init__(self, d: Draw, rows: int, inputs: int, numbers: int) -> None:
        self.d, self.rows, self.inputs, self.numbers = d, rows, inputs, numbers
        self.frequencies, self.units = d.pick(1, 3, 16), d.pick(1, 3, 4, 13)
        self.width, self.terms = 1 + self.units, self.frequencies + self.units
        self.outputs = inputs + numbers * self.units
        self.x = d.numbers((d.models, rows, inputs), d.T)
        shape = d.models, numbers, self.frequencies, self.width
        values = d.random.uniform(-0.5, 0.5, shape) * np.where(np.arange(self.width) == 0, 0.5, 1)
        self.weight = d.memory.models(d.models, values[0].size, d.A, values.reshape(d.models, -1), d.pick(0, 3))
        self.bias = d.per_model(numbers * self.terms, d.A, -3, 3)

    @property
    def exactly(self) -> list[Array]:
        """x, weight and bias as the reference takes them."""
        d = self.d
        weight = exact(self.weight).reshape(d.models, self.numbers, self.frequencies, self.width)
        return [exact(self.x), weight, exact(self.bias).reshape(d.models, self.numbers, self.terms)]

    def case(self, grid: tuple[int, int], arrays: dict[str, Any], wanted: dict[str, Any], **more: int) -> Case:
        sizes = ("rows", "inputs", "numbers", "frequencies", "width", "terms", "outputs")
        given = {"x": self.x, "weight": self.weight, "bias": self.bias, **{name: getattr(self, name) for name in sizes}}
        return self.d.case(grid, given | arrays | more, wanted)


def of_rows(d: Draw) -> tuple[Embedding, tuple[int, int]]:
    """A layer for a kernel whose blocks are (rows, inputs), and its grid."""
    rows, inputs = (d.cols, d.rows) if d.rows else (0, d.cols)
    return Embedding(d, rows, inputs, d.pick(1, (inputs + 1) // 2, inputs)), (d.column_groups, d.groups)


def periodic(d: Draw) -> Case:
    e, grid = of_rows(d)
    y = d.empty((d.models, e.rows, e.outputs), d.T)
    expected = np.empty(y.shape)
    reference(numpy_ops.periodic, *e.exactly, expected)
    return e.case(grid, {"y": y}, {"y": Near(expected, d.tolerance() * (1 + e.frequencies))})


def periodic_gradient_x(d: Draw) -> Case:
    e, grid = of_rows(d)
    grad_y, grad_x = d.numbers((d.models, e.rows, e.outputs), d.T), d.empty(e.x.shape, d.T)
    expected = np.empty(grad_x.shape)
    reference(numpy_ops.periodic_gradient_x, *e.exactly, exact(grad_y), expected)
    near = Near(expected, d.tolerance() * (4 + 8 * e.frequencies * e.units))
    return e.case(grid, {"grad_y": grad_y, "grad_x": grad_x}, {"grad_x": near})


def periodic_gradient(d: Draw) -> Case:
    inputs = 1 + d.cols // 17
    e = Embedding(d, d.rows, inputs, d.pick(1, inputs))
    cols = e.numbers * (e.frequencies + 1) * -(-e.units // UNITS)
    columns = -(-cols // d.block[0])
    grad_y = d.numbers((d.models, e.rows, e.outputs), d.T)
    grads = [d.memory.models(d.models, a.shape[1], d.A, gap=d.pick(0, 3)) for a in (e.weight, e.bias)]
    expected = [np.empty(a.shape) for a in e.exactly[1:]]
    reference(numpy_ops.periodic_gradient, *e.exactly, exact(grad_y), *expected)
    arrays = {
        "grad_y": grad_y, "grad_weight": grads[0], "grad_bias": grads[1],
        "partial": d.memory.empty((d.models, d.groups, cols, SUMS), d.A, SUMS),  # all sums of a column at once
        "tickets": d.tickets(d.models, columns),
    }  # fmt: skip
    near = d.tolerance(d.rows) * (1 + d.rows) * 32 * e.units
    wanted = {
        name: Near(values.reshape(to.shape), near)
        for name, values, to in zip(("grad_weight", "grad_bias"), expected, grads, strict=True)
    }
    return e.case((columns, d.groups), arrays, wanted, cols=cols)
