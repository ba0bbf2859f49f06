"""Forward and backward of the layers."""

from __future__ import annotations

from functools import partial

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Activation, Array, Calls, call
from gpu_backprop.backend.numpy_ops.blocks import in_blocks
from gpu_backprop.backend.numpy_ops.parts import in_parts
from gpu_backprop.backend.numpy_ops.scratch import Scratch, as_row, broadcast
from gpu_backprop.backend.philox import LANES, uniform


def matmul(device: Device, a: Array, b: Array, out: Array) -> Calls:
    if out.ndim == 2:
        yield in_parts(device.threads, np.dot, a, b, out)  # half of np.matmul's overhead
    elif a.shape[-1] == 1:  # where np.matmul does without BLAS
        yield call(np.multiply, a, b, out=out)
    else:
        yield in_parts(device.threads, np.matmul, a, b, out)


def add_bias(device: Device, x: Array, bias: Array, z: Array) -> Calls:

    def formula(work: Scratch, z: Array, x: Array, bias: Array) -> Calls:
        yield from broadcast(np.add, x, bias, z, work)

    yield from in_blocks(device, formula, z, x, as_row(bias))


def bias_activate(device: Device, z: Array, bias: Array | None, f: Activation, y: Array) -> Calls:
    copied = y is not z and f.numpy_value is None

    def formula(work: Scratch, z: Array, bias: Array | None, y: Array) -> Calls:
        if bias is not None:
            yield from broadcast(np.add, z, bias, z, work)
        if f.numpy_value is not None:
            yield from f.numpy_value(z, y, work)
        elif copied:
            yield partial(np.copyto, y, z)

    yield from in_blocks(device, formula, z, None if bias is None else as_row(bias), y)


def activation_gradient(
    device: Device, grad_y: Array, s: Array | None, f: Activation, grad_z: Array, grad_bias: Array | None
) -> Calls:

    def formula(work: Scratch, grad_z: Array, grad_y: Array, s: Array | None) -> Calls:
        if f.numpy_gradient is not None and s is not None:
            yield from f.numpy_gradient(grad_y, s, grad_z, work)
        else:
            yield partial(np.copyto, grad_z, grad_y)

    if s is not None or grad_z is not grad_y:
        yield from in_blocks(device, formula, grad_z, grad_y, s)
    if grad_bias is not None:
        yield from column_sum(device, grad_z, grad_bias)


def column_sum(device: Device, grad_z: Array, grad_bias: Array) -> Calls:
    """Multiplies by ones, because BLAS adds up columns faster than add.reduce."""
    ones = device.empty(grad_z.shape[-2:-1], grad_z.dtype)
    ones[...] = 1
    yield partial(np.dot if grad_z.ndim == 2 else np.matmul, ones, grad_z, grad_bias)


def scale_columns(device: Device, x: Array, factors: Array, z: Array) -> Calls:

    def formula(work: Scratch, z: Array, x: Array, factors: Array) -> Calls:
        yield from broadcast(np.multiply, x, factors, z, work)

    yield from in_blocks(device, formula, z, x, as_row(factors))


def scale_columns_gradient(
    device: Device, x: Array, grad_z: Array, factors: Array | None, grad_x: Array | None, grad_factors: Array
) -> Calls:
    products = device.work(grad_z.shape, grad_z.dtype)
    yield from multiply(device, x, grad_z, products)
    yield from column_sum(device, products, grad_factors)
    if factors is not None and grad_x is not None:
        yield from scale_columns(device, grad_z, factors, grad_x)


def dropout(device: Device, x: Array, rates: Array, random: Array, y: Array, mask: Array, first_row: int = 0) -> Calls:

    def formula(work: Scratch, mask: Array, x: Array, y: Array, rates: Array, random: Array) -> Calls:
        rows, units = mask.shape[-2:]
        blocks = -(-units // LANES)
        u, keep = work.array((rows, blocks * LANES), np.float32), work.array((rows, units), np.bool_)
        rate, scale = work.array(rates.shape[:-2], np.float32, 1), work.array(rates.shape[:-2], mask.dtype, 2)
        yield partial(np.copyto, rate, rates[..., 0, 0])
        yield partial(np.copyto, scale, rates[..., 0, 1])
        for member in np.ndindex(mask.shape[:-2]):
            yield uniform(random[(*member, 0)], u, (first_row + work.row) * blocks)
            yield call(np.greater_equal, u[:, :units], rate[(*member, ...)], out=keep)
            yield partial(np.copyto, mask[member], keep)
        yield call(np.multiply, mask, scale[..., None, None], out=mask)
        yield call(np.multiply, x, mask, out=y)

    yield from in_blocks(device, formula, mask, x, y, as_row(rates), as_row(random))


def multiply(device: Device, a: Array, b: Array, out: Array) -> Calls:

    def formula(work: Scratch, out: Array, a: Array, b: Array) -> Calls:
        yield call(np.multiply, a, b, out=out)

    yield from in_blocks(device, formula, out, a, b)
