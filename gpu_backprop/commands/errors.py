"""Two ways in which a command ends that no floor below knows."""

from __future__ import annotations

from gpu_backprop.backend.errors import GpuBackpropError


class Misuse(GpuBackpropError):
    """Options that do not go together, or one that is missing."""


class RunError(GpuBackpropError):
    """Training ended by something else than the training; the message says what, and what was saved."""
