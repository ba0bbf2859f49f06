"""Matrix products on CUDA: cuBLAS, called directly, or CuPy's product where that is not possible.

CuPy's own product refuses to be captured, copies operands and allocates temporaries, and has one switch for TF32 in the
whole process.
"""

from __future__ import annotations

import ctypes
import importlib
import itertools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from gpu_backprop.backend.cuda.cublas import WORKSPACES, CublasLibrary, Layout, sizes
from gpu_backprop.backend.cuda.cupy_products import CupyProducts
from gpu_backprop.backend.errors import DeviceError, InputError, one_line
from gpu_backprop.backend.formula import Array, Call


class Example(NamedTuple):
    """y = a@b of two models; an operand is flipped where it is to be a transposed view."""

    name: str
    a: Array
    b: Array
    flips: tuple[bool, bool]
    y: Array


class Products:
    """Matrix products on CUDA device `index` and a CuPy stream of it: one per device.

    The constructor compares small products of every kind with CuPy's. If one differs, or the library cannot be loaded,
    CuPy's product is used, and one RuntimeWarning says why and what that costs.

    Attributes:
        direct: whether cuBLAS is called directly, so that products can be captured in a CUDA graph.
        reason: which of the two is used, in a sentence.

    Raises:
        DeviceError: CuPy itself cannot multiply matrices.
    """

    def __init__(self, cupy: Any, index: int, stream: Any) -> None:
        self._cupy, self._index, self._stream = cupy, index, stream
        self._generation = int(cupy.cuda.Device(index).compute_capability[:-1])
        self._backend: CublasLibrary | CupyProducts = CupyProducts(cupy)
        self.direct = False
        with cupy.cuda.Device(index), stream:
            examples = list(self._examples())  # first, so that the library which CuPy has loaded is the one found
            try:
                cublas = self._open()
                self._compare(cublas, examples)
            except Exception as error:  # whatever a missing, foreign or damaged library brings about
                self.reason = (
                    f"CuPy's matrix product is used, since cuBLAS cannot be called directly ({one_line(error)})"
                )
                warnings.warn(
                    f"cuda:{index}: {self.reason}. The results are as good, but steps cannot be captured in a CUDA "
                    "graph, every product costs the host more time, 16-bit gradients pass through float32 copies, and "
                    "TF32 is not used.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            else:
                self._backend, self.direct = cublas, True
                self.reason = f"cuBLAS {cublas.version} is called directly"

    def matmul(self, a: Array, b: Array, out: Array, *, tf32: bool = False) -> list[Call]:
        """Binds out = a@b as calls, which allocate nothing and, if `direct`, are the product alone.

        The device must be the current one when they run. Products are accumulated in float32 (float64: in float64).

        Args:
            a: (rows, inner) or (models, rows, inner), float32, float64, float16 or bfloat16; a view may be transposed
                or have longer rows between its own.
            b: (inner, cols) or (models, inner, cols), of a's dtype, likewise. Where out has models, an operand that has
                none, or whose models lie 0 bytes apart, stands for all of them.
            out: (rows, cols) or (models, rows, cols), each row contiguous; of a's dtype, or float32 where that has 16
                bits. It may not overlap a or b.
            tf32: whether float32 operands may be rounded to TF32 first; CuPy's product never does.

        Raises:
            InputError: shapes, dtypes or devices do not go together, or the strides of an array would take a copy.
        """
        for name, array in (("a", a), ("b", b), ("out", out)):
            if not isinstance(array, self._cupy.ndarray):
                raise InputError(
                    f"matmul: {name} must be a CuPy array on cuda:{self._index}, got {type(array).__module__}."
                    f"{type(array).__name__}; cupy.asarray brings it there."
                )
            if (index := array.device.id) != self._index:
                raise InputError(
                    f"matmul: {name} is on cuda:{index} and this network on cuda:{self._index}; "
                    "put all arrays on one device."
                )
        models, rows, inner, cols = sizes(a, b, out)
        if not (models and rows and cols):
            return []
        if not inner:
            return [self._on_stream([partial(out.fill, 0)])]
        layouts = Layout("a", a), Layout("b", b), Layout("out", out)
        layouts[2].require_rows()
        if isinstance(self._backend, CublasLibrary):
            return [self._backend.bind(*layouts, (models, rows, inner, cols), tf32)]
        with self._cupy.cuda.Device(self._index), self._stream:
            return [self._on_stream(self._backend.bind(a, b, out))]

    def direct_library(self) -> CublasLibrary:
        """Returns cuBLAS.

        Raises:
            DeviceError: it is not called directly.
        """
        if not isinstance(self._backend, CublasLibrary):
            raise DeviceError(self.reason)
        return self._backend

    def _on_stream(self, calls: Sequence[Call]) -> Call:
        """Joins CuPy's calls, which go to the current device and stream, into one on ours."""

        def run() -> None:
            with self._cupy.cuda.Device(self._index), self._stream:
                for call in calls:
                    call()

        return run

    # First use --------------------------------------------------------------------------------------------------------

    def _open(self) -> CublasLibrary:
        pathfinder = importlib.import_module("cuda.pathfinder")  # a dependency of CuPy
        library = ctypes.PyDLL(pathfinder.load_nvidia_dynamic_lib("cublas").abs_path)
        reserved = self._cupy.empty(workspace(self._generation), np.uint8)
        return CublasLibrary(library, self._stream.ptr, reserved)

    def _examples(self) -> Iterator[Example]:
        """Yields CuPy's products of small matrices of integers, for two models: exact in every dtype."""
        rng = np.random.default_rng(0)
        a, b = rng.integers(-3, 4, (2, 3, 5)), rng.integers(-3, 4, (2, 5, 4))
        for name, flips in (("a@b", (False, False)), ("aᵀ@b", (True, False)), ("a@bᵀ", (False, True))):
            x, w = (self._upload(m, "float32", flip) for m, flip in zip((a, b), flips, strict=True))
            try:
                y = np.stack([self._cupy.matmul(x[m], w[m]).get() for m in range(len(x))])
            except Exception as error:  # CuPy finds no cuBLAS, or the device is defective
                raise DeviceError(
                    f"cuda:{self._index}: CuPy cannot multiply matrices ({one_line(error)}); the extra cuda13 (cuda12 "
                    "for older drivers) brings CuPy together with the cuBLAS that it needs."
                ) from error
            yield Example(name, a, b, flips, y)

    def _compare(self, cublas: CublasLibrary, examples: Sequence[Example]) -> None:
        """Compares every layout and dtype, as one matrix and as several models.

        Raises:
            DeviceError: a product is refused, or is not CuPy's.
        """
        for (dtype, result, tf32), example in itertools.product(self._kinds(), examples):
            a, b = (self._upload(m, dtype, flip) for m, flip in zip((example.a, example.b), example.flips, strict=True))
            for which, what in ((0, "one matrix"), (slice(None), "two models")):
                x, w, want = a[which], b[which], example.y[which]
                out = self._upload(np.full(want.shape, np.nan), result)
                layouts = Layout("a", x), Layout("b", w), Layout("out", out)
                cublas.bind(*layouts, sizes(x, w, out), tf32)()
                if not np.array_equal(out.get().astype(np.float64), want):  # type: ignore[attr-defined]
                    form = f"{dtype} to {result}{' in TF32' if tf32 else ''}, {what}"
                    raise DeviceError(f"its product {example.name} ({form}) is not the same as CuPy's")

    def _kinds(self) -> Iterator[tuple[str, str, bool]]:
        """Yields (dtype of a and b, dtype of out, whether TF32) for all that this device has."""
        yield from (("float32", "float32", False), ("float64", "float64", False))
        yield from (("float16", "float16", False), ("float16", "float32", False))
        if self._generation >= 8:
            yield "float32", "float32", True
            with suppress(TypeError):  # NumPy knows it where ml_dtypes is installed
                yield from (("bfloat16", np.dtype("bfloat16").name, False), ("bfloat16", "float32", False))

    def _upload(self, array: Array, dtype: str, flip: bool = False) -> Array:
        """Copies an array to the device; flipped, as the transposed view of a contiguous array."""
        source = np.ascontiguousarray(array.swapaxes(-1, -2) if flip else array, dtype)
        copy: Array = self._cupy.empty(source.shape, source.dtype)
        copy.set(source)  # type: ignore[attr-defined]
        return copy.swapaxes(-1, -2) if flip else copy


def workspace(generation: int) -> int:
    """Returns WORKSPACES times the bytes that NVIDIA advises for capability `generation`.x."""
    return WORKSPACES * (32 if generation >= 9 else 4) << 20
