"""Gradients clipped by their norm: a step goes where the gradient points, but no further than a gradient of a certain
length would take it (Pascanu, Mikolov and Bengio 2013, algorithm 1)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.network import Network
from gpu_backprop.network.numbers import member_numbers


class Clipping:
    """The bound of the norm of all gradients of a network together, of each member by itself.

    Attributes:
        limit: float64 (...,) on the device; None where nothing is clipped.
    """

    def __init__(self, network: Network, norm: Any) -> None:
        self.network = network
        self.limit: Array | None = None
        self._norm: Any = None
        if norm is not None:
            self.limit = network.device.zeros(network.models_shape, np.float64)
            self.norm = norm

    @property
    def norm(self) -> Any:
        """One number, or one a member; None where nothing is clipped."""
        return self._norm

    @norm.setter
    def norm(self, value: Any) -> None:
        if self.limit is None:
            raise InputError(
                "clip_norm cannot be set, since this trainer was made without: its steps measure no norm. Make it with "
                "Trainer(..., clip_norm=math.inf), which clips nothing until another number is set."
            )
        accepted = "a number > 0, or one a member; math.inf clips nothing"
        self._norm, numbers = member_numbers(
            "clip_norm", value, accepted, lambda v: 0 < v <= math.inf, self.network.models_shape
        )
        self.network.device.copy_in(self.limit, numbers)

    def clip(self, plan: Plan) -> None:
        """Appends min(1, c/‖∇‖) to what the optimizer multiplies ∇ with; NaN where ∇ is not finite, which is seen."""
        if self.limit is None:
            return
        counted, shape = plan.gradient_factor, self.network.models_shape
        squares = plan.empty("Σ∇²", shape, np.float64)
        plan.add(Operations.sum_of_squares, "Σ∇²", {}, self.network.gradients, squares)
        plan.gradient_factor = plan.empty("clipping", shape, np.float64)
        plan.add(
            Operations.clip_factor, "clipping = min(1, c/‖∇‖)", {},
            squares, plan.named("c", self.limit), counted, plan.gradient_factor,
        )  # fmt: skip
