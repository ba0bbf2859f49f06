"""The factors of a group of parameters, in NumPy: blocks that are frozen, rates and decays of their own."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from group_cases import FORMS, RULES, check

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.device import Device

TOLERANCE = {"float64": 1e-12, "float32": 2e-6}


@pytest.mark.parametrize(("models_shape", "factor"), FORMS, ids=str)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_updates_by_hand(rule, models_shape, factor, dtype):
    device = Device("cpu", "for a test", dtype, np, numpy_ops)

    def update(*arguments):
        w, g, moments, rule, hyper, factor, groups = copy.deepcopy(arguments)
        with device.computing():
            for call in numpy_ops.update(device, w, g, moments, rule, hyper, factor, groups, None):
                call()
        return w, moments, hyper

    check(update, rule, models_shape, factor, dtype, TOLERANCE[dtype])
