"""What CUDA needs: each thing that can be off is found, said in a sentence of its own, and has its own remedy."""

from __future__ import annotations

import os
import re
import sys
import warnings

import pytest

import gpu_backprop as gb
from gpu_backprop.backend.cuda import setup as cuda_setup
from gpu_backprop.backend.cuda.setup import examine, obstacle
from gpu_backprop.backend.open_device import open_device


def test_everything_as_it_should_be(cuda, cupy_like, tmp_path):
    cuda(cupy_like())
    assert [(check.name, check.ok, check.found, check.remedy) for check in examine(1)] == [
        ("CuPy", True, "14.2.0 (cupy-cuda13x), built for CUDA 13.2", ""),
        ("driver", True, "supports CUDA 13.1", ""),
        ("device", True, "cuda:1, Made-up GPU, compute capability 8.6", ""),
        ("memory", True, "6.0 GiB of 8.0 GiB are free", ""),
        ("NVRTC", True, f"13.2, with the headers in {tmp_path}", ""),
        ("cuBLAS", True, "can be loaded", ""),
    ]
    assert obstacle(0) is None and obstacle(1) is None


OFF = {
    "no CuPy": (None, {}, "CuPy", "CuPy is not installed", "cuda13.*cuda12"),
    "two CuPys": (
        {}, {"packages": ("cupy-cuda12x", "cupy-cuda13x")},
        "CuPy", "overwrite each other: cupy-cuda12x, cupy-cuda13x", "pip uninstall cupy-cuda12x cupy-cuda13x, then pip",
    ),
    "ROCm": ({"hip": True}, {"packages": ()}, "CuPy", "built for AMD's ROCm", "pip uninstall cupy, then pip install"),
    "old CuPy": ({"version": "13.6.0"}, {}, "CuPy", r"CuPy 13.6.0 is too old: 14.2", "--upgrade cupy-cuda13x"),
    "older CuPy": ({"version": "14.1.9"}, {}, "CuPy", r"CuPy 14.1.9 is too old", "--upgrade cupy-cuda13x"),
    "no driver": ({"driver": 0}, {}, "driver", "there is no NVIDIA driver", r"CUDA 13, 580 or newer; .*--gpus all"),
    "driver of CUDA 12": (
        {"driver": 12040}, {}, "driver",
        "driver is too old: it supports CUDA 12.4; this CuPy needs CUDA 13", r"580 or newer; .*\[cuda12\]",
    ),
    "driver of CUDA 11": (
        {"driver": 11080, "built": 12090}, {}, "driver",
        "supports CUDA 11.8; this CuPy needs CUDA 12", "525 or newer$",
    ),
    "driver for a CUDA to come": (
        {"driver": 13000, "built": 14000}, {}, "driver", "this CuPy needs CUDA 14", "install a driver for CUDA 14$",
    ),
    "low capability": (
        {"capabilities": [(7, 0)]}, {}, "device",
        "Made-up GPU, compute capability 7.0, which is too low: with CUDA 13 it begins at 7.5", r"\[cuda12\]",
    ),
    "lower capability": (
        {"capabilities": [(6, 1)]}, {}, "device", "6.1, which is too low", "^use another device, or the CPU$",
    ),
    "low capability of CUDA 12": (
        {"capabilities": [(6, 1)], "built": 12090}, {}, "device",
        "6.1, which is too low: with CUDA 12 it begins at 7.0", "^use another device, or the CPU$",
    ),
    "no device": ({"capabilities": []}, {}, "device", "this machine has no CUDA device", "nvidia-smi -L"),
    "memory": (
        {"memory": RuntimeError("cudaErrorDevicesUnavailable: busy")}, {}, "memory",
        "cuda:0 cannot be used: cudaErrorDevicesUnavailable: busy", "end other programs",
    ),
    "no NVRTC": (
        {"nvrtc": ImportError("libnvrtc.so.13: cannot open shared object file")}, {}, "NVRTC",
        "NVRTC, which compiles the kernels, cannot be loaded: libnvrtc", "cuda13.*cuda12",
    ),
    "another NVRTC": (
        {"nvrtc": (12, 9)}, {}, "NVRTC", "that of CUDA 12.9, and this CuPy is built for CUDA 13", r"\[cuda13\]",
    ),
    "no headers": ({}, {"headers": False}, "NVRTC", "CUDA headers, which the kernels include, are missing", "cuda13"),
    "no pathfinder": ({}, {"pathfinder": False}, "NVRTC", "CUDA headers", "cuda13"),
    "no cuBLAS": ({}, {"cublas": False}, "cuBLAS", "cuBLAS, which multiplies matrices, cannot be loaded", "cuda13"),
}  # fmt: skip


