"""The CPU with kernels of its own, compiled on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import byref, c_longlong
from functools import cached_property

import numpy as np

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.compiled.blocks import Blocks
from gpu_backprop.backend.compiled.library import CpuLibrary
from gpu_backprop.backend.compiled.operations_text import likely_unit
from gpu_backprop.backend.compiled.program import KernelCall, at_once, sequence
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Array, Call, Calls
from gpu_backprop.backend.operation import Operation
from gpu_backprop.backend.operations import Operations

LARGE = 1 << 20
"""Bytes from which on a copy is worth the threads."""

MOST_SHUFFLED = 1 << 32
"""Rows: for more, NumPy draws numbers of 64 bits."""


class CpuDevice(Device):
    """The CPU with compiled kernels, for networks in float32 and in float64.

    Numbers too small to be normal, below 1.2e-38 or 2.2e-308, become 0 in them, as on CUDA.

    Attributes:
        library: the kernels.
        threads: how many work at once.
    """

    compiles_kernels = True
    gathered_dtypes = "uint8", "float16", "float32", "float64"
    block = 256  # what so many rows become on the way through a usual network fits a core's cache

    def __init__(self, reason: str, library: CpuLibrary, ops: Operations[CpuDevice]) -> None:
        super().__init__("cpu", reason, library.dtype, np, ops)
        self.library, self.threads = library, library.threads

    def prepare(self, operations: Sequence[Operation]) -> None:
        units = (likely_unit(operation.name, operation.arguments.values()) for operation in operations)
        self.library.prepare(unit for unit in units if unit is not None)

    def sequence(self, calls: Iterable[Call], repeats: int = 1) -> tuple[Call, ...]:
        return sequence(calls, repeats)

    def any_rows(self, calls: Sequence[Call], x: Array, y: Array) -> Blocks | None:
        return Blocks.of(calls, x, y)

    def needs_context(self, calls: Sequence[Call]) -> bool:
        return not all(isinstance(call, KernelCall) for call in calls)

    def at_once(self, calls: Sequence[Call]) -> int:
        return at_once(calls)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Keeps what NumPy still does in a plan to one BLAS thread: those look for work long after it is done, and take
        the cores from ours."""
        inside = c_longlong(0)
        try:
            self.library.limit_blas_threads(1, byref(inside))
            with super().computing():
                yield
        finally:
            self.library.limit_blas_threads(0, byref(inside))

    def copy_in(self, destination: Array, source: Array) -> None:
        if _large(destination, source):
            for call in self.copying(destination, source):
                call()
        else:
            destination[...] = source

    def copying(self, destination: Array, source: Array) -> Calls:
        return (self.ops if _large(destination, source) else numpy_ops).copy(self, source, destination)

    def shuffle(self, generator: np.random.Generator, order: Array) -> None:
        quick = len(order) <= MOST_SHUFFLED and self._shuffles_as_numpy
        (self._shuffle if quick else super().shuffle)(generator, order)

    def _shuffle(self, generator: np.random.Generator, order: Array) -> None:
        numbers = generator.bit_generator.ctypes
        self.library.shuffle(self.address(order), len(order), numbers.state_address, numbers.next_uint32)

    @cached_property
    def _shuffles_as_numpy(self) -> bool:
        """Whether this version of NumPy leaves the same order."""
        orders = np.zeros((2, 1000), np.int64)
        for shuffle, order in zip((self._shuffle, super().shuffle), orders, strict=True):
            shuffle(np.random.default_rng(0), order)
        return np.array_equal(*orders)


def _large(destination: Array, source: Array) -> bool:
    alike = source.dtype == destination.dtype and source.shape == destination.shape
    return source.nbytes >= LARGE and alike
