"""Every argument that a product hands to cuBLAS, against a library of its form that computes on the host."""

from __future__ import annotations

import ctypes
import gc
import itertools
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from gpu_backprop.backend.cuda.cublas import CublasLibrary, Layout, sizes
from gpu_backprop.backend.errors import DeviceError, InputError

P, I, L = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong  # noqa: E741
DTYPES = {0: np.float32, 1: np.float64, 2: np.float16}
COMPUTE = {68: (ctypes.c_float, np.float32), 77: (ctypes.c_float, np.float32), 70: (ctypes.c_double, np.float64)}
PAIRS = [("float32", "float32"), ("float64", "float64"), ("float16", "float16"), ("float16", "float32")]
HANDLE, STREAM = 0x1234, 0x5678


class DeviceArray(np.ndarray):
    """A NumPy array that tells its address as CuPy's do."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.__array_interface__["data"][0])


def device_array(shape, dtype, fill=np.nan):
    return np.full(shape, fill, dtype).view(DeviceArray)


class Library:
    """cuBLAS as its documentation describes it: by columns, on host pointers. `calls` holds every call's arguments."""

    def __init__(self, status=0, failing=""):
        self.calls, self.status, self.failing = [], status, failing
        matrix, many = (P, I, I), (P, I, I, L)
        self._export("cublasCreate_v2", self._create, P)
        self._export("cublasSetStream_v2", None, P, P)
        self._export("cublasSetWorkspace_v2", None, P, P, ctypes.c_size_t)
        self._export("cublasSetMathMode", None, P, I)
        self._export("cublasGetVersion_v2", self._version, P, P)
        start = (P, I, I, I, I, I, P)
        self._export("cublasGemmEx", self._gemm_ex, *start, *matrix, *matrix, P, *matrix, I, I)
        self._export("cublasGemmStridedBatchedEx", self._gemm, *start, *many, *many, P, *many, I, I, I)

    def _export(self, name, function, *types):
        def entry(*arguments):
            self.calls.append((name, *arguments))
            if name == self.failing:
                return self.status
            return 0 if function is None else function(*arguments) or 0

        setattr(self, name, ctypes.CFUNCTYPE(I, *types)(entry))

    def _create(self, handle):
        P.from_address(handle).value = HANDLE

    def _version(self, handle, version):
        I.from_address(version).value = 130102

    def _gemm_ex(self, *arguments):
        *start, a, at, lda, b, bt, ldb, beta, c, ct, ldc, compute, algorithm = arguments
        return self._gemm(*start, a, at, lda, 0, b, bt, ldb, 0, beta, c, ct, ldc, 0, 1, compute, algorithm)

    def _gemm(
        self, handle, op_a, op_b, m, n, k, alpha, a, at, lda, a_step, b, bt, ldb, b_step, beta, c, ct, ldc, c_step,
        models, compute, algorithm,
    ):  # fmt: skip
        scalar, working = COMPUTE[compute]
        alpha, beta = scalar.from_address(alpha).value, scalar.from_address(beta).value
        if handle != HANDLE or at != bt or min(m, n, k, models) < 1 or algorithm != -1 or alpha != 1:
            return 7
        if lda < (k if op_a else m) or ldb < (n if op_b else k) or ldc < m:
            return 7
        for model in range(models):
            x = columns(a, DTYPES[at], model * a_step, m, k, lda, op_a).astype(working)
            y = columns(b, DTYPES[bt], model * b_step, k, n, ldb, op_b).astype(working)
            z = columns(c, DTYPES[ct], model * c_step, m, n, ldc, 0)
            z[...] = x @ y + (beta * z if beta else 0)
        return 0


def columns(address, dtype, start, rows, cols, leading, op):
    """op(M), rows × cols, of a matrix that lies by columns."""
    if op:
        return columns(address, dtype, start, cols, rows, leading, 0).T
    item = np.dtype(dtype).itemsize
    memory = (ctypes.c_char * (((cols - 1) * leading + rows) * item)).from_address(address + start * item)
    return as_strided(np.frombuffer(memory, dtype), (rows, cols), (item, leading * item))


@pytest.fixture
def library():
    return Library()


@pytest.fixture
def cublas(library):
    made = CublasLibrary(library, STREAM, device_array(64, np.uint8, 0))
    library.calls.clear()
    return made


def bind(cublas, a, b, out, tf32=False):
    return cublas.bind(Layout("a", a), Layout("b", b), Layout("out", out), sizes(a, b, out), tf32)


