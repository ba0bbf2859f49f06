"""Whether compiled kernels give what NumPy gives: looked at once in a process, before they are used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.formula import Array, LossFormula

if TYPE_CHECKING:
    from gpu_backprop.backend.cpu_device import CpuDevice

CLOSE = 1e-5


def compare(device: CpuDevice) -> None:
    """Runs small operations as the device does them and as NumPy does.

    Raises:
        DeviceError: a result is not the same to rounding; the message names the operation.
    """
    host = Device("cpu", "", "float32", np, numpy_ops)
    for name, *compiled in _cases(8 * max(device.threads, 2) + 1):
        expected = deepcopy(compiled)
        for call in device.sequence(getattr(device.ops, name)(device, *compiled)):
            call()
        for call in getattr(numpy_ops, name)(host, *expected):
            call()
        for got, want in zip(_arrays(compiled), _arrays(expected), strict=True):
            if not np.allclose(got, want, CLOSE, CLOSE):
                raise DeviceError(f"{name} does not give what NumPy gives")


def _cases(rows: int) -> Iterator[list[Any]]:
    """The name of a binder, and what it takes."""
    generator = np.random.default_rng(0)

    def some(*shape: int) -> Array:
        return generator.standard_normal(shape, np.float32)

    x, weight, z = some(rows, 5), some(5, 19), some(rows, 19)
    hyper = np.array([1, 0.01, 0.9, 0.99, 1e-8, 0.1])
    yield ["matmul", x, weight, some(rows, 19)]
    yield ["matmul", x.T, z, some(5, 19)]
    yield ["matmul", z, weight.T, some(rows, 5)]
    yield ["add_bias", x, some(5), some(rows, 5)]
    yield ["adam", some(999), some(999), some(999), abs(some(999)), True, hyper, None, None]
    order, cursor = generator.permutation(2 * rows), np.array([1])
    yield ["gather", [some(2 * rows, 5), order], order, cursor, [some(rows, 5), order[:rows].copy()]]
    yield ["advance", cursor, 3]
    yield ["column_sum", z, some(19)]
    loss = LossFormula("cross_entropy", lambda *_: (), "", "", hit="largest")
    yield ["softmax_cross_entropy", z, some(19), order[:rows] % 19, None, loss, 0.5, None, None, z, np.zeros(3)]


def _arrays(arguments: Iterable[Any]) -> Iterator[Array]:
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            yield argument
        elif isinstance(argument, list):
            yield from _arrays(argument)
