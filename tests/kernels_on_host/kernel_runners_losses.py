"""How a case of a loss's kernel is made, as in kernel_runners."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from kernel_cases import Array, Case, Exactly, Near, reference
from kernel_draws import Draw, exact

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.formula import LossFormula
from gpu_backprop.network.losses import LOSSES

ANY = LOSSES["cross_entropy"].formula
"""Of which numpy_ops's fused losses read accuracy alone, and that labels may be smoothed."""

ACCURACY_KIND = {"": 0, "argmax": 1, "threshold": 2}
UNIT, RATES = (0.0625, 0.9375), (0.125, 4)
DOMAINS = {"cross_entropy": UNIT, "binary_cross_entropy": UNIT, "poisson": RATES, "focal": UNIT, "binary focal": UNIT}
"""The y for which a loss is defined, if not all."""


def weighing(d: Draw) -> dict[str, Array | None]:
    weights = d.maybe(d.shape[:2], d.A, 0, 2)
    if weights is not None:
        weights[:, 2::3] = -0.0  # where there is no row
    return {"weights": weights, "scales": column(d, d.random.uniform(0.1, 1, d.models))}


def column(d: Draw, values: Array) -> Array | None:
    """Float64 numbers, one a model: none, or side by side, or a column of three."""
    stride = d.pick(0, 1, 3)
    if not stride:
        return None
    place = d.memory.empty((d.models, stride), np.float64)[:, stride - 1]
    place[...] = values
    return place


def numbers_of(d: Draw, loss: LossFormula) -> dict[str, Any]:
    """Label smoothing, or none, and the loss's own numbers, which float32 can hold; each model has others."""
    numbers = d.random.integers(4, 60, (d.models, 1 + len(loss.numbers))) / 64
    numbers[:, 0] = d.pick(0.0, 0.1) / np.arange(1, 1 + d.models)
    return {"numbers": d.memory.holding(numbers, np.float64), "count": numbers.shape[1]}


def labels(d: Draw) -> tuple[Array, Array]:
    """Labels, now and then one that is out of range: as the kernel takes them, and as numpy_ops does."""
    target = d.memory.holding(d.random.integers(0, d.cols, (d.models, d.rows, 1)), np.int64)
    if d.rows and d.flip(0.3):
        target[d.random.integers(d.models), d.random.integers(d.rows)] = d.pick(-1, d.cols, 2**40)
    return target, np.array(target)[..., 0]


def totals(d: Draw) -> dict[str, Any]:
    return {
        "total": d.numbers((d.models, 3), np.float64, 1, 2),
        "partial": d.memory.empty((d.models, d.groups, 2), np.float64, 2),  # both sums of a block at once
        "tickets": d.tickets(d.models),
        "rows": d.rows,
        "cols": d.cols,
    }


def near_total(d: Draw, total: Array, weights: Array | None) -> Near:
    share = abs(total) + (d.rows if weights is None else exact(weights).sum(1)[:, None]) + 1
    return Near(total, np.where([True, False, False], d.tolerance(d.cols) * 4 * share, 0))


def loss_gradient(d: Draw) -> Case:
    row, L = d.chosen["E"], d.chosen["L"]
    low, high = DOMAINS.get(row.name, (-4, 4))
    y = d.random.uniform(low, high, d.shape)
    if d.flip():  # many are equal, so that the place of the largest is in doubt
        y = np.clip(np.round(y * 16) / 16, low, high)
    y = d.memory.holding(y, d.T)
    if np.int64 == L:
        target, for_numpy = labels(d)
        accuracy = d.pick("", "argmax")
    else:
        accuracy = d.pick("", "argmax", "threshold")
        target = d.numbers(d.shape, L, 0, 1)
        if d.flip():
            target[...] = np.round(target)
        for_numpy = exact(target)
    weights, numbers, scale = weighing(d), numbers_of(d, row), d.pick(1.0, 1 / max(d.rows, 1))
    loss = dataclasses.replace(row, accuracy=accuracy, smooths=True)
    grad_y = d.empty(d.shape, d.T) if d.flip(0.7) else None
    parameters = {
        "y": y, "target": target, **weights, **numbers, "grad_y": grad_y, **totals(d), "target_cols": target.shape[-1],
        "scale": scale, "share": 1 / d.cols if row.mean_over_outputs else 1.0, "accuracy": ACCURACY_KIND[accuracy],
    }  # fmt: skip
    total, slope = exact(parameters["total"]), None if grad_y is None else np.empty(d.shape)
    reference(
        numpy_ops.loss_gradient, exact(y), for_numpy, exact(weights["weights"]), loss, exact(numbers["numbers"]), scale,
        exact(weights["scales"]), slope, total,
    )  # fmt: skip
    wanted = {"total": near_total(d, total, weights["weights"])}
    if slope is not None:
        wanted["grad_y"] = Near(slope, d.tolerance() * (0.1 + abs(slope)))
    return d.case((d.groups, 1), parameters, wanted)