def laid_out(shape, dtype, form, gap=0):
    """An array of a shape in NaN memory: by "rows" or "columns", with a gap between them, and between its models."""
    *models, rows, cols = shape
    count, length = (cols, rows) if form == "columns" else (rows, cols)
    leading = length + gap
    step = count * leading + 3 * gap
    item = np.dtype(dtype).itemsize
    base = device_array(step * (models[0] if models else 1) + gap, dtype)[gap:]
    strides = (item, leading * item) if form == "columns" else (leading * item, item)
    array = as_strided(base, shape, (*((step * item,) if models else ()), *strides), subok=True)
    return base, array


SHAPES = [(3, 5, 4), (1, 5, 4), (3, 1, 4), (3, 5, 1), (1, 1, 4), (1, 5, 1), (3, 1, 1), (1, 1, 1)]
MODELS = [((), (), ()), ((3,), (3,), (3,)), ((), (3,), (3,)), ((3,), (), (3,)), ((1,), (1,), (1,)), ((), (), (2,))]


@pytest.mark.parametrize(("operand", "result"), PAIRS)
@pytest.mark.parametrize("models_shape", MODELS, ids=str)
def test_every_layout_and_shape_is_read_as_it_lies(cublas, library, operand, result, models_shape):
    rng = np.random.default_rng(0)
    for (rows, inner, cols), a_form, b_form, gap in itertools.product(
        SHAPES, ("rows", "columns"), ("rows", "columns"), (0, 2)
    ):
        _, a = laid_out((*models_shape[0], rows, inner), operand, a_form, gap)
        _, b = laid_out((*models_shape[1], inner, cols), operand, b_form, gap)
        memory, out = laid_out((*models_shape[2], rows, cols), result, "rows", gap)
        a[...], b[...] = rng.integers(-4, 5, a.shape), rng.integers(-4, 5, b.shape)
        out[...] = np.nan
        library.calls.clear()
        bind(cublas, a, b, out)()
        want = a.astype(float) @ b.astype(float)
        np.testing.assert_array_equal(out, np.broadcast_to(want, out.shape))
        assert np.isfinite(memory).sum() == out.size  # nothing is written beside it
        assert [c[0] for c in library.calls] == [
            "cublasGemmStridedBatchedEx" if models_shape[2] and models_shape[2][0] > 1 else "cublasGemmEx"
        ]


def test_the_stride_of_an_axis_of_length_one_means_nothing(cublas):
    numbers = np.arange(1.0, 41).astype("float32").view(DeviceArray)
    for down, across in itertools.product((0, 4, 28, -4), repeat=2):
        row = as_strided(numbers[10:], (1, 3), (down, 4), subok=True)
        column = as_strided(numbers[10:], (3, 1), (4, across), subok=True)
        one = as_strided(numbers[10:], (1, 1), (down, across), subok=True)
        for a, b in ((row, column), (one, row), (column, one), (one, one), (column, row)):
            out = device_array((a.shape[0], b.shape[1]), "float32")
            bind(cublas, a, b, out)()
            np.testing.assert_array_equal(out, a @ b)
        out = as_strided(device_array(3, "float32"), (1, 3), (down, 4), subok=True)
        bind(cublas, one, row, out)()
        np.testing.assert_array_equal(out, one @ row)


def test_the_three_products_of_training_are_asked_for_as_designed(cublas, library):
    rows, inputs, outputs = 7, 5, 3
    x, grad_z = device_array((rows, inputs), "float32", 1), device_array((rows, outputs), "float32", 1)
    weight, grad_weight = device_array((inputs, outputs), "float32", 1), device_array((inputs, outputs), "float32")
    z, grad_x = device_array((rows, outputs), "float32"), device_array((rows, inputs), "float32")
    for call in (
        bind(cublas, x, weight, z),
        bind(cublas, grad_z, weight.T, grad_x),
        bind(cublas, x.T, grad_z, grad_weight),
    ):
        call()
    seen = [(c[2:7], (c[8], c[10]), (c[11], c[13]), (c[15], c[17])) for c in library.calls]
    at = {
        name: a.data.ptr
        for name, a in {"x": x, "w": weight, "z": z, "gz": grad_z, "gx": grad_x, "gw": grad_weight}.items()
    }
    assert seen == [
        ((0, 0, outputs, rows, inputs), (at["w"], outputs), (at["x"], inputs), (at["z"], outputs)),
        ((1, 0, inputs, rows, outputs), (at["w"], outputs), (at["gz"], outputs), (at["gx"], inputs)),
        ((0, 1, outputs, inputs, rows), (at["gz"], outputs), (at["x"], inputs), (at["gw"], outputs)),
    ]


