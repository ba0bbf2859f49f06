"""Plans as CUDA builds them, where there is no CUDA device: to look at, as what they are asked to do is."""

from __future__ import annotations

from types import SimpleNamespace

from gpu_backprop.backend.cuda.fusions import FUSIONS
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.dry_run import DryRunDevice

BLOCK_MEMORY = 226 << 10
"""Bytes that a block of an H100 may have, without what is kept for variables."""


class CudaLikeDevice(DryRunDevice):
    """A device on which nothing is there, and whose plans are joined as CUDA's are where no epilogue is faster."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.fusions, self.kernels = FUSIONS, SimpleNamespace(block_memory=BLOCK_MEMORY)
        self.epilogues = SimpleNamespace(choose=lambda *_: False)
