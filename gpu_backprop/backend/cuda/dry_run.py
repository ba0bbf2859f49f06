"""CudaDryRunDevice: a stand-in for a CUDA device."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpu_backprop.backend.cuda.device import TICKETS, CudaDevice
from gpu_backprop.backend.cuda.kernel_library import NeededKernels
from gpu_backprop.backend.dry_run import DryRunDevice, refuse
from gpu_backprop.backend.formula import Array, Call


class CudaDryRunDevice(DryRunDevice):
    """A stand-in for a CUDA device: no array has memory, and no kernel is compiled. The operations are bound as always,
    because they alone know what scratch memory they need, and which kernels."""

    unit = 512  # of CuPy's memory pool

    def __init__(self, device: CudaDevice) -> None:
        super().__init__(device, device.ops)
        self._workspace = device.workspace
        self._tickets = {b: self.outline((n,), np.dtype(np.uint32)) for b, n in device.ticket_counts.items()}
        self.blas, self.stream = SimpleNamespace(matmul=self._matmul), SimpleNamespace(ptr=0)
        self.kernels = NeededKernels(device.kernels)
        self.needed_kernels = self.kernels.instances
        expected = device.epilogues.expected
        self.epilogues = SimpleNamespace(choose=lambda _, key, *__: expected(key), bind=lambda *_, **__: refuse)

    def tickets(self, count: int) -> Array:
        """As CudaDevice.tickets."""
        held = self._tickets.get(self.branch)
        if held is None or held.size < count:
            with self.kind("scratch"):
                held = self.empty((max(TICKETS, 1 << (count - 1).bit_length()),), np.uint32)
            self._tickets[self.branch] = held
        return held[:count]

    def on_branch(self, branch: int) -> CudaDryRunDevice:
        """As CudaDevice.on_branch."""
        twin = copy.copy(self)
        twin.branch = branch
        return twin

    def differing(self, pairs: Sequence[tuple[Array, Array]]) -> Array:
        self.kernels.launch("compare", (), (1,), (1,))
        return super().differing(pairs)

    def _matmul(self, *_: Any, **__: Any) -> list[Call]:
        if self._workspace:
            self.count("matrix products", self._workspace)
            self._workspace = 0
        return [refuse]
