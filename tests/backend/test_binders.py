"""numpy_ops, compiled.ops and cuda.ops have the operations of backend/operations.py, with its parameters. Neither CUDA
nor a compiler is needed to know; mypy knows it too, and in other words."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pytest

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.compiled import ops as compiled_ops
from gpu_backprop.backend.cuda import ops as cuda_ops
from gpu_backprop.backend.operation import account_of
from gpu_backprop.backend.operations import CudaOperations, EpochOperations, Operations

NAMES = [name for name, value in vars(Operations).items() if hasattr(value, "account")]
CUDA_ONLY = [name for p in (EpochOperations, CudaOperations) for name in vars(p) if hasattr(vars(p)[name], "account")]
"""Those that fusions bring in, and train_epoch; tests/gpu compares them with the ordinary ones."""


def parameters(binder):
    """Name, kind, default and type of each; any device stands for D."""
    told = list(inspect.signature(binder).parameters.values())
    annotations = [re.sub("^((Cuda|Cpu)?Device|D)$", "Device", str(p.annotation)) for p in told]
    return [(p.name, p.kind, p.default) for p in told], annotations


def signature(protocol, name):
    kinds, annotations = parameters(getattr(protocol, name))
    return kinds[1:], annotations[1:]  # without self


def test_the_same_names():
    assert len(NAMES) == 29 and "train_epoch" in CUDA_ONLY
    for ops, names in ((cuda_ops, NAMES + CUDA_ONLY), (compiled_ops, NAMES), (numpy_ops, NAMES)):
        assert {name for name, value in vars(ops).items() if inspect.isfunction(value)} == set(names)


@pytest.mark.parametrize("ops", [cuda_ops, compiled_ops, numpy_ops])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_signatures(name, ops):
    assert parameters(getattr(ops, name)) == signature(Operations, name)


@pytest.mark.parametrize("name", CUDA_ONLY)
def test_the_same_signatures_of_what_only_cuda_has(name):
    assert parameters(getattr(cuda_ops, name)) == signature(CudaOperations, name)


@pytest.mark.parametrize("name", NAMES + CUDA_ONLY)
def test_an_account_names_parameters_of_its_operation(name):
    account = account_of(getattr(CudaOperations, name))
    functions = [f for f in (account.updates, account.flops, account.launches, account.bytes) if callable(f)]
    named = {*account.writes, *(() if callable(account.updates) else account.updates)}
    named |= {parameter for function in functions for parameter in inspect.signature(function).parameters}
    assert named <= set(account.parameters)


def test_the_operations_of_cuda_can_be_imported_without_cupy():
    """CuPy comes in with a device, not before, and not at all where nobody asks for one."""
    program = """if True:
        import sys
        sys.modules["cupy"] = None
        from gpu_backprop.backend.cuda.open_device import open_device
        try:
            open_device(0, "as asked", "float32")
        except ImportError:
            print("only then")
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "only then\n"
