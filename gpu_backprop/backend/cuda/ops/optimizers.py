"""One launch over the flat buffers.

parameters, gradients and moments are flat, (..., parameters). hyper is float64 (..., k): the step number, the learning
rate, and the optimizer's own. Where gate is 0 a step changes nothing, not even the step number. half_parameters, where
given, becomes a copy of the new parameters in its own dtype.
"""

from __future__ import annotations

from typing import Any

from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.backend.cuda.ops.launch_shapes import Bound, flat, flat_sizes
from gpu_backprop.backend.formula import Array


def sgd(
    device: CudaDevice, w: Array, g: Array, velocity: Array | None, nesterov: bool, hyper: Array, gate: Array | None,
    half_parameters: Array | None,
) -> Bound:  # fmt: skip
    """v ← μv + g; W ← W − ηv, or W − η(g + μv) with Nesterov's momentum. hyper: step, η, μ"""
    yield from _step(device, "sgd", w, g, {"velocity": velocity}, hyper, gate, half_parameters, nesterov=int(nesterov))


def rmsprop(
    device: CudaDevice, w: Array, g: Array, v: Array, hyper: Array, gate: Array | None, half_parameters: Array | None
) -> Bound:
    """v ← ρv + (1 − ρ)g²; W ← W − ηg/(√v + ε). hyper: step, η, ρ, ε"""
    yield from _step(device, "rmsprop", w, g, {"v": v}, hyper, gate, half_parameters)


def adagrad(
    device: CudaDevice, w: Array, g: Array, v: Array, hyper: Array, gate: Array | None, half_parameters: Array | None
) -> Bound:
    """v ← v + g²; W ← W − ηg/(√v + ε). hyper: step, η, ε"""
    yield from _step(device, "adagrad", w, g, {"v": v}, hyper, gate, half_parameters)


def adam(
    device: CudaDevice, w: Array, g: Array, m: Array, v: Array, decay: bool, hyper: Array, gate: Array | None,
    half_parameters: Array | None,
) -> Bound:  # fmt: skip
    """W ← W − ηλW − η·m̂/(√v̂ + ε). hyper: step, η, β₁, β₂, ε, λ (the decoupled decay of AdamW)

    Without decay λ is 0, which the kernel reads from hyper like the rest.
    """
    yield from _step(device, "adam", w, g, {"m": m, "v": v}, hyper, gate, half_parameters)


def _step(
    device: CudaDevice, name: str, w: Array, g: Array, moments: dict[str, Array | None], hyper: Array,
    gate: Array | None, half_parameters: Array | None, **settings: Any,
) -> Bound:  # fmt: skip
    models, n = flat_sizes(w)
    dtype = w.dtype if half_parameters is None else half_parameters.dtype
    width = device.kernels.width(dtype, n, w, g, *moments.values(), half_parameters)
    launch = flat(n, models, width)
    yield device.kernels.launch(
        name, (dtype, width), *launch,
        w=w, g=g, **moments, hyper=hyper, gate=gate, half_parameters=half_parameters, tickets=device.tickets(models),
        n=n, **settings,
    )  # fmt: skip
