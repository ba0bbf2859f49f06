"""Compiled operations, and what NumPy makes of the same in float64."""

from __future__ import annotations

import numpy as np

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.compiled import ops as compiled_ops
from gpu_backprop.backend.compiled.program import KernelCall
from gpu_backprop.backend.device import Device

EXACT = Device("cpu", "for a test", "float64", np, numpy_ops)
ROUNDING = 1e-6
"""Of a number, and of 1: eight units in the last place of float32."""


def run(device, name, *arguments):
    """Runs a binder of the compiled operations, and makes sure that it did not leave the work to NumPy."""
    calls = tuple(getattr(compiled_ops, name)(device, *arguments))
    assert all(isinstance(call, KernelCall) for call in calls)
    for one in device.sequence(calls):
        one()


def exactly(name, *arguments):
    """What NumPy makes of copies, in float64 where they are float32; returns these."""
    copies = [
        a.astype(np.float64 if a.dtype == np.float32 else a.dtype) if isinstance(a, np.ndarray) else a
        for a in arguments
    ]
    with EXACT.computing():
        for one in getattr(numpy_ops, name)(EXACT, *copies):
            one()
    return copies


def near(got, wanted, size=1.0):
    np.testing.assert_allclose(got, wanted, ROUNDING, ROUNDING * size)
