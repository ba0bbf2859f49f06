"""The last layer, its loss, and the way back to the layer below, in one launch."""

from __future__ import annotations

import numpy as np

from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.backend.cuda.fusions.head_shape import HeadShape
from gpu_backprop.backend.cuda.kernel_instance import accumulator
from gpu_backprop.backend.cuda.ops.launch_shapes import sizes
from gpu_backprop.backend.formula import ACCURACY_KIND, Activation, Array, Calls, LossFormula

FROM_Z = {"loss_gradient": 0, "softmax_cross_entropy": 1, "sigmoid_cross_entropy": 2, "softmax_focal": 3}
"""What the kernel calls each operation of a loss."""


def head(
    device: CudaDevice, y: Array, weight: Array, bias: Array | None, target: Array, weights: Array | None, kind: str,
    loss: LossFormula, numbers: Array, scale: float, scales: Array | None, grad_z: Array, grad_bias: Array | None,
    s: Array | None, f: Activation, grad_below: Array | None, grad_bias_below: Array | None, total: Array,
) -> Calls:  # fmt: skip
    models, rows, units = sizes(y)
    cols, dtype = weight.shape[-1], y.dtype
    shape = HeadShape.of(dtype, rows, units, cols, models, grad_bias_below is not None)
    width = device.kernels.width(dtype, units, y, s, grad_below, grad_bias_below)
    template = dtype, loss, target.dtype, f, FROM_Z[kind], shape.outputs, width
    yield device.kernels.launch(
        "head", template, shape.grid, shape.block, shape.bytes,
        y=y, w=weight, b=bias, target=target, weights=weights, numbers=numbers, scales=scales, s=s, grad_z=grad_z,
        grad_bias=grad_bias, grad_below=grad_below, grad_bias_below=grad_bias_below, total=total,
        partial=device.work((models, shape.grid[0], shape.sums), accumulator(dtype)),
        loss_partial=device.work((models, shape.grid[0], 2), np.float64, slot=1), tickets=device.tickets(models),
        rows=rows, units=units, cols=cols, places=grad_z.shape[-1], pitch=shape.pitch, sums=shape.sums,
        target_cols=cols if target.ndim == y.ndim else 1, count=numbers.shape[-1], scale=scale,
        share=loss.share(cols) if kind == "loss_gradient" else 1.0, accuracy=ACCURACY_KIND[loss.accuracy],
    )  # fmt: skip
