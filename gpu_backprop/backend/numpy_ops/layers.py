"""Forward and backward of the layers."""

from __future__ import annotations

from functools import partial

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Activation, Array, call
from gpu_backprop.backend.numpy_ops.scratch import Bound, Scratch, beside
from gpu_backprop.backend.philox import LANES, uniform


def matmul(device: Device, a: Array, b: Array, out: Array) -> Bound:
    """out = a@b; a and b may be transposed views."""
    if out.ndim == 2:
        yield partial(np.dot, a, b, out)  # half of np.matmul's overhead
    else:
        yield partial(np.matmul, a, b, out)


def add_bias(device: Device, x: Array, bias: Array, z: Array) -> Bound:
    """z = x + b"""
    yield call(np.add, x, beside(bias), out=z)


def bias_activate(device: Device, z: Array, bias: Array | None, f: Activation, y: Array) -> Bound:
    """y = f(z + b). y may be z; where it is not, z becomes z + b."""
    if bias is not None:
        yield call(np.add, z, beside(bias), out=z)
    if f.numpy_value is not None:
        yield from f.numpy_value(z, y, Scratch(device, z))
    elif y is not z:
        yield partial(np.copyto, y, z)


def activation_gradient(
    device: Device, grad_y: Array, s: Array | None, f: Activation, grad_z: Array, grad_bias: Array | None
) -> Bound:
    """∇z = ∇y ⊙ f′(s), and with it ∇b = Σ∇z over the rows. grad_z may be grad_y."""
    if f.numpy_gradient is not None and s is not None:
        yield from f.numpy_gradient(grad_y, s, grad_z, Scratch(device, grad_z))
    elif grad_z is not grad_y:
        yield partial(np.copyto, grad_z, grad_y)
    if grad_bias is not None:
        yield from column_sum(device, grad_z, grad_bias)


def column_sum(device: Device, grad_z: Array, grad_bias: Array) -> Bound:
    """∇b = Σ∇z over the rows."""
    if grad_z.ndim == 2:
        ones = device.empty(grad_z.shape[:1], grad_z.dtype)
        ones[...] = 1
        yield partial(np.dot, ones, grad_z, grad_bias)  # BLAS adds up columns faster than add.reduce
    else:
        yield partial(np.add.reduce, grad_z, -2, None, grad_bias)


def dropout(device: Device, x: Array, rate: float, random: Array, y: Array, mask: Array) -> Bound:
    """mask = [u ≥ rate]/(1 − rate), y = x ⊙ mask, with u from Philox at counter (block, step)."""
    rows, units = mask.shape[-2:]
    u = device.work((rows, -(-units // LANES) * LANES), np.float32)
    keep = device.work((rows, units), np.bool_)
    members = [(random, mask)] if mask.ndim == 2 else list(zip(random, mask, strict=True))
    for words, member_mask in members:
        yield uniform(words, u)
        yield call(np.greater_equal, u[:, :units], rate, out=keep)
        yield partial(np.copyto, member_mask, keep)
    yield call(np.multiply, mask, 1 / (1 - rate), out=mask)
    yield call(np.multiply, x, mask, out=y)


def multiply(device: Device, a: Array, b: Array, out: Array) -> Bound:
    """out = a ⊙ b"""
    yield call(np.multiply, a, b, out=out)
