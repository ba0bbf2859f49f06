"""A CUDA setup that is made up: CuPy and what it stands on, as they would be found, each as a test wants it."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from gpu_backprop.backend.cuda import setup as cuda_setup
from gpu_backprop.backend.device import Device

CUDA = "gpu_backprop.backend.cuda.open_device"


def module(name, **contents):
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)
    vars(made).update(contents)
    return made


class OpenedDevice(Device):
    """What stands for a CUDA device that was opened."""

    on_host = False


class CudaError(RuntimeError):
    """As CuPy's CUDARuntimeError, with the number of the error."""

    def __init__(self, status, said):
        super().__init__(said)
        self.status = status


def fake_cupy(
    version="14.2.0", built=13020, driver=13010, capabilities=((9, 0), (8, 6)), hip=False, nvrtc=None, memory=None
):
    """A CuPy whose functions answer what is given, or raise it where it is an error."""

    def answer(value):
        if isinstance(value, Exception):
            raise value
        return value

    class DeviceContext:
        def __init__(self, index):
            assert index < len(capabilities)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    attributes = dict(zip(cuda_setup.MAJOR_MINOR, range(2), strict=True))
    runtime = SimpleNamespace(
        is_hip=hip,
        runtimeGetVersion=lambda: built,
        driverGetVersion=lambda: driver,
        getDeviceCount=lambda: len(answer(capabilities)),
        deviceGetAttribute=lambda attribute, index: capabilities[index][attributes[attribute]],
        getDeviceProperties=lambda index: {"name": b"Made-up GPU"},
        memGetInfo=lambda: answer(memory or (6 << 30, 8 << 30)),
    )
    compiler = SimpleNamespace(getVersion=lambda: answer(nvrtc or (built // 1000, built % 1000 // 10)))
    return module(
        "cupy", __version__=version, cuda=SimpleNamespace(runtime=runtime, nvrtc=compiler, Device=DeviceContext)
    )


@pytest.fixture
def cuda(monkeypatch, tmp_path):
    """A function that makes a setup be there; cupy=None: CuPy is not installed."""

    def pretend(cupy=None, packages=("cupy-cuda13x",), headers=True, pathfinder=True, cublas=True):
        if headers:
            (tmp_path / "cuda_fp16.h").touch()
        found = module("cuda.pathfinder", find_nvidia_header_directory=lambda name: str(tmp_path) if headers else None)
        opened = lambda index, reason, dtype: OpenedDevice(f"cuda:{index}", reason, dtype, np, None)  # noqa: E731
        for name, value in {
            CUDA: module(CUDA, open_device=opened),
            "cupy": cupy,
            "cuda": module("cuda"),
            "cuda.pathfinder": found if pathfinder else None,
            "cupy_backends": module("cupy_backends"),
            "cupy_backends.cuda": module("cupy_backends.cuda"),
            "cupy_backends.cuda.libs": module("cupy_backends.cuda.libs"),
            "cupy_backends.cuda.libs.cublas": module("cublas") if cublas else None,
        }.items():
            monkeypatch.setitem(sys.modules, name, value)
        monkeypatch.setattr(cuda_setup, "_is_installed", lambda package: package in packages)
        monkeypatch.setattr(cuda_setup, "_working", {})

    return pretend


@pytest.fixture
def cupy_like():
    """`fake_cupy`."""
    return fake_cupy


@pytest.fixture
def cuda_error():
    """`CudaError`."""
    return CudaError
