"""Opening a device: what is chosen and why, what is missing where CUDA cannot be used, and memory that is aligned."""

from __future__ import annotations

import subprocess
import sys
import warnings
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.device import ALIGNMENT
from gpu_backprop.backend.open_device import nth_device, open_device

# The choice -----------------------------------------------------------------------------------------------------------


def test_a_cpu_as_asked(monkeypatch):
    monkeypatch.setenv("GPU_BACKPROP_COMPILER", "none")
    device = open_device("cpu", "float64")
    assert (device.name, device.dtype) == ("cpu", np.dtype("float64"))
    assert device.xp is np
    assert repr(device) == "Device(cpu, float64: as asked; NumPy alone: GPU_BACKPROP_COMPILER=none)"


def test_auto_takes_cuda_where_it_works(cuda, cupy_like):
    cuda(cupy_like())
    device = open_device()
    assert (device.name, device.reason) == ("cuda:0", "auto: CUDA works")
    assert open_device("cuda").name == "cuda:0"
    assert (open_device("cuda:1").name, open_device("cuda:1").reason) == ("cuda:1", "as asked")
    assert open_device("cuda", "float16").dtype == np.float16


@pytest.mark.parametrize(("devices", "names"), [(2, ["cuda:0", "cuda:1", "cuda:0"]), (1, ["cuda:0"] * 3)])
def test_processes_of_a_machine_take_its_devices_in_turn(cuda, cupy_like, devices, names):
    cuda(cupy_like(capabilities=[(9, 0)] * devices))
    assert [nth_device(number) for number in range(3)] == names


def test_processes_without_a_device_that_works_take_the_cpu(cuda, cupy_like):
    cuda(None)
    assert nth_device(1) == "cpu"
    for without in ({"capabilities": []}, {"capabilities": [(6, 0)]}, {"capabilities": RuntimeError("no driver")}):
        cuda(cupy_like(**without))
        assert nth_device(1) == "cpu"


def test_without_cuda(cuda):
    """auto says what is missing and goes on; cuda says it and stops. cuda/test_setup.py has every obstacle."""
    cuda(None)
    device = open_device("auto")
    assert (device.name, device.reason.partition(";")[0]) == ("cpu", "auto: CuPy is not installed")
    with pytest.raises(gb.DeviceError, match=r"^device 'cuda' cannot be used: CuPy is not installed \(.*cuda13"):
        open_device("cuda")
    with pytest.raises(gb.DeviceError):
        gb.Network(2, [gb.Dense(1)], device="cuda:0")
    assert "cpu (auto: CuPy is not installed; " in str(gb.Network(2, [gb.Dense(1)]))


@pytest.mark.parametrize("name", ["cuda:2", "cuda:7"])
def test_an_index_that_does_not_exist(cuda, cupy_like, monkeypatch, name):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cuda(cupy_like())
    with pytest.raises(gb.DeviceError, match=rf"no CUDA device {name[5:]}; this machine has 2, numbered from 0 \("):
        open_device(name)


@pytest.mark.parametrize("name", ["gpu", "CPU", "cuda:", "cuda:-1", "cuda:x", "cuda:1.0", " cpu", "", 0, None, b"cpu"])
def test_unknown_devices(name):
    with pytest.raises(gb.InputError, match=r"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got "):
        open_device(name)


def test_cupy_is_not_imported_before_it_is_asked_for():
    """Whether or not it is installed: `import gpu_backprop` and a network on the CPU need NumPy alone."""
    program = (
        "import sys, gpu_backprop as gb; gb.Trainer(gb.Network(2, [gb.Dense(1)], device='cpu'))\n"
        "sys.exit('cupy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# dtypes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", np.float32, np.dtype("f8"), float, "f4"])