@pytest.mark.parametrize(
    ("operand", "result", "tf32", "codes"),
    [
        ("float32", "float32", False, (0, 0, 0, 68)),
        ("float32", "float32", True, (0, 0, 0, 77)),
        ("float64", "float64", False, (1, 1, 1, 70)),
        ("float64", "float64", True, (1, 1, 1, 70)),
        ("float16", "float16", True, (2, 2, 2, 68)),
        ("float16", "float32", True, (2, 2, 0, 68)),
    ],
)
def test_sums_are_float32_or_better_and_tf32_only_on_request(cublas, library, operand, result, tf32, codes):
    for models_shape in ((), (2,)):
        a, b = device_array((*models_shape, 2, 2), operand, 1), device_array((*models_shape, 2, 2), operand, 1)
        bind(cublas, a, b, device_array((*models_shape, 2, 2), result), tf32=tf32)()
        _, *arguments = library.calls[-1]
        types = (8, 12, 17, 21) if models_shape else (8, 11, 15, 17)
        assert tuple(arguments[i] for i in types) == codes
    assert arguments[20] == 2


def test_views_of_one_flat_buffer_are_strided_by_all_parameters(cublas, library):
    flat = np.arange(2 * 64, dtype="float64").reshape(2, 64).view(DeviceArray)
    weight = flat[..., 32:47].reshape(2, 5, 3)
    x, out = device_array((2, 4, 5), "float64", 2), device_array((2, 4, 3), "float64")
    bind(cublas, x, weight, out)()
    np.testing.assert_array_equal(out, x @ weight)
    assert library.calls[-1][8:12] == (flat.data.ptr + 32 * 8, 1, 3, 64)
    shared = np.broadcast_to(x[0], x.shape, subok=True)
    bind(cublas, shared, weight, out)()
    np.testing.assert_array_equal(out, shared @ weight)
    assert library.calls[-1][15] == 0


def test_what_has_no_layout_is_refused_with_its_strides(cublas):
    good, out = device_array((4, 4), "float32", 1), device_array((4, 4), "float32")
    wide = device_array((8, 8), "float32", 1)
    rotated = device_array((4, 4, 2), "float32", 1)
    structure = np.zeros((4, 4), [("x", "f4"), ("pad", "i2")])["x"].view(DeviceArray)
    for bad in (wide[::2, ::2], good[::-1], good[:, ::-1], np.broadcast_to(good[0], (4, 4), subok=True), structure):
        with pytest.raises(InputError, match=r"a with shape \(4, 4\) and strides") as refused:
            bind(cublas, bad, good, out)
        assert str(bad.strides) in str(refused.value) and "ascontiguousarray" in str(refused.value)
        with pytest.raises(InputError, match="b with shape"):
            bind(cublas, good, bad, out)
    with pytest.raises(InputError, match="a with shape"):
        bind(cublas, np.moveaxis(rotated, -1, 0), good, device_array((2, 4, 4), "float32"))
    for shape, strides in (((4, 4), (18, 4)), ((2, 4, 4), (66, 16, 4))):
        with pytest.raises(InputError, match="no multiples of the size of an element"):
            Layout("a", as_strided(wide, shape, strides, subok=True))


def test_out_must_have_rows_and_models_of_its_own(cublas):
    good, out = device_array((4, 4), "float32", 1), device_array((4, 4), "float32")
    Layout("out", out).require_rows()
    Layout("out", device_array((2, 4, 6), "float32")[..., :4]).require_rows()
    Layout("out", np.broadcast_to(out, (1, 4, 4), subok=True)).require_rows()
    with pytest.raises(InputError, match="out with shape .* rows are not contiguous"):
        Layout("out", out.T).require_rows()
    Layout("out", as_strided(out, (2, 2, 2), (8, 16, 4), subok=True)[:1]).require_rows()
    with pytest.raises(InputError, match="models overlap"):
        Layout("out", as_strided(out, (2, 2, 2), (16, 16, 4), subok=True)).require_rows()
    with pytest.raises(InputError, match="models overlap"):
        Layout("out", np.broadcast_to(good, (2, 4, 4), subok=True)).require_rows()
    with pytest.raises(InputError, match="models overlap"):
        Layout("out", device_array((2, 4, 4), "float32")[::-1]).require_rows()


