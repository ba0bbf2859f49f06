"""One launch over the flat buffers."""

from __future__ import annotations

from typing import Any

from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.backend.cuda.ops.launch_shapes import flat, flat_sizes
from gpu_backprop.backend.formula import Array, Calls


def sgd(
    device: CudaDevice, w: Array, g: Array, velocity: Array | None, nesterov: bool, hyper: Array, gate: Array | None,
    half_parameters: Array | None,
) -> Calls:  # fmt: skip
    yield from _step(device, "sgd", w, g, {"velocity": velocity}, hyper, gate, half_parameters, nesterov=int(nesterov))


def rmsprop(
    device: CudaDevice, w: Array, g: Array, v: Array, hyper: Array, gate: Array | None, half_parameters: Array | None
) -> Calls:
    yield from _step(device, "rmsprop", w, g, {"v": v}, hyper, gate, half_parameters)


def adagrad(
    device: CudaDevice, w: Array, g: Array, v: Array, hyper: Array, gate: Array | None, half_parameters: Array | None
) -> Calls:
    yield from _step(device, "adagrad", w, g, {"v": v}, hyper, gate, half_parameters)


def adam(
    device: CudaDevice, w: Array, g: Array, m: Array, v: Array, decay: bool, hyper: Array, gate: Array | None,
    half_parameters: Array | None,
) -> Calls:  # fmt: skip
    """Needs no `decay`: without it λ is 0 in hyper."""
    yield from _step(device, "adam", w, g, {"m": m, "v": v}, hyper, gate, half_parameters)


def _step(
    device: CudaDevice, name: str, w: Array, g: Array, moments: dict[str, Array | None], hyper: Array,
    gate: Array | None, half_parameters: Array | None, **settings: Any,
) -> Calls:  # fmt: skip
    models, n = flat_sizes(w)
    dtype = w.dtype if half_parameters is None else half_parameters.dtype
    width = device.kernels.width(dtype, n, w, g, *moments.values(), half_parameters)
    launch = flat(n, models, width)
    yield device.kernels.launch(
        name, (dtype, width), *launch,
        w=w, g=g, **moments, hyper=hyper, gate=gate, half_parameters=half_parameters, tickets=device.tickets(models),
        n=n, **settings,
    )  # fmt: skip
