"""Every launch is checked against the kernel's head and packed as the kernel reads it; no CuPy is needed for that."""

from __future__ import annotations

import ctypes
import gc
import re
import struct
import sys
import threading
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from lib.kernel_instances import prepare

from gpu_backprop.backend import kernel_text
from gpu_backprop.backend.cuda import kernel_library
from gpu_backprop.backend.cuda.kernel_instance import instance
from gpu_backprop.backend.cuda.kernel_library import KernelLibrary, NeededKernels
from gpu_backprop.backend.errors import DeviceError, InputError, StateError
from gpu_backprop.network.losses import Huber

KERNELS = """
template<class T, int V> __global__ void add(
    T* z,                // [models, rows, cols]
    const acc<T>* b,     // [models, cols]?
    const double* total, // [count]
    u32* tickets,        // [gridDim.x, 2]
    i64 b_step, i64 total_stride, i64 rows, int cols, int count, float rate) {}
template<class T> __global__ void numbers(i64 a, int b, u64 c, u32 d, float e, double f, acc<T> g) {}
template<class T, class E> __global__ void judge(int n) {}
template<class T> __global__ void members(
    T* w,  // [models]
    i64 w_step) {}
__global__ void nothing() {}
"""
OTHER = "__global__ void other(int n) {}"


class Compiler:
    """What is asked of CuPy, in place of CuPy."""

    class CompileError(Exception): ...

    class DriverError(Exception): ...

    class RuntimeApiError(Exception): ...

    def __init__(self) -> None:
        self.modules, self.launches, self.devices, self.failure = [], [], [], None
        self.block_memory = {}  # of each function that was given more than it has at first
        self.ndarray = Array
        self.cuda = SimpleNamespace(
            driver=SimpleNamespace(
                launchKernel=self.launch,
                CUDADriverError=self.DriverError,
                get_build_version=lambda: 13020,
                CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8,
                funcGetAttribute=lambda attribute, function: self.block_memory.get(function, 49152),
                funcSetAttribute=lambda function, attribute, size: self.block_memory.update({function: size}),
            ),
            runtime=SimpleNamespace(
                CUDARuntimeError=self.RuntimeApiError,
                deviceGetAttribute=lambda attribute, index: {97: 100_000}[attribute],  # bytes that a block can have
            ),
            compiler=SimpleNamespace(CompileException=self.CompileError),
            Device=self.device,
        )

    def device(self, index):
        self.devices.append(index)
        return Current()

    def RawModule(self, *, code, options, name_expressions):
        if self.failure:
            raise self.failure
        self.modules.append((code, options, name_expressions))
        functions = {
            name: SimpleNamespace(ptr=1000 + 10 * len(self.modules) + i) for i, name in enumerate(name_expressions)
        }
        return SimpleNamespace(get_function=lambda name: SimpleNamespace(kernel=functions[name]))

    def launch(self, function, *rest):
        self.launches.append((function, *rest))


