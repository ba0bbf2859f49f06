"""Kernels of our own, compiled by CuPy and launched through KernelLibrary, find their arguments where they look."""

from __future__ import annotations

import gc
import shutil
import weakref

import numpy as np
import pytest
from lib.kernel_instances import prepare

from gpu_backprop.backend import kernel_text
from gpu_backprop.backend.cuda.kernel_instance import instance
from gpu_backprop.backend.cuda.kernel_library import KernelLibrary
from gpu_backprop.backend.errors import DeviceError, InputError
from gpu_backprop.network.activations import ACTIVATIONS

pytestmark = pytest.mark.gpu

KERNELS = """#include "port.cuh"

// z = F(a z + b), and what the launch looks like
template<class T, class F, int V> __global__ void __launch_bounds__(256) affine(
    T* z,               // [models, rows, cols]
    const acc<T>* b,    // [models, cols]?
    const double* by,   // [models] a
    i64* seen,          // [gridDim.x, gridDim.y, gridDim.z, 6]?
    i64 b_step, i64 by_stride, i64 rows, int cols) {
  const i64 m = blockIdx.z, c = (i64(blockIdx.x) * blockDim.x + threadIdx.x) * V;
  if (c < cols)
    for (i64 r = blockIdx.y; r < rows; r += gridDim.y) {
      Vec<T, V> zs = load<V>(z + (m * rows + r) * cols + c);
      for (int k = 0; k < V; k++) {
        const acc<T> plus = b ? b[m * b_step + c + k] : acc<T>(0);
        zs.at[k] = from_acc<T>(F::value(acc<T>(by[m * by_stride]) * to_acc(zs.at[k]) + plus));
      }
      store(z + (m * rows + r) * cols + c, zs);
    }
  if (seen && threadIdx.x == 0) {
    i64* to = seen + ((blockIdx.x * i64(gridDim.y) + blockIdx.y) * gridDim.z + blockIdx.z) * 6;
    to[0] = gridDim.x, to[1] = gridDim.y, to[2] = gridDim.z, to[3] = blockDim.x, to[4] = rows, to[5] = cols;
  }
}

__global__ void numbers(
    double* out,  // [7]
    int a, i64 b, u32 c, u64 d, float e, double f, u8 g) {
  out[0] = a, out[1] = double(b), out[2] = c, out[3] = double(d), out[4] = e, out[5] = f, out[6] = g;
}
"""
BROKEN = """#include "port.cuh"
__global__ void broken(int n) { int unused; n = oops; }
"""
IDENTITY, RELU = ACTIVATIONS["identity"], ACTIVATIONS["relu"]


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


@pytest.fixture
def library(cupy, tmp_path, monkeypatch):
    for header in ("port.cuh", "formulas.cuh"):
        shutil.copy(kernel_text.kernels_folder() / header, tmp_path)
    (tmp_path / "own.cu").write_text(KERNELS)
    (tmp_path / "broken.cu").write_text(BROKEN)
    monkeypatch.setattr(kernel_text, "kernels_folder", lambda: tmp_path)
    return KernelLibrary(cupy, 0, cupy.cuda.Stream(non_blocking=False))


def dtype_named(name):
    return pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else np.dtype(name)


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("name", ["float32", "float64", "float16", "bfloat16"])
def test_a_kernel_gets_its_arguments(library, cupy, name, vector):
    dtype, master = dtype_named(name), np.float64 if name == "float64" else np.float32
    models, rows, cols = 2, 3, 16
    rng = np.random.default_rng(0)
    z, b = rng.integers(-8, 8, (models, rows, cols)), rng.integers(-8, 8, (models, 2 * cols))
    by = np.array([[2.0, 9.0, 9.0], [-1.0, 9.0, 9.0]])
    on_device = cupy.asarray(z.astype(dtype))
    bias = cupy.asarray(b.astype(master))[:, :cols]
    width = library.width(dtype, cols, on_device, bias) if vector else 1
    assert width == (16 // np.dtype(dtype).itemsize if vector else 1)
    seen = cupy.full((4, 2, models, 6), -1, np.int64)
    call = library.launch(
        "affine", (dtype, RELU, width), (4, 2, models), (4,),
        z=on_device, b=bias, by=cupy.asarray(by)[:, 0], seen=seen, rows=rows, cols=cols,
    )  # fmt: skip
    cupy.cuda.Device(0).synchronize()
    call()
    library.stream.synchronize()
    expected = by[:, 0, None, None] * z + b[:, None, :cols]
    np.testing.assert_array_equal(cupy.asnumpy(on_device).astype("f8"), np.maximum(expected, 0))
    assert (cupy.asnumpy(seen) == [4, 2, models, 4, rows, cols]).all()


def test_null_pointers(library, cupy):
    z, by = cupy.arange(6, dtype="f8").reshape(2, 3), cupy.full(1, 3.0)
    cupy.cuda.Device(0).synchronize()
    library.launch("affine", ("float64", IDENTITY, 1), (1, 2), (32,), z=z, b=None, by=by, seen=None, rows=2, cols=3)()
    library.stream.synchronize()
    assert cupy.asnumpy(z).tolist() == [[0, 3, 6], [9, 12, 15]]


def test_numbers_of_every_type(library, cupy):
    out = cupy.zeros(7)
    cupy.cuda.Device(0).synchronize()
    given = {"a": -7, "b": -(2**40), "c": 2**32 - 1, "d": 2**60, "e": 0.1, "f": 0.1, "g": 200}
    library.launch("numbers", (), (1,), (1,), out=out, **given)()
    library.stream.synchronize()
    assert cupy.asnumpy(out).tolist() == [-7, -(2**40), 2**32 - 1, 2**60, np.float32(0.1), 0.1, 200]


def test_arrays_are_not_given_away_while_a_launch_may_write_to_them(library, cupy):
    out = cupy.zeros(7)
    alive, place = weakref.ref(out), out.data.ptr
    given = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6, "g": 7}
    call = library.launch("numbers", (), (1,), (1,), out=out, **given)
    del out
    gc.collect()
    others = [cupy.zeros(7) for _ in range(20)]
    assert alive() is not None and place not in {other.data.ptr for other in others}
    cupy.cuda.Device(0).synchronize()
    call()
    library.stream.synchronize()
    assert cupy.asnumpy(alive()).tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert not any(cupy.asnumpy(other).any() for other in others)
    del call
    gc.collect()
    assert alive() is None


