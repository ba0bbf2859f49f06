"""Loss scaling: gradients that float16 can hold.

The least number that float16 keeps is 6e-8, and many a gradient is below. So the gradient of the loss is multiplied by
a scale S, all of back-propagation has that factor, and the optimizer divides ∇W, which is float32, by it as it reads
it (Micikevicius et al. 2018, section 3.2). S is as large as it can be: where a gradient overflows, the step is
skipped and S halved, and after many steps without an overflow it is doubled. That is decided on the device, one model
at a time, and nothing waits for it. bfloat16 has the exponents of float32 and needs none of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_backprop.backend.formula import SCALE, SKIPPED, Array
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.network import Network

START, PATIENCE = 2.0**16, 2000
"""S at the start, and how many steps in a row without an overflow double it: the defaults of PyTorch's
torch.amp.GradScaler, whose factors 2 and ½ are taken too."""

LARGEST = 2.0**24
"""PyTorch's S is not bounded. From here on the least number of float16 stands for 4e-15, and a larger S brings nothing
but overflows; nor does one below 1."""


class LossScaling:
    """The scale of the loss of one network's training.

    Attributes:
        state: float64 (..., 3) on the device: S, the steps in a row without overflow, and the steps that were skipped
            in this epoch. None where nothing is scaled, which is in every dtype but float16.
        stuck: whether in the epoch measured last a model skipped every step, and S = 1 was among them.
        last_scale: S at the end of that epoch, on the host.
    """

    def __init__(self, network: Network) -> None:
        self.network, self.device = network, network.device
        self.state: Array | None = None
        self.stuck = False
        self.last_scale: Array = np.array(START)
        if network.dtype == np.float16:
            self.state = self.device.zeros((*network.models_shape, 3), np.float64)
            self.device.copy_in(self.state, np.array([START, 0, 0]))
            self._nothing = self.device.zeros(network.models_shape, np.float64)

    def scale(self, plan: Plan) -> None:
        """Lets the loss of this plan be scaled."""
        if self.state is not None:
            plan.named("loss scaling", self.state)
            plan.loss_scale = plan.named("S", self.state[..., SCALE])

    def unscale(self, plan: Plan) -> None:
        """Appends what the optimizer multiplies ∇ with: 1/S, or 0 where ∇ is not finite."""
        if self.state is None:
            return
        counted = plan.gradient_factor
        plan.gradient_factor = plan.empty("1/S", self.network.models_shape, np.float64)
        plan.add(
            Operations.unscale, "1/S, or 0 where ∇ overflows", {"scaling": "loss scaling"},
            self.network.gradients, self.state, counted, plan.gradient_factor, PATIENCE, LARGEST,
        )  # fmt: skip

    def start_epoch(self) -> None:
        """Counts the skipped steps from 0 again."""
        if self.state is not None:
            self.device.copy_in(self.state[..., SKIPPED], self._nothing)

    def measured(self, state: Array, steps: int) -> dict[str, Any]:
        """Returns what the History tells of an epoch of so many steps, from the state at its end, on the host: S, and
        how many steps were skipped. Sets `stuck`."""
        tried = steps > np.log2(self.last_scale)  # so many halvings lead to 1, and the step after them had that S
        self.last_scale = state[..., SCALE]
        self.stuck = bool(np.any((state[..., SKIPPED] == steps) & (self.last_scale == 1) & tried))
        scale, skipped = (state[..., column].astype(np.int64).tolist() for column in (SCALE, SKIPPED))
        return {"loss_scale": scale, "skipped": skipped}
