"""The operations as compiled kernels for this machine's CPU; what they do not cover is NumPy's."""

from gpu_backprop.backend.compiled.ops.layers import (
    activation_gradient,
    add_bias,
    bias_activate,
    column_sum,
    dropout,
    multiply,
    scale_columns,
    scale_columns_gradient,
)
from gpu_backprop.backend.compiled.ops.losses import (
    loss_gradient,
    normalize_weights,
    residual_sums,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
    softmax_focal,
)
from gpu_backprop.backend.compiled.ops.minibatch import advance, copy, gather
from gpu_backprop.backend.compiled.ops.optimizers import blend, clip_factor, limit_norms, sum_of_squares, update
from gpu_backprop.backend.compiled.ops.periodic import periodic, periodic_gradient, periodic_gradient_x
from gpu_backprop.backend.compiled.ops.products import matmul
from gpu_backprop.backend.compiled.ops.schedules import follow_schedule
from gpu_backprop.backend.numpy_ops import all_reduce, unscale
