"""Checks what CUDA needs, one thing after another, for `open_device`, which refuses, and `doctor`, which prints."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu_backprop.backend.check import Check
from gpu_backprop.backend.device import Processors, memory_size
from gpu_backprop.backend.errors import install, one_line

PACKAGES = ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x")
OLDEST_CUPY = (14, 2)
DRIVERS = {12: 525, 13: 580}
"""The first NVIDIA driver that supports any program of that CUDA (NVIDIA, CUDA compatibility)."""

CAPABILITIES = {12: (7, 0), 13: (7, 5)}
"""The least compute capability: CUDA 13 compiles for nothing older, and below 7.0 the kernels were never run."""

AMPERE = 8, 0
"""The least compute capability whose products take TF32, and bfloat16 otherwise than slowly or not at all."""

MAJOR_MINOR, SHARED_MEMORY = (75, 76), 97
"""cudaDevAttrComputeCapabilityMajor and …Minor, cudaDevAttrMaxSharedMemoryPerBlockOptin (driver_types.h). Each is
asked for alone: CuPy's `Device.attributes` asks for all, also for those that an older driver does not know."""

MULTIPROCESSORS = 16
"""cudaDevAttrMultiProcessorCount."""

PROCESSORS = {
    (7, 0): (64, 32, 1300),
    (7, 5): (64, 2, 1100),
    (8, 0): (64, 32, 1300),
    (8, 6): (128, 2, 1500),
    (8, 7): (128, 2, 1000),
    (8, 9): (128, 2, 1900),
    (9, 0): (128, 64, 1600),
    (10, 0): (128, 64, 1700),
    (12, 0): (128, 2, 2000),
}
"""By compute capability: multiply-adds that a multiprocessor begins in a cycle, in float32 and in float64 (CUDA
Programming Guide, throughput of native arithmetic instructions), and MHz, somewhat below what the data sheets of such
devices promise."""

NO_DEVICE = 100
"""cudaErrorNoDevice."""

INSTALL = f"{install('cuda13')}, or cuda12 for older drivers and devices"


_working: dict[int, int] = {}
"""The devices that were found to work, each with the process that found it."""


def obstacle(index: int) -> Check | None:
    """Returns the first check that fails for a CUDA device, or None. A device that has worked is not checked again."""
    process = os.getpid()
    if any(other != process for other in _working.values()):
        found = "CUDA was opened before this process was forked, which it does not survive"
        return Check("process", False, found, "start it anew: multiprocessing.get_context('spawn')")
    if index not in _working:
        for check in examine(index):
            if not check.ok:
                return check
        _working[index] = process
    return None


def count_devices() -> int:
    """Returns how many CUDA devices there are; 0 also where CUDA does not work."""
    cupy, _ = _find_cupy()
    try:
        return int(cupy.cuda.runtime.getDeviceCount())
    except Exception:  # there is no CuPy, no driver, or no device
        return 0


def examine(index: int) -> Iterator[Check]:
    """Makes every check that can be made: of the libraries also where the driver is missing."""
    cupy, check = _find_cupy()
    yield check
    if cupy is None:
        return
    for look in (_driver, _device, _memory):
        check = look(cupy, index)
        yield check
        if not check.ok:
            break
    yield _nvrtc(cupy)
    yield _cublas()


def _find_cupy() -> tuple[Any, Check]:
    """Imports CuPy: the module, or None where it can't be used."""
    if importlib.util.find_spec("cupy") is None:
        return None, Check("CuPy", False, "CuPy is not installed", INSTALL)
    packages = [name for name in PACKAGES if _is_installed(name)]
    again = f"pip uninstall {' '.join(packages) or 'cupy'}, then {INSTALL}"
    if len(packages) > 1:
        found = f"several packages of CuPy are installed and overwrite each other: {', '.join(packages)}"
        return None, Check("CuPy", False, found, again)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cupy = importlib.import_module("cupy")
        built = cupy.cuda.runtime.runtimeGetVersion()
    except Exception as error:  # whatever a damaged CuPy or a missing library raises
        found = f"CuPy is installed but cannot be imported: {one_line(error.__cause__ or error)}"
        return None, Check("CuPy", False, found, again)
    if cupy.cuda.runtime.is_hip:
        return None, Check("CuPy", False, "CuPy is built for AMD's ROCm, not for CUDA", again)
    if tuple(map(int, re.findall(r"\d+", cupy.__version__)[:2])) < OLDEST_CUPY:
        found = f"CuPy {cupy.__version__} is too old: {'.'.join(map(str, OLDEST_CUPY))} is the oldest that is supported"
        return None, Check("CuPy", False, found, f"pip install --upgrade {packages[0] if packages else 'cupy'}")
    package = f" ({packages[0]})" if packages else ""
    return cupy, Check("CuPy", True, f"{cupy.__version__}{package}, built for CUDA {_version(built)}")


