"""Matrix products: small ones by kernels of our own, the others by the BLAS that NumPy brought."""

from __future__ import annotations

from gpu_backprop.backend.compiled.device import CpuDevice
from gpu_backprop.backend.compiled.ops.fallback import or_numpy
from gpu_backprop.backend.compiled.program import KernelCall, UnsupportedArguments
from gpu_backprop.backend.formula import Array, Calls

OURS, BLAS = (30, 120), (100, 80)
"""Nanoseconds that a product takes besides its flops, and flops in a nanosecond of one thread."""

LONGEST = 256
"""k of a small product at most, as in kernels/cpu/products.cpp."""

FEW = 8
"""Rows for each thread, below which a product is not split by rows."""

LONG = 100_000
"""Nanoseconds from which on it is not either: then no operation around it can go on without a barrier, but each thread
packs only its part of the larger operand, which is worth more."""


@or_numpy
def matmul(device: CpuDevice, a: Array, b: Array, out: Array) -> Calls:
    (m, n), k, models = out.shape[-2:], a.shape[-1], len(out) if out.ndim == 3 else 1
    (a, a_transposed), (b, b_transposed) = _as_it_lies(a), _as_it_lies(b)
    small = m * n * k <= device.library.largest_product and is_small(m, n, k, a_transposed, b_transposed)
    if not small and (not device.library.multiplies or max(m, n, k) >= 2**31):
        raise UnsupportedArguments("there is no product of such matrices to call")
    fixed, rate = OURS if small else BLAS
    work = models * (fixed + 2 * m * n * k / rate)
    sizes = {"models": models, "m": m, "n": n, "k": k, "b_transposed": b_transposed, "small": small}
    if not a_transposed and m >= FEW * device.threads and work < LONG:
        yield KernelCall(device, "matmul_by_rows", work, a=a, b=b, c=out, **sizes)
    else:
        yield KernelCall(device, "matmul", work, a=a, b=b, c=out, **sizes, a_transposed=a_transposed)


def is_small(m: int, n: int, k: int, a_transposed: bool, b_transposed: bool) -> bool:
    """Tells whether a kernel of ours multiplies (m, k) by (k, n), if it is not too large for one: where that takes less
    time than OpenBLAS on processors with AVX2, and less or the same on those with AVX-512."""
    wide = n >= (32 if a_transposed else 16)
    pays_to_transpose = k <= 2 * m or m * n > 1200
    return wide and k <= LONGEST and (pays_to_transpose or not b_transposed)


def _as_it_lies(matrices: Array) -> tuple[Array, bool]:
    """The matrices with rows in one piece, and whether these are transposed for it."""
    transposed = not matrices[(0,) * (matrices.ndim - 2)].flags.c_contiguous
    return (matrices.swapaxes(-1, -2), True) if transposed else (matrices, False)
