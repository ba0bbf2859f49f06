"""The formulas of CUDA are exact to rounding wherever numbers are normal."""

from __future__ import annotations

import numpy as np
import pytest
from lib.kernel_instances import instances, prepare
from sweep import LOSSES, OPTIMIZERS, VALUES, check_activation, check_loss, check_optimizer, check_softmax

from gpu_backprop.backend.open_device import open_device
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.losses import FORMULAS
from gpu_backprop.training.optimizers import RULES

pytestmark = pytest.mark.gpu
FILES = "layers.cu", "losses.cu", "softmax.cu", "optimizers.cu"


@pytest.fixture(scope="module", params=["float32", "float64"])
def device(request):
    """With all that these tests launch compiled together, in one dtype and without vectors."""
    device = open_device("cuda", request.param)
    wanted = (made for made in instances(ACTIVATIONS.values(), FORMULAS, RULES) if made.kernel.file in FILES)
    prepare(device.kernels, (made for made in wanted if device.dtype in made.chosen.values()))
    return device


@pytest.mark.parametrize("name", VALUES)
def test_activation(device, name):
    check_activation(device, name, denormal=device.dtype == np.float64)


@pytest.mark.parametrize("name", [*LOSSES, "sigmoid"])
def test_loss(device, name):
    check_loss(device, name, denormal=device.dtype == np.float64, each=19)


def test_softmax(device):
    check_softmax(device, denormal=device.dtype == np.float64, each=19)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer(device, name):
    check_optimizer(device, name)
