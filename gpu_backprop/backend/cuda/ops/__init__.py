"""The operations on CUDA: each a kernel launch or two, or a matrix product. A leading models axis becomes gridDim.z."""

from gpu_backprop.backend.cuda.ops.epilogues import matmul_activate, matmul_activation_gradient, matmul_column_sum
from gpu_backprop.backend.cuda.ops.flat import (
    all_reduce,
    blend,
    clip_factor,
    copy,
    limit_norms,
    sum_of_squares,
    unscale,
)
from gpu_backprop.backend.cuda.ops.head import head
from gpu_backprop.backend.cuda.ops.layers import (
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
from gpu_backprop.backend.cuda.ops.losses import (
    loss_gradient,
    normalize_weights,
    residual_sums,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
    softmax_focal,
)
from gpu_backprop.backend.cuda.ops.minibatch import advance, gather
from gpu_backprop.backend.cuda.ops.optimizers import update
from gpu_backprop.backend.cuda.ops.periodic import periodic, periodic_gradient, periodic_gradient_x
from gpu_backprop.backend.cuda.ops.schedules import follow_schedule
from gpu_backprop.backend.cuda.ops.train_epoch import train_epoch
