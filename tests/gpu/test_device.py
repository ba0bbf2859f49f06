"""CudaDevice: every method acts on its own device and stream, whatever is current, and says what it cannot do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.cuda.device import TICKETS, CudaDevice
from gpu_backprop.backend.cuda.staging import BLOCK_BYTES, BUFFERS
from gpu_backprop.backend.device import ALIGNMENT
from gpu_backprop.backend.open_device import open_device

pytestmark = pytest.mark.gpu

ROOT = Path(gb.__file__).parents[1]


@pytest.fixture(scope="module")
def cupy():
    return pytest.importorskip("cupy")


@pytest.fixture
def device(cupy):
    return CudaDevice(0, "as asked", "float32", cupy, None)


@pytest.fixture(params=["nothing", "a stream"])
def elsewhere(request, cupy):
    """What else may be current where a method is called; nothing of it may matter, and it stays."""
    with ExitStack() as stack:
        if request.param == "a stream":
            stack.enter_context(cupy.cuda.Stream(non_blocking=True))
        before = cupy.cuda.get_current_stream(), cupy.cuda.Device().id
        yield
        assert (cupy.cuda.get_current_stream(), cupy.cuda.Device().id) == before


# What it is -----------------------------------------------------------------------------------------------------------


def test_all_devices_of_an_index_share_one_stream_and_its_library(cupy, device):
    other = CudaDevice(0, "auto: CUDA works", "float64", cupy, None)
    assert other.stream is device.stream and other.kernels is device.kernels and other.blas is device.blas
    assert device.stream.ptr not in (0, cupy.cuda.Stream.null.ptr)
    assert (device.name, device.index, device.reason, device.tf32) == ("cuda:0", 0, "as asked", False)
    assert device.xp is cupy
    assert repr(other) == "Device(cuda:0, float64: auto: CUDA works)"


@pytest.mark.parametrize(
    ("dtype", "master"),
    [("float32", "float32"), ("float64", "float64"), ("float16", "float32"), ("bfloat16", "float32")],
)
def test_sixteen_bits_have_a_master_of_thirty_two(cupy, dtype, master):
    device = CudaDevice(0, "as asked", dtype, cupy, None)
    assert (device.dtype.name, device.master.name) == (dtype, master)
    assert device.empty((3,)).dtype == device.dtype


def test_it_is_opened_once_however_many_threads_ask(cupy):
    streams = []
    threads = [
        threading.Thread(target=lambda: streams.append(CudaDevice(0, "", "float32", cupy, None).stream))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({stream.ptr for stream in streams}) == 1


def test_computing_makes_device_and_stream_current(cupy, device, elsewhere):
    with device.computing():
        assert cupy.cuda.get_current_stream() == device.stream
        assert cupy.cuda.Device().id == 0
        with device.computing():
            assert cupy.cuda.get_current_stream() == device.stream


def test_a_new_thread_can_launch(cupy, device):
    """A launch needs the context of its device, which a thread has from its first cudaSetDevice on. CuPy leaves that
    out where the device is the current one."""
    found = []

    def work():
        before = cupy.cuda.driver.ctxGetCurrent()
        with device.computing():
            found.extend([before, cupy.cuda.driver.ctxGetCurrent()])

    with device.computing():
        context = cupy.cuda.driver.ctxGetCurrent()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [0, context] and context


# Memory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "bool", "uint64"])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 0, 3), (1000, 11)])
def test_arrays_are_aligned(cupy, device, elsewhere, shape, dtype):
    for array in (device.empty(shape, dtype), device.zeros(shape, dtype)):
        assert isinstance(array, cupy.ndarray) and array.shape == shape and array.dtype == dtype
        assert array.flags.c_contiguous and device.address(array) % ALIGNMENT == 0
        assert device.address(array) == array.data.ptr
    assert not device.to_host(device.zeros(shape, dtype)).any()


def test_memory_comes_from_the_pool_of_its_own_stream(device, elsewhere):
    """The pool gives freed memory to later work on the same stream only, and so never to work beside ours."""
    with device.computing():
        array = device.empty((1 << 18,))
        address = device.address(array)
        del array
    assert device.address(device.empty((1 << 18,))) == address


@pytest.mark.parametrize("shape", [(2**40,), (2**62,), (2**62, 2**3), (2**70,)])
def test_more_memory_than_there_is(device, shape):
    with pytest.raises(gb.DeviceError, match=r"cuda:0 cannot give .* GiB for an array of shape .* are free\. Use"):
        device.empty(shape)
    assert device.zeros((3,)).shape == (3,)


def test_more_memory_than_there_is_without_a_pool(cupy, device):
    allocator = cupy.cuda.get_allocator()
    cupy.cuda.set_allocator(None)
    try:
        with pytest.raises(gb.DeviceError, match="cuda:0 cannot give .* GiB for an array of shape"):
            device.empty((2**44,), np.uint8)
        assert device.zeros((3,)).shape == (3,)
    finally:
        cupy.cuda.set_allocator(allocator)


def test_a_little_more_memory_than_there_is(cupy, device, monkeypatch):
    monkeypatch.setattr(device, "memory", lambda: (12 << 20, 8 << 30))

    def full(shape, dtype):
        raise MemoryError

    monkeypatch.setattr(device, "_cupy", SimpleNamespace(empty=full, cuda=cupy.cuda))
    with pytest.raises(gb.DeviceError, match=r"cannot give 36\.0 MiB for .*: 12\.0 MiB of 8\.0 GiB are free\."):
        device.empty((9 << 20,), np.float32)


def test_memory_is_told(device):
    free, total = device.memory()
    assert 0 < free <= total


def test_work_is_shared_and_grows(device):
    small, same = device.work((3, 4)), device.work((2, 5))
    assert device.address(small) == device.address(same) != device.address(device.work((3, 4), slot=1))
    assert device.work((30, 40)).shape == (30, 40)


def test_tickets_are_zero_and_shared(cupy, device):
    few, other = device.tickets(3), CudaDevice(0, "", "float64", cupy, None).tickets(TICKETS)
    assert few.shape == (3,) and few.dtype == np.uint32
    assert device.address(few) == device.address(other)
    many = device.tickets(TICKETS + 1)
    assert many.shape == (TICKETS + 1,) and not device.to_host(many).any()
    assert device.address(device.tickets(1)) == device.address(many)


# Copies ---------------------------------------------------------------------------------------------------------------

SOURCES = {
    "float32": np.arange(12, dtype=np.float32).reshape(3, 4),
    "uint8": np.arange(12, dtype=np.uint8).reshape(3, 4),
    "a view": np.arange(24, dtype=np.float64).reshape(3, 8)[:, ::2],
    "transposed": np.arange(12, dtype=np.int64).reshape(4, 3).T,
    "big-endian": np.arange(12, dtype=">f8").reshape(3, 4),
    "booleans": np.arange(12).reshape(3, 4) % 2 == 0,
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_host_arrays_go_there_and_come_back(cupy, device, elsewhere, source):
    inside = device.from_host(source)
    assert isinstance(inside, cupy.ndarray) and inside.flags.c_contiguous
    assert inside.dtype == source.dtype.newbyteorder("=")
    back = device.to_host(inside)
    assert isinstance(back, np.ndarray) and back.dtype == inside.dtype
    np.testing.assert_array_equal(back, source)
    converted = device.to_host(device.from_host(source, np.float32))
    assert converted.dtype == np.float32
    np.testing.assert_array_equal(converted, source)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1, 1)])
def test_small_arrays(device, shape):
    np.testing.assert_array_equal(device.to_host(device.from_host(np.full(shape, 7.0))), np.full(shape, 7.0))
    np.testing.assert_array_equal(device.to_host(device.copy(device.zeros(shape))), np.zeros(shape))


def test_device_arrays_stay_where_they_fit(device):
    inside = device.from_host(SOURCES["float32"])
    assert device.from_host(inside) is inside
    for other in (device.from_host(inside, np.float64), device.from_host(inside.T)):
        assert other.flags.c_contiguous and device.address(other) != device.address(inside)
    np.testing.assert_array_equal(device.to_host(device.from_host(inside.T)), SOURCES["float32"].T)


def test_half_precision_is_rounded_on_the_host(cupy):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for dtype in (np.float16, ml_dtypes.bfloat16):
        device = CudaDevice(0, "", np.dtype(dtype).name, cupy, None)
        values = np.linspace(-3, 3, 101)
        inside = device.from_host(values, device.dtype)
        back = device.to_host(inside)
        assert back.dtype == dtype
        np.testing.assert_array_equal(back, values.astype(dtype))
        wide = device.from_host(inside, np.float32)
        np.testing.assert_array_equal(device.to_host(wide), values.astype(dtype).astype(np.float32))
        narrow = device.empty((101,))
        device.copy_in(narrow, wide)
        np.testing.assert_array_equal(device.to_host(narrow), back)


def test_copies_are_copies(device, elsewhere):
    source = device.from_host(SOURCES["float32"])
    copied = device.copy(source)
    source[...] = 0
    device.synchronize()
    np.testing.assert_array_equal(device.to_host(copied), SOURCES["float32"])
    np.testing.assert_array_equal(device.to_host(device.copy(copied.T)), SOURCES["float32"].T)


@pytest.mark.parametrize("where", ["host", "device"])
def test_a_source_may_lack_leading_axes(device, elsewhere, where):
    source = np.arange(6.0).reshape(2, 3)
    members = device.empty((4, 2, 3))
    device.copy_in(members, source if where == "host" else device.from_host(source))
    np.testing.assert_array_equal(device.to_host(members), [source] * 4)
    device.copy_in(members, np.zeros(3))
    assert not device.to_host(members).any()


@pytest.mark.parametrize("where", ["host", "device"])
def test_a_destination_may_lie_scattered(device, elsewhere, where):
    """As the learning rates of a population do among its other settings."""
    hyper = device.zeros((3, 4), np.float64)
    rates = np.array([0.1, 0.2, 0.3])
    device.copy_in(hyper[..., 1], rates if where == "host" else device.from_host(rates))
    expected = np.zeros((3, 4))
    expected[:, 1] = rates
    np.testing.assert_array_equal(device.to_host(hyper), expected)
    device.copy_in(hyper[..., 2], np.asarray(5.0))
    expected[:, 2] = 5
    np.testing.assert_array_equal(device.to_host(hyper), expected)
    device.copy_in(hyper[1, 3], np.asarray(6.0))  # one number, of no axes
    assert device.to_host(hyper)[1, 3] == 6


@pytest.mark.parametrize(
    "shape",
    [(BLOCK_BYTES // 4 * 2 + 13,), (3, BLOCK_BYTES // 4 + 5), (1, 2, BLOCK_BYTES // 8 + 1, 3), (70_000, 41)],
    ids=str,
)
def test_large_arrays_go_in_pieces(device, shape):
    source = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    np.testing.assert_array_equal(device.to_host(device.from_host(source)), source)
    wide = np.broadcast_to(source[:1].astype(np.float64), shape)  # converted and repeated on the way
    np.testing.assert_array_equal(device.to_host(device.from_host(wide, np.float32)), wide)


def test_what_all_members_share_is_sent_once(device):
    source = np.arange(BLOCK_BYTES // 4, dtype=np.float32).reshape(-1, 8)
    members = device.empty((3, *source.shape))
    device.copy_in(members, source)
    for member in device.to_host(members):
        np.testing.assert_array_equal(member, source)


def test_a_source_may_change_as_soon_as_it_was_given(device):
    """Many more copies than there are buffers, all from one array."""
    source, taken = np.empty(1000, np.float32), device.empty((4 * BUFFERS, 1000))
    for k in range(4 * BUFFERS):
        source[:] = k
        device.copy_in(taken[k], source)
    source[:] = -1
    np.testing.assert_array_equal(device.to_host(taken), np.arange(4.0 * BUFFERS)[:, None] * np.ones(1000))


def test_copies_are_queued_and_allocate_nothing(device, cupy):
    pool, source, inside = cupy.get_default_memory_pool(), np.ones((100, 10)), device.empty((100, 10))
    device.copy_in(inside, source)
    used = pool.used_bytes(), pool.total_bytes()
    for _ in range(2 * BUFFERS):
        device.copy_in(inside, source)
    assert (pool.used_bytes(), pool.total_bytes()) == used


def test_shapes_that_do_not_go_together(device):
    with pytest.raises(ValueError, match="shape"):
        device.copy_in(device.empty((2, 3)), np.zeros((3, 2)))


def test_the_default_stream_is_in_order_with_ours(cupy, device):
    theirs = cupy.arange(1000, dtype=np.float32) * 2
    ours = device.copy(theirs)
    theirs[...] = -1
    twice = ours * 2
    np.testing.assert_array_equal(device.to_host(twice), np.arange(1000) * 4)


# Arrays from outside --------------------------------------------------------------------------------------------------


class Dlpack:
    """An array of another library, which knows DLPack alone."""

    def __init__(self, array, place=None):
        self.array, self.place = array, place

    def __dlpack_device__(self):
        return self.place or self.array.__dlpack_device__()

    def __dlpack__(self, **options):
        if self.place:
            raise BufferError("not to be had")
        return self.array.__dlpack__(**options)


class Interface:
    """An array of another library, which knows __cuda_array_interface__ alone."""

    def __init__(self, array):
        self.array = array
        self.__cuda_array_interface__ = array.__cuda_array_interface__


def test_arrays_that_are_there_are_taken_without_a_copy(cupy, device):
    array = cupy.arange(6.0).reshape(2, 3)
    assert device.adopt(array, "x") is array
    for wrapped in (Dlpack(array), Interface(array)):
        adopted = device.adopt(wrapped, "x")
        assert isinstance(adopted, cupy.ndarray) and adopted.data.ptr == array.data.ptr
        np.testing.assert_array_equal(device.to_host(adopted), device.to_host(array))
    assert device.adopt(Interface(cupy.empty((0, 3))), "x").shape == (0, 3)


@pytest.mark.parametrize(
    "value", [np.ones(3), [1, 2], 3.0, Dlpack(np.ones(3)), None, "text"], ids=lambda value: type(value).__name__
)
def test_host_values_are_not_adopted(device, value):
    assert device.adopt(value, "x") is None


def test_what_cannot_be_handed_over(device):
    with pytest.raises(gb.InputError, match="x cannot be read as an array: Dlpack: not to be had"):
        device.adopt(Dlpack(None, (2, 0)), "x")


def test_a_cuda_array_for_a_network_on_the_cpu(cupy):
    cpu, array = open_device("cpu"), cupy.ones((2, 3))
    for value, place in ((array, "cuda:0"), (Dlpack(array), "cuda:0"), (Interface(array), "cuda")):
        with pytest.raises(gb.InputError, match=rf"^x lies on {place}, but the network is on the CPU.*x\.get\(\).*"):
            cpu.adopt(value, "x")


# Two devices ----------------------------------------------------------------------------------------------------------

MEMORY = """
import cupy, numpy as np
from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.backend.errors import InputError

