"""Losses: value, gradient, weights and the count of right answers, each in one launch.

The gradient has the factor scale·scales: a number (1/B), and where there is an array, float64 (...,), one for each
model. total is float64 (..., 3), see formula.py. A target with one axis less than y holds labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.backend.cuda.ops.launch_shapes import (
    Bound,
    Launch,
    column_sums,
    flat_sizes,
    one_block,
    sizes,
    whole_rows,
)
from gpu_backprop.backend.formula import Array, LossFormula

ACCURACY_KIND = {"": 0, "argmax": 1, "threshold": 2}
"""What the kernels call each way to count right answers."""


def normalize_weights(
    device: CudaDevice, weights: Array, loss_scale: Array | None, weight_sum: Array, scales: Array | None, total: Array
) -> Bound:
    """weight_sum = Σw, total += Σw, and scales = S/Σw, where S is 1 without a loss_scale (and S where all w are 0, and
    with them all that it scales). All but the weights are float64."""
    models, rows = flat_sizes(weights)
    launch = one_block(models)
    yield device.kernels.launch(
        "normalize_weights", (weights.dtype,), *launch,
        weights=weights, loss_scale=loss_scale, weight_sum=weight_sum, scales=scales, total=total, rows=rows,
    )  # fmt: skip


def loss_gradient(
    device: CudaDevice, y: Array, target: Array, weights: Array | None, loss: LossFormula, scale: float,
    scales: Array | None, grad_y: Array | None, total: Array,
) -> Bound:  # fmt: skip
    """grad_y = scale·scales·w·∂e/∂y, and Σ w·e is added to the total; without grad_y only the latter."""
    models, rows, cols = sizes(y)
    launch = whole_rows(rows, cols, models)
    yield device.kernels.launch(
        "loss_gradient", (y.dtype, loss, target.dtype), *launch,
        y=y, target=target, weights=weights, scale=scale, scales=scales, grad_y=grad_y, total=total,
        **_sums(device, launch), rows=rows, cols=cols, target_cols=_target_cols(target, y),
        share=1 / cols if loss.mean_over_outputs else 1.0, smoothing=loss.smoothing, setting=loss.setting,
        accuracy=ACCURACY_KIND[loss.accuracy],
    )  # fmt: skip


def softmax_cross_entropy(
    device: CudaDevice, z: Array, bias: Array | None, target: Array, weights: Array | None, loss: LossFormula,
    scale: float, scales: Array | None, y: Array | None, grad_z: Array | None, total: Array,
) -> Bound:  # fmt: skip
    """y = softmax(z + b), e = log Σ exp z − Σ y*·z, ∇z = scale·scales·w·(y − y*), from z, so that all stay finite.

    y and grad_z are optional, and either of them may be z.
    """
    models, rows, cols = sizes(z)
    launch = whole_rows(rows, cols, models)
    yield device.kernels.launch(
        "softmax_cross_entropy", (z.dtype, target.dtype), *launch,
        z=z, b=bias, target=target, weights=weights, scale=scale, scales=scales, y=y, grad_z=grad_z, total=total,
        **_sums(device, launch), rows=rows, cols=cols, target_cols=_target_cols(target, z),
        smoothing=loss.smoothing, accuracy=ACCURACY_KIND[loss.accuracy],
    )  # fmt: skip


def sigmoid_cross_entropy(
    device: CudaDevice, z: Array, bias: Array | None, target: Array, weights: Array | None, loss: LossFormula,
    scale: float, scales: Array | None, y: Array | None, grad_z: Array | None, total: Array,
) -> Bound:  # fmt: skip
    """y = σ(z + b), e = Σ max(z, 0) − z·y* + log1p(e^−|z|), ∇z = scale·scales·w·(y − y*), from z, so that all stay
    finite.

    y and grad_z are optional, and either of them may be z.
    """
    models, rows, cols = sizes(z)
    launch = whole_rows(rows, cols, models)
    yield device.kernels.launch(
        "sigmoid_cross_entropy", (z.dtype,), *launch,
        z=z, b=bias, target=target, weights=weights, scale=scale, scales=scales, y=y, grad_z=grad_z, total=total,
        **_sums(device, launch), rows=rows, cols=cols, accuracy=ACCURACY_KIND[loss.accuracy],
    )  # fmt: skip


def _sums(device: CudaDevice, launch: Launch) -> dict[str, Any]:
    """Where blocks leave their share of loss and right answers."""
    blocks, _, models = launch.grid
    return {"part": device.work((models, blocks, 2), np.float64), "tickets": device.tickets(models)}


def _target_cols(target: Array, y: Array) -> int:
    return y.shape[-1] if target.ndim == y.ndim else 1


def residual_sums(device: CudaDevice, y: Array, target: Array, weights: Array | None, sums: Array) -> Bound:
    """sums[..., 0, :] += Σ w·|y − y*|, sums[..., 1, :] += Σ w·(y − y*)², one number an output, in float64."""
    models, rows, cols = sizes(y)
    launch = column_sums(rows, cols, models)
    yield device.kernels.launch(
        "residual_sums", (y.dtype,), *launch,
        y=y, target=target, weights=weights, sums=sums, part=device.work((models, launch.grid[1], cols, 2), np.float64),
        tickets=device.tickets(models * launch.grid[0]), rows=rows, cols=cols,
    )  # fmt: skip
