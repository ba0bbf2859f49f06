"""Opens a CUDA device: binds it to its operations. CuPy is imported here and not before."""

from __future__ import annotations

import importlib

from gpu_backprop.backend.cuda import ops as cuda_ops
from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.backend.cuda.dry_run import CudaDryRunDevice
from gpu_backprop.backend.operations import CudaOperations


def open_device(index: int, reason: str, dtype: str) -> CudaDevice:
    """CUDA device `index`, with these operations."""
    ops: CudaOperations[CudaDevice] = cuda_ops
    device = CudaDevice(index, reason, dtype, importlib.import_module("cupy"), ops)
    device.make_dry_run = CudaDryRunDevice
    return device