def fused(
    d: Draw, binder, target: Array, for_numpy: Array, accuracy: str, numbers: dict[str, Any], row: LossFormula = ANY
) -> Case:
    """An activation and its loss in one, from z."""
    z = d.random.uniform(-4, 4, d.shape)
    if d.flip():
        z = np.round(z * 4) / 4
    z, b = d.memory.holding(z, d.T), d.per_model(d.cols, d.A) if d.flip() else None
    weights, scale = weighing(d), d.pick(1.0, 1 / max(d.rows, 1))
    grad_z = d.empty(d.shape, d.T) if d.flip() else z if d.flip() else None
    parameters = {
        "z": z, "b": b, "target": target, **weights, "grad_z": grad_z, **totals(d), "scale": scale,
        "accuracy": ACCURACY_KIND[accuracy],
    }  # fmt: skip
    if numbers:
        parameters |= {"target_cols": target.shape[-1], **numbers}
    loss, of_models = dataclasses.replace(row, accuracy=accuracy), numbers.get("numbers", np.zeros((d.models, 1)))
    total, expected = exact(parameters["total"]), None if grad_z is None else np.empty(d.shape)
    reference(
        binder, exact(z), exact(b), for_numpy, exact(weights["weights"]), loss, exact(of_models), scale,
        exact(weights["scales"]), expected, total,
    )  # fmt: skip
    wanted = {"total": near_total(d, total, weights["weights"])}
    if expected is not None:
        wanted["grad_z"] = Near(expected, d.tolerance(d.cols))
    return d.case((d.groups, 1), parameters, wanted)


def softmax_cross_entropy(d: Draw) -> Case:
    if d.chosen["L"] == np.int64:
        target, for_numpy = labels(d)
    else:
        target = d.numbers(d.shape, d.A, 0, 1)
        for_numpy = exact(target)
    accuracy, numbers = d.pick("", "argmax"), numbers_of(d, ANY)
    return fused(d, numpy_ops.softmax_cross_entropy, target, for_numpy, accuracy, numbers)


def sigmoid_cross_entropy(d: Draw) -> Case:
    target = d.numbers(d.shape, d.A, 0, 1)
    accuracy = d.pick("", "argmax", "threshold")
    return fused(d, numpy_ops.sigmoid_cross_entropy, target, exact(target), accuracy, {})


def softmax_focal(d: Draw) -> Case:
    if d.chosen["L"] == np.int64:
        target, for_numpy = labels(d)
    else:
        target = d.numbers(d.shape, d.A, 0, 1)
        for_numpy = exact(target)
    accuracy, numbers = d.pick("", "argmax"), numbers_of(d, LOSSES["focal"].formula)
    return fused(d, numpy_ops.softmax_focal, target, for_numpy, accuracy, numbers, LOSSES["focal"].formula)


def normalize_weights(d: Draw) -> Case:
    A, n = d.chosen["A"], d.cols
    weights = d.numbers((d.models, n), A, 0, 2)
    if d.flip(0.3):
        weights[0] = 0
    scales, total = d.empty((d.models,), "f8") if d.flip() else None, d.numbers((d.models, 3), np.float64, 1, 2)
    loss_scale = column(d, 2.0 ** d.random.integers(0, 24, d.models))
    counted = d.memory.holding(d.random.integers(0, 2, d.models), "f8") if d.flip() else None
    factor, expected, ratios = np.empty(d.models), exact(total), None if scales is None else np.empty(d.models)
    reference(numpy_ops.normalize_weights, exact(weights), exact(loss_scale), exact(counted), factor, ratios, expected)
    parameters = {
        "weights": weights, "loss_scale": loss_scale, "counted": counted, "factor": d.empty((d.models,), "f8"),
        "scales": scales, "total": total, "rows": n,
    }  # fmt: skip
    rounding = d.tolerance(n, "f8") * (1 + exact(weights).sum(1))
    wanted = {"factor": Exactly(factor), "total": Near(expected, rounding[:, None])}
    if scales is not None:
        wanted["scales"] = Near(ratios, d.tolerance(n, "f8") * ratios)
    return d.case((1, 1), parameters, wanted)
