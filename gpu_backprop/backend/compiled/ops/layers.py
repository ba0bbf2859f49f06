"""Forward and backward of the layers, in one pass over the rows each; threads share the rows."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from gpu_backprop.backend.compiled.device import CpuDevice
from gpu_backprop.backend.compiled.ops.fallback import or_numpy
from gpu_backprop.backend.compiled.program import KernelCall, UnsupportedArguments
from gpu_backprop.backend.formula import Activation, Array, Calls

PASS, FUNCTION = 0.1, 0.3
"""Nanoseconds that one thread takes for an element: to read and write it, and for each function in its formula."""

RANDOM = 1.5
"""The same for a random number."""

ROW = 5
"""The same for a row, where the numbers in it are worked out together."""

LANES = 16
"""Numbers in the widest vector, LANES in rows.hpp; rows of scratch memory are multiples of it."""


def sizes(a: Array) -> dict[str, int]:
    """models, rows and cols of (..., rows, units), or (units,)."""
    return {"models": len(a) if a.ndim == 3 else 1, "rows": math.prod(a.shape[-2:-1]), "cols": a.shape[-1]}


def padded(columns: int) -> int:
    """So many columns, and up to LANES − 1 more."""
    return -(-columns // LANES) * LANES


def room(device: CpuDevice, cols: int, arrays: int = 1) -> dict[str, Any]:
    """Memory for rows of so many columns in whole vectors: of each thread so many of them."""
    width = padded(cols)
    return {"room": device.empty((device.threads, arrays, width)), "threads": device.threads, "width": width}


def work(size: int, *formulas: str) -> float:
    """About how many nanoseconds one thread takes for so many elements."""
    return size * (PASS + FUNCTION * sum(len(re.findall(r"\b[a-z]\w*\(", text)) for text in formulas))


@or_numpy
def add_bias(device: CpuDevice, x: Array, bias: Array, z: Array) -> Calls:
    yield KernelCall(device, "add_bias", work(z.size), x=x, b=bias, z=z, **sizes(z))


@or_numpy
def bias_activate(device: CpuDevice, z: Array, bias: Array | None, f: Activation, y: Array) -> Calls:
    given: dict[str, Any] = {"z": z, "b": bias, "y": y, **sizes(z), "store_z": int(y is not z)}
    if f.rowwise:
        _check_rowwise(f)
        cost = work(z.size, "exp(") + ROW * z[..., 0].size
        yield KernelCall(device, "softmax", cost, **given, **room(device, z.shape[-1]))
    else:
        yield KernelCall(device, "bias_activate", work(z.size, f.cuda_value), f, **given)


@or_numpy
def activation_gradient(
    device: CpuDevice, grad_y: Array, s: Array | None, f: Activation, grad_z: Array, grad_bias: Array | None
) -> Calls:
    if f.rowwise:
        _check_rowwise(f)
        cost = 2 * work(grad_z.size) + ROW * grad_z[..., 0].size
        yield KernelCall(device, "softmax_gradient", cost, grad_y=grad_y, y=s, grad_z=grad_z, **sizes(grad_z))
        if grad_bias is not None:
            yield from column_sum(device, grad_z, grad_bias)
        return
    cost = work(grad_z.size, f.cuda_slope) + (0 if grad_bias is None else work(grad_z.size))
    yield KernelCall(
        device, "activation_gradient", cost, f,
        grad_y=grad_y, s=s, grad_z=grad_z, **_sums(device, grad_z, grad_bias), **sizes(grad_z),
    )  # fmt: skip


@or_numpy
def column_sum(device: CpuDevice, grad_z: Array, grad_bias: Array) -> Calls:
    cost = work(grad_z.size)
    yield KernelCall(device, "column_sum", cost, grad_z=grad_z, **_sums(device, grad_z, grad_bias), **sizes(grad_z))


@or_numpy
def scale_columns(device: CpuDevice, x: Array, factors: Array, z: Array) -> Calls:
    yield KernelCall(device, "scale_columns", work(z.size), x=x, factors=factors, z=z, **sizes(z))


@or_numpy
def scale_columns_gradient(
    device: CpuDevice, x: Array, grad_z: Array, factors: Array | None, grad_x: Array | None, grad_factors: Array
) -> Calls:
    cost = work(grad_z.size) * (1 if grad_x is None else 2)
    yield KernelCall(
        device, "scale_columns_gradient", cost,
        x=x, grad_z=grad_z, factors=factors, grad_x=grad_x,
        **_sums(device, grad_z, grad_factors, "grad_factors"), **sizes(grad_z),
    )  # fmt: skip


@or_numpy
def dropout(
    device: CpuDevice, x: Array, rates: Array, random: Array, y: Array, mask: Array, first_row: int = 0
) -> Calls:  # fmt: skip
    yield KernelCall(
        device, "dropout", RANDOM * mask.size,
        x=x, rates=rates, rng_state=random.view(np.int64), y=y, mask=mask, first_row=first_row, **sizes(mask),
    )  # fmt: skip


@or_numpy
def multiply(device: CpuDevice, a: Array, b: Array, out: Array) -> Calls:
    yield KernelCall(device, "multiply", work(out.size), a=a, b=b, out=out, **sizes(out))


def _check_rowwise(f: Activation) -> None:
    if f.name != "softmax":
        raise UnsupportedArguments(f"{f.name} takes whole rows, as no kernel but softmax does")


def _sums(device: CpuDevice, grad_z: Array, sums: Array | None, name: str = "grad_bias") -> dict[str, Any]:
    """Where the parts of an operation add up columns, each in memory of its own; the kernel calls the sums `name`."""
    models, width = sizes(grad_z)["models"], padded(grad_z.shape[-1])
    partial = ticket = None
    if sums is not None:
        partial, ticket = device.empty((device.threads, models, width)), device.zeros((1,), np.int64)
    return {name: sums, "partial": partial, "ticket": ticket, "threads": device.threads, "width": width}
