"""cuBLAS bound by ctypes: the layout of a matrix for it, and a product as one bound call.

cuBLAS is column-major and we are row-major: a matrix of ours is its transpose to cuBLAS. So out = a@b is computed as
outᵀ = bᵀ@aᵀ, where each transpose is the same memory.
"""

from __future__ import annotations

import ctypes
from functools import partial
from typing import Any

from gpu_backprop.backend.errors import DeviceError, InputError
from gpu_backprop.backend.formula import Array, Call

# library_types.h and cublas_api.h
DATA_TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32, DEFAULT_ALGORITHM = 68, 70, 77, -1
DISALLOW_REDUCED_PRECISION_REDUCTION = 16  # partial sums of a 16-bit product stay float32 too
STATUS = {
    1: "not initialized (is the device's memory full?)", 3: "allocation failed: the device's memory is full",
    7: "invalid value", 8: "architecture mismatch: the device is too old for this dtype", 11: "mapping error",
    13: "execution failed: this product, or a kernel before it, broke down", 14: "internal error",
    15: "not supported: the library has no such product for this device and dtype", 16: "licence error",
}  # fmt: skip
LARGEST = 2**31 - 1  # what a C int holds
WORKSPACES = 3  # for launches, and for each of the two branches of graphs that have products


def sizes(a: Array, b: Array, out: Array) -> tuple[int, int, int, int]:
    """Returns (models, rows, inner, cols) of out = a@b.

    Raises:
        InputError: the dtypes or the shapes do not go together.
    """
    names = a.dtype.name, b.dtype.name, out.dtype.name
    wider = "float32" if a.dtype.itemsize == 2 else names[0]
    if names[0] not in DATA_TYPES or names[1] != names[0] or names[2] not in (names[0], wider):
        raise InputError(
            f"matmul: a is {names[0]}, b {names[1]} and out {names[2]}; a and b must have the same dtype "
            f"({', '.join(DATA_TYPES)}), and out that dtype too, or float32 where theirs has 16 bits."
        )
    if not {a.ndim, b.ndim} <= {2, out.ndim} or out.ndim not in (2, 3) or not _fit(a.shape, b.shape, out.shape):
        raise InputError(
            f"matmul: shapes a {a.shape}, b {b.shape} and out {out.shape} do not go together; accepted are "
            "(rows, inner), (inner, cols) and (rows, cols), out with an axis of models before them and a and b with it "
            "or without, or all three without."
        )
    models, rows, inner, cols = len(out) if out.ndim == 3 else 1, out.shape[-2], a.shape[-1], out.shape[-1]
    if max(models, rows, inner, cols) > LARGEST:
        raise InputError(f"matmul: shapes a {a.shape}, b {b.shape}: cuBLAS takes at most {LARGEST:,} along an axis.")
    return models, rows, inner, cols


def _fit(a: tuple[int, ...], b: tuple[int, ...], out: tuple[int, ...]) -> bool:
    return a == (*out[: len(a) - 2], out[-2], a[-1]) and b == (*out[: len(b) - 2], a[-1], out[-1])


def computed_in(dtype: str, tf32: bool) -> tuple[int, Any]:
    """Returns the compute type of products of a dtype, and the C type of their factors."""
    if dtype == "float64":
        return COMPUTE_64F, ctypes.c_double
    return COMPUTE_32F_FAST_TF32 if dtype == "float32" and tf32 else COMPUTE_32F, ctypes.c_float


class Layout:
    """The layout of a matrix, the last two axes of an array: its rows or its columns have to be contiguous.

    Attributes:
        columns: whether columns and not rows are contiguous: a transposed view.
        leading: elements from one row (or column) to the next: the leading dimension.
        step: elements from one model to the next; 0 where all share a matrix.

    Raises:
        InputError: neither is. A copy in every step, which nobody asked for, would hide that.
    """

    def __init__(self, name: str, array: Array) -> None:
        self.name, self.array = name, array
        item, (rows, cols), (row_stride, column_stride) = array.dtype.itemsize, array.shape[-2:], array.strides[-2:]
        self.step = array.strides[0] // item if array.ndim == 3 else 0
        if any(n > 1 and stride % item for n, stride in zip(array.shape, array.strides, strict=True)):
            raise self._refusal("its strides are no multiples of the size of an element")
        for self.columns, count, length, stride, unit in (
            (False, rows, cols, row_stride, column_stride),
            (True, cols, rows, column_stride, row_stride),
        ):
            self.leading = stride // item if count > 1 else length  # the stride of an axis of length 1 means nothing
            if (unit == item or length == 1) and length <= self.leading <= LARGEST:
                return
        raise self._refusal("neither the rows nor the columns of its matrices are contiguous")

    def require_rows(self) -> None:
        """Raises InputError unless rows are contiguous and models do not overlap, as an output needs."""
        if self.columns:
            raise self._refusal("its rows are not contiguous")
        rows, cols = self.array.shape[-2:]
        if self.array.ndim == 3 and len(self.array) > 1 and self.step < (rows - 1) * self.leading + cols:
            raise self._refusal("its models overlap")

    def _refusal(self, why: str) -> InputError:
        return InputError(
            f"matmul: {self.name} with shape {self.array.shape} and strides {self.array.strides} bytes cannot be used "
            f"without a copy: {why}. Make a contiguous copy of it once (cupy.ascontiguousarray)."
        )