class Current:
    """Something for `with`."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def use(self):
        pass


class Array:
    """A CuPy array as far as its place and shape go, made of a NumPy array."""

    def __init__(self, array, device=0, offset=0) -> None:
        self.dtype, self.shape, self.strides, self.itemsize = array.dtype, array.shape, array.strides, array.itemsize
        self.size, self.ndim, self.flags = array.size, array.ndim, array.flags
        self.device = SimpleNamespace(id=device)
        self.data = SimpleNamespace(ptr=0x7F0000000000 + 4096 * (id(self) % 99991) + offset)


def array(*shape, dtype="float32", **place):
    return Array(np.empty(shape, dtype), **place)


@pytest.fixture
def cupy():
    return Compiler()


@pytest.fixture
def library(cupy, tmp_path, monkeypatch):
    for name, text in {"port.cuh": "", "file.cu": KERNELS, "other.cu": OTHER}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(kernel_text, "kernels_folder", lambda: tmp_path)
    return KernelLibrary(cupy, 0, SimpleNamespace(ptr=77))


GRID, BLOCK = (3, 2, 2), (32, 8)


def good(dtype="float32", **changes):
    """Arguments of `add` for two models of 5 rows and 8 columns, changed or (by ...) left out."""
    arguments = {
        "z": array(2, 5, 8, dtype=dtype),
        "b": array(2, 8),
        "total": array(4, dtype="float64"),
        "tickets": array(3, 2, dtype="uint32"),
        "rows": 5,
        "cols": 8,
        "count": 4,
        "rate": 0.5,
    }
    return {name: value for name, value in {**arguments, **changes}.items() if value is not ...}


def add(library, width=1, grid=GRID, block=BLOCK, **changes):
    return library.launch("add", ("float32", width), grid, block, **good(**changes))


def slots(cupy, count):
    """The arguments of the last launch, as the driver finds them: pointers to pointers, each eight bytes read."""
    params = cupy.launches[-1][9]
    places = (ctypes.c_void_p * count).from_address(params)
    return [ctypes.string_at(place, 8) for place in places]


def unpacked(cupy, code):
    return [struct.unpack_from("<" + c, slot)[0] for c, slot in zip(code, slots(cupy, len(code)), strict=True)]


def test_a_launch_is_what_the_driver_takes(library, cupy):
    call = add(library)
    assert cupy.launches == []
    assert call() is None and call() is None
    (function, *rest), again = cupy.launches
    assert (function, *rest) == again
    assert function == 1010 and rest[:8] == [3, 2, 2, 32, 8, 1, 0, 77] and rest[9] == 0
    assert call.kernel == "add<float, 1>"


def test_arguments_are_packed_in_the_order_of_the_head(library, cupy):
    arguments = good()
    call = library.launch("add", ("float32", 1), GRID, BLOCK, **dict(reversed(arguments.items())))
    call()
    pointers = [arguments[name].data.ptr for name in ("z", "b", "total", "tickets")]
    assert unpacked(cupy, "QQQQqqqiif") == [*pointers, 8, 1, 5, 8, 4, 0.5]


def test_numbers_get_the_types_of_the_head(library, cupy):
    given = {"a": -(2**63), "b": np.int64(-5), "c": 2**64 - 1, "d": True, "e": np.float64(0.1), "f": 0.1, "g": 3}
    library.launch("numbers", ("float64",), (1,), (32,), **given)()
    assert unpacked(cupy, "qiQIfdd") == [-(2**63), -5, 2**64 - 1, 1, np.float32(0.1), 0.1, 3.0]
    library.launch("numbers", ("float16",), (1,), (32,), **given | {"e": np.inf, "g": 0.5})()
    assert unpacked(cupy, "qiQIfdf")[4:] == [np.inf, 0.1, 0.5]
    assert all(slot[4:] == bytes(4) for slot in (slots(cupy, 7)[i] for i in (1, 3, 4, 6)))


def test_a_kernel_without_parameters(library, cupy):
    library.launch("nothing", (), (1,), (1,))()
    assert cupy.launches[0][1:9] == (1, 1, 1, 1, 1, 1, 0, 77)


def test_null_pointers(library, cupy):
    add(library, b=None)()
    assert unpacked(cupy, "QQQQq")[1::3] == [0, 0]


def test_steps_and_strides_come_from_the_arrays(library, cupy):
    wide = np.empty((2, 16), "f4")
    totals = np.empty((4, 3))
    add(library, b=Array(wide[:, :8]), total=Array(totals[:, 1]))()
    assert unpacked(cupy, "QQQQqq")[4:] == [16, 3]
    shared = np.broadcast_to(np.empty(8, "f4"), (2, 8))
    single = np.broadcast_to(np.empty(1), (2, 2))
    add(library, b=Array(shared), total=Array(single))()
    assert unpacked(cupy, "QQQQqq")[4:] == [0, 0]
    add(library, total=Array(totals[::-1, 0]))()
    assert unpacked(cupy, "QQQQqq")[5] == -3
    flat = np.empty((2, 6))[:, 1::2]  # two rows of three numbers, all 16 bytes apart
    add(library, total=Array(flat), count=6)()
    assert unpacked(cupy, "QQQQqq")[5] == 2


def test_members_may_be_single_numbers(library, cupy):
    column = np.empty((3, 5), "f4")[:, 2]
    library.launch("members", ("float32",), (1, 1, 3), (1,), w=Array(column))()
    assert unpacked(cupy, "Qq")[1] == 5


def test_the_shape_may_differ_where_the_size_is_right(library):
    add(library, z=array(10, 8), b=array(16), tickets=array(6, dtype="uint32"))
    one = {"z": array(5, 8), "b": array(8)}
    add(library, grid=(3, 2, 1), **one)


WRONG = {
    "missing": ({"z": ..., "rows": ...}, "z, rows missing. It takes z, b, total, tickets, rows, cols, count, rate."),
    "unknown": ({"zz": 1}, "no parameter is called zz. It takes z, b,"),
    "derived": ({"b_step": 8}, "b_step is found from b and cannot be given."),
    "null": ({"z": None}, "z must be an array of float32, got None."),
    "NumPy": (
        {"z": np.empty((2, 5, 8), "f4")},
        "z must be a CuPy array of float32, got numpy.ndarray of float32, shape",
    ),
    "list": ({"z": [1.0]}, "z must be a CuPy array of float32, got list [1.0]."),
    "number for an array": ({"z": 5}, "z must be a CuPy array of float32, got int 5."),
    "array for a number": ({"rows": array(1, dtype="int64")}, "rows must be an integer (int64), got"),
    "NumPy array for a number": ({"rate": np.ones(1)}, "rate must be a number (float32), got numpy.ndarray of float64"),
    "float for an integer": ({"rows": 5.0}, "rows must be an integer (int64), got float 5.0."),
    "text": ({"rate": "1"}, "rate must be a number (float32), got str '1'."),
    "none for a number": ({"rows": None}, "rows must be an integer (int64), got NoneType None."),
    "dtype": ({"z": array(2, 5, 8, dtype="float64")}, "z must be float32, got float64."),
    "dtype of a bias": ({"b": array(2, 8, dtype="float16")}, "b must be float32, got float16."),
    "sign": ({"tickets": array(3, 2, dtype="int32")}, "tickets must be uint32, got int32."),
    "device": (
        {"z": array(2, 5, 8, device=1)},
        "devices mixed: z lies on CUDA device 1, and this kernel runs on device 0",
    ),
    "size": ({"z": array(2, 5, 7)}, "z must have 2 × 5 × 8 elements, [models, rows, cols]; got 70, shape (2, 5, 7)."),
    "models": ({"b": array(8)}, "b must have 2 × 8 elements, [models, cols]; got 8"),
    "grid": ({"tickets": array(2, 2, dtype="uint32")}, "tickets must have 3 × 2 elements, [gridDim.x, 2]; got 4"),
    "order": (
        {"z": Array(np.empty((8, 5, 2), "f4").T)},
        "z must be C-contiguous; shape (2, 5, 8) has strides (4, 8, 40)",
    ),
    "gaps": ({"z": Array(np.empty((2, 5, 9), "f4")[..., :8])}, "z must be C-contiguous"),
    "broadcast": ({"z": Array(np.broadcast_to(np.empty(8, "f4"), (2, 5, 8)))}, "z must be C-contiguous"),
    "inside a model": (
        {"b": Array(np.empty((2, 16), "f4")[:, ::2])},
        "the part of each model of b must be C-contiguous",
    ),
    "no axis of models": (
        {"b": Array(np.empty((4, 8), "f4")[:, :4])},
        "the part of each model of b must be C-contiguous",
    ),
    "distances": (
        {"total": Array(np.empty((2, 3))[:, :2])},
        "total must have its elements at equal distances; shape (2",
    ),
    "int32": ({"count": 2**31}, "count must lie between -2147483648 and 2147483647 (int32), got 2147483648."),
    "float32": ({"rate": 1e300}, "rate must fit float32, got 1e+300."),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_agree_with_the_head(library, cupy, case):
    changes, said = WRONG[case]
    with pytest.raises(InputError, match=re.escape(said)) as raised:
        add(library, **changes)
    assert str(raised.value).startswith("kernel add<float, 1>: ")
    assert cupy.modules == []  # nothing is compiled for a launch that cannot be


@pytest.mark.parametrize("name", ["c", "d"])
def test_unsigned_numbers(library, name):
    given = {"a": 0, "b": 0, "c": 0, "d": 0, "e": 0, "f": 0, "g": 0}
    with pytest.raises(InputError, match=f"{name} must lie between 0 and"):
        library.launch("numbers", ("float32",), (1,), (1,), **given | {name: -1})


EXTENTS = {
    "nothing to do": ((0,), BLOCK, "grid must be .* got (0,); where there is nothing to do, do not launch"),
    "negative": ((3, -2, 2), BLOCK, "grid must be"),
    "y": ((3, 65536, 2), BLOCK, "grid must be one to three integers from 1 to 2147483647 × 65535 × 65535, got"),
    "x": ((2**31, 2, 2), BLOCK, "grid must be"),
    "four": ((3, 2, 2, 1), BLOCK, "grid must be"),
    "none": ((), BLOCK, "grid must be"),
    "fraction": ((3.0, 2, 2), BLOCK, "grid must be"),
    "empty block": (GRID, (0,), "block must be one to three integers from 1 to 1024 × 1024 × 64, got (0,)"),
    "deep block": (GRID, (1, 1, 65), "block must be"),
    "large block": (GRID, (32, 33), "a block has at most 1024 threads, got 1056"),
}


@pytest.mark.parametrize("case", EXTENTS)
def test_grids_and_blocks(library, case):
    grid, block, said = EXTENTS[case]
    with pytest.raises(InputError, match=re.escape(said).replace(r"\.\*", ".*")):
        add(library, grid=grid, block=block)


def test_vectors_want_aligned_arrays(library):
    add(library, 4)
    cases = {
        "z must be aligned to 16 bytes": {"z": array(2, 5, 8, offset=8)},
        "b must be aligned to 16 bytes": {"b": array(2, 8, offset=4)},
        "with 36 bytes between models; take V = 1": {"b": Array(np.empty((2, 9), "f4")[:, :8])},
        "cols must be a multiple of V = 4, got 6": {"z": array(2, 5, 6), "b": array(2, 6), "cols": 6},
    }
    for said, changes in cases.items():
        with pytest.raises(InputError, match=re.escape(said)):
            add(library, 4, **changes)
        add(library, 1, **changes)
    add(library, 4, total=array(4, dtype="float64", offset=8))  # not of a template's type, so not read V at a time


def test_vectors_of_half_precision_want_more_of_what_is_twice_as_wide(library):
    def launch(**changes):
        library.launch("add", ("float16", 8), GRID, BLOCK, **good(dtype="float16", **changes))

    launch()
    with pytest.raises(InputError, match="b must be aligned to 32 bytes, in each model, for V = 8"):
        launch(b=array(2, 8, offset=16))
    with pytest.raises(InputError, match="z must be aligned to 16 bytes"):
        launch(z=array(2, 5, 8, dtype="float16", offset=8))


def test_a_single_model_has_no_step_to_align(library):
    add(library, 4, grid=(3, 2, 1), z=array(1, 5, 8), b=Array(np.empty((1, 9), "f4")[:, :8]))


def test_the_width_that_arrays_allow():
    width = KernelLibrary.width
    assert [width(t, 8, array(5, 8)) for t in ("float32", "float64", "float16")] == [4, 2, 8]
    assert width(np.float32, 6, array(5, 6)) == 1
    assert width(np.float32, 8, array(5, 8), None, array(8)) == 4
    assert width(np.float32, 8, array(5, 8), array(8, offset=4)) == 1
    assert width(np.float16, 8, array(5, 8, dtype="float16"), array(8, offset=16)) == 1
    assert width(np.float32, 8, Array(np.empty((2, 9), "f4")[:, :8])) == 1
    assert width(np.float32, 8, Array(np.empty((1, 9), "f4")[:, :8])) == 4
    assert width(np.float32, 8, Array(np.empty((2, 12), "f4")[:, :8])) == 4
    assert width(np.float32, 30 * 4, array(4, 30)) == 4  # all elements in one row: its own rows do not matter


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("cols", [1, 6, 8, 33])
@pytest.mark.parametrize("offset", [0, 8, 16])
@pytest.mark.parametrize("padding", [0, 1, 8])
def test_a_launch_takes_the_width_that_was_found(library, dtype, cols, offset, padding):
    z = array(2, 5, cols, dtype=dtype)
    wide = np.empty((2, cols + padding), "f8" if dtype == "float64" else "f4")
    b = Array(wide[:, :cols], offset=offset)
    found = library.width(dtype, cols, z, b)
    library.launch("add", (dtype, found), GRID, BLOCK, **good(z=z, b=b, cols=cols))
    full = 16 // np.dtype(dtype).itemsize
    if found != full:
        with pytest.raises(InputError, match="take V = 1"):
            library.launch("add", (dtype, full), GRID, BLOCK, **good(z=z, b=b, cols=cols))


def test_arrays_live_as_long_as_the_launch(library, cupy):
    arguments = good()
    kept = [weakref.ref(value) for value in arguments.values() if isinstance(value, Array)]
    call = library.launch("add", ("float32", 1), GRID, BLOCK, **arguments)
    arguments.clear()
    gc.collect()
    assert len(kept) == 4 and all(ref() is not None for ref in kept)
    pointers = [ref().data.ptr for ref in kept]
    call()
    assert unpacked(cupy, "QQQQ") == pointers
    del call
    cupy.launches.clear()
    gc.collect()
    assert all(ref() is None for ref in kept)


def test_an_instance_is_compiled_once(library, cupy):
    add(library), add(library), add(library, 4)
    assert [names for _, _, names in cupy.modules] == [("add<float, 1>",), ("add<float, 4>",)]
    code, options, _ = cupy.modules[0]
    assert code == instance("add", "float32", 1).text
    assert options == ("--std=c++17",)
    assert library.compiled == ("add<float, 1>", "add<float, 4>")
    assert cupy.devices == [0, 0]


SECOND = replace(Huber().formula, cuda_slope="y - t")  # another formula of one name


def test_two_settings_of_a_loss_are_one_kernel_and_two_formulas_are_two(library, cupy):
    def launch(formula):
        library.launch("judge", ("float32", formula), (1,), (1,), n=1)()

    launch(Huber(1.0).formula), launch(Huber(2.0).formula), launch(SECOND)
    assert len(cupy.modules) == 2
    first, second, third = (launch[0] for launch in cupy.launches)
    assert first == second != third


def test_threads_compile_once(library, cupy):
    inside, go = threading.Barrier(4), []
    compile_now = cupy.RawModule

    def slowly(**options):
        go.append(1)
        return compile_now(**options)

    cupy.RawModule = slowly

    def work():
        inside.wait()
        add(library)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(go) == 1


def test_several_kernels_are_compiled_at_once(library, cupy, monkeypatch):
    """As many as there are threads, whatever is compiled already left out; the others wait for none of them."""
    monkeypatch.setattr(kernel_library, "threads", lambda: 3)
    together, compile_now, most = threading.Barrier(3), cupy.RawModule, []
    add(library)

    def wait(**options):
        together.wait(timeout=20)  # three are compiled at this moment, or the barrier breaks
        most.append(threading.active_count())
        return compile_now(**options)

    cupy.RawModule = wait
    wanted = [instance("add", "float32", v) for v in (1, 4)] + [instance("numbers", t) for t in ("float32", "float64")]
    alone = threading.active_count()
    assert library.compile([*wanted, *wanted]) == 3
    assert max(most) <= alone + 3
    assert sorted(library.compiled) == sorted(made.name for made in wanted)
    assert library.compile(wanted) == 0
    add(library, 4)
    assert len(cupy.modules) == 4 and set(cupy.devices) == {0}


def test_the_first_kernel_that_cannot_be_compiled_is_the_one_that_is_named(library, cupy, monkeypatch):
    monkeypatch.setattr(kernel_library, "threads", lambda: 2)
    compile_now, second_failed, begun = cupy.RawModule, threading.Event(), []

    def fail(*, name_expressions, **options):
        begun.append(name_expressions[0])
        if name_expressions == ("numbers<float>",):
            assert second_failed.wait(20)
        elif name_expressions == ("numbers<double>",):
            second_failed.set()
        else:
            return compile_now(name_expressions=name_expressions, **options)
        raise cupy.CompileError(f"error in {name_expressions[0]}")

    cupy.RawModule = fail
    with pytest.raises(DeviceError, match=r"^CUDA kernel numbers<float> does not compile on cuda:0: error in numbers"):
        library.compile([instance("nothing"), instance("numbers", "float32"), instance("numbers", "float64")])
    assert library.compiled == ("nothing",)
    cupy.RawModule = compile_now
    assert library.compile([instance("numbers", "float32")]) == 1  # a failure is not kept


def test_which_kernels_are_needed_is_known_without_compiling(library, cupy):
    needed = NeededKernels(library)
    assert needed.block_memory == library.block_memory and needed.width is KernelLibrary.width
    for v in (1, 4, 1):
        with pytest.raises(StateError, match="cannot run"):
            add(needed, v)()
    assert [made.name for made in needed.instances.values()] == ["add<float, 1>", "add<float, 4>"]
    assert not cupy.modules and library.compile(needed.instances.values()) == 2


def test_prepare_makes_one_module_of_a_file(library, cupy):
    huber = [instance("judge", t, row) for row in (Huber().formula, SECOND) for t in ("float32", "float64")]
    wanted = [instance("add", "float32", 4), instance("other"), instance("nothing"), *huber, instance("nothing")]
    add(library, 4)
    prepare(library, wanted)
    assert [names for _, _, names in cupy.modules[1:]] == [
        ("other",),
        ("nothing", "judge<float, loss_huber>", "judge<double, loss_huber>"),
        ("judge<float, loss_huber>", "judge<double, loss_huber>"),  # another formula
    ]
    library.launch("nothing", (), (1,), (1,))
    prepare(library, wanted)
    assert len(cupy.modules) == 4


LOG = """
/tmp/tmp1/kernel.cu(3): warning #177-D: variable was declared but never referenced
/tmp/tmp1/kernel.cu(7): error: identifier "oops" is undefined

