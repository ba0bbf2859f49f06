"""DryRunDevice: a device on which nothing is there. What is built on it tells what it would need on the real one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np

from gpu_backprop.backend.cuda.device import TICKETS, CudaDevice
from gpu_backprop.backend.cuda.kernel_library import KernelLibrary
from gpu_backprop.backend.device import ALIGNMENT, BUFFERS, Device, Form
from gpu_backprop.backend.errors import InputError, StateError
from gpu_backprop.backend.formula import Array, Call

CHUNK = 512
"""Bytes: CuPy's memory pool gives each array a multiple of it."""


class MetaArray(np.ndarray[Any, Any]):
    """An array with a shape, a dtype and an address of its own, and one element that stands for all."""

    @property
    def data(self) -> Any:
        """What a CuPy array has there and the binders ask for."""
        return SimpleNamespace(ptr=self.__array_interface__["data"][0])


class DryRunDevice(Device):
    """A stand-in for a device, on which plans are built but cannot run: no array has memory, no kernel is compiled.

    CUDA's binders are called as always, because they alone know what scratch memory their kernels need. NumPy's take
    memory of their own for the calls that they bind, and are left out.

    Args:
        device: what it stands for. Scratch memory that lies there already is not counted again.

    Attributes:
        needs: the bytes that were asked for, by kind. On CUDA each array takes a multiple of 512.
    """

    def __init__(self, device: Device) -> None:
        super().__init__(device.name, device.reason, device.dtype.name, device.xp, device.ops)
        self.address = device.address  # type: ignore[method-assign]  # of what is there, and of outlines
        self.on_host, self.gathered_dtypes, self.tf32 = device.on_host, device.gathered_dtypes, device.tf32
        self.scratch = dict(device.scratch)
        self.needs: dict[str, int] = {}
        self._on_cpu, self._kind = not isinstance(device, CudaDevice), ""
        if not isinstance(device, CudaDevice):
            self.ops: Any = _NoOperations()
            return
        self._workspace = device.workspace
        self._tickets: Array = self._outline((device.ticket_count,), np.dtype(np.uint32))
        self.kernels = SimpleNamespace(
            width=KernelLibrary.width, launch=lambda *_, **__: _refuse, block_memory=device.kernels.block_memory
        )

    @property
    def blas(self) -> Any:
        return SimpleNamespace(matmul=self._matmul)

    @contextmanager
    def kind(self, name: str) -> Iterator[None]:
        """What is allocated meanwhile counts as this kind; inside of another kind, by both names."""
        before = self._kind
        self._kind = f"{before} {name}".strip()
        try:
            yield
        finally:
            self._kind = before

    def empty(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        array = self._outline(shape, np.dtype(self.dtype if dtype is None else dtype))
        self._count(self._kind or "other", array.nbytes if self._on_cpu else -(-array.nbytes // CHUNK) * CHUNK)
        return array

    def _count(self, kind: str, size: int) -> None:
        self.needs[kind] = self.needs.get(kind, 0) + size

    @staticmethod
    def _outline(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        raw: Array = np.zeros(ALIGNMENT + dtype.itemsize, np.uint8)
        start = -raw.__array_interface__["data"][0] % ALIGNMENT
        one = raw[start : start + dtype.itemsize].view(dtype).view(MetaArray)
        try:
            return np.lib.stride_tricks.as_strided(one, shape, (0,) * len(shape), subok=True, writeable=False)
        except ValueError:  # 2⁶³ bytes or more
            raise InputError(f"no memory can hold an array of shape {shape}: use a smaller batch.") from None

    def zeros(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        return self.empty(shape, dtype)

    def work(self, shape: tuple[int, ...], dtype: Any = None, slot: int = 0) -> Array:
        with self.kind("scratch"):
            return super().work(shape, dtype, slot)

    def tickets(self, count: int) -> Array:
        """As CudaDevice.tickets."""
        if self._tickets.size < count:
            with self.kind("scratch"):
                self._tickets = self.empty((max(TICKETS, 1 << (count - 1).bit_length()),), np.uint32)
        return self._tickets[:count]

    def _matmul(self, *_: Any, **__: Any) -> list[Call]:
        if self._workspace:
            self._count("matrix products", self._workspace)
            self._workspace = 0
        return [_refuse]

    def from_host(self, array: Array, dtype: Any = None) -> Array:
        dtype = np.dtype(array.dtype if dtype is None else dtype).newbyteorder("=")
        there = self._on_cpu or not isinstance(array, np.ndarray)
        fits = array.dtype == dtype and array.flags.c_contiguous
        return array if there and fits else self.empty(array.shape, dtype)

    def double_buffer(self, forms: Sequence[Form]) -> Any:
        return SimpleNamespace(arrays=[self.empty((BUFFERS * shape[0], *shape[1:]), dtype) for shape, dtype in forms])

    def to_host(self, array: Array) -> NoReturn:
        _refuse()

    def copy(self, array: Array) -> Array:
        return self.empty(array.shape, array.dtype)

    def copy_in(self, destination: Array, source: Array) -> None:
        """Nothing: there are no values."""

    def current(self) -> AbstractContextManager[None]:
        return nullcontext()

    @contextmanager
    def computing(self) -> Iterator[None]:
        yield


class _NoOperations:
    """Every binder, and none of them binds anything."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: (_refuse,)


def _refuse() -> NoReturn:
    raise StateError(
        "this plan is there to look at: none of its memory is allocated, so it cannot run. trainer.step(x, y) runs a "
        "step, and trainer.trace(x, y) shows one operation by operation."
    )
