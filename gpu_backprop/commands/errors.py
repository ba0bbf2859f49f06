"""The errors that only commands raise."""

from __future__ import annotations

from gpu_backprop.backend.errors import GpuBackpropError


class Misuse(GpuBackpropError):
    """Options that do not go together, or one that is missing."""


class RunError(GpuBackpropError):
    """Training was ended by something outside of it; the message says what, and what was saved."""
