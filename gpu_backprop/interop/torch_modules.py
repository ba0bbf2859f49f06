"""Modules of PyTorch for the layers and activations that torch.nn has no counterpart of. They need nothing else of this
package but the parser, when a Formula is made, so that a script that copies them can read what `pytorch.to_module`
made."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn


class Exp(nn.Module):
    """y = eᶻ."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Computes y of z, of any shape."""
        return torch.exp(z)


OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "neg": operator.neg,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "where": torch.where,
    "max": torch.maximum, "min": torch.minimum, "softplus": lambda a: nn.functional.softplus(a, threshold=40.0),
} | {
    name: getattr(torch, name)
    for name in ("exp", "expm1", "log", "log1p", "sqrt", "abs", "sign", "tanh", "sin", "cos", "sigmoid")
}  # fmt: skip
"""What expressions are made of, besides numbers, names and powers."""


class Formula(nn.Module):
    """y = f(z) of each number, an activation of an expression.

    Args:
        name, expression, derivative: as of `gpu_backprop.register_activation`; the derivative is given.

    Raises:
        InputError: of gpu_backprop: a text is not in its grammar.
    """

    def __init__(self, name: str, expression: str, derivative: str) -> None:
        super().__init__()
        from gpu_backprop.backend.expression import parse

        self.name, self.expression, self.derivative = name, expression, derivative
        self.value, self.slope = _plain(parse(expression, "z")), _plain(parse(derivative, "zy"))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Computes y of z, of any shape."""
        y: torch.Tensor = _Expression.apply(z, self.value, self.slope)
        return y

    def extra_repr(self) -> str:
        """Returns what printing a model shows in the brackets."""
        return f"{self.name!r}, {self.expression!r}"


class _Expression(torch.autograd.Function):
    """f(z), with its own derivative: that of PyTorch is NaN where the branch that was not taken overflows."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: torch.Tensor, value: Any, slope: Any) -> torch.Tensor:
        # "z" alone: what is given back must be another tensor
        return z.clone() if value == "z" else _work_out(value, {"z": z})

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        z, _, ctx.slope = inputs
        ctx.save_for_backward(z, output)

    @staticmethod
    def backward(ctx: Any, grad_y: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        z, y = ctx.saved_tensors
        return grad_y * _work_out(ctx.slope, {"z": z, "y": y}), None, None


def _plain(node: Any) -> Any:
    """Makes of a tree tuples of an operation and its operands, numbers and names, which torch.load takes with
    weights_only."""
    return node.args[0] if node.op in ("number", "name") else (node.op, *map(_plain, node.args))


def _work_out(tree: Any, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Works out such a tree."""
    match tree:
        case float():
            return values["z"].new_full((), tree)
        case str():
            return values[tree]
        case "**", base, float(power):
            return _work_out(base, values) ** power
    op, *operands = tree
    result: torch.Tensor = OPERATIONS[op](*(_work_out(each, values) for each in operands))
    return result


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
