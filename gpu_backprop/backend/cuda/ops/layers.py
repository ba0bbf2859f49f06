"""Forward and backward of the layers."""

from __future__ import annotations

from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.backend.cuda.kernel_instance import accumulator
from gpu_backprop.backend.cuda.ops.launch_shapes import column_sums, columns, flat, sizes, whole_rows
from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.formula import IDENTITY, Activation, Array, Calls
from gpu_backprop.backend.philox import LANES


def matmul(device: CudaDevice, a: Array, b: Array, out: Array) -> Calls:
    yield from device.blas.matmul(a, b, out, tf32=device.tf32)


def add_bias(device: CudaDevice, x: Array, bias: Array, z: Array) -> Calls:
    yield from _columnwise(device, x, bias, IDENTITY, z, keep=0)


def bias_activate(device: CudaDevice, z: Array, bias: Array | None, f: Activation, y: Array) -> Calls:
    keep = int(y is not z and bias is not None)
    if not f.rowwise:
        yield from _columnwise(device, z, bias, f, y, keep)
        return
    _check_rowwise(f)
    models, rows, cols = sizes(z)
    launch = whole_rows(rows, cols, models)
    yield device.kernels.launch("softmax", (z.dtype,), *launch, z=z, b=bias, y=y, rows=rows, cols=cols, store_z=keep)


def _columnwise(device: CudaDevice, z: Array, bias: Array | None, f: Activation, y: Array, keep: int) -> Calls:
    models, rows, cols = sizes(z)
    width = device.kernels.width(z.dtype, cols, z, bias, y)
    launch = columns(rows, cols, models, width)
    yield device.kernels.launch(
        "bias_activate", (z.dtype, f, width), *launch,
        z=z, b=bias, y=y, rows=rows, cols=cols, store_z=keep,
    )  # fmt: skip


def _check_rowwise(f: Activation) -> None:
    if f.name != "softmax":
        raise DeviceError(
            f"{f.name!r} takes whole rows, for which CUDA has no kernel but that of 'softmax'; use device='cpu'."
        )


def activation_gradient(
    device: CudaDevice, grad_y: Array, s: Array | None, f: Activation, grad_z: Array, grad_bias: Array | None
) -> Calls:
    models, rows, cols = sizes(grad_y)
    dtype = grad_y.dtype
    if f.rowwise:
        _check_rowwise(f)
        launch = whole_rows(rows, cols, models)
        yield device.kernels.launch(
            "softmax_gradient", (dtype,), *launch,
            grad_y=grad_y, y=s, grad_z=grad_z, rows=rows, cols=cols,
        )  # fmt: skip
        if grad_bias is not None:
            yield from column_sum(device, grad_z, grad_bias)
        return
    width = device.kernels.width(dtype, cols, grad_y, s, grad_z, grad_bias)
    partial = tickets = None
    if grad_bias is None:
        launch = columns(rows, cols, models, width)
    else:
        launch = column_sums(rows, cols, models, width)
        partial = device.work((models, launch.grid[1], cols), accumulator(dtype))
        tickets = device.tickets(models * launch.grid[0])
    yield device.kernels.launch(
        "activation_gradient", (dtype, f, width), *launch,
        grad_y=grad_y, s=s, grad_z=grad_z, grad_bias=grad_bias, partial=partial, tickets=tickets, rows=rows, cols=cols,
    )  # fmt: skip


def column_sum(device: CudaDevice, grad_z: Array, grad_bias: Array) -> Calls:
    models, rows, cols = sizes(grad_z)
    width = device.kernels.width(grad_z.dtype, cols, grad_z, grad_bias)
    launch = column_sums(rows, cols, models, width)
    yield device.kernels.launch(
        "column_sum", (grad_z.dtype, width), *launch,
        grad_z=grad_z, grad_bias=grad_bias,
        partial=device.work((models, launch.grid[1], cols), accumulator(grad_z.dtype)),
        tickets=device.tickets(models * launch.grid[0]), rows=rows, cols=cols,
    )  # fmt: skip


def scale_columns(device: CudaDevice, x: Array, factors: Array, z: Array) -> Calls:
    models, rows, cols = sizes(x)
    width = device.kernels.width(x.dtype, cols, x, factors, z)
    yield device.kernels.launch(
        "scale_columns", (x.dtype, width), *columns(rows, cols, models, width),
        x=x, factors=factors, z=z, rows=rows, cols=cols,
    )  # fmt: skip


def scale_columns_gradient(
    device: CudaDevice, x: Array, grad_z: Array, factors: Array | None, grad_x: Array | None, grad_factors: Array
) -> Calls:
    models, rows, cols = sizes(x)
    width = device.kernels.width(x.dtype, cols, x, grad_z, factors, grad_x, grad_factors)
    launch = column_sums(rows, cols, models, width)
    yield device.kernels.launch(
        "scale_columns_gradient", (x.dtype, width), *launch,
        x=x, grad_z=grad_z, factors=factors, grad_x=grad_x, grad_factors=grad_factors,
        partial=device.work((models, launch.grid[1], cols), accumulator(x.dtype)),
        tickets=device.tickets(models * launch.grid[0]), rows=rows, cols=cols,
    )  # fmt: skip


def dropout(
    device: CudaDevice, x: Array, rates: Array, random: Array, y: Array, mask: Array, first_row: int = 0
) -> Calls:
    models, rows, cols = sizes(mask)
    width = device.kernels.width(x.dtype, cols, x, y, mask)
    launch = columns(rows, cols, models, LANES)  # a thread has one block of random numbers
    yield device.kernels.launch(
        "dropout", (x.dtype, width), *launch,
        x=x, rates=rates, rng_state=random, y=y, mask=mask, first_row=first_row, rows=rows, cols=cols,
    )  # fmt: skip


def multiply(device: CudaDevice, a: Array, b: Array, out: Array) -> Calls:
    width = device.kernels.width(a.dtype, a.size, a, b, out)
    launch = flat(a.size, width=width)
    yield device.kernels.launch("multiply", (a.dtype, width), *launch, a=a, b=b, out=out, n=a.size)
