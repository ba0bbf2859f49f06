"""Settings that follow a schedule."""

from __future__ import annotations

from gpu_backprop.backend.compiled.device import CpuDevice
from gpu_backprop.backend.compiled.ops.fallback import or_numpy
from gpu_backprop.backend.compiled.program import KernelCall
from gpu_backprop.backend.formula import Array, Calls


@or_numpy
def follow_schedule(device: CpuDevice, table: Array, position: Array, settings: Array, values: Array) -> Calls:
    models, columns = len(settings) if settings.ndim == 2 else 1, settings.shape[-1]
    yield KernelCall(
        device, "follow_schedule", 4 * settings.size, table=table, position=position, settings=settings, values=values,
        steps=len(table), row=table[0].size, models=models, n=columns, size=values.size // models,
    )  # fmt: skip
