"""One launch over the flat buffers."""

from __future__ import annotations

from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.backend.cuda.ops.launch_shapes import flat, flat_sizes
from gpu_backprop.backend.formula import Array, Calls
from gpu_backprop.backend.update_rule import UpdateRule


def update(
    device: CudaDevice, w: Array, g: Array, moments: Array | None, rule: UpdateRule, hyper: Array,
    gradient_factor: Array | None, groups: Array | None, half_parameters: Array | None,
) -> Calls:  # fmt: skip
    models, n = flat_sizes(w)
    dtype = w.dtype if half_parameters is None else half_parameters.dtype
    width = device.kernels.width(dtype, n, w, g, moments, half_parameters)
    launch = flat(n, models, width)
    yield device.kernels.launch(
        "update", (dtype, rule, width), *launch,
        w=w, g=g, moments=moments, hyper=hyper, gradient_factor=gradient_factor, groups=groups,
        half_parameters=half_parameters, n=n, **table_sizes(rule, hyper, groups),
    )  # fmt: skip


def table_sizes(rule: UpdateRule, hyper: Array, groups: Array | None) -> dict[str, int]:
    """The sizes of moments, hyper and groups."""
    blocks = 0 if groups is None else groups.shape[-1]
    return {"count": len(rule.moments), "settings": hyper.shape[-1], "blocks": blocks}
