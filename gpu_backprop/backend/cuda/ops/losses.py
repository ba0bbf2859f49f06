"""Losses: value, gradient, weights and the count of right answers, each in one launch."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.backend.cuda.ops.launch_shapes import Launch, column_sums, flat_sizes, one_block, sizes, whole_rows
from gpu_backprop.backend.formula import ACCURACY_KIND, Array, Call, Calls, LossFormula


def normalize_weights(
    device: CudaDevice, weights: Array, loss_scale: Array | None, counted: Array | None, factor: Array,
    scales: Array | None, total: Array,
) -> Calls:  # fmt: skip
    models, rows = flat_sizes(weights)
    launch = one_block(models)
    yield device.kernels.launch(
        "normalize_weights", (weights.dtype,), *launch,
        weights=weights, loss_scale=loss_scale, counted=counted, factor=factor, scales=scales, total=total, rows=rows,
    )  # fmt: skip


def loss_gradient(
    device: CudaDevice, y: Array, target: Array, weights: Array | None, loss: LossFormula, numbers: Array,
    scale: float, scales: Array | None, grad_y: Array | None, total: Array,
) -> Calls:  # fmt: skip
    models, rows, cols = sizes(y)
    launch = whole_rows(rows, cols, models)
    yield device.kernels.launch(
        "loss_gradient", (y.dtype, loss, target.dtype), *launch,
        y=y, target=target, weights=weights, numbers=numbers, scale=scale, scales=scales, grad_y=grad_y, total=total,
        **_sums(device, launch), rows=rows, cols=cols, target_cols=_target_cols(target, y), count=numbers.shape[-1],
        share=loss.share(cols), accuracy=ACCURACY_KIND[loss.accuracy],
    )  # fmt: skip


def softmax_cross_entropy(
    device: CudaDevice, z: Array, bias: Array | None, target: Array, weights: Array | None, loss: LossFormula,
    numbers: Array, scale: float, scales: Array | None, grad_z: Array | None, total: Array,
) -> Calls:  # fmt: skip
    yield _of_softmax(
        "softmax_cross_entropy", device, z, bias, target, weights, loss, numbers, scale, scales, grad_z, total
    )


def sigmoid_cross_entropy(
    device: CudaDevice, z: Array, bias: Array | None, target: Array, weights: Array | None, loss: LossFormula,
    numbers: Array, scale: float, scales: Array | None, grad_z: Array | None, total: Array,
) -> Calls:  # fmt: skip
    models, rows, cols = sizes(z)
    launch = whole_rows(rows, cols, models)
    yield device.kernels.launch(
        "sigmoid_cross_entropy", (z.dtype,), *launch,
        z=z, b=bias, target=target, weights=weights, scale=scale, scales=scales, grad_z=grad_z, total=total,
        **_sums(device, launch), rows=rows, cols=cols, accuracy=ACCURACY_KIND[loss.accuracy],
    )  # fmt: skip


def softmax_focal(
    device: CudaDevice, z: Array, bias: Array | None, target: Array, weights: Array | None, loss: LossFormula,
    numbers: Array, scale: float, scales: Array | None, grad_z: Array | None, total: Array,
) -> Calls:  # fmt: skip
    yield _of_softmax("softmax_focal", device, z, bias, target, weights, loss, numbers, scale, scales, grad_z, total)


def _of_softmax(
    kernel: str, device: CudaDevice, z: Array, bias: Array | None, target: Array, weights: Array | None,
    loss: LossFormula, numbers: Array, scale: float, scales: Array | None, grad_z: Array | None, total: Array,
) -> Call:  # fmt: skip
    models, rows, cols = sizes(z)
    launch = whole_rows(rows, cols, models)
    return device.kernels.launch(
        kernel, (z.dtype, target.dtype), *launch,
        z=z, b=bias, target=target, weights=weights, numbers=numbers, scale=scale, scales=scales, grad_z=grad_z,
        total=total, **_sums(device, launch), rows=rows, cols=cols, target_cols=_target_cols(target, z),
        count=numbers.shape[-1], accuracy=ACCURACY_KIND[loss.accuracy],
    )  # fmt: skip


def _sums(device: CudaDevice, launch: Launch) -> dict[str, Any]:
    """Where blocks leave their share of loss and right answers."""
    blocks, _, models = launch.grid
    return {"partial": device.work((models, blocks, 2), np.float64), "tickets": device.tickets(models)}


def _target_cols(target: Array, y: Array) -> int:
    return y.shape[-1] if target.ndim == y.ndim else 1


def residual_sums(device: CudaDevice, y: Array, target: Array, weights: Array | None, sums: Array) -> Calls:
    models, rows, cols = sizes(y)
    launch = column_sums(rows, cols, models)
    yield device.kernels.launch(
        "residual_sums", (y.dtype,), *launch,
        y=y, target=target, weights=weights, sums=sums,
        partial=device.work((models, launch.grid[1], cols, 2), np.float64),
        tickets=device.tickets(models * launch.grid[0]), rows=rows, cols=cols,
    )  # fmt: skip
