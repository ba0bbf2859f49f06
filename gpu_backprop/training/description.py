"""What trains a network, as plain data: its names and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from gpu_backprop.backend.own_update import OwnUpdate
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.numbers import scalar
from gpu_backprop.network.own_losses import OwnLoss
from gpu_backprop.training.optimizer import Optimizer


def describe_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    """Returns {"name", "settings"}, and of one's own its texts."""
    told, update = optimizer.describe(), getattr(getattr(optimizer, "rule", None), "numpy", None)
    own = {"update": dict(update.assignments)} if isinstance(update, OwnUpdate) else {}
    return {"name": told.pop("name"), "settings": plain(told), **own}


def describe_loss(loss: Loss) -> dict[str, Any]:
    """Returns {"name", "settings"}, and of one's own its texts."""
    own = {}
    if isinstance(loss, OwnLoss):
        own = {"expression": loss.texts.expression, "derivative": loss.texts.derivative}
    settings = plain({f.name: getattr(loss, f.name) for f in fields(loss) if f.init})
    return {"name": loss.name, "settings": settings, **own}


def plain(value: Any) -> Any:
    """Turns NumPy's numbers and arrays, and tuples, into what JSON has."""
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
        return [plain(each) for each in value]
    return scalar(value)
