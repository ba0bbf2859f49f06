"""Modules of PyTorch for the layers and activations that torch.nn has no counterpart of. They need nothing else of this
package, so that a script that copies them can read what `pytorch.to_module` made."""

from __future__ import annotations

import math

import torch
from torch import nn


class Exp(nn.Module):
    """y = eᶻ."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Computes y of z, of any shape."""
        return torch.exp(z)


class Bias(nn.Module):
    """y = x + b; x is (rows, features) and `bias` (features,)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes y of x."""
        return x + self.bias

    def extra_repr(self) -> str:
        """Returns what printing a model shows in the brackets."""
        return f"{len(self.bias)}"


class Scale(nn.Module):
    """y = x ⊙ s; x is (rows, features) and `weight`, which is s, (features,)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes y of x."""
        return x * self.weight

    def extra_repr(self) -> str:
        """Returns what printing a model shows in the brackets."""
        return f"{len(self.weight)}"


class Periodic(nn.Module):
    """What `gpu_backprop.Periodic` is: each of the first numbers of x, (rows, inputs), becomes `units` combinations of
    the cosines of its frequencies, and itself; `weight` is (numbers, frequencies, 1 + units) and `bias` (numbers,
    frequencies + units)."""

    def __init__(self, numbers: int, frequencies: int, units: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(numbers, frequencies, 1 + units))
        self.bias = nn.Parameter(torch.zeros(numbers, frequencies + units))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes y of x, (rows, inputs + numbers·units)."""
        numbers, frequencies, _ = self.weight.shape
        embedded = x[:, :numbers, None]
        turns = 2 * math.pi * embedded * self.weight[..., 0] + self.bias[:, :frequencies]
        combined = torch.einsum("rnf,nfu->rnu", turns.cos(), self.weight[..., 1:]) + self.bias[:, frequencies:]
        return torch.cat([torch.cat([combined, embedded], dim=2).flatten(1), x[:, numbers:]], dim=1)

    def extra_repr(self) -> str:
        """Returns what printing a model shows in the brackets."""
        numbers, frequencies, columns = self.weight.shape
        return f"{numbers}, frequencies={frequencies}, units={columns - 1}"
