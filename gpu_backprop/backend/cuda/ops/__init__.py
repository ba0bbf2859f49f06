"""The operations on CUDA: the names and signatures of numpy_ops, each a kernel launch or two, or a matrix product;
and `train_epoch`, which no CPU has.

Arrays are (..., rows, units); a leading models axis becomes gridDim.z. A binder accounts for nothing; plan.py does.
CuPy is imported when a device is opened, and not before.
"""

from __future__ import annotations

import importlib
import sys

from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.backend.cuda.ops.flat import copy, sum_of_squares, unscale
from gpu_backprop.backend.cuda.ops.layers import (
    activation_gradient,
    add_bias,
    bias_activate,
    column_sum,
    dropout,
    matmul,
    multiply,
)
from gpu_backprop.backend.cuda.ops.losses import (
    loss_gradient,
    normalize_weights,
    residual_sums,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
)
from gpu_backprop.backend.cuda.ops.minibatch import advance, gather
from gpu_backprop.backend.cuda.ops.optimizers import adagrad, adam, rmsprop, sgd
from gpu_backprop.backend.cuda.ops.train_epoch import train_epoch

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
    "train_epoch",
    "residual_sums",
    "rmsprop",
    "sgd",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "sum_of_squares",
    "unscale",
    "normalize_weights",
]


def open_device(index: int, reason: str, dtype: str) -> CudaDevice:
    """CUDA device `index`, with these operations."""
    return CudaDevice(index, reason, dtype, importlib.import_module("cupy"), sys.modules[__name__])
