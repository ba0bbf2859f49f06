"""NVRTC takes what is printed of expressions; that it is right, tests/kernels_on_host shows."""

from __future__ import annotations

import pytest
from lib.kernel_instances import instances
from own_formulas import ACTIVATION_ROWS, LOSS_CLASSES, RULE_ROWS
from ptx import compile_ptx

KERNELS = {"bias_activate": "F", "activation_gradient": "F", "loss_gradient": "E", "update": "U"}
ROWS = {"F": ACTIVATION_ROWS, "E": LOSS_CLASSES, "U": RULE_ROWS}


@pytest.mark.nvrtc
@pytest.mark.parametrize("kernel", KERNELS)
def test_nvrtc_compiles_them(kernel):
    losses = [made().formula for made in LOSS_CLASSES.values()]
    every = list(instances(ACTIVATION_ROWS.values(), losses, RULE_ROWS.values()))
    made = [one for one in every if one.kernel.name == kernel and one.dtype("T").name in ("float32", "float64")]
    try:
        code = compile_ptx(made)
    except ImportError as error:
        pytest.skip(f"kernels cannot be compiled, which needs CuPy, NVRTC and the CUDA headers: {error}")
    assert all(code[one.name] for one in made)
    assert {one.chosen[KERNELS[kernel]].name for one in made} == ROWS[KERNELS[kernel]].keys()