1 error detected in the compilation of "/tmp/tmp1/kernel.cu".
"""


def test_what_the_compiler_says(library, cupy):
    cupy.failure = cupy.CompileError(LOG)
    with pytest.raises(DeviceError) as raised:
        add(library)
    assert str(raised.value) == (
        "CUDA kernel add<float, 1> does not compile on cuda:0: "
        '/tmp/tmp1/kernel.cu(7): error: identifier "oops" is undefined'
    )
    assert raised.value.__cause__ is cupy.failure
    cupy.failure = cupy.CompileError("")
    with pytest.raises(DeviceError, match="does not compile on cuda:0: CompileError"):
        add(library)


@pytest.mark.parametrize(("version", "extra"), [(12090, "cuda12"), (13000, "cuda13"), (14000, "cuda13")])
def test_a_missing_compiler_names_the_extra(library, cupy, version, extra):
    cupy.failure = RuntimeError("Failed to find CUDA headers.\nInstall them.")
    cupy.cuda.driver.get_build_version = lambda: version
    with pytest.raises(DeviceError, match=rf"headers\. Install them\.\).*pip install 'gpu-backprop\[{extra}\]'"):
        add(library)
    assert library.compiled == ()


@pytest.mark.parametrize("kind", ["DriverError", "RuntimeApiError"])
def test_a_driver_that_cannot_load_it(library, cupy, kind):
    cupy.failure = getattr(cupy, kind)("CUDA_ERROR_OUT_OF_MEMORY: out of memory")
    with pytest.raises(DeviceError, match="add<float, 1> cannot be loaded on cuda:0: CUDA_ERROR_OUT_OF_MEMORY"):
        add(library)
    cupy.failure = None
    add(library)  # a failure is not kept


# Memory of a block ----------------------------------------------------------------------------------------------------


def test_memory_of_a_block_is_asked_for_once_and_launched_with(library, cupy):
    for shared in (1000, 60_000, 50_000):
        library.launch("nothing", (), (1,), (32,), shared)()
    ((function, size),) = cupy.block_memory.items()
    assert size == 60_000
    assert [(launch[0], launch[7]) for launch in cupy.launches] == [(function, s) for s in (1000, 60_000, 50_000)]


def test_a_launch_without_memory_of_its_own_has_none(library, cupy):
    library.launch("nothing", (), (1,), (32,))()
    assert cupy.launches[-1][7] == 0 and cupy.block_memory == {}


def test_more_memory_than_a_block_has(library, cupy):
    most = library.block_memory
    assert most == 100_000 - kernel_library.VARIABLES
    library.launch("nothing", (), (1,), (32,), most)
    with pytest.raises(InputError, match=f"nothing: a block can have {most:,} bytes of memory, got {most + 1:,}"):
        library.launch("nothing", (), (1,), (32,), most + 1)
