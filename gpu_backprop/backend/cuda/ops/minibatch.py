"""The rows of a minibatch, chosen by a permutation and a cursor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.backend.cuda.ops.launch_shapes import columns, flat, sizes
from gpu_backprop.backend.formula import Array, Calls

NOTHING: Any = None, None
"""In the place of a source, and of where its rows go."""


def gather(
    device: CudaDevice, sources: Sequence[Array | None], permutation: Array, cursor: Array,
    outs: Sequence[Array | None], counts: Array | None = None,
) -> Calls:  # fmt: skip
    (x, x_out), (target, target_out), (weights, weights_out) = [*zip(sources, outs, strict=True), NOTHING, NOTHING][:3]
    models, rows, cols = sizes(weights_out[..., None] if x is None else x_out)
    samples, own = weights.shape[-1] if x is None else len(x), weights is not None and weights.ndim > 1
    width = 1 if x is None else device.kernels.width(x_out.dtype, cols, x, x_out)
    launch = columns(rows, cols, models, width)
    types = (device.dtype, device.dtype) if x is None else (x.dtype, x_out.dtype)
    yield device.kernels.launch(
        "gather", (*types, np.int64 if target is None else target.dtype, width), *launch,
        x=x, x_out=x_out, target=target, target_out=target_out, weights=None if own else weights,
        own_weights=weights if own else None, weights_out=weights_out, order=permutation, cursor=cursor,
        row_counts=counts, samples=samples, places=permutation.shape[-1], rows=rows, cols=cols,
        target_cols=0 if target is None else target.size // samples,
    )  # fmt: skip


def advance(
    device: CudaDevice, cursor: Array | None, rows: int, position: Array | None = None, random: Array | None = None,
    step: Array | None = None, counted: Array | None = None,
) -> Calls:  # fmt: skip
    randoms, count = (0 if array is None else array.size for array in (random, step))
    launch = flat(max(randoms, count, 1))
    yield device.kernels.launch(
        "advance", (), *launch,
        cursor=cursor, position=position, random=random, step=step, counted=counted, rows=rows, randoms=randoms,
        count=count,
    )  # fmt: skip
