"""The moving average of the parameters, which is often better than the last of them (Polyak and Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import DivergedError, InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.network import Network
from gpu_backprop.network.numbers import member_numbers


class Averaging:
    """Ŵ ← βŴ + (1 − β)W after each step, of all parameters. It begins with each fit, as the parameters are then, or
    with the first step by hand; at the end of a fit it takes their place.

    Attributes:
        average: Ŵ, flat on the device, in the layout of the parameters; None where there is none.
        begun: whether it has begun, and is not yet in their place.
    """

    def __init__(self, network: Network, decay: Any) -> None:
        self.network = network
        self.average: Array | None = None
        self.begun = False
        self._decay: Any = None
        if decay is not None:
            device, parameters = network.device, network.parameters
            device.require({"averages": 2 * parameters.nbytes}, "The average of the parameters")
            self.average, self._spare = (device.zeros(parameters.shape, device.master) for _ in range(2))
            self._numbers = device.zeros((*network.models_shape, 2), np.float64)
            self.decay = decay

    @property
    def decay(self) -> Any:
        """β, one number or one a member; None where nothing is averaged."""
        return self._decay

    @decay.setter
    def decay(self, value: Any) -> None:
        if self.average is None:
            raise InputError(
                "average cannot be set, since this trainer was made without: its steps keep none. Make it with "
                "Trainer(..., average=0.999)."
            )
        accepted = "a number in [0, 1), such as 0.999, or one a member"
        self._decay, numbers = member_numbers(
            "average", value, accepted, lambda v: 0 <= v < 1, self.network.models_shape
        )
        self.network.device.copy_in(self._numbers, np.stack([1 - numbers, np.ones_like(numbers)], axis=-1))

    @property
    def measured_parameters(self) -> Array:
        """What validation measures, and the end of a fit keeps: the average once it has begun, else the parameters."""
        return self.network.parameters if self.average is None or not self.begun else self.average

    def update(self, plan: Plan) -> None:
        """Appends the step of the average; where plan.gradient_factor is 0, nothing changes."""
        if self.average is not None:
            average, numbers = plan.named("average", self.average), plan.named("[1 − β, 1]", self._numbers)
            plan.add(
                Operations.blend, "Ŵ += (1 − β)·(W − Ŵ)", {},
                self.network.parameters, numbers, plan.gradient_factor, average,
            )  # fmt: skip

    def begin(self, anew: bool = False) -> None:
        """Begins with the parameters as they are; where it has begun already, only if it is to do so anew."""
        if self.average is not None and (anew or not self.begun):
            self.network.device.copy_in(self.average, self.network.parameters)
            self.begun = True

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Puts the average in the place of the parameters at the end of a fit, however it ends; after a divergence
        these stay what the fit has made of them."""
        kept = True
        try:
            yield
        except DivergedError:
            kept = False
            raise
        finally:
            if self.begun and kept:
                self.network.device.copy_in(self.network.parameters, self.measured_parameters)
                self.network.refresh()
            self.begun = False

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Has the average in the place of the parameters meanwhile; nothing is allocated."""
        if not self.begun or self.average is None:
            yield
            return
        device, network = self.network.device, self.network
        device.copy_in(self._spare, network.parameters)
        try:
            device.copy_in(network.parameters, self.average)
            network.refresh()
            yield
        finally:
            device.copy_in(network.parameters, self._spare)
            network.refresh()
