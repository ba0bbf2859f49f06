"""How a case of the kernel of a network's head is made, as in kernel_runners; what has to come out is put together of
numpy_ops's operations, in float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from kernel_cases import Array, Case, Near, precision, reference
from kernel_draws import Draw, exact
from kernel_runners import value_of
from kernel_runners_losses import ACCURACY_KIND, ANY, DOMAINS, labels, near_total, numbers_of, weighing

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.cuda.fusions.head_shape import HeadShape
from gpu_backprop.backend.cuda.ops.head import FROM_Z
from gpu_backprop.backend.formula import LossFormula
from gpu_backprop.network.losses import LOSSES

KINDS = {number: name for name, number in FROM_Z.items()}


def head(d: Draw) -> Case:
    """Forward and backward, with and without a layer below, a bias, sums; ∇z in rows that may be longer than z's."""
    kind, most, f = KINDS[d.chosen["K"]], d.chosen["O"], d.chosen["F"]
    units, outputs = d.cols, int(d.random.integers(most // 2 + 1, most + 1))
    shape = d.models, d.rows, outputs
    row = {"softmax_focal": LOSSES["focal"].formula, "softmax_cross_entropy": ANY}.get(kind, d.chosen["E"])
    low, high = DOMAINS.get(row.name, (-2, 2)) if kind == "loss_gradient" else (-2, 2)
    inside = low > 0  # z has to stay near b
    y = d.numbers(d.shape, d.T, -1, 1)
    weight = d.memory.models(d.models, units * outputs, d.T, gap=d.pick(0, 3))
    bound = (0.05 if inside else 2) / units
    weight[...] = d.random.uniform(-bound, bound, weight.shape).astype(d.T)
    bias = d.memory.models(d.models, outputs, d.A, gap=d.pick(0, 3)) if inside or d.flip(0.7) else None
    if bias is not None:
        bias[...] = d.random.uniform(low + 0.05 * inside, high - 0.05 * inside, bias.shape)
    target, for_numpy, accuracy = targets(d, shape, kind)
    loss = dataclasses.replace(row, accuracy=accuracy, smooths=True)
    weights, numbers, scale = weighing(d), numbers_of(d, row), d.pick(1.0, 1 / max(d.rows, 1))
    back, sums_below = d.flip(0.8), d.flip(0.8)
    s = None
    if f.reads or d.flip():
        z = d.random.uniform(-4, 4, d.shape)
        s = d.memory.holding(value_of(f, z) if f.reads == "y" else z, d.T)
    places = outputs + d.pick(0, 3)
    grad_z = d.empty((d.models, d.rows, places), d.T)
    grad_bias = d.memory.models(d.models, outputs, d.A, gap=d.pick(0, 3)) if d.flip(0.8) else None
    grad_below = d.empty(d.shape, d.T) if back else None
    grad_bias_below = d.memory.models(d.models, units, d.A, gap=d.pick(0, 3)) if back and sums_below else None
    made = HeadShape.of(d.T, d.rows, units, outputs, d.models, grad_bias_below is not None)
    warps = d.block[1]
    total = d.numbers((d.models, 3), np.float64, 1, 2)
    parameters = {
        "y": y, "w": weight, "b": bias, "target": target, **weights, **numbers, "s": s, "grad_z": grad_z,
        "grad_bias": grad_bias, "grad_below": grad_below, "grad_bias_below": grad_bias_below, "total": total,
        "partial": d.empty((d.models, d.groups, made.sums), d.A),
        "loss_partial": d.memory.empty((d.models, d.groups, 2), np.float64, 2), "tickets": d.tickets(d.models),
        "rows": d.rows, "units": units, "cols": outputs, "places": places, "pitch": made.pitch, "sums": made.sums,
        "target_cols": 1 if target.dtype == np.int64 else outputs, "scale": scale,
        "share": 1 / outputs if kind == "loss_gradient" and row.mean_over_outputs else 1.0,
        "accuracy": ACCURACY_KIND[accuracy],
    }  # fmt: skip
    wanted = expected(d, parameters, kind, loss, for_numpy)
    size = warps * made.sums * d.A.itemsize + outputs * made.pitch * d.T.itemsize
    return d.case((d.groups, 1), parameters, wanted, scratch=("partial", "loss_partial"), shared=size)


def targets(d: Draw, shape: tuple[int, int, int], kind: str) -> tuple[Array, Array, str]:
    """As the kernel takes them and as numpy_ops does; and what counts as right."""
    if d.chosen["L"] == np.int64:
        units, d.cols = d.cols, shape[-1]
        target, for_numpy = labels(d)
        d.cols = units
        if kind == "sigmoid_cross_entropy":  # which the table has for dense targets alone
            target[...] %= shape[-1]
            for_numpy = np.eye(shape[-1])[np.array(target)[..., 0]]
        return target, for_numpy, d.pick("", "argmax")
    target = d.numbers(shape, d.chosen["L"], 0, 1)
    if d.flip():
        target[...] = np.round(target)
    of_all = kind in ("loss_gradient", "sigmoid_cross_entropy")
    return target, exact(target), d.pick("", "argmax", *(["threshold"] * of_all))


def expected(d: Draw, given: dict[str, Any], kind: str, loss: LossFormula, target: Array) -> dict[str, Near]:
    """The operations that the kernel stands for. grad_z is rounded before it is used further."""
    y, w = exact(given["y"]), exact(given["w"]).reshape(d.models, d.cols, -1)
    z = y @ w + (0 if given["b"] is None else exact(given["b"])[:, None, :])
    grad, total = np.empty_like(z), exact(given["total"])
    common = exact(given["weights"]), loss, exact(given["numbers"]), given["scale"], exact(given["scales"])
    before = () if kind == "loss_gradient" else (None,)
    reference(getattr(numpy_ops, kind), z.copy(), *before, target, *common, grad, total)
    near = d.tolerance(d.cols) * (1 + abs(grad)) * 4
    whole = np.full(given["grad_z"].shape, np.nan)  # what it was filled with
    whole[..., : grad.shape[-1]] = grad
    slack = np.zeros(whole.shape)
    slack[..., : grad.shape[-1]] = near
    wanted = {"total": near_total(d, total, given["weights"]), "grad_z": Near(whole, slack)}
    near = near + precision(d.T) * abs(grad) + (2.0**-24 if np.float16 == d.T else 0)  # as rounded
    if given["grad_bias"] is not None:
        wanted["grad_bias"] = Near(grad.sum(1), near.sum(1) + d.tolerance(d.rows) * abs(grad).sum(1))
    if given["grad_below"] is None:
        return wanted
    f, below = d.chosen["F"], grad @ w.swapaxes(-1, -2)
    error = near @ abs(w).swapaxes(-1, -2) + d.tolerance(w.shape[-1]) * (abs(grad) @ abs(w).swapaxes(-1, -2))
    slopes, sums = np.ones(d.shape), np.empty((d.models, d.cols))
    reference(numpy_ops.activation_gradient, np.ones(d.shape), exact(given["s"]), f, slopes, sums)
    reference(numpy_ops.activation_gradient, below, exact(given["s"]), f, below, sums)
    error = error * (1 + abs(slopes)) + d.tolerance() * abs(below)
    wanted["grad_below"] = Near(below, error)
    if given["grad_bias_below"] is not None:
        wanted["grad_bias_below"] = Near(sums, error.sum(1) + d.tolerance(d.rows) * abs(below).sum(1))
    return wanted
