"""Periodic embeddings of numbers; threads share the rows, and each adds up the gradients of its own."""

from __future__ import annotations

import numpy as np

from gpu_backprop.backend.compiled.device import CpuDevice
from gpu_backprop.backend.compiled.ops.fallback import or_numpy
from gpu_backprop.backend.compiled.ops.layers import padded
from gpu_backprop.backend.compiled.program import KernelCall
from gpu_backprop.backend.formula import Array, Calls

FORWARD, BACKWARD = 0.25, 0.45
"""Nanoseconds that one thread takes for a frequency of a number: its cosine, and its sine too."""


@or_numpy
def periodic(device: CpuDevice, x: Array, weight: Array, bias: Array, y: Array) -> Calls:
    work = FORWARD * _cosines(weight, y)
    yield KernelCall(device, "periodic", work, x=x, weight=weight, bias=bias, y=y, **_sizes(x, weight, bias, y))


@or_numpy
def periodic_gradient(
    device: CpuDevice, x: Array, weight: Array, bias: Array, grad_y: Array, grad_weight: Array, grad_bias: Array
) -> Calls:
    sizes = _sizes(x, weight, bias, grad_y)
    size = padded((weight.size + bias.size) // sizes["models"])
    yield KernelCall(
        device, "periodic_gradient", BACKWARD * _cosines(weight, grad_y),
        x=x, weight=weight, bias=bias, grad_y=grad_y, grad_weight=grad_weight, grad_bias=grad_bias,
        partial=device.empty((device.threads, sizes["models"], size)), ticket=device.zeros((1,), np.int64),
        **sizes, threads=device.threads, size=size,
    )  # fmt: skip


@or_numpy
def periodic_gradient_x(device: CpuDevice, x: Array, weight: Array, bias: Array, grad_y: Array, grad_x: Array) -> Calls:
    work, sizes = BACKWARD * _cosines(weight, grad_y), _sizes(x, weight, bias, grad_y)
    arrays = {"x": x, "weight": weight, "bias": bias, "grad_y": grad_y, "grad_x": grad_x}
    yield KernelCall(device, "periodic_gradient_x", work, **arrays, **sizes)


def _cosines(weight: Array, y: Array) -> int:
    """How many there are."""
    return int(weight[..., 0].size * y.shape[-2])


def _sizes(x: Array, weight: Array, bias: Array, y: Array) -> dict[str, int]:
    numbers, frequencies, width = weight.shape[-3:]
    return {
        "models": len(y) if y.ndim == 3 else 1, "rows": y.shape[-2], "inputs": x.shape[-1], "outputs": y.shape[-1],
        "numbers": numbers, "frequencies": frequencies, "width": width, "terms": bias.shape[-1],
    }  # fmt: skip
