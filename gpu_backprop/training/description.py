"""What trains a network, as plain data: its names and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from gpu_backprop.network.loss import Loss
from gpu_backprop.network.numbers import scalar
from gpu_backprop.training.optimizer import Optimizer


def describe_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    """Returns {"name", "settings"}."""
    told = optimizer.describe()
    return {"name": told.pop("name"), "settings": plain(told)}


def describe_loss(loss: Loss) -> dict[str, Any]:
    """Returns {"name", "settings"}."""
    return {"name": loss.name, "settings": plain({f.name: getattr(loss, f.name) for f in fields(loss) if f.init})}


def plain(value: Any) -> Any:
    """Turns NumPy's numbers and arrays, and tuples, into what JSON has."""
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
        return [plain(each) for each in value]
    return scalar(value)
