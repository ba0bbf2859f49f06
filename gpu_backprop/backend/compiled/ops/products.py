"""Matrix products: by kernels of our own, but for large ones where the BLAS that NumPy brought is faster."""

from __future__ import annotations

from gpu_backprop.backend.compiled.blas_choice import blas_is_faster
from gpu_backprop.backend.compiled.device import CpuDevice
from gpu_backprop.backend.compiled.ops.fallback import or_numpy
from gpu_backprop.backend.compiled.program import KernelCall
from gpu_backprop.backend.formula import Array, Calls

FIXED, RATE = 30, {"float32": 130, "float64": 65}
"""Nanoseconds that a product takes besides its flops, and by dtype flops in a nanosecond of one thread."""

FEW = 8
"""Rows for each thread, below which a product is not split by rows."""

LONG = 100_000
"""Nanoseconds from which on it is not either: then no operation around it can go on without a barrier, but each thread
copies only its part of the larger operand, which is worth more."""

LARGE, THIN = 1 << 27, 64
"""m n k of a product that may be the BLAS's, and each of the three: at least. The BLAS takes sizes below 2³¹."""


@or_numpy
def matmul(device: CpuDevice, a: Array, b: Array, out: Array) -> Calls:
    (m, n), k, models = out.shape[-2:], a.shape[-1], len(out) if out.ndim == 3 else 1
    (a, a_transposed), (b, b_transposed) = _as_it_lies(a), _as_it_lies(b)
    large = m * n * k >= LARGE and min(m, n, k) >= THIN and max(m, n, k) < 1 << 31
    ours = not (large and blas_is_faster(device.library))
    work = models * (FIXED + 2 * m * n * k / RATE[device.library.dtype])
    sizes = {"models": models, "m": m, "n": n, "k": k, "b_transposed": b_transposed, "ours": ours}
    if not a_transposed and m >= FEW * device.threads and work < LONG:
        yield KernelCall(device, "matmul_by_rows", work, a=a, b=b, c=out, **sizes)
    else:
        yield KernelCall(device, "matmul", work, a=a, b=b, c=out, **sizes, a_transposed=a_transposed)


def _as_it_lies(matrices: Array) -> tuple[Array, bool]:
    """The matrices with rows in one piece, and whether these are transposed for it."""
    transposed = not matrices[(0,) * (matrices.ndim - 2)].flags.c_contiguous
    return (matrices.swapaxes(-1, -2), True) if transposed else (matrices, False)
