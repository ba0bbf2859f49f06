"""Products with an epilogue, by cuBLASLt."""

from __future__ import annotations

from gpu_backprop.backend.cuda import cublaslt
from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.backend.formula import Activation, Array, Calls

FORWARD = {
    ("relu", False): cublaslt.RELU_BIAS,
    ("relu", True): cublaslt.RELU_AUX_BIAS,
    ("gelu_tanh", True): cublaslt.GELU_AUX_BIAS,
}
"""By the name of f, and whether there is something for the gradient to read."""

BACKWARD = {
    ("relu", False): cublaslt.DRELU,
    ("relu", True): cublaslt.DRELU_BGRAD,
    ("gelu_tanh", False): cublaslt.DGELU,
    ("gelu_tanh", True): cublaslt.DGELU_BGRAD,
}
"""By the name of f, and whether ∇b is asked for."""


def matmul_activate(
    device: CudaDevice, a: Array, b: Array, bias: Array, f: Activation, y: Array, aux: Array | None
) -> Calls:
    yield device.epilogues.bind(FORWARD[f.name, aux is not None], a, b, y, bias, aux, tf32=device.tf32)


def matmul_activation_gradient(
    device: CudaDevice, a: Array, b: Array, aux: Array, f: Activation, grad_z: Array, grad_bias: Array | None
) -> Calls:
    epilogue = BACKWARD[f.name, grad_bias is not None]
    yield device.epilogues.bind(epilogue, a, b, grad_z, grad_bias, aux, tf32=device.tf32)


def matmul_column_sum(device: CudaDevice, a: Array, b: Array, out: Array, grad_bias: Array) -> Calls:
    yield device.epilogues.bind(cublaslt.BGRADA, a, b, out, grad_bias, tf32=device.tf32)
