"""DryRunDevice: a device on which nothing is there. What is built on it tells what it would need on the real one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np

from gpu_backprop.backend.device import ALIGNMENT, BUFFERS, Device, Form
from gpu_backprop.backend.errors import InputError, StateError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.lazy_rows import LazyRows


class MetaArray(np.ndarray[Any, Any]):
    """An array with a shape, a dtype and an address of its own, and one element that stands for all."""

    @property
    def data(self) -> Any:
        """Stands for the memory of a CuPy array, which binders ask for."""
        return SimpleNamespace(ptr=self.__array_interface__["data"][0])


class DryRunDevice(Device):
    """A stand-in for a CPU, on which plans are built but cannot run: no array has memory. The operations take memory of
    their own for the calls that they bind, and are left out.

    Args:
        device: what it stands for. Scratch memory that lies there already is not counted again.

    Attributes:
        needs: the bytes that were asked for, by kind.
        needed_kernels: those of the operations that were bound, for `Device.compile`.
        unit: each array takes a multiple of so many bytes.
    """

    unit = 1

    def __init__(self, device: Device, ops: Any = None) -> None:
        ops = _NoOperations() if ops is None else ops
        super().__init__(device.name, device.reason, device.dtype.name, device.xp, ops)
        self.address = device.address  # type: ignore[method-assign]  # of what is there, and of outlines
        self.on_host, self.gathered_dtypes, self.tf32 = device.on_host, device.gathered_dtypes, device.tf32
        self.scratch, self.fusions = dict(device.scratch), device.fusions
        self.needs: dict[str, int] = {}
        self.needed_kernels: Mapping[Any, Any] = {}
        self._kind = ""

    @contextmanager
    def kind(self, name: str) -> Iterator[None]:
        """Counts what is allocated meanwhile as this kind; inside of another kind, by both names."""
        before = self._kind
        self._kind = f"{before} {name}".strip()
        try:
            yield
        finally:
            self._kind = before

    def empty(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        array = self.outline(shape, np.dtype(self.dtype if dtype is None else dtype))
        self.count(self._kind or "other", -(-array.nbytes // self.unit) * self.unit)
        return array

    def count(self, kind: str, size: int) -> None:
        """Adds to what is needed."""
        self.needs[kind] = self.needs.get(kind, 0) + size

    @staticmethod
    def outline(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Makes an array without memory."""
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

    def from_host(self, array: Array, dtype: Any = None) -> Array:
        dtype = np.dtype(array.dtype if dtype is None else dtype).newbyteorder("=")
        there = not isinstance(array, LazyRows) and (self.on_host or not isinstance(array, np.ndarray))
        fits = there and array.dtype == dtype and array.flags.c_contiguous
        return array if fits else self.empty(array.shape, dtype)

    def double_buffer(self, forms: Sequence[Form], buffers: int = BUFFERS) -> Any:
        return SimpleNamespace(arrays=[self.empty((buffers * shape[0], *shape[1:]), dtype) for shape, dtype in forms])

    def to_host(self, array: Array) -> NoReturn:
        refuse()

    def copy(self, array: Array) -> Array:
        return self.empty(array.shape, array.dtype)

    def copy_in(self, destination: Array, source: Array) -> None:
        """Nothing: there are no values."""

    def differing(self, pairs: Sequence[tuple[Array, Array]]) -> Array:
        return self.empty((len(pairs),), np.uint32)

    def current(self) -> AbstractContextManager[None]:
        return nullcontext()

    @contextmanager
    def computing(self) -> Iterator[None]:
        yield


class _NoOperations:
    """Every binder, and none of them binds anything."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: (refuse,)


def refuse() -> NoReturn:
    """Raises StateError: what every call does that is bound here."""
    raise StateError(
        "this plan is there to look at: none of its memory is allocated, so it cannot run. trainer.step(x, y) runs a "
        "step, and trainer.trace(x, y) shows one operation by operation."
    )