@pytest.mark.parametrize(("cupy", "around", "name", "found", "remedy"), OFF.values(), ids=OFF)
def test_each_obstacle(cuda, cupy_like, cupy, around, name, found, remedy):
    """It is named alone, with what to do; cuda says so and stops, auto says so and goes on."""
    cuda(None if cupy is None else cupy_like(**cupy), **around)
    off = [check for check in examine(0) if not check.ok]
    assert [check.name for check in off] == [name]
    with pytest.raises(gb.DeviceError, match=found) as caught:
        open_device("cuda")
    message = str(caught.value)
    assert message.startswith(f"device 'cuda' cannot be used: {off[0].found} ({off[0].remedy}). Use device='cpu'")
    assert "\n" not in message and "gpu-backprop doctor" in message
    assert re.search(remedy, off[0].remedy)
    device = open_device("auto")
    assert device.name == "cpu" and device.reason.startswith(f"auto: {off[0].found}; ")


def test_a_lower_capability_serves_with_cuda_12(cuda, cupy_like):
    cuda(cupy_like(capabilities=[(7, 0)], built=12090), packages=("cupy-cuda12x",))
    assert obstacle(0) is None


def test_a_newer_driver_serves_an_older_cuda(cuda, cupy_like):
    cuda(cupy_like(built=12090, driver=13010))
    assert obstacle(0) is None


def test_an_older_driver_of_the_same_cuda_serves(cuda, cupy_like):
    cuda(cupy_like(built=13020, driver=13000))
    assert obstacle(0) is None


def test_the_libraries_are_looked_at_where_there_is_no_driver(cuda, cupy_like):
    cuda(cupy_like(driver=0), cublas=False)
    assert {check.name: check.ok for check in examine(0)} == {
        "CuPy": True, "driver": False, "NVRTC": True, "cuBLAS": False,
    }  # fmt: skip


def test_devices_that_are_hidden(cuda, cupy_like, cuda_error, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    cuda(cupy_like(capabilities=cuda_error(100, "cudaErrorNoDevice: no CUDA-capable device is detected")))
    assert obstacle(0).found == "this machine has no CUDA device; CUDA_VISIBLE_DEVICES is '-1'"
    cuda(cupy_like(capabilities=[(9, 0)]))
    assert obstacle(1).found.endswith("this machine has 1, numbered from 0; CUDA_VISIBLE_DEVICES is '-1'")


def test_a_driver_that_does_not_start(cuda, cupy_like, cuda_error):
    cuda(cupy_like(capabilities=cuda_error(803, "cudaErrorSystemDriverMismatch:\n  of another version")))
    check = obstacle(0)
    assert check.found == ("the NVIDIA driver does not answer: cudaErrorSystemDriverMismatch: of another version")
    assert "restart" in check.remedy


IN_ITS_OWN_WORDS = """
try:
    raise ImportError("the cause")
except ImportError as error:
    raise ImportError("=" * 80) from error
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise ImportError('libcudart.so.13: cannot open')", "libcudart.so.13: cannot open"),
        (IN_ITS_OWN_WORDS, "the cause"),
        ("raise OSError", "OSError"),
        ("", "module 'cupy' has no attribute 'cuda'"),
    ],
    ids=["library", "in CuPy's own words", "silent", "empty"],
)
def test_a_cupy_that_cannot_be_imported(cuda, monkeypatch, tmp_path, text, said):
    cuda(None)
    (tmp_path / "cupy.py").write_text(text)
    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.syspath_prepend(tmp_path)
    check = obstacle(0)
    assert check.found == f"CuPy is installed but cannot be imported: {said}"
    assert check.remedy.startswith("pip uninstall cupy-cuda13x, then pip install")


def test_what_cupy_warns_of_does_not_stop_it(cuda, cupy_like, monkeypatch, tmp_path):
    cuda(None)
    (tmp_path / "cupy.py").write_text("import warnings\nfrom made_up import cuda, __version__\nwarnings.warn('beware')")
    monkeypatch.setitem(sys.modules, "made_up", cupy_like())
    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.syspath_prepend(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert obstacle(0) is None


def test_what_worked_is_not_examined_again(cuda, cupy_like, monkeypatch):
    cuda(cupy_like())
    assert obstacle(0) is None
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert obstacle(0) is None
    assert obstacle(1).found == "CuPy is not installed"


def test_a_forked_process_cannot_use_what_its_parent_opened(cuda, cupy_like, monkeypatch):
    cuda(cupy_like())
    assert obstacle(0) is None
    monkeypatch.setattr(os, "getpid", lambda: 0)
    with pytest.raises(gb.DeviceError, match=r"opened before this process was forked, .*get_context\('spawn'\)"):
        open_device("cuda")
    assert open_device("auto").name == "cpu"


def test_what_is_installed_here():
    assert cuda_setup._is_installed("pytest") and not cuda_setup._is_installed("cupy-cuda1x")
