"""Matrix products on a device: cuBLAS called directly and CuPy's product, both against NumPy in float64."""

from __future__ import annotations

import copy
import ctypes
import importlib
import warnings
from functools import partial

import numpy as np
import pytest

from gpu_backprop.backend.cuda.cublas import CublasLibrary
from gpu_backprop.backend.cuda.products import Products
from gpu_backprop.backend.errors import DeviceError, InputError

pytestmark = pytest.mark.gpu

PAIRS = [
    ("float32", "float32"),
    ("float64", "float64"),
    ("float16", "float16"),
    ("float16", "float32"),
    ("bfloat16", "bfloat16"),
    ("bfloat16", "float32"),
]
TOLERANCE = {"float32": 1e-5, "float64": 1e-13, "float16": 2e-3, "bfloat16": 1e-2}
DOORS = pytest.mark.parametrize("door", ["direct", "cupy"])
SHAPES = [(7, 5, 3), (1, 5, 3), (7, 1, 3), (7, 5, 1), (1, 5, 1), (7, 1, 1), (1, 1, 3), (1, 1, 1), (64, 33, 17)]


def no_library(*_):
    raise OSError("libcublas.so.13: cannot open shared object file")


@pytest.fixture(scope="module")
def cupy():
    pytest.importorskip("ml_dtypes")
    return pytest.importorskip("cupy")


@pytest.fixture(scope="module")
def stream(cupy):
    return cupy.cuda.Stream()


