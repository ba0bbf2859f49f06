"""The table of all kernels' runners."""

from __future__ import annotations

import kernel_runners as other
import kernel_runners_losses as losses
import kernel_runners_optimizers as optimizers
import kernel_runners_periodic as embeddings
import kernel_runners_weights as of_weights
from kernel_runners_head import head
from kernel_runners_train_epoch import train_epoch

RUNNERS = {
    "bias_activate": (other.bias_activate, "columns"),
    "activation_gradient": (other.activation_gradient, "columns"),
    "column_sum": (other.column_sum, "columns"),
    "multiply": (other.multiply, "flat"),
    "scale_columns": (other.scale_columns, "columns"),
    "scale_columns_gradient": (other.scale_columns_gradient, "columns"),
    "dropout": (other.dropout, "columns"),
    "periodic": (embeddings.periodic, "columns"),
    "periodic_gradient": (embeddings.periodic_gradient, "columns"),
    "periodic_gradient_x": (embeddings.periodic_gradient_x, "columns"),
    "softmax": (other.softmax, "rows"),
    "softmax_gradient": (other.softmax_gradient, "rows"),
    "gather": (other.gather, "columns"),
    "advance": (other.advance, "flat"),
    "copy": (other.copy, "flat"),
    "compare": (other.compare, "flat"),
    "follow_schedule": (other.follow_schedule, "flat"),
    "clip_factor": (of_weights.clip_factor, "flat"),
    "blend": (of_weights.blend, "flat"),
    "limit_norms": (of_weights.limit_norms, "columns"),
    "unscale": (optimizers.unscale, "flat"),
    "update": (optimizers.update, "flat"),
    "residual_sums": (other.residual_sums, "columns"),
    "sum_of_squares": (other.sum_of_squares, "flat"),
    "loss_gradient": (losses.loss_gradient, "rows"),
    "softmax_cross_entropy": (losses.softmax_cross_entropy, "rows"),
    "sigmoid_cross_entropy": (losses.sigmoid_cross_entropy, "rows"),
    "softmax_focal": (losses.softmax_focal, "rows"),
    "normalize_weights": (losses.normalize_weights, "flat"),
    "head": (head, "head"),
    "train_epoch": (train_epoch, "blocks"),
}
"""Each kernel's way of making a case, and which SHAPES it is made for."""
