"""cuBLASLt bound by ctypes: a product with an epilogue, which is what follows it in the same launch.

As in cublas.py, a matrix of ours is its transpose to the library: out = a@b is computed as outᵀ = bᵀ@aᵀ. So a bias of
the units is one of the library's rows, which is what its epilogues have; its A is our b.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Mapping
from functools import partial
from typing import Any

from gpu_backprop.backend.cuda.cublas import DATA_TYPES, STATUS, CublasLibrary, Layout, computed_in
from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.formula import Array, Call

# cublasLt.h, all values
RELU_BIAS, RELU_AUX_BIAS, DRELU, DRELU_BGRAD = 6, 134, 136, 152
GELU_AUX_BIAS, DGELU, DGELU_BGRAD, BGRADA = 164, 192, 208, 256
MASK_BITS, AUX_ELEMENTS, BIAS_BYTES = 128, 8, 16
"""Of what the rows of ReLU's mask, in bits, and those of GELU's z are multiples; where a bias begins."""

_I32, _I64, _U32, _U64, _POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p
LAYOUT = {"batch": (5, _I32), "stride": (6, _I64)}
MATMUL = {
    "transpose_a": (3, _I32), "transpose_b": (4, _I32), "epilogue": (7, _U32), "bias": (8, _POINTER),
    "bias_stride": (10, _I64), "aux": (11, _POINTER), "aux_ld": (12, _I64), "aux_stride": (13, _I64),
}  # fmt: skip
PREFERENCE = {
    "workspace": (1, _U64), "reductions": (3, _U32),
    "align_a": (5, _U32), "align_b": (6, _U32), "align_c": (7, _U32), "align_d": (8, _U32),
}  # fmt: skip
REDUCE_IN_COMPUTE_TYPE = 2  # partial sums of a 16-bit product stay float32, and are added up in an order
LARGEST_ALIGNMENT = 256
ARCHITECTURE, NOT_SUPPORTED = 8, 15


class UnsupportedEpilogueError(DeviceError):
    """The library has no such product for this device, these dtypes and shapes."""


class _Result(ctypes.Structure):
    _fields_ = [
        ("algorithm", _U64 * 8), ("workspace", ctypes.c_size_t), ("state", ctypes.c_int), ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    ]  # fmt: skip


class CublasLt:
    """cuBLASLt beside cuBLAS: on its stream, with its workspaces. The device has to be the current one.

    Raises:
        DeviceError: the library reports an error, by its name.
    """

    def __init__(self, library: Any, cublas: CublasLibrary) -> None:
        self._library, self._cublas = library, cublas
        self._handle = ctypes.c_void_p()  # serves every stream and thread; not destroyed, as in cublas.py
        self._function("cublasLtCreate")(ctypes.byref(self._handle))
        library.cublasLtGetVersion.restype = ctypes.c_size_t
        self.version = int(library.cublasLtGetVersion())
        self._matmul = self._function("cublasLtMatmul")

    def bind(
        self, epilogue: int, a: Layout, b: Layout, out: Layout, shape: tuple[int, int, int, int], tf32: bool,
        bias: Array | None = None, aux: Array | None = None,
    ) -> Call:  # fmt: skip
        """Binds out = epilogue(a@b); `shape` comes from `sizes`. `.on(stream)` binds it to another stream.

        Args:
            bias: (units,) or (models, units) of out's dtype: what is added, or where a sum goes.
            aux: of the mask of ReLU, uint8 (..., rows, bytes), or z of GELU, as out.

        Raises:
            UnsupportedEpilogueError: the library has no such product.
            DeviceError: it reports another error.
        """
        models, (compute, number) = shape[0], computed_in(a.array.dtype.name, tf32)
        scale = DATA_TYPES["float64" if number is ctypes.c_double else "float32"]
        values = {"transpose_a": int(b.columns), "transpose_b": int(a.columns), "epilogue": epilogue}
        if bias is not None:
            values |= {"bias": _address(bias), "bias_stride": _stride(bias, models)}
        if aux is not None:
            bits = 8 if aux.dtype.name == "uint8" else 1
            values |= {"aux": _address(aux), "aux_ld": aux.shape[-1] * bits, "aux_stride": _stride(aux, models) * bits}
        description = self._new("MatmulDesc", MATMUL, values, _I32(compute), _I32(scale))
        matrices = [self._layout(layout, models) for layout in (b, a, out)]
        one, zero = ctypes.byref(number(1)), ctypes.byref(number(0))
        found = self._algorithm(description, matrices, (b, a, out))
        pointers = [ctypes.c_void_p(_address(layout.array)) for layout in (b, a, out)]
        arguments = (
            self._handle, description, one, pointers[0], matrices[0], pointers[1], matrices[1],
            zero, pointers[2], matrices[2], pointers[2], matrices[2], ctypes.byref(found.algorithm),
        )  # fmt: skip

        def on(stream: int) -> Call:
            workspace = self._cublas.workspace(stream)
            size = ctypes.c_size_t(workspace.nbytes)
            address, place = ctypes.c_void_p(_address(workspace)), ctypes.c_void_p(stream)
            call = partial(self._matmul, *arguments, address, size, place)
            vars(call)["holds"] = a.array, b.array, out.array, bias, aux, workspace
            return call

        call = on(self._cublas.stream)
        vars(call)["on"] = lambda stream: on(stream.ptr)
        return call

    def _layout(self, layout: Layout, models: int) -> ctypes.c_void_p:
        rows, cols = layout.array.shape[-2:]
        if not layout.columns:
            rows, cols = cols, rows
        values = {"batch": models, "stride": layout.step} if models > 1 else {}
        dtype = DATA_TYPES[layout.array.dtype.name]
        return self._new("MatrixLayout", LAYOUT, values, _I32(dtype), _U64(rows), _U64(cols), _I64(layout.leading))

    def _algorithm(self, description: Any, matrices: list[Any], layouts: tuple[Layout, ...]) -> _Result:
        """Asks the library for its best algorithm, which depends on where the arrays lie."""
        b, a, out = map(_alignment, layouts)
        values = {"align_a": b, "align_b": a, "align_c": out, "align_d": out, "reductions": REDUCE_IN_COMPUTE_TYPE}
        values["workspace"] = self._cublas.workspace(self._cublas.stream).nbytes
        preference = self._new("MatmulPreference", PREFERENCE, values)
        found, count = _Result(), ctypes.c_int()
        try:
            self._function("cublasLtMatmulAlgoGetHeuristic")(
                self._handle, description, *matrices, matrices[-1], preference, ctypes.c_int(1), ctypes.byref(found),
                ctypes.byref(count),
            )  # fmt: skip
        except DeviceError as error:  # by one status or another
            raise UnsupportedEpilogueError(str(error)) from error
        if not count.value or found.state:
            raise UnsupportedEpilogueError("cuBLASLt has no such product for this device")
        return found

    def _new(self, kind: str, table: Mapping[str, Any], values: Mapping[str, int], *how: Any) -> ctypes.c_void_p:
        """Makes a descriptor with these attributes, which is destroyed when nothing holds on to it."""
        made = ctypes.c_void_p()
        self._function(f"cublasLt{kind}Create")(ctypes.byref(made), *how)
        destroy = getattr(self._library, f"cublasLt{kind}Destroy")
        weakref.finalize(made, destroy, ctypes.c_void_p(made.value)).atexit = False
        for name, value in values.items():
            attribute, number = table[name]
            given = number(value)
            size = ctypes.c_size_t(ctypes.sizeof(given))
            self._function(f"cublasLt{kind}SetAttribute")(made, ctypes.c_int(attribute), ctypes.byref(given), size)
        return made

    def _function(self, name: str) -> Any:
        function = getattr(self._library, name)
        function.restype = _check
        return function


def _address(array: Any) -> int:
    return int(array.data.ptr)


def _stride(array: Any, models: int) -> int:
    """The elements from one model to the next."""
    return int(array.strides[0]) // int(array.dtype.itemsize) if models > 1 else 0


def _alignment(layout: Layout) -> int:
    """The largest power of two, up to 256, that divides the addresses of all models."""
    return math.gcd(LARGEST_ALIGNMENT, _address(layout.array), layout.step * layout.array.dtype.itemsize)


def mask_bytes(units: int) -> int:
    """The bytes of a row of ReLU's mask."""
    return -(-units // MASK_BITS) * MASK_BITS // 8


def _check(status: int) -> None:
    if status in (ARCHITECTURE, NOT_SUPPORTED):
        raise UnsupportedEpilogueError(f"cuBLASLt: {STATUS[status]}")
    if status:
        raise DeviceError(f"cuBLASLt reports status {status}: {STATUS.get(status, 'unknown')}")
