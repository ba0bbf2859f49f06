"""The operations on NumPy: each binder yields bound calls that work in place and allocate nothing when they run.

This is the specification that every other back end is compared with: the same names and signatures. Arrays are
(..., rows, units); a leading models axis passes through. A binder accounts for nothing; plan.py does.
"""

from gpu_backprop.backend.numpy_ops.flat import copy, sum_of_squares, unscale
from gpu_backprop.backend.numpy_ops.layers import (
    activation_gradient,
    add_bias,
    bias_activate,
    column_sum,
    dropout,
    matmul,
    multiply,
)
from gpu_backprop.backend.numpy_ops.losses import (
    loss_gradient,
    normalize_weights,
    residual_sums,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
)
from gpu_backprop.backend.numpy_ops.minibatch import advance, gather
from gpu_backprop.backend.numpy_ops.optimizers import adagrad, adam, rmsprop, sgd

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
    "residual_sums",
    "rmsprop",
    "sgd",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "sum_of_squares",
    "unscale",
    "normalize_weights",
]
