"""The rows of a minibatch, chosen by a permutation and a cursor; and copies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpu_backprop.backend.compiled.device import CpuDevice
from gpu_backprop.backend.compiled.ops.fallback import or_numpy
from gpu_backprop.backend.compiled.program import KernelCall, UnsupportedArguments
from gpu_backprop.backend.formula import Array, Calls

COPIED, CONVERTED = 8, 2
"""Bytes that one thread copies in a nanosecond, and that it makes of other numbers."""

KINDS = ("", "u1", "f2", "f4", "f8", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f16", "bfloat16")
"""The numbers that become those of a network, by kind and bytes, as kernels/cpu/gather_numbers.hpp counts them; at
first those that are copied as they are."""


@or_numpy
def gather(
    device: CpuDevice, sources: Sequence[Array | None], permutation: Array, cursor: Array,
    outs: Sequence[Array | None], counts: Array | None = None,
) -> Calls:  # fmt: skip
    axes, models = permutation.ndim - 1, math.prod(permutation.shape[:-1])
    given = zip(sources, outs, (None, None, counts), strict=False)
    moved = [(s, out, own) for s, out, own in given if s is not None and out is not None]
    copied = [s.dtype == out.dtype and s.flags.c_contiguous and s.flags.aligned for s, out, _ in moved]
    rates = [COPIED if as_is else CONVERTED for as_is in copied]
    work = 10 * models + max(out.nbytes / rate for (_, out, _), rate in zip(moved, rates, strict=True))
    # Each counts as the largest, so that all have the same parts: then no thread waits for another's.
    for (source, out, row_counts), as_is in zip(moved, copied, strict=True):
        first = source[0] if axes and source.ndim == out.ndim else source  # each model has its own, or all share one
        taken: dict[str, Any] = {
            "out": out, "order": permutation, "cursor": cursor, "row_counts": row_counts, "models": models,
            "rows": out.shape[axes], "row": out.nbytes // (models * out.shape[axes]), "samples": len(first),
            "places": permutation.shape[-1],
        }  # fmt: skip
        if as_is:
            yield KernelCall(device, "gather", work, source=source, **taken)
        else:
            yield KernelCall(
                device, "gather_numbers", work, **taken,
                **_layout(source, first), kind=_kind(source.dtype, out.dtype),
            )  # fmt: skip


def _kind(source: np.dtype[Any], out: np.dtype[Any]) -> int:
    """Returns which of KINDS the numbers are that become those of `out`."""
    kind, wanted = (d.name if d.name == "bfloat16" else d.str[1:].replace("b", "u") for d in (source, out))
    if kind != wanted and (kind not in KINDS or out.kind != "f"):
        raise UnsupportedArguments(f"{source} is not converted to {out}")
    return 0 if kind == wanted else KINDS.index(kind)


def _layout(source: Array, first: Array) -> dict[str, Any]:
    """Returns how the numbers of samples lie in memory: of each model's all bytes from the first to the last, of which
    some may be others', where the first sample begins, and how far it is from one to the next."""
    reach = [stride * (n - 1) for stride, n in zip(first.strides, first.shape, strict=True)]
    begin, extent = -sum(min(0, far) for far in reach), sum(map(abs, reach)) + first.itemsize
    address = source.__array_interface__["data"][0] - begin
    shape, strides = ((extent,), (1,)) if first is source else ((len(source), extent), (source.strides[0], 1))
    view = {"data": (address, True), "typestr": "|u1", "shape": shape, "strides": strides, "version": 3}
    return {
        "source": np.asarray(SimpleNamespace(__array_interface__=view, source=source)), "extent": extent,
        "begin": begin, "numbers": first[0].size, "size": first.itemsize, "sample_bytes": first.strides[0],
        "number_bytes": first.strides[1] if first.ndim > 1 else first.itemsize, "swapped": not source.dtype.isnative,
    }  # fmt: skip


@or_numpy
def advance(
    device: CpuDevice, cursor: Array | None, rows: int, position: Array | None = None, random: Array | None = None,
    step: Array | None = None, counted: Array | None = None,
) -> Calls:  # fmt: skip
    for counter, by in ((cursor, rows), (position, 1)):
        if counter is not None:
            yield KernelCall(device, "advance", counter.size, counter=counter, models=counter.size, by=by)
    layers = [] if random is None else [random.view(np.int64)[..., k] for k in range(random.shape[-1])]
    for of_layer, of_model in zip_longest(layers, [] if step is None else [step]):
        models = (of_layer if of_model is None else of_model).size
        yield KernelCall(device, "count_step", models, step=of_model, random=of_layer, counted=counted, models=models)


@or_numpy
def copy(device: CpuDevice, source: Array, destination: Array) -> Calls:
    if source.dtype != destination.dtype:
        raise UnsupportedArguments("only bytes are copied")
    yield KernelCall(device, "copy", source.nbytes / COPIED, source=source, destination=destination, size=source.nbytes)