def test_dtypes_of_a_cpu(dtype):
    assert open_device("cpu", dtype).dtype == np.dtype(dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", np.float16])
def test_half_precision_is_for_cuda(dtype):
    with pytest.raises(gb.InputError, match=r"float16 is for CUDA devices only; .* Use float32 or float64"):
        open_device("cpu", dtype)
    with pytest.raises(gb.InputError, match="for CUDA devices only"):
        gb.Network(2, [gb.Dense(1)], dtype=dtype, device="cpu")


@pytest.mark.parametrize("dtype", ["int32", "float33", "complex64", "bool", None, 32, object, "double precision"])
def test_unknown_dtypes(dtype):
    with pytest.raises(gb.InputError, match="dtype must be one of float32, float64, float16, bfloat16, got"):
        open_device("cpu", dtype)


@pytest.mark.parametrize(("dtype", "master"), [("float32", "float32"), ("float64", "float64"), ("float16", "float32")])
def test_sixteen_bits_have_a_master_of_thirty_two(cuda, cupy_like, dtype, master):
    cuda(cupy_like())
    device = open_device("cuda", dtype)
    assert (device.dtype.name, device.master.name, device.tf32) == (dtype, master, False)


def test_bfloat16_is_that_of_ml_dtypes(cuda, cupy_like, monkeypatch):
    cuda(cupy_like())
    lent = ModuleType("ml_dtypes")
    lent.bfloat16 = np.float16
    monkeypatch.setitem(sys.modules, "ml_dtypes", lent)
    device = open_device("cuda", "bfloat16")
    assert (device.dtype, device.master) == (np.float16, np.float32)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(gb.MissingExtraError, match=r"bfloat16 needs ml_dtypes, .*gpu-backprop\[cuda13\]"):
        open_device("cuda", "bfloat16")


def test_bfloat16_is_for_cuda_devices_of_8_0_and_newer(cuda, cupy_like):
    cuda(cupy_like(capabilities=((8, 0), (7, 5))))
    with pytest.raises(gb.DeviceError) as caught:
        open_device("cuda:1", "bfloat16")
    assert str(caught.value) == (
        "dtype bfloat16 cannot be used: bfloat16 begins at compute capability 8.0, and cuda:1 has 7.5. Use float16, or "
        "float32."
    )
    assert open_device("cuda:1", "float16").dtype == np.float16


# TF32 -----------------------------------------------------------------------------------------------------------------


def test_tf32_is_for_cuda_devices_of_8_0_and_newer(cuda, cupy_like):
    cuda(cupy_like(capabilities=((9, 0), (8, 0), (7, 5), (10, 0))))
    assert [open_device(f"cuda:{index}", tf32=True).tf32 for index in (0, 1, 3)] == [True] * 3
    assert not open_device("cuda:0").tf32
    with pytest.raises(gb.DeviceError) as caught:
        open_device("cuda:2", tf32=True)
    assert str(caught.value) == (
        "tf32=True cannot be used: TF32 begins at compute capability 8.0, and cuda:2 has 7.5. Use tf32=False."
    )
    assert not open_device("cuda:2").tf32


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_tf32_is_for_float32(cuda, cupy_like, dtype):
    cuda(cupy_like())
    with pytest.raises(gb.InputError) as caught:
        open_device("cuda", dtype, tf32=True)
    assert str(caught.value) == (
        f"tf32=True rounds the operands of float32 products; dtype {dtype} has none. Use tf32=False, or "
        "dtype='float32'."
    )


def test_a_cpu_has_no_tf32(cuda, tmp_path):
    cuda(None)
    for name, why in (("cpu", "as asked"), ("auto", "auto: CuPy is not installed")):
        with pytest.raises(gb.InputError) as caught:
            gb.Network(2, [gb.Dense(1)], device=name, tf32=True)
        assert str(caught.value).startswith(f"tf32=True is for CUDA devices; this device is the CPU ({why}; ")
        assert str(caught.value).endswith("). Use tf32=False.")
    gb.save(tmp_path / "m", gb.Network(2, [gb.Dense(1)], device="cpu"))
    with pytest.raises(gb.InputError, match="^tf32=True is for CUDA devices"):
        gb.load(tmp_path / "m", "cpu", tf32=True)
    assert not gb.load(tmp_path / "m", "cpu").copy().device.tf32


@pytest.mark.parametrize("value", [1, 0, None, "yes", np.True_])
def test_tf32_is_true_or_false(value):
    with pytest.raises(gb.InputError, match="tf32 must be True or False, got"):
        open_device("cpu", tf32=value)


# Memory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_, np.uint64])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 3, 7), (1000, 11)])
def test_arrays_are_aligned(shape, dtype):
    device = open_device("cpu")
    for array in (device.empty(shape, dtype), device.zeros(shape, dtype)):
        assert array.shape == shape and array.dtype == dtype
        assert array.flags.c_contiguous and array.flags.writeable
        assert array.size == 0 or device.address(array) % ALIGNMENT == 0
    assert not device.zeros(shape, dtype).any()
    assert device.empty((2, 3)).dtype == device.dtype


def test_more_memory_than_there_is():
    with pytest.raises(gb.DeviceError, match=r"cpu cannot give .* GiB for an array of shape \(1152921504606846976,\)"):
        open_device("cpu").empty((2**60,))


def test_work_is_shared_and_grows():
    device = open_device("cpu")
    small, same, other = device.work((3, 4)), device.work((2, 5)), device.work((3, 4), slot=1)
    assert np.shares_memory(small, same) and not np.shares_memory(small, other)
    assert not np.shares_memory(small, device.work((3, 4), np.bool_))
    large = device.work((30, 40))
    assert large.shape == (30, 40) and np.shares_memory(large, device.work((3, 4)))
    assert not np.shares_memory(small, open_device("cpu").work((3, 4)))


def test_host_arrays_come_in():
    device = open_device("cpu")
    fits = np.ones((3, 4), np.float32)
    assert device.from_host(fits) is fits
    for other in (fits.astype(np.uint8), fits.T, fits[::2], fits.astype(">f4")):
        inside = device.from_host(other, np.float32)
        assert inside.dtype == np.float32 and inside.flags.c_contiguous and not np.shares_memory(inside, other)
        np.testing.assert_array_equal(inside, other)


def test_copies_are_copies():
    device, source = open_device("cpu"), np.arange(6.0).reshape(2, 3)
    for copied in (device.copy(source), device.to_host(source)):
        assert not np.shares_memory(copied, source)
        np.testing.assert_array_equal(copied, source)
    members = device.empty((4, 2, 3))
    device.copy_in(members, source)
    np.testing.assert_array_equal(members, [source] * 4)


class Elsewhere:
    """An array of another library, on the device that DLPack numbers so."""

    def __init__(self, kind, index=0):
        self.place = kind, index

    def __dlpack_device__(self):
        return self.place


def test_arrays_of_a_cuda_device_are_no_input_of_a_cpu():
    """Found out without CuPy: kDLCUDA, kDLCUDAManaged, or an interface that does not say which device."""
    device = open_device("cpu")
    interface = SimpleNamespace(__cuda_array_interface__={"data": (4096, False)})
    for value, place in ((Elsewhere(2), "cuda:0"), (Elsewhere(13, 1), "cuda:1"), (interface, "cuda")):
        with pytest.raises(gb.InputError) as caught:
            device.adopt(value, "grad_y")
        assert str(caught.value) == (
            f"grad_y lies on {place}, but the network is on the CPU. Give the host's copy (grad_y.get() of a CuPy "
            f"array, grad_y.cpu() of a PyTorch tensor), or make the network with device='{place}'."
        )


@pytest.mark.parametrize("value", [np.ones(3), [1.0], 2, None, Elsewhere(1), Elsewhere(3), Elsewhere])
def test_what_lies_in_the_memory_of_the_host(value):
    """kDLCPU and kDLCUDAHost, pinned memory, among them."""
    assert open_device("cpu").adopt(value, "x") is None


def test_a_cpu_is_never_behind():
    assert open_device("cpu").synchronize() is None


def test_computing_silences_overflow_and_nothing_else():
    device, large = open_device("cpu"), np.full(3, 1e308)
    before = np.geterr(), np.getbufsize()
    with device.computing():
        assert np.isposinf(large * large).all() and np.isnan(large * np.inf - np.inf).all()
        with pytest.warns(UserWarning, match="still seen"):
            warnings.warn("still seen", stacklevel=1)
    assert (np.geterr(), np.getbufsize()) == before
    with pytest.raises(ZeroDivisionError), device.computing():
        _ = 1 / 0
    assert (np.geterr(), np.getbufsize()) == before