first, second = (CudaDevice(k, "", "float32", cupy, None) for k in range(2))
assert second.name == "cuda:1" and second.stream != first.stream
for k in range(2):  # whichever is current
    with cupy.cuda.Device(k):
        for device in (first, second):
            a = device.from_host(np.arange(6.0).reshape(2, 3), np.float32)
            others = [device.zeros((2, 3)), device.empty((2, 3)), device.copy(a), device.tickets(5)]
            device.copy_in(others[1].T, a.T)
            scattered = device.zeros((2, 6))
            device.copy_in(scattered[:, ::2], np.arange(6.0).reshape(2, 3))
            assert all(b.device.id == device.index for b in (a, scattered, *others))
            assert (device.to_host(others[1]) == np.arange(6.0).reshape(2, 3)).all()
            assert (device.to_host(scattered[:, ::2]) == np.arange(6.0).reshape(2, 3)).all()
            assert (device.to_host(device.copy(a.T)).T == device.to_host(a)).all()
            with device.computing():
                assert cupy.cuda.Device().id == device.index
            device.synchronize()
            assert cupy.cuda.Device().id == k
            assert device.adopt(a, "x") is a

class Interface:
    __cuda_array_interface__ = first.zeros((2, 3)).__cuda_array_interface__

class Dlpack:
    def __dlpack_device__(self):
        return 2, 0