@pytest.mark.parametrize(
    ("a", "b", "out"),
    [
        ((3, 5), (4, 2), (3, 2)),
        ((3, 5), (5, 2), (4, 2)),
        ((3, 5), (5, 2), (3, 4)),
        ((2, 3, 5), (5, 2), (3, 2)),
        ((3, 5), (2, 5, 2), (3, 2)),
        ((2, 3, 5), (3, 5, 2), (2, 3, 2)),
        ((1, 3, 5), (2, 5, 2), (2, 3, 2)),
        ((5,), (5, 2), (2,)),
        ((3, 5), (5,), (3,)),
        ((2, 2, 3, 5), (2, 2, 5, 2), (2, 2, 3, 2)),
        ((), (), ()),
    ],
)
def test_shapes_that_do_not_go_together_are_refused(a, b, out):
    with pytest.raises(InputError, match="do not go together") as refused:
        sizes(*(device_array(shape, "float32") for shape in (a, b, out)))
    assert f"a {a}, b {b} and out {out}" in str(refused.value)


@pytest.mark.parametrize(
    "dtypes",
    [
        ("float32", "float64", "float32"),
        ("float32", "float32", "float64"),
        ("float64", "float64", "float32"),
        ("float32", "float32", "float16"),
        ("float16", "float16", "float64"),
        ("int32", "int32", "int32"),
    ],
)
def test_dtypes_that_do_not_go_together_are_refused(dtypes):
    a, b, out = dtypes
    with pytest.raises(InputError, match=f"a is {a}, b {b} and out {out}"):
        sizes(*(np.zeros((2, 2), d) for d in dtypes))


def test_what_no_c_int_holds_is_refused():
    tall = as_strided(device_array(1, "float32"), (2**31, 1), (0, 4), subok=True)
    with pytest.raises(InputError, match="2,147,483,647"):
        sizes(tall, device_array((1, 1), "float32"), tall)
    with pytest.raises(InputError, match="a with shape"):
        Layout("a", as_strided(device_array(1, "float32"), (2, 1), (2**33, 4), subok=True))


def test_the_handle_gets_its_stream_then_its_workspace(library):
    workspace = device_array(192, np.uint8, 0)
    made = CublasLibrary(library, STREAM, workspace)
    assert [c[0] for c in library.calls] == [
        "cublasCreate_v2", "cublasSetStream_v2", "cublasSetWorkspace_v2", "cublasSetMathMode", "cublasGetVersion_v2",
    ]  # fmt: skip
    assert [c[1:] for c in library.calls[1:4]] == [(HANDLE, STREAM), (HANDLE, workspace.data.ptr, 64), (HANDLE, 16)]
    assert made.version == "13.1.2"


def test_what_is_captured_has_a_workspace_of_its_own(library):
    """Another thread may launch a graph between two launches of one product; and so may the other branch of a graph."""
    workspace = device_array(192, np.uint8, 0)
    made = CublasLibrary(library, STREAM, workspace)
    a, b, out = (device_array((2, 2), "float32", 1) for _ in "abc")
    call = bind(made, a, b, out)
    for stream in (0x9, 0xA, 0x9, 0xB, 0xC):
        call.on(SimpleNamespace(ptr=stream))()
    given = [(pointer, size) for name, _, pointer, size in (c for c in library.calls if "Workspace" in c[0])]
    assert given == [(workspace.data.ptr + 64 * part, 64) for part in (0, 1, 2, 1, 2)]


@pytest.mark.parametrize(("status", "words"), [(1, "not initialized"), (15, "not supported"), (99, "unknown")])
@pytest.mark.parametrize("function", ["cublasCreate_v2", "cublasSetWorkspace_v2", "cublasGemmEx"])
def test_a_status_becomes_an_error_in_words(status, words, function):
    library = Library(status, function)
    a, out = device_array((2, 2), "float32", 1), device_array((2, 2), "float32")
    with pytest.raises(DeviceError, match=f"status {status}: {words}"):
        bind(CublasLibrary(library, STREAM, device_array(64, np.uint8, 0)), a, a, out)()


def test_a_call_keeps_what_it_works_on(library):
    workspace = device_array(64, np.uint8, 0)
    a, b, out = (device_array((2, 2), "float32", 1) for _ in "abc")
    alive = [weakref.ref(array) for array in (workspace, a, b, out)]
    call = bind(CublasLibrary(library, STREAM, workspace), a, b, out)
    del workspace, a, b, out
    gc.collect()
    assert all(array() is not None for array in alive)
    call()
    np.testing.assert_array_equal(alive[3](), 2)
    del call
    gc.collect()
    assert all(array() is None for array in alive)
