"""Finds the BLAS that NumPy brought."""

from __future__ import annotations

import ctypes
import importlib
from ctypes import c_void_p
from functools import cache
from typing import NamedTuple

PRODUCTS = "scipy_cblas_{}64_", "cblas_{}64_", "cblas_{}_64", "scipy_cblas_{}", "cblas_{}"
"""Names that the product of matrices may have; those with 64 take sizes as long long."""

BY_DTYPE = {"float32": "sgemm", "float64": "dgemm"}

THREADS = tuple(
    f"{before}openblas_{{}}_num_threads{after}" for before in ("scipy_", "") for after in ("64_", "_64", "")
)
"""Names of the functions that get and set the number of OpenBLAS's threads."""


class Blas(NamedTuple):
    """The functions of a BLAS, as addresses; None: it has none."""

    product: int | None = None
    wide: bool = False  # whether sizes are long long
    get_threads: int | None = None
    set_threads: int | None = None


@cache
def numpy_blas(dtype: str = "float32") -> Blas:
    """Finds NumPy's BLAS among the libraries that NumPy was linked with, and its product of such matrices."""
    numpy = ctypes.CDLL(importlib.import_module("numpy._core._multiarray_umath").__file__)

    def address(name: str) -> int | None:
        return ctypes.cast(getattr(numpy, name), c_void_p).value if hasattr(numpy, name) else None

    product = next(filter(address, (name.format(BY_DTYPE[dtype]) for name in PRODUCTS)), "")
    family = next((name for name in THREADS if address(name.format("set"))), "")
    functions = (address(family.format(what)) if family else None for what in ("get", "set"))
    return Blas(address(product) if product else None, "64" in product, *functions)