for value in (first.zeros((2, 3)), Interface(), Dlpack()):
    try:
        second.adopt(value, "x")
    except InputError as error:
        assert str(error).startswith("x lies on cuda:0, but the network on cuda:1. Copy it there"), error
        assert "cupy.cuda.Device(1)" in str(error) and "device='cuda:0'" in str(error), error
    else:
        raise SystemExit("adopted")
try:
    second.copy_in(second.zeros((2, 3)), first.zeros((2, 3)))
except InputError as error:
    assert "an array on cuda:0 cannot be copied to cuda:1" in str(error), error
else:
    raise SystemExit("copied")
"""

NETWORKS = """
import cupy, numpy as np
import gpu_backprop as gb

x, y = np.random.default_rng(0).standard_normal((9, 5)).astype(np.float32), np.arange(9) % 3
trained = []
for k in range(2):
    with cupy.cuda.Device(1 - k):  # the other one is current
        net = gb.Network(5, [gb.Dense(7, "tanh"), gb.Dense(3, "softmax")], device=f"cuda:{k}", seed=0)
        trainer = gb.Trainer(net, "cross_entropy", gb.SGD(0.1), batch_size=4, graph=True)
        history = trainer.fit(x, y, epochs=2)
        trained.append(net.device.to_host(net.parameters))
        assert net.parameters.device.id == net.forward(x).device.id == k
        elsewhere = cupy.asarray(x)
    with cupy.cuda.Device(k):
        there = cupy.asarray(x), cupy.asarray(y.astype(np.int32)), cupy.ones(len(x), np.float32)
        x_there, labels, dense, weights = map(cupy.asarray, (x, y, np.eye(3)[y], np.ones(9)))
    with cupy.cuda.Device(1 - k):  # arrays on the network's device, while the other one is current
        again = gb.Network(5, [gb.Dense(7, "tanh"), gb.Dense(3, "softmax")], device=f"cuda:{k}", seed=0)
        again = gb.Trainer(again, "cross_entropy", gb.SGD(0.1), batch_size=4)
        assert again.fit(*there[:2], epochs=2)["loss"] == history["loss"]
        again.evaluate(*there)
        float(again.step(*there))
        trainer.fit(x_there, labels, epochs=1, weights=weights, validation=(x_there, dense))
        trainer.step(x_there, dense, weights)
        gb.check_gradients(net, "cross_entropy", x_there, labels, weights=weights)
    for use in (net.forward, net.predict, lambda x: trainer.step(x, y)):
        try:
            use(elsewhere)
        except gb.InputError as error:
            assert str(error).startswith(f"x lies on cuda:{1 - k}, but the network on cuda:{k}."), error
        else:
            raise SystemExit("taken")
assert (trained[0] == trained[1]).all() and np.isfinite(trained[0]).all()
"""


def two_devices(program: str) -> None:
    """Runs a program where there are two devices: the emulator's, or two real ones."""
    cupy = pytest.importorskip("cupy")
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "CUDASIM_DEVICES": "2", "PYTHONPATH": path}
    if "CUDASIM_BUILD" not in os.environ and cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("this machine has one CUDA device, and no emulator gives it a second")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("program", [MEMORY, NETWORKS], ids=["memory", "networks"])
def test_two_devices_side_by_side(program):
    two_devices(program)
