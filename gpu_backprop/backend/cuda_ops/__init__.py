"""The operations on CUDA: the names and signatures of numpy_ops, each a kernel launch or two, or a matrix product;
and `resident`, which no CPU has.

Arrays are (..., rows, units); a leading models axis becomes gridDim.z. A binder accounts for nothing; plan.py does.
CuPy is imported when a device is opened, and not before.
"""

from __future__ import annotations

import importlib
import sys

from gpu_backprop.backend.cuda_device import CudaDevice
from gpu_backprop.backend.cuda_ops.blocks import resident
from gpu_backprop.backend.cuda_ops.flat import copy, sum_of_squares, unscale
from gpu_backprop.backend.cuda_ops.layers import (
    activation_gradient,
    add_bias,
    bias_activate,
    column_sum,
    dropout,
    matmul,
    multiply,
)
from gpu_backprop.backend.cuda_ops.losses import (
    loss_gradient,
    residual_sums,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
    weigh,
)
from gpu_backprop.backend.cuda_ops.minibatch import advance, gather
from gpu_backprop.backend.cuda_ops.optimizers import adagrad, adam, rmsprop, sgd

__all__ = [
    "activation_gradient",
    "adagrad",
    "adam",
    "add_bias",
    "advance",
    "bias_activate",
    "column_sum",
    "copy",
    "dropout",
    "gather",
    "loss_gradient",
    "matmul",
    "multiply",
    "resident",
    "residual_sums",
    "rmsprop",
    "sgd",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "sum_of_squares",
    "unscale",
    "weigh",
]


def open_device(index: int, reason: str, dtype: str) -> CudaDevice:
    """CUDA device `index`, with these operations."""
    return CudaDevice(index, reason, dtype, importlib.import_module("cupy"), sys.modules[__name__])
