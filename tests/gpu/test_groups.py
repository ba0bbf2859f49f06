"""The factors of a group of parameters on CUDA: blocks that are frozen, rates and decays of their own."""

from __future__ import annotations

import frozen_network
import numpy as np
import pytest
from frozen_network import OPTIMIZERS
from group_cases import FORMS, RULES, check

from gpu_backprop.backend.open_device import open_device

pytestmark = pytest.mark.gpu

TOLERANCE = {"float64": 1e-12, "float32": 2e-6, "float16": 2e-6, "bfloat16": 2e-6}


@pytest.mark.parametrize(("models_shape", "factor"), FORMS, ids=str)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_updates_by_hand(rule, models_shape, factor, dtype):
    device = open_device("cuda", dtype)
    half = dtype.endswith("16")

    def update(w, g, moments, rule, hyper, factor, groups):
        given = (w, g, moments, hyper, factor, groups)
        w, g, moments, hyper, factor, groups = (None if a is None else device.copy(device.from_host(a)) for a in given)
        copied = w.astype(device.dtype) if half else None
        with device.computing():
            for call in device.ops.update(device, w, g, moments, rule, hyper, factor, groups, copied):
                call()
        if half:
            np.testing.assert_array_equal(device.to_host(copied), device.to_host(w.astype(device.dtype)))
        return tuple(map(device.to_host, (w, moments, hyper)))

    check(update, rule, models_shape, factor, device.master, TOLERANCE[dtype])


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("options", [{"graph": False}, {"graph": True}, {"one_launch": True}], ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_a_network(make, options, dtype, tolerance):
    """As alone, as by hand; in one launch there is no dropout."""
    frozen_network.check(make(), tolerance, "one_launch" not in options, dtype=dtype, device="cuda", **options)
