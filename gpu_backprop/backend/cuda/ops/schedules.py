"""Settings that follow a schedule."""

from __future__ import annotations

from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.backend.cuda.ops.launch_shapes import flat, flat_sizes
from gpu_backprop.backend.formula import Array, Calls


def follow_schedule(device: CudaDevice, table: Array, position: Array, settings: Array, values: Array) -> Calls:
    models, columns = flat_sizes(settings)
    yield device.kernels.launch(
        "follow_schedule", (), *flat(columns, models), table=table, position=position,
        settings=settings, values=values, steps=len(table), row=table[0].size, n=columns,
        size=values.size // models,
    )  # fmt: skip
