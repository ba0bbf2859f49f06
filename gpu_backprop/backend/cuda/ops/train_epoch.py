"""Whole epochs of small networks in one launch, a network a block. There is no such operation on a CPU, whose caches do
of themselves what a block's memory does here.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpu_backprop.backend.block_layout import BlockLayout
from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.backend.cuda.ops.launch_shapes import flat_sizes, one_block, whole_rows
from gpu_backprop.backend.cuda.ops.optimizers import table_sizes
from gpu_backprop.backend.formula import ACCURACY_KIND, Array, Calls, LossFormula
from gpu_backprop.backend.update_rule import UpdateRule

TAKES = {"": 0, "softmax": 1, "sigmoid": 2}
"""What the kernel calls a loss of y, and those which take z and bring the activation along."""


def train_epoch(
    device: CudaDevice, sources: Sequence[Array], permutation: Array, cursor: Array, layout: BlockLayout, w: Array,
    g: Array, moments: Array | None, rule: UpdateRule, hyper: Array, groups: Array | None, loss: LossFormula,
    numbers: Array, mean: bool, total: Array, batch: int, rows: int, running: Array | None = None,
) -> Calls:  # fmt: skip
    x, target = sources
    models, n = flat_sizes(w)
    length, outputs = permutation.shape[-1], layout.layers[-1].units
    micro, held = layout.fit(min(batch, length), device.kernels.block_memory)
    lanes = whole_rows(1, outputs, 1).block[0]
    launch, memory = one_block(models), layout.size(micro, held)
    yield device.kernels.launch(
        "train_epoch", (w.dtype, x.dtype, target.dtype, layout.functions, loss, rule), *launch, memory,
        x=x, target=target, order=permutation, cursor=cursor, places=device.from_host(layout.places(micro, held)), w=w,
        g=g, moments=moments, hyper=hyper, groups=groups, running=running, numbers=numbers, total=total,
        samples=len(x), length=length, rows=rows,
        batch=batch, inputs=layout.layers[0].inputs, target_cols=target.size // len(x), layers=len(layout.layers), n=n,
        **table_sizes(rule, hyper, groups), loss_numbers=numbers.shape[-1], held=held, micro=micro,
        lanes=lanes,
        scale=1 / batch if mean else 1.0, tail_scale=1 / (rows % batch or batch) if mean else 1.0,
        share=loss.share(outputs), accuracy=ACCURACY_KIND[loss.accuracy], takes=TAKES[layout.fused],
    )  # fmt: skip