def test_a_launch_can_be_captured_and_replayed(library, cupy):
    z, by = cupy.ones((1, 4)), cupy.full(1, 3.0)
    call = library.launch("affine", ("float64", IDENTITY, 1), (1,), (4,), z=z, b=None, by=by, seen=None, rows=1, cols=4)
    cupy.cuda.Device(0).synchronize()
    with library.stream:
        library.stream.begin_capture()
        call()
        graph = library.stream.end_capture()
        for _ in range(3):
            graph.launch(library.stream)
    library.stream.synchronize()
    assert cupy.asnumpy(z).tolist() == [[27.0] * 4]


def test_prepared_kernels_are_not_compiled_again(library, cupy, monkeypatch):
    wanted = [instance("affine", t, IDENTITY, v) for t, vector in (("float32", 4), ("float64", 2)) for v in (1, vector)]
    prepare(library, [*wanted, instance("numbers")])
    assert library.compiled == (*(made.name for made in wanted), "numbers")
    monkeypatch.delattr(cupy, "RawModule")
    z, by = cupy.ones((1, 4)), cupy.full(1, 3.0)
    cupy.cuda.Device(0).synchronize()
    library.launch("affine", ("float64", IDENTITY, 2), (1,), (2,), z=z, b=None, by=by, seen=None, rows=1, cols=4)()
    library.stream.synchronize()
    assert cupy.asnumpy(z).tolist() == [[3.0] * 4]


def test_checks_know_real_arrays(library, cupy):
    good = {"z": cupy.ones((2, 4)), "b": None, "by": cupy.ones(1), "seen": None, "rows": 2, "cols": 4}

    def refused(said, **changes):
        with pytest.raises(InputError, match=said):
            library.launch("affine", ("float64", IDENTITY, 1), (1,), (4,), **good | changes)

    refused("z must be a CuPy array of float64, got numpy.ndarray", z=np.ones((2, 4)))
    refused("z must be float64, got float32", z=cupy.ones((2, 4), "f4"))
    refused("z must be C-contiguous", z=cupy.ones((4, 2)).T)
    refused(r"b must have 1 × 4 elements, \[models, cols\]; got 3", b=cupy.ones(3))
    refused("rows must be an integer", rows=cupy.ones(1, "i8"))
    with pytest.raises(InputError, match="z must be aligned to 16 bytes"):
        library.launch("affine", ("float64", IDENTITY, 2), (1,), (4,), **good | {"z": cupy.ones(9)[1:]})


def test_a_kernel_that_does_not_compile(library):
    with pytest.raises(DeviceError, match=r"kernel broken does not compile on cuda:0: .*error.*oops"):
        library.launch("broken", (), (1,), (1,), n=1)


def test_headers_that_are_missing(library, cupy, monkeypatch):
    def fail(**options):
        raise RuntimeError("Failed to find CUDA headers.\nPlease install them.")

    monkeypatch.setattr(cupy, "RawModule", fail)
    with pytest.raises(DeviceError, match=r"headers\. Please install them\.\).*gpu-backprop\[cuda1[23]\]'"):
        library.launch("numbers", (), (1,), (1,), out=cupy.zeros(7), **dict.fromkeys("abcdefg", 1))


def test_a_module_that_the_driver_refuses(library, cupy, monkeypatch):
    def fail(**options):
        cupy.cuda.driver.moduleLoadData(b"this is no cubin")

    monkeypatch.setattr(cupy, "RawModule", fail)
    with pytest.raises(DeviceError, match="kernel numbers cannot be loaded on cuda:0: CUDA_ERROR"):
        library.launch("numbers", (), (1,), (1,), out=cupy.zeros(7), **dict.fromkeys("abcdefg", 1))
