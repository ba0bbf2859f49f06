"""Periodic embeddings of numbers."""

from __future__ import annotations

from typing import Any

from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.backend.cuda.kernel_instance import accumulator
from gpu_backprop.backend.cuda.ops.launch_shapes import column_sums, columns, sizes
from gpu_backprop.backend.formula import Array, Calls

SUMS, UNITS = 8, 6
"""The sums of a column of `periodic_gradient`, and how many of them are of units."""


def periodic(device: CudaDevice, x: Array, weight: Array, bias: Array, y: Array) -> Calls:
    models, rows, inputs = sizes(x)
    launch = columns(inputs, max(rows, 1), models)  # threads of a warp have rows side by side
    yield device.kernels.launch(
        "periodic", (x.dtype,), *launch, x=x, weight=weight, bias=bias, y=y, **_sizes(x, weight, bias, y)
    )  # fmt: skip


def periodic_gradient(
    device: CudaDevice, x: Array, weight: Array, bias: Array, grad_y: Array, grad_weight: Array, grad_bias: Array
) -> Calls:
    models, rows, _ = sizes(x)
    numbers, frequencies, width = weight.shape[-3:]
    cols = numbers * (frequencies + 1) * -(-(width - 1) // UNITS)
    launch = column_sums(rows, cols, models)
    yield device.kernels.launch(
        "periodic_gradient", (x.dtype,), *launch,
        x=x, weight=weight, bias=bias, grad_y=grad_y, grad_weight=grad_weight, grad_bias=grad_bias,
        partial=device.work((models, launch.grid[1], cols, SUMS), accumulator(x.dtype)),
        tickets=device.tickets(models * launch.grid[0]), **_sizes(x, weight, bias, grad_y), cols=cols,
    )  # fmt: skip


def periodic_gradient_x(
    device: CudaDevice, x: Array, weight: Array, bias: Array, grad_y: Array, grad_x: Array
) -> Calls:
    models, rows, inputs = sizes(x)
    launch = columns(inputs, max(rows, 1), models)
    yield device.kernels.launch(
        "periodic_gradient_x", (x.dtype,), *launch,
        x=x, weight=weight, bias=bias, grad_y=grad_y, grad_x=grad_x, **_sizes(x, weight, bias, grad_y),
    )  # fmt: skip


def _sizes(x: Array, weight: Array, bias: Array, y: Array) -> dict[str, Any]:
    numbers, frequencies, width = weight.shape[-3:]
    return {
        "rows": x.shape[-2], "inputs": x.shape[-1], "numbers": numbers, "frequencies": frequencies, "width": width,
        "terms": bias.shape[-1], "outputs": y.shape[-1],
    }  # fmt: skip
