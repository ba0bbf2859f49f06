"""numpy_ops, compiled_ops and cuda_ops are one interface: the same binders with the same parameters. Neither CUDA nor a
compiler is needed to know."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pytest

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.compiled import ops as compiled_ops
from gpu_backprop.backend.cuda import ops as cuda_ops


def parameters(binder):
    """Name, kind, default and type of each; a CudaDevice or a CpuDevice stands for a Device."""
    told = inspect.signature(binder)
    annotations = [re.sub("(Cuda|Cpu)Device", "Device", str(p.annotation)) for p in told.parameters.values()]
    kinds = [(p.name, p.kind, p.default) for p in told.parameters.values()]
    return kinds, annotations, told.return_annotation


CUDA_ONLY = ["train_epoch"]
"""It needs a block with memory of its own. tests/gpu/test_one_launch.py compares it with the ordinary steps."""


def test_the_same_names():
    assert [name for name in cuda_ops.__all__ if name not in CUDA_ONLY] == numpy_ops.__all__
    assert set(CUDA_ONLY) <= set(cuda_ops.__all__)
    assert compiled_ops.__all__ == numpy_ops.__all__
    for ops in (cuda_ops, compiled_ops, numpy_ops):
        defined = {name for name, value in vars(ops).items() if inspect.isfunction(value)}
        assert defined - {"open_device"} == set(ops.__all__)


@pytest.mark.parametrize("ops", [cuda_ops, compiled_ops])
@pytest.mark.parametrize("name", numpy_ops.__all__)
def test_the_same_signatures(name, ops):
    assert parameters(getattr(ops, name)) == parameters(getattr(numpy_ops, name))


def test_the_operations_of_cuda_can_be_imported_without_cupy():
    """CuPy comes in with a device, not before, and not at all where nobody asks for one."""
    program = """if True:
        import sys
        sys.modules["cupy"] = None
        from gpu_backprop.backend.cuda import ops as cuda_ops
        try:
            cuda_ops.open_device(0, "as asked", "float32")
        except ImportError:
            print("only then")
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "only then\n"