def _driver(cupy: Any, index: int) -> Check:
    runtime = cupy.cuda.runtime
    supported, built = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    major = built // 1000
    newer = f"install a driver for CUDA {major}" + (f", {DRIVERS[major]} or newer" if major in DRIVERS else "")
    if not supported:
        found = "there is no NVIDIA driver"
        return Check("driver", False, found, f"{newer}; a container has to be started with its GPUs: --gpus all")
    if supported // 1000 < major:
        found = f"the NVIDIA driver is too old: it supports CUDA {_version(supported)}; this CuPy needs CUDA {major}"
        return Check("driver", False, found, newer + (_cuda12() if supported // 1000 == 12 else ""))
    return Check("driver", True, f"supports CUDA {_version(supported)}")


def _device(cupy: Any, index: int) -> Check:
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except Exception as error:  # a driver that does not start has many ways to say so
        if getattr(error, "status", None) != NO_DEVICE:
            found = f"the NVIDIA driver does not answer: {one_line(error)}"
            return Check("device", False, found, "see what nvidia-smi says; after an update of the driver, restart")
        count = 0
    if index >= count:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        limited = "" if visible is None else f"; CUDA_VISIBLE_DEVICES is {visible!r}"
        if not count:
            found, remedy = "this machine has no CUDA device", "see what nvidia-smi -L lists"
        else:
            found = f"there is no CUDA device {index}; this machine has {count}, numbered from 0"
            remedy = "nvidia-smi -L lists them"
        return Check("device", False, found + limited, remedy)
    capability = _capability(cupy, index)
    name = runtime.getDeviceProperties(index)["name"].decode(errors="replace")
    found = f"cuda:{index}, {name}, compute capability {capability[0]}.{capability[1]}"
    major = runtime.runtimeGetVersion() // 1000
    least = CAPABILITIES.get(major, max(CAPABILITIES.values()))
    if capability < least:
        found += f", which is too low: with CUDA {major} it begins at {least[0]}.{least[1]}"
        remedy = "use another device, or the CPU"
        return Check("device", False, found, remedy + (_cuda12() if capability >= CAPABILITIES[12] else ""))
    return Check("device", True, found)


def precision_obstacle(precision: str, index: int) -> str:
    """Says why a device has no products in "TF32" or "bfloat16"; "": it has."""
    capability = _capability(importlib.import_module("cupy"), index)
    if capability >= AMPERE:
        return ""
    needed, has = (f"{major}.{minor}" for major, minor in (AMPERE, capability))
    return f"{precision} begins at compute capability {needed}, and cuda:{index} has {has}"


def _capability(cupy: Any, index: int) -> tuple[int, int]:
    major, minor = (cupy.cuda.runtime.deviceGetAttribute(attribute, index) for attribute in MAJOR_MINOR)
    return major, minor


def processors(cupy: Any, index: int, dtype: Any) -> Processors | None:
    """Tells what a device computes with in a dtype; None where its compute capability is not known here."""
    found = PROCESSORS.get(_capability(cupy, index))
    if found is None:
        return None
    single, double, megahertz = found
    count = cupy.cuda.runtime.deviceGetAttribute(MULTIPROCESSORS, index)
    return Processors(count, double if dtype.itemsize == 8 else single, megahertz)


def _memory(cupy: Any, index: int) -> Check:
    try:
        with cupy.cuda.Device(index):
            free, total = cupy.cuda.runtime.memGetInfo()
    except Exception as error:  # used exclusively by another program, full, or defective
        found = f"cuda:{index} cannot be used: {one_line(error)}"
        return Check("memory", False, found, "end other programs that use it, which nvidia-smi lists")
    return Check("memory", True, f"{memory_size(free)} of {memory_size(total)} are free")


def _nvrtc(cupy: Any) -> Check:
    try:
        version = cupy.cuda.nvrtc.getVersion()
    except Exception as error:  # ImportError, OSError or RuntimeError, as the library is missing or foreign
        found = f"NVRTC, which compiles the kernels, cannot be loaded: {one_line(error)}"
        return Check("NVRTC", False, found, INSTALL)
    major = cupy.cuda.runtime.runtimeGetVersion() // 1000
    if version[0] != major:
        found = f"NVRTC is that of CUDA {version[0]}.{version[1]}, and this CuPy is built for CUDA {major}"
        return Check("NVRTC", False, found, install(f"cuda{major}"))
    try:
        folder = importlib.import_module("cuda.pathfinder").find_nvidia_header_directory("cudart")  # as CuPy does
    except ImportError:
        folder = None
    if folder is None or not Path(folder, "cuda_fp16.h").is_file():
        return Check("NVRTC", False, "the CUDA headers, which the kernels include, are missing", INSTALL)
    return Check("NVRTC", True, f"{version[0]}.{version[1]}, with the headers in {folder}")


def _cublas() -> Check:
    try:
        importlib.import_module("cupy_backends.cuda.libs.cublas")
    except ImportError as error:
        found = f"cuBLAS, which multiplies matrices, cannot be loaded: {one_line(error)}"
        return Check("cuBLAS", False, found, INSTALL)
    return Check("cuBLAS", True, "can be loaded")


def _is_installed(package: str) -> bool:
    metadata = importlib.import_module("importlib.metadata")  # not above: it takes a quarter of NumPy's time to import
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _version(number: int) -> str:
    """Spells CUDA's number of a version: 13020 is 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _cuda12() -> str:
    return f"; or CUDA 12: pip uninstall cupy-cuda13x, then {install('cuda12')}"
