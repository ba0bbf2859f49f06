"""Losses, in one pass over the rows each."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_backprop.backend.compiled.device import CpuDevice
from gpu_backprop.backend.compiled.ops.fallback import or_numpy
from gpu_backprop.backend.compiled.ops.layers import LANES, ROW, room, sizes, work
from gpu_backprop.backend.compiled.program import KernelCall, UnsupportedArguments
from gpu_backprop.backend.formula import ACCURACY_KIND, Array, Calls, LossFormula

SIDE_BY_SIDE = 128
"""Outputs up to which LANES rows of softmax are worked out side by side, each in its lane of the vectors."""

FOCAL = "exp(expm1(log(exp(expm1("
"""The functions in the focal loss."""


@or_numpy
def normalize_weights(
    device: CpuDevice, weights: Array, loss_scale: Array | None, counted: Array | None, factor: Array,
    scales: Array | None, total: Array,
) -> Calls:  # fmt: skip
    if loss_scale is not None:
        raise UnsupportedArguments("only float16 has one")
    yield KernelCall(
        device, "normalize_weights", weights.size, weights=weights, counted=counted, factor=factor, scales=scales,
        total=total, models=factor.size, rows=weights.shape[-1],
    )  # fmt: skip


@or_numpy
def loss_gradient(
    device: CpuDevice, y: Array, target: Array, weights: Array | None, loss: LossFormula, numbers: Array,
    scale: float, scales: Array | None, grad_y: Array | None, total: Array,
) -> Calls:  # fmt: skip
    if target.ndim < y.ndim and loss.accuracy == "threshold":
        raise UnsupportedArguments("a label has no sides")
    cost = work(y.size, loss.cuda_value, loss.cuda_slope) + ROW * y[..., 0].size
    yield KernelCall(
        device, "loss_gradient", cost, loss, y=y, grad_y=grad_y, share=loss.share(y.shape[-1]),
        **_of_loss(device, y, target, weights, numbers, scale, scales, total), accuracy=ACCURACY_KIND[loss.accuracy],
    )  # fmt: skip


@or_numpy
def softmax_cross_entropy(
    device: CpuDevice, z: Array, bias: Array | None, target: Array, weights: Array | None, loss: LossFormula,
    numbers: Array, scale: float, scales: Array | None, grad_z: Array | None, total: Array,
) -> Calls:  # fmt: skip
    given = _of_softmax(device, z, bias, target, weights, loss, numbers, scale, scales, grad_z, total)
    cols, cost = z.shape[-1], work(z.size, "exp(log1p(") + ROW * z[..., 0].size
    if cols > SIDE_BY_SIDE:
        yield KernelCall(device, "wide_softmax_cross_entropy", cost, **given, **room(device, cols))
    else:
        yield KernelCall(
            device, "softmax_cross_entropy", cost, **given, room=device.empty((device.threads, 2, LANES, cols)),
            threads=device.threads,
        )  # fmt: skip


@or_numpy
def softmax_focal(
    device: CpuDevice, z: Array, bias: Array | None, target: Array, weights: Array | None, loss: LossFormula,
    numbers: Array, scale: float, scales: Array | None, grad_z: Array | None, total: Array,
) -> Calls:  # fmt: skip
    yield KernelCall(
        device, "softmax_focal", work(z.size, FOCAL) + ROW * z[..., 0].size,
        **_of_softmax(device, z, bias, target, weights, loss, numbers, scale, scales, grad_z, total),
        **room(device, z.shape[-1], 3),
    )  # fmt: skip


@or_numpy
def sigmoid_cross_entropy(
    device: CpuDevice, z: Array, bias: Array | None, target: Array, weights: Array | None, loss: LossFormula,
    numbers: Array, scale: float, scales: Array | None, grad_z: Array | None, total: Array,
) -> Calls:  # fmt: skip
    yield KernelCall(
        device, "sigmoid_cross_entropy", work(z.size, "exp(log1p(") + ROW * z[..., 0].size,
        z=z, b=bias, target=target, weights=weights, scales=scales, grad_z=grad_z, **_sums(device, z, total),
        **sizes(z), scale=scale, accuracy=ACCURACY_KIND[loss.accuracy],
    )  # fmt: skip


@or_numpy
def residual_sums(device: CpuDevice, y: Array, target: Array, weights: Array | None, sums: Array) -> Calls:
    yield KernelCall(
        device, "residual_sums", 4 * work(y.size), y=y, target=target, weights=weights, sums=sums, **sizes(y)
    )


def _of_softmax(
    device: CpuDevice, z: Array, bias: Array | None, target: Array, weights: Array | None, loss: LossFormula,
    numbers: Array, scale: float, scales: Array | None, grad_z: Array | None, total: Array,
) -> dict[str, Any]:  # fmt: skip
    """What is right is the largest output, whatever else the loss may say."""
    given = _of_loss(device, z, target, weights, numbers, scale, scales, total)
    return given | {"z": z, "b": bias, "grad_z": grad_z, "accuracy": int(bool(loss.accuracy))}


def _of_loss(
    device: CpuDevice, y: Array, target: Array, weights: Array | None, numbers: Array, scale: float,
    scales: Array | None, total: Array,
) -> dict[str, Any]:  # fmt: skip
    """What losses have in common whose target is numbers or labels; the other of the two is None."""
    labels = target.ndim < y.ndim
    return {
        "target": None if labels else target, "labels": target if labels else None, "weights": weights,
        "numbers": numbers, "count": numbers.shape[-1], "scale": scale, "scales": scales, **_sums(device, y, total),
        **sizes(y),
    }  # fmt: skip


def _sums(device: CpuDevice, y: Array, total: Array) -> dict[str, Any]:
    """Where rows leave their losses, and the parts of an operation what they counted."""
    e, counts = device.empty(y.shape[:-1]), device.zeros((sizes(y)["models"], 2), np.int64)
    return {"e": e, "counts": counts, "total": total}
