"""NumPy's formulas are exact to rounding wherever numbers are."""

from __future__ import annotations

import numpy as np
import pytest
from sweep import LOSSES, OPTIMIZERS, VALUES, check_activation, check_loss, check_optimizer, check_softmax

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.device import Device
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.losses import FORMULAS


@pytest.fixture(params=["float32", "float64"])
def device(request):
    return Device("cpu", "for a test", request.param, np, numpy_ops)


def test_nothing_is_left_out():
    assert {*VALUES, "softmax"} == set(ACTIVATIONS)
    assert {row.name for row in FORMULAS} <= set(LOSSES)


@pytest.mark.parametrize("name", VALUES)
def test_activation(device, name):
    check_activation(device, name)


@pytest.mark.parametrize("name", [*LOSSES, "sigmoid"])
def test_loss(device, name):
    check_loss(device, name)


def test_softmax(device):
    check_softmax(device)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer(device, name):
    check_optimizer(device, name)
