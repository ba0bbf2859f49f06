"""A network with a frozen layer, factors of rates and decays, and members' own dropout rates: as alone, as by hand."""

from __future__ import annotations

import pytest
from frozen_network import OPTIMIZERS, check

from gpu_backprop.backend.compiled import compiler

optimizers = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


@optimizers
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_in_numpy(make, dtype, tolerance, monkeypatch):
    monkeypatch.setenv(compiler.VARIABLE, compiler.NONE)
    check(make(), tolerance, dtype=dtype)


@optimizers
def test_compiled(make):
    try:
        compiler.find()
    except compiler.NoCompilerError as error:
        pytest.skip(f"kernels cannot be compiled: {error}")
    check(make(), 1e-5, dtype="float32")
