"""CuPy's own matrix product, where cuBLAS cannot be called directly; only in the forms that it does without a copy."""

from __future__ import annotations

from functools import partial
from typing import Any

from gpu_backprop.backend.formula import Array, Call


class CupyProducts:
    """out = a@b by cupy.dot, matrix by matrix, on the current device and stream.

    CuPy multiplies without a temporary where a and b are C- or F-contiguous matrices of out's dtype and out is
    C-contiguous with more than one element. All else goes through buffers that are allocated once. Products.matmul has
    checked the arguments. These calls cannot be captured in a CUDA graph.
    """

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy

    def bind(self, a: Array, b: Array, out: Array) -> list[Call]:
        calls: list[Call] = []
        for m in range(len(out) if out.ndim == 3 else 1):
            x, w, y = (array[m] if array.ndim == 3 else array for array in (a, b, out))
            calls += self._member(x, w, y)
        return calls

    def _member(self, a: Array, b: Array, out: Array) -> list[Call]:
        cupy, (rows, cols) = self._cupy, out.shape
        calls: list[Call] = []
        # CuPy allocates a temporary for a single number, so there is a second row, of zeros.
        x = self._readable(a, out.dtype, calls, max(rows, 2) if cols == 1 else rows)
        w = self._readable(b, out.dtype, calls, len(b))
        direct = len(x) == rows and out.flags.c_contiguous
        product = out if direct else cupy.empty((len(x), cols), out.dtype)
        calls.append(partial(cupy.dot, x, w, product))
        if not direct:
            calls.append(partial(cupy.copyto, out, product[:rows]))
        return calls

    def _readable(self, array: Array, dtype: Any, calls: list[Call], rows: int) -> Array:
        """Returns the matrix, if CuPy reads it without a copy, or a buffer of `rows` rows that a call fills with it."""
        if array.dtype == dtype and len(array) == rows and (array.flags.c_contiguous or array.flags.f_contiguous):
            return array
        buffer: Array = self._cupy.zeros((rows, array.shape[1]), dtype)
        calls.append(partial(self._cupy.copyto, buffer[: len(array)], array))
        return buffer