class CublasLibrary:
    """cuBLAS on one stream, given by its address; its device has to be the current one, here and whenever a call runs.

    Threads share the handle of the stream. NVIDIA allows that where no setting is changed; but a product may be several
    launches that pass results on in the workspace, between which no launch of another product may come. So the library
    is a ctypes.PyDLL: who calls it keeps Python's global lock until all of a product is queued.

    The workspace is device memory that the library may use; without, it would allocate in every captured graph. It has
    WORKSPACES parts of one size, on which the choice of an algorithm depends: for this stream, and for each branch of a
    graph the stream that captures it.

    Raises:
        DeviceError: the library reports an error, by its name.
    """

    def __init__(self, library: Any, stream: int, workspace: Array) -> None:
        self._library, self._workspace = library, workspace
        self._handles: dict[int, ctypes.c_void_p] = {}
        self.stream = stream
        handle, version = self._handle(stream), ctypes.c_int()
        self._function("cublasGetVersion_v2")(handle, ctypes.byref(version))
        self.version = f"{version.value // 10000}.{version.value // 100 % 100}.{version.value % 100}"
        self._gemm = self._function("cublasGemmEx")
        self._strided_gemm = self._function("cublasGemmStridedBatchedEx")

    def _handle(self, stream: int) -> ctypes.c_void_p:
        """Returns the handle of a stream, whose settings do not change any more. The graph of another thread may run
        between the launches of a product: so captured products have workspaces of their own. Graphs share them, since
        they run one after another."""
        if stream not in self._handles:
            size, part = self._workspace.size // WORKSPACES, len(self._handles)
            part = part if part < WORKSPACES else 1 + (part - 1) % (WORKSPACES - 1)
            workspace = self._workspace[part * size : (part + 1) * size]
            handle = ctypes.c_void_p()  # it is not destroyed: calls may outlive whoever made it, and need the workspace
            vars(handle)["workspace"] = workspace
            self._function("cublasCreate_v2")(ctypes.byref(handle))
            self._function("cublasSetStream_v2")(handle, ctypes.c_void_p(stream))
            # after the stream, since setting that restores the library's own workspace
            self._function("cublasSetWorkspace_v2")(handle, _pointer(workspace), ctypes.c_size_t(workspace.nbytes))
            self._function("cublasSetMathMode")(handle, DISALLOW_REDUCED_PRECISION_REDUCTION)
            self._handles[stream] = handle
        return self._handles[stream]

    def workspace(self, stream: int) -> Array:
        """Returns the memory that products on a stream may use while they run."""
        return vars(self._handle(stream))["workspace"]  # type: ignore[no-any-return]

    def _function(self, name: str) -> Any:
        function = getattr(self._library, name)
        function.restype = _check
        return function

    def bind(self, a: Layout, b: Layout, out: Layout, shape: tuple[int, int, int, int], tf32: bool) -> Call:
        """Binds out = a@b, its arguments converted once; `shape` comes from `sizes`. `.on(stream)` binds the
        call to another stream."""
        models, rows, inner, cols = shape
        compute, number = computed_in(a.array.dtype.name, tf32)
        many = models > 1
        arguments = (
            ctypes.c_int(b.columns), ctypes.c_int(a.columns),
            ctypes.c_int(cols), ctypes.c_int(rows), ctypes.c_int(inner),
            ctypes.byref(number(1)), *_matrix(b, many), *_matrix(a, many),
            ctypes.byref(number(0)), *_matrix(out, many),
            *((ctypes.c_int(models),) if many else ()), ctypes.c_int(compute), ctypes.c_int(DEFAULT_ALGORITHM),
        )  # fmt: skip
        function = self._strided_gemm if many else self._gemm

        def on(stream: int) -> Call:
            return partial(function, self._handle(stream), *arguments)

        call = on(self.stream)
        vars(call)["on"] = lambda stream: on(stream.ptr)
        return call


def _pointer(array: Any) -> ctypes.c_void_p:
    """Returns the address of an array, which it keeps alive."""
    pointer = ctypes.c_void_p(array.data.ptr)
    vars(pointer)["array"] = array
    return pointer


def _matrix(layout: Layout, many: bool) -> tuple[Any, ...]:
    dtype, leading = ctypes.c_int(DATA_TYPES[layout.array.dtype.name]), ctypes.c_int(layout.leading)
    return _pointer(layout.array), dtype, leading, *((ctypes.c_longlong(layout.step),) if many else ())


def _check(status: int) -> None:
    """Raises DeviceError where cuBLAS reports an error."""
    if status:
        raise DeviceError(f"cuBLAS reports status {status}: {STATUS.get(status, 'unknown')}")
