"""How a case of a kernel of weights.cu is made, as in kernel_runners."""

from __future__ import annotations

import numpy as np
from kernel_cases import Array, Case, Near, reference
from kernel_draws import Draw, exact

from gpu_backprop.backend import numpy_ops


def counted_of(d: Draw, models: int) -> Array | None:
    """The gradient factor of each model, which is 0 of some; or none."""
    return d.memory.holding(d.random.choice([0, 1, 2.0**-7], models), "f8") if d.flip() else None


def clip_factor(d: Draw) -> Case:
    """Norms below and above the limit, 0 and not finite; limits that may be infinite."""
    count, d.models = d.models * d.cols, 1
    squares = d.numbers((count,), "f8", 0, 9)
    squares[::7], squares[3::50], squares[4::50] = 0, np.inf, np.nan
    limit = d.numbers((count,), "f8", 0.1, 3)
    limit[5::11] = np.inf
    counted, factor = counted_of(d, count), np.empty(count)
    reference(numpy_ops.clip_factor, exact(squares), exact(limit), exact(counted), factor)
    parameters = {
        "squares": squares, "limit": limit, "counted": counted, "factor": d.empty((count,), "f8"), "count": count,
    }  # fmt: skip
    return d.case((d.groups, 1), parameters, {"factor": Near(factor, d.tolerance(0, "f8") * abs(factor))})


def blend(d: Draw) -> Case:
    """A sum or a moving average."""
    shape, A = (d.models, d.cols), d.chosen["A"]
    source, destination = d.numbers(shape, A), d.numbers(shape, A)
    numbers = d.memory.holding([[d.pick(1, 0.25, 1e-3), d.pick(0, 1)] for _ in range(d.models)], "f8")
    counted, expected = counted_of(d, d.models), exact(destination)
    reference(numpy_ops.blend, exact(source), exact(numbers), exact(counted), expected)
    parameters = {
        "source": source, "numbers": numbers, "counted": counted, "destination": destination, "n": d.cols,
    }  # fmt: skip
    return d.case((d.groups, 1), parameters, {"destination": Near(expected, 8 * d.tolerance(0, A))})


def limit_norms(d: Draw) -> Case:
    """Columns within the bound and beyond it, and one that is not finite."""
    shape, A = (d.models, d.rows, d.cols), d.A
    weight = d.memory.models(
        d.models, d.rows * d.cols, A, d.random.uniform(-1, 1, (d.models, d.rows * d.cols)), d.pick(0, 3)
    )
    half = None if d.flip() else d.memory.models(d.models, d.rows * d.cols, d.T, gap=d.pick(0, 5))
    if d.rows and d.flip(0.3):
        weight[0, -1] = np.inf
    limit = d.memory.holding(d.random.uniform(0.1, 4, d.models), "f8")
    counted, expected, halves = counted_of(d, d.models), exact(weight).reshape(shape), np.full(shape, np.nan)
    reference(numpy_ops.limit_norms, expected, exact(limit), exact(counted), halves)
    parameters = {
        "weight": weight, "limit": limit, "counted": counted, "half_weight": half, "rows": d.rows, "cols": d.cols,
    }  # fmt: skip
    near = d.tolerance(d.rows) * (1 + np.nan_to_num(abs(expected)))
    wanted = {"weight": Near(expected.reshape(weight.shape), near.reshape(weight.shape))}
    if half is not None:
        wanted["half_weight"] = Near(halves.reshape(half.shape), near.reshape(half.shape))
    return d.case((d.column_groups, 1), parameters, wanted)
