"""Where everything of a small network lies in the memory that a block of the device has for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpu_backprop.backend.formula import IDENTITY, Activation, Array, Functions

MICRO_BATCH = 64
"""Rows that are worked on at once, if so many fit: work for all threads of a block, and few barriers between."""


@dataclass(frozen=True)
class DenseShape:
    """y = f(x@W + b), and where W and b begin in the flat parameters of one model; b is None where there is none."""

    inputs: int
    units: int
    weight: int
    bias: int | None
    activation: Activation


class BlockLayout:
    """What lies where in the memory of a block, counted in numbers: parameters, gradients, the moments that are held
    there, all or none, then rows of activations.

    Args:
        layers: Dense layers, from the first to the last.
        parameters: how many numbers the flat parameters of one model are.
        itemsize: bytes of a number.
        fused: the activation that the loss brings along, "softmax" or "sigmoid", or "".
        moments: how many the optimizer has of each parameter.
    """

    def __init__(
        self, layers: Sequence[DenseShape], parameters: int, itemsize: int, fused: str, moments: int = 0
    ) -> None:
        self.layers, self.parameters, self.itemsize, self.fused = layers, parameters, itemsize, fused
        self.moments = moments
        activations = [layer.activation for layer in layers[:-1]]
        self.activations = [*activations, IDENTITY if fused else layers[-1].activation]
        self.functions = Functions(tuple({f.name: f for f in self.activations}.values()))

    @property
    def needs(self) -> dict[str, int]:
        """Bytes by kind, of one row what grows with the rows: what a block has to have at least."""
        each = self.parameters * self.itemsize
        return {"parameters": each, "gradients": each, "a row of activations": self._places(1)[1] * self.itemsize}

    def fit(self, batch: int, memory: int) -> tuple[int, int]:
        """Returns how many rows of a minibatch to work on at once, and how many moments to hold, so that all fits into
        so many bytes. The last time has about as many rows as the others; 0: not even one row fits. Moments are held
        where that leaves room for as many rows as without them.
        """
        rows, most = self._micro_batch(batch, memory, 0), self._micro_batch(batch, memory, self.moments)
        return rows, self.moments if rows and most == rows else 0

    def _micro_batch(self, batch: int, memory: int, held: int) -> int:
        row = self.needs["a row of activations"]
        rows = min(batch, MICRO_BATCH, (memory - (2 + held) * self.parameters * self.itemsize) // row)
        return 0 if rows < 1 else -(-batch // -(-batch // rows))

    def size(self, rows: int, held: int = 0) -> int:
        """The bytes that so many rows at once take, with all the rest."""
        return ((2 + held) * self.parameters + self._places(rows)[1]) * self.itemsize

    def places(self, rows: int, held: int = 0) -> Array:
        """int32 (layers, 8), as the kernel reads it."""
        return np.array(self._places(rows, held)[0], np.int32)

    def _places(self, rows: int, held: int = 0) -> tuple[list[tuple[int, ...]], int]:
        """The places, and how many numbers the activations take."""
        begin = at = (2 + held) * self.parameters
        numbers = {f.name: k for k, f in enumerate(self.functions.activations)}
        table: list[tuple[int, ...]] = []
        x, at = at, at + rows * _pitch(self.layers[0].inputs)
        for layer, f in zip(self.layers, self.activations, strict=True):
            y, at = at, at + rows * _pitch(layer.units)
            s = y
            if f.reads == "z":
                s, at = at, at + rows * _pitch(layer.units)
            bias = -1 if layer.bias is None else layer.bias
            table.append((layer.inputs, layer.units, layer.weight, bias, x, y, s, numbers[f.name]))
            x = y
        return table, at - begin


def _pitch(cols: int) -> int:
    """From row to row, as in the kernel: an odd number, so that rows begin in different banks of the memory."""
    return cols | 1
