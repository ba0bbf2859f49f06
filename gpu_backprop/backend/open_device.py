"""Opens devices: compiled kernels or NumPy on a CPU, CuPy on CUDA. Nothing else outside of cuda/ imports cuda/."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpu_backprop.backend.check import Check
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.dry_run import DryRunDevice
from gpu_backprop.backend.errors import DeviceError, InputError

CUDA = "gpu_backprop.backend.cuda"

NO_CUDA = Check("CUDA", False, "backend/cuda, the part for CUDA, is not there", "install gpu_backprop anew")
"""What is found where that folder has been taken away, without which all else works."""

DTYPES = {"cpu": ("float32", "float64"), "cuda": ("float32", "float64", "float16", "bfloat16")}


def open_device(name: str = "auto", dtype: str = "float32", tf32: bool = False) -> Device:
    """Opens a device: "auto", "cpu", "cuda" or "cuda:N". tf32 allows float32 products to round their operands to TF32.

    "auto" takes CUDA where it can be used and says in `Device.reason` what it chose and why.

    Raises:
        InputError: the name or the dtype is unknown, or the dtype is not for this device; or tf32 is not for them.
        DeviceError: CUDA was asked for and cannot be used, or the device is too old for bfloat16 or tf32; the message
            says what is missing and what to do.
        MissingExtraError: bfloat16 without ml_dtypes.
    """
    if not isinstance(name, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        hint = " Did you mean 'cuda'?" if str(name).lower().startswith("gpu") else ""
        raise InputError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {name!r}.{hint}")
    dtype = _dtype_name(dtype)
    device = _open(name, dtype)
    if not isinstance(tf32, bool):
        raise InputError(f"tf32 must be True or False, got {tf32!r}.")
    if tf32:
        _allow_tf32(device)
    return device


def nth_device(number: int) -> str:
    """Returns the name of a device for one of several processes of this machine: of its CUDA devices in turn, or "cpu"
    where that cannot be used. No other device is touched."""
    count = count_devices()
    index = number % max(1, count)
    return "cpu" if not count or _cuda("setup").obstacle(index) else f"cuda:{index}"


def count_devices() -> int:
    """Returns how many CUDA devices this machine has; 0 also where CUDA does not work."""
    return int(_cuda("setup").count_devices()) if _has_cuda() else 0


def open_dry_run(device: Device) -> DryRunDevice:
    """Opens a stand-in for a device, on which plans are built but cannot run."""
    return DryRunDevice(device) if device.on_host else _cuda("dry_run").CudaDryRunDevice(device)


def examine_cuda(index: int) -> Iterator[Check]:
    """Makes every check of what a CUDA device needs."""
    checks: Iterator[Check] = _cuda("setup").examine(index) if _has_cuda() else iter([NO_CUDA])
    return checks


def _has_cuda() -> bool:
    return importlib.util.find_spec(CUDA) is not None


def _cuda(module: str) -> Any:
    return importlib.import_module(f"{CUDA}.{module}")


def _open(name: str, dtype: str) -> Device:
    if name == "cpu":
        return _open_cpu("as asked", dtype)
    index = int(name.partition(":")[2] or 0)
    obstacle: Check | None = _cuda("setup").obstacle(index) if _has_cuda() else NO_CUDA
    if obstacle is None:
        if dtype == "bfloat16" and (found := _cuda("setup").precision_obstacle(dtype, index)):
            raise DeviceError(f"dtype bfloat16 cannot be used: {found}. Use float16, or float32.")
        device: Device = _cuda("open_device").open_device(
            index, "auto: CUDA works" if name == "auto" else "as asked", dtype
        )
        return device
    if name == "auto":
        return _open_cpu(f"auto: {obstacle.found}", dtype)
    raise DeviceError(
        f"device {name!r} cannot be used: {obstacle}. Use device='cpu', or 'auto' to take what works; "
        "`gpu-backprop doctor` shows the whole setup."
    )


def _dtype_name(dtype: Any) -> str:
    if dtype == "bfloat16":  # unknown to NumPy itself
        return "bfloat16"
    try:
        name = str(np.dtype(dtype).name)
    except TypeError:
        name = ""
    if dtype is None or name not in DTYPES["cuda"]:
        raise InputError(f"dtype must be one of {', '.join(DTYPES['cuda'])}, got {dtype!r}.")
    return name


def _open_cpu(reason: str, dtype: str) -> Device:
    if dtype not in DTYPES["cpu"]:
        raise InputError(
            f"dtype {dtype} is for CUDA devices only; this device is the CPU ({reason}). Use float32 or float64."
        )
    from gpu_backprop.backend.compiled import open_device as compiled

    return compiled.open_device(reason, dtype)


def _allow_tf32(device: Device) -> None:
    if device.on_host:
        raise InputError(f"tf32=True is for CUDA devices; this device is the CPU ({device.reason}). Use tf32=False.")
    if device.dtype != np.float32:
        raise InputError(
            f"tf32=True rounds the operands of float32 products; dtype {device.dtype.name} has none. Use tf32=False, "
            "or dtype='float32'."
        )
    if found := _cuda("setup").precision_obstacle("TF32", int(device.name.partition(":")[2])):
        raise DeviceError(f"tf32=True cannot be used: {found}. Use tf32=False.")
    device.tf32 = True
