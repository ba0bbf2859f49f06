"""The rows of a minibatch, chosen by a permutation and a cursor; and copies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu_backprop.backend.compiled.device import CpuDevice
from gpu_backprop.backend.compiled.ops.fallback import or_numpy
from gpu_backprop.backend.compiled.program import KernelCall, UnsupportedArguments
from gpu_backprop.backend.formula import Array, Calls

RATE = 8
"""Bytes that one thread copies in a nanosecond."""


@or_numpy
def gather(
    device: CpuDevice, sources: Sequence[Array], permutation: Array, cursor: Array, outs: Sequence[Array]
) -> Calls:
    if any(s.dtype != out.dtype for s, out in zip(sources, outs, strict=True)):
        raise UnsupportedArguments("rows are copied as they are")
    names, models = ("x", "target", "weights"), len(permutation) if permutation.ndim == 2 else 1
    arrays: dict[str, Array | None] = dict.fromkeys(name + end for name in names for end in ("", "_out"))
    arrays |= dict(zip(names, sources, strict=False)) | {f"{n}_out": a for n, a in zip(names, outs, strict=False)}
    sizes = [*(source[:1].nbytes for source in sources), 0, 0]
    work = 10 * permutation[..., 0].size + sum(out.nbytes for out in outs) / RATE
    yield KernelCall(
        device, "gather", work, **arrays, order=permutation, cursor=cursor, samples=len(sources[0]),
        places=permutation.shape[-1], models=models, rows=outs[0].shape[-2],
        x_row=sizes[0], target_row=sizes[1], weight_row=sizes[2],
    )  # fmt: skip


@or_numpy
def advance(
    device: CpuDevice, cursor: Array | None, rows: int, position: Array | None = None, random: Array | None = None,
    step: Array | None = None, counted: Array | None = None,
) -> Calls:  # fmt: skip
    of_layers = () if random is None else (random.view(np.int64)[..., k] for k in range(random.shape[-1]))
    for counter, by in ((cursor, rows), (position, 1), *((of_layer, 1) for of_layer in of_layers)):
        if counter is not None:
            yield KernelCall(device, "advance", counter.size, counter=counter, models=counter.size, by=by)
    if step is not None:
        yield KernelCall(device, "count_step", step.size, step=step, counted=counted, models=step.size)


@or_numpy
def copy(device: CpuDevice, source: Array, destination: Array) -> Calls:
    if source.dtype != destination.dtype:
        raise UnsupportedArguments("only bytes are copied")
    yield KernelCall(device, "copy", source.nbytes / RATE, source=source, destination=destination, size=source.nbytes)