@pytest.fixture(scope="module")
def doors(cupy, stream):
    """Both, by name; the direct one must serve here."""
    direct = Products(cupy, 0, stream)
    assert direct.direct and direct.reason.startswith("cuBLAS 1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ctypes, "PyDLL", no_library)
        with pytest.warns(RuntimeWarning, match="cannot open shared object"):
            indirect = Products(cupy, 0, stream)
    assert not indirect.direct
    return {"direct": direct, "cupy": indirect}


@pytest.fixture(autouse=True)
def current(cupy, stream):
    """As a device's `computing()` has it."""
    with cupy.cuda.Device(0), stream:
        yield
    stream.synchronize()


def numbers(cupy, shape, dtype, form="rows", seed=0):
    """Random numbers on the device and, as they were rounded, in float64 on the host."""
    flipped = form == "columns"
    stored = (*shape[:-2], shape[-1], shape[-2]) if flipped else shape
    values = np.random.default_rng(seed).normal(0, 1, stored).astype(dtype)
    if form == "padded":
        buffer = cupy.asarray(np.pad(values, [(0, 0)] * (len(shape) - 1) + [(0, 3)]))
        return buffer[..., : shape[-1]], values.astype(np.float64)
    array = cupy.asarray(values)
    if flipped:
        return array.swapaxes(-1, -2), values.swapaxes(-1, -2).astype(np.float64)
    return array, values.astype(np.float64)


def run(calls):
    for call in calls:
        call()


def close(out, want, inner):
    tolerance = TOLERANCE[out.dtype.name]
    np.testing.assert_allclose(out.get().astype(np.float64), want, rtol=tolerance, atol=tolerance * np.sqrt(inner))


@DOORS
@pytest.mark.parametrize(("operand", "result"), PAIRS)
@pytest.mark.parametrize("models_shape", [(), (3,)], ids=["one", "models"])
def test_a_product_in_every_dtype_layout_and_shape(cupy, doors, door, operand, result, models_shape):
    forms = [("rows", "rows"), ("columns", "rows"), ("rows", "columns"), ("padded", "padded"), ("columns", "columns")]
    for rows, inner, cols in SHAPES:
        for a_form, b_form in forms:
            a, a_host = numbers(cupy, (*models_shape, rows, inner), operand, a_form, 1)
            b, b_host = numbers(cupy, (*models_shape, inner, cols), operand, b_form, 2)
            out = cupy.full((*models_shape, rows, cols), np.nan, result)
            run(doors[door].matmul(a, b, out))
            close(out, a_host @ b_host, inner)


@DOORS
@pytest.mark.parametrize(("operand", "result"), PAIRS)
def test_members_of_a_flat_buffer_and_operands_that_all_share(cupy, doors, door, operand, result):
    """As a Network with members has them: strided views of (models, parameters), and x for all."""
    flat, flat_host = numbers(cupy, (3, 128), operand)
    weight, weight_host = (f[..., 64:79].reshape(3, 5, 3) for f in (flat, flat_host))
    gradients = cupy.zeros((3, 128), result)
    grad_weight = gradients[..., 64:79].reshape(3, 5, 3)
    x, x_host = numbers(cupy, (7, 5), operand, seed=1)
    z, grad_x = cupy.full((3, 7, 3), np.nan, result), cupy.full((3, 7, 5), np.nan, operand)
    for shared in (x, cupy.broadcast_to(x, (3, 7, 5))):
        z.fill(np.nan)
        run(doors[door].matmul(shared, weight, z))
        close(z, x_host @ weight_host, 5)
    grad_z, grad_host = numbers(cupy, (3, 7, 3), operand, seed=2)
    run(doors[door].matmul(grad_z, weight.swapaxes(-1, -2), grad_x))
    close(grad_x, grad_host @ weight_host.swapaxes(-1, -2), 3)
    run(doors[door].matmul(x.swapaxes(-1, -2), grad_z, grad_weight))
    close(grad_weight, x_host.T @ grad_host, 7)
    beside = gradients.get()
    assert not beside[:, :64].any() and not beside[:, 79:].any()


@DOORS
def test_out_may_be_part_of_wider_rows(cupy, doors, door):
    a, a_host = numbers(cupy, (2, 4, 5), "float32", seed=1)
    b, b_host = numbers(cupy, (2, 5, 3), "float32", seed=2)
    wide = cupy.full((2, 4, 8), 7, "float32")
    run(doors[door].matmul(a, b, wide[..., 2:5]))
    close(wide[..., 2:5], a_host @ b_host, 5)
    assert (wide.get()[..., [0, 1, 5, 6, 7]] == 7).all()


@DOORS
def test_nothing_to_sum_and_nothing_to_write(cupy, doors, door):
    matmul, nothing = doors[door].matmul, partial(cupy.empty, dtype="float32")
    out = cupy.full((2, 3), 6, "float32")
    run(matmul(nothing((2, 0)), nothing((0, 3)), out))
    np.testing.assert_array_equal(out.get(), np.zeros((2, 3)))
    assert matmul(nothing((0, 4)), nothing((4, 3)), nothing((0, 3))) == []
    assert matmul(nothing((2, 4)), nothing((4, 0)), nothing((2, 0))) == []
    assert matmul(nothing((0, 2, 4)), nothing((4, 3)), nothing((0, 2, 3))) == []


@pytest.mark.parametrize(("rows", "inner", "cols"), [(16, 64, 16), (1024, 1024, 1024)])
def test_tf32_rounds_float32_operands_on_request_only(cupy, doors, rows, inner, cols):
    """cuBLAS may compute a small product in float32 all the same: that a large one is rounded, it has to show."""
    a, a_host = numbers(cupy, (rows, inner), "float32", seed=1)
    b, b_host = numbers(cupy, (inner, cols), "float32", seed=2)
    want, error = a_host @ b_host, {}
    for door in doors:
        for tf32 in (False, True):
            out = cupy.empty((rows, cols), "float32")
            run(doors[door].matmul(a, b, out, tf32=tf32))
            error[door, tf32] = np.abs(out.get() - want).max() / np.sqrt(inner)
    assert error["direct", False] < 2e-5 and error["cupy", False] < 2e-5
    assert error["direct", True] < 0.01
    if rows == 1024:
        assert (error["direct", True] > 2e-4) == (int(cupy.cuda.Device(0).compute_capability) >= 80)
    assert error["cupy", True] == error["cupy", False]


@pytest.mark.parametrize(("operand", "result"), PAIRS)
@pytest.mark.parametrize("models_shape", [(), (2,)], ids=["one", "models"])
def test_a_captured_product_gives_the_same_bits(cupy, doors, stream, operand, result, models_shape):
    a, _ = numbers(cupy, (*models_shape, 9, 20), operand, seed=1)
    b, _ = numbers(cupy, (*models_shape, 20, 6), operand, "columns", seed=2)
    out, eager = cupy.full((*models_shape, 9, 6), 0, result), cupy.full((*models_shape, 9, 6), 0, result)
    run(doors["direct"].matmul(a, b, eager))
    (call,) = doors["direct"].matmul(a, b, out)
    stream.begin_capture()
    try:
        call()
    finally:
        graph = stream.end_capture()
    assert not out.get().astype(np.float64).any()  # captured and not done
    for _ in range(2):
        out.fill(np.nan)
        graph.launch(stream)
        np.testing.assert_array_equal(out.get(), eager.get())


@DOORS
@pytest.mark.parametrize(("operand", "result"), PAIRS)
def test_a_call_allocates_nothing(cupy, doors, door, operand, result):
    class Hook(cupy.cuda.MemoryHook):
        name = "allocations"
        seen = 0

        def alloc_preprocess(self, **_):
            self.seen += 1

        malloc_preprocess = alloc_preprocess

    calls = []
    for rows, inner, cols in SHAPES:
        for models_shape in ((), (2,)):
            for form in ("rows", "columns", "padded"):
                a, _ = numbers(cupy, (*models_shape, rows, inner), operand, form, 1)
                b, _ = numbers(cupy, (*models_shape, inner, cols), operand, form, 2)
                calls += doors[door].matmul(a, b, cupy.zeros((*models_shape, rows, cols), result))
    run(calls)
    with Hook() as hook:
        run(calls)
        assert hook.seen == 0
        cupy.empty(1)
    assert hook.seen  # it sees allocations


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cupy_gets_only_what_it_multiplies_in_place(cupy, doors, dtype, monkeypatch):
    """Its accelerators, which the emulator lacks, make two temporaries where out is a single number."""
    original, seen = cupy.dot, []

    def dot(a, b, out):
        assert out.size > 1 and out.flags.c_contiguous and a.dtype == b.dtype == out.dtype
        assert all(x.flags.c_contiguous or x.flags.f_contiguous for x in (a, b))
        seen.append(original(a, b, out))

    monkeypatch.setattr(cupy, "dot", dot)
    for rows, inner, cols in SHAPES:
        for form in ("rows", "columns", "padded"):
            a, a_host = numbers(cupy, (rows, inner), dtype, form, 1)
            b, b_host = numbers(cupy, (inner, cols), dtype, form, 2)
            out = cupy.full((rows, cols), np.nan, "float32")
            run(doors["cupy"].matmul(a, b, out))
            close(out, a_host @ b_host, inner)
    assert len(seen) == 3 * len(SHAPES)


@DOORS
def test_the_stream_is_the_one_of_the_device(cupy, doors, door, stream, monkeypatch):
    """Whichever stream is current; CuPy's own product would go there."""
    seen = []
    monkeypatch.setattr(cupy, "dot", lambda *_: seen.append(cupy.cuda.get_current_stream()))
    a, out = cupy.ones((2, 2), "float32"), cupy.zeros((2, 2), "float32")
    other = cupy.cuda.Stream(non_blocking=True)
    with other:
        calls = doors[door].matmul(a, a, out)
        if door == "cupy":
            run(calls)
    if door == "cupy":
        assert [s.ptr for s in seen] == [stream.ptr]
        return
    stream.begin_capture()
    with other:
        run(calls)
    stream.end_capture().launch(stream)
    np.testing.assert_array_equal(out.get(), 2)


def test_arrays_of_another_place_are_refused(cupy, doors):
    a = cupy.ones((2, 2), "float32")
    for position, name in enumerate(("a", "b", "out")):
        arrays = [a, a, cupy.ones((2, 2), "float32")]
        arrays[position] = np.ones((2, 2), "float32")
        with pytest.raises(InputError, match=rf"{name} must be a CuPy array on cuda:0, got numpy\.ndarray"):
            doors["direct"].matmul(*arrays)
    elsewhere = copy.copy(doors["direct"])
    elsewhere._index = 1
    with pytest.raises(InputError, match="a is on cuda:0 and this network on cuda:1"):
        elsewhere.matmul(a, a, cupy.ones((2, 2), "float32"))


@DOORS
def test_both_doors_refuse_the_same(cupy, doors, door):
    a, out = cupy.ones((4, 4), "float32"), cupy.zeros((4, 4), "float32")
    for arrays, words in (
        ((cupy.ones((8, 8), "float32")[::2, ::2], a, out), "a with shape"),
        ((a, a[::-1], out), "b with shape"),
        ((a, a, out.T), "rows are not contiguous"),
        ((a, a, cupy.broadcast_to(out, (2, 4, 4))), "models overlap"),
        ((a, a[:2], out), "do not go together"),
        ((a, a.astype("float64"), out), "same dtype"),
    ):
        with pytest.raises(InputError, match=words):
            doors[door].matmul(*arrays)


class Transposing(CublasLibrary):
    """Confuses the layouts of one dtype, as a library with other rules would."""

    dtype = "float16"

    def bind(self, a, b, out, *rest):
        if a.array.dtype.name == self.dtype:
            a.columns = not a.columns
            a.leading = 5
        return super().bind(a, b, out, *rest)


class Refusing(CublasLibrary):
    """Has no products of several models."""

    def bind(self, a, b, out, shape, *rest):
        call = super().bind(a, b, out, shape, *rest)
        return partial(self._refuse, 15) if shape[0] > 1 else call

    def _refuse(self, status):
        self._gemm.restype(status)


def absent(name):
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    ("what", "patched", "why"),
    [
        (ctypes, ("PyDLL", no_library), "cannot open shared object file"),
        (importlib, ("import_module", absent), "No module named 'cuda.pathfinder'"),
        (ctypes, ("PyDLL", lambda path: object()), "no attribute 'cublasCreate_v2'"),
        (
            "gpu_backprop.backend.cuda.products",
            ("CublasLibrary", Transposing),
            r"@b \(float16 to float16, .*not the same",
        ),
        ("gpu_backprop.backend.cuda.products", ("CublasLibrary", Refusing), "status 15: not supported"),
    ],
    ids=["missing", "no pathfinder", "foreign", "wrong", "refusing"],
)
def test_cupy_serves_where_cublas_cannot_and_one_warning_says_why(cupy, stream, monkeypatch, what, patched, why):
    if isinstance(what, str):
        what = importlib.import_module(what)
    monkeypatch.setattr(what, *patched)
    with pytest.warns(RuntimeWarning, match=why) as caught:
        products = Products(cupy, 0, stream)
    monkeypatch.undo()
    assert len(caught) == 1 and "CUDA graph" in str(caught[0].message)
    assert not products.direct and "CuPy's matrix product is used" in products.reason
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        a, a_host = numbers(cupy, (2, 4, 5), "float16", seed=1)
        b, b_host = numbers(cupy, (2, 5, 3), "float16", "columns", seed=2)
        out = cupy.full((2, 4, 3), np.nan, "float32")
        run(products.matmul(a, b, out))
    close(out, a_host @ b_host, 5)


def test_without_any_product_there_is_an_error_with_the_remedy(cupy, stream, monkeypatch):
    def broken(*_):
        raise RuntimeError("libcublas.so.13 not found")

    monkeypatch.setattr(cupy, "matmul", broken)
    with pytest.raises(DeviceError, match=r"cannot multiply matrices \(libcublas.so.13 not found\); the extra cuda13"):
        Products(cupy, 0, stream)


@pytest.mark.parametrize(("capability", "bfloat16"), [("70", False), ("75", False), ("80", True), ("120", True)])
def test_each_kind_that_the_device_has_is_compared(cupy, doors, capability, bfloat16):
    products = copy.copy(doors["direct"])
    products._generation = int(capability[:-1])
    kinds = list(products._kinds())
    assert {kind[:2] for kind in kinds} == set(PAIRS if bfloat16 else PAIRS[:4])
    assert [kind for kind in kinds if kind[2]] == ([("float32", "float32", True)] if bfloat16 else [])
