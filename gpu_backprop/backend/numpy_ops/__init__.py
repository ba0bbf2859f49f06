"""The operations on NumPy: each binder yields bound calls that work in place and allocate nothing when they run.

This is the specification that every other back end is compared with.
"""

from gpu_backprop.backend.numpy_ops.flat import (
    all_reduce,
    blend,
    clip_factor,
    copy,
    limit_norms,
    sum_of_squares,
    unscale,
)
from gpu_backprop.backend.numpy_ops.layers import (
    activation_gradient,
    add_bias,
    bias_activate,
    column_sum,
    dropout,
    matmul,
    multiply,
    scale_columns,
    scale_columns_gradient,
)
from gpu_backprop.backend.numpy_ops.losses import (
    loss_gradient,
    normalize_weights,
    residual_sums,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
    softmax_focal,
)
from gpu_backprop.backend.numpy_ops.minibatch import advance, gather
from gpu_backprop.backend.numpy_ops.optimizers import update
from gpu_backprop.backend.numpy_ops.periodic import periodic, periodic_gradient, periodic_gradient_x
from gpu_backprop.backend.numpy_ops.schedules import follow_schedule
