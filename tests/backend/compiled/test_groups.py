"""The factors of a group of parameters, compiled: blocks that are frozen, rates and decays of their own."""

from __future__ import annotations

import copy

import pytest
from group_cases import FORMS, RULES, check

from gpu_backprop.backend.compiled import ops as compiled_ops
from gpu_backprop.backend.compiled.program import KernelCall


@pytest.mark.usefixtures("split")
@pytest.mark.parametrize(("models_shape", "factor"), FORMS, ids=str)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_updates_by_hand(rule, models_shape, factor, device):
    def update(*arguments):
        w, g, moments, rule, hyper, factor, groups = copy.deepcopy(arguments)
        calls = tuple(compiled_ops.update(device, w, g, moments, rule, hyper, factor, groups, None))
        assert all(isinstance(call, KernelCall) for call in calls)
        for call in device.sequence(calls):
            call()
        return w, moments, hyper

    check(update, rule, models_shape, factor, "float32", 2e-6)
