"""Matrix products, by the BLAS that NumPy brought."""

from __future__ import annotations

from gpu_backprop.backend.compiled.device import CpuDevice
from gpu_backprop.backend.compiled.ops.fallback import or_numpy
from gpu_backprop.backend.compiled.program import KernelCall, UnsupportedArguments
from gpu_backprop.backend.formula import Array, Calls

RATE = 80
"""Flops in a nanosecond of one thread."""

FEW = 8
"""Rows for each thread, below which a product is not split by rows."""

LONG = 100_000
"""Nanoseconds from which on it is not either: then no operation around it can go on without a barrier, but each thread
packs only its part of the larger operand, which is worth more."""


@or_numpy
def matmul(device: CpuDevice, a: Array, b: Array, out: Array) -> Calls:
    (m, n), k, models = out.shape[-2:], a.shape[-1], len(out) if out.ndim == 3 else 1
    if not device.library.multiplies or max(m, n, k) >= 2**31:
        raise UnsupportedArguments("there is no product of such matrices to call")
    (a, a_transposed), (b, b_transposed) = _as_it_lies(a), _as_it_lies(b)
    work = 100 + 2 * models * m * n * k / RATE
    sizes = {"models": models, "m": m, "n": n, "k": k, "b_transposed": b_transposed}
    if not a_transposed and m >= FEW * device.threads and work < LONG:
        yield KernelCall(device, "matmul_by_rows", work, a=a, b=b, c=out, **sizes)
    else:
        yield KernelCall(device, "matmul", work, a=a, b=b, c=out, **sizes, a_transposed=a_transposed)


def _as_it_lies(matrices: Array) -> tuple[Array, bool]:
    """The matrices with rows in one piece, and whether these are transposed for it."""
    transposed = not matrices[(0,) * (matrices.ndim - 2)].flags.c_contiguous
    return (matrices.swapaxes(-1, -2), True) if transposed else (matrices, False)
