"""The compiled formulas are exact to rounding wherever numbers are normal."""

from __future__ import annotations

import pytest
from sweep import LOSSES, OPTIMIZERS, VALUES, check_activation, check_loss, check_optimizer, check_softmax


@pytest.fixture
def one(on_threads):
    return on_threads(1)


@pytest.mark.parametrize("name", VALUES)
def test_activation(one, name):
    check_activation(one, name, denormal=False)


@pytest.mark.parametrize("name", [*LOSSES, "sigmoid"])
def test_loss(one, name):
    check_loss(one, name, denormal=False)


def test_softmax(one):
    check_softmax(one, denormal=False)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer(one, name):
    check_optimizer(one, name)
