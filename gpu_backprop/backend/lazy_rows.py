"""Host arrays that are never there as a whole: their rows are made as they are read."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpu_backprop.backend.formula import Array

SMALL = 64 << 20
"""Bytes of the dense matrix that is made of a sparse one at once: what two blocks of a larger one take."""


class LazyRows:
    """What data larger than memory have in the place of an array (rows, ...): its shape and dtype, and its rows where
    they are asked for.

    Args:
        read: returns the rows of a slice or of indices, as an array of its own.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, read: Callable[[slice | Array], Array]) -> None:
        self.shape, self.dtype, self._read = shape, np.dtype(dtype), read
        self.ndim, self.size = len(shape), math.prod(shape)
        self.nbytes = self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: Any) -> Array:
        if isinstance(at, tuple) and not at:
            return self  # type: ignore[return-value]
        row, *rest = at if isinstance(at, tuple) else (at,)
        if row is Ellipsis:
            row, *rest = rest
        one = isinstance(row, (int, np.integer))
        found: Array = self._read(np.array([row]) if one else row)[(0 if one else slice(None), *rest)]
        return found


class SparseRows(LazyRows):
    """A sparse matrix (rows, columns), of which only the rows that are read are made dense.

    Args:
        matrix: of scipy, in CSR form, with each place at most once.

    Attributes:
        values: what is stored; all else is 0.
    """

    def __init__(self, matrix: Any) -> None:
        self._matrix, self.values = matrix, matrix.data
        super().__init__(matrix.shape, matrix.dtype, lambda rows: matrix[rows].toarray())

    def fill(self, out: Array, rows: slice | Array) -> None:
        """Sets out = self[rows]; `out` is contiguous, and may have another dtype."""
        found = self._matrix[rows]
        if out.dtype.name in ("float16", "bfloat16"):  # which scipy has not
            np.copyto(out, found.toarray(), casting="unsafe")
        else:
            found.astype(out.dtype, copy=False).toarray(out=out)

    def place(self, number: int) -> tuple[int, int]:
        """Returns the row and column of one of the `values`."""
        row = np.searchsorted(self._matrix.indptr, number, "right") - 1
        return int(row), int(self._matrix.indices[number])


def is_sparse(value: Any) -> bool:
    """Tells whether something is a sparse matrix or array of scipy, which need not be there to find out."""
    return not isinstance(value, np.ndarray) and type(value).__module__.startswith("scipy.sparse")


def keep_sparse(value: Any) -> Any:
    """Returns SparseRows of a sparse matrix that is large when it is dense, and anything else as it is."""
    if not is_sparse(value) or value.ndim != 2 or math.prod(value.shape) * value.dtype.itemsize <= SMALL:
        return value
    rows = value.tocsr()
    if not rows.has_canonical_format:
        rows = rows.copy() if rows is value else rows
        rows.sum_duplicates()
    return SparseRows(rows)


HOST = (np.ndarray, LazyRows)
"""The types of what lies on the host."""
