"""CudaDevice: one CUDA device, its stream, and what is compiled and reserved there once for the whole process."""

from __future__ import annotations

import copy
import gc
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from gpu_backprop.backend.branches import Node, in_a_row
from gpu_backprop.backend.check import Check
from gpu_backprop.backend.cuda import setup
from gpu_backprop.backend.cuda.double_buffer import CudaDoubleBuffer
from gpu_backprop.backend.cuda.epilogues import Epilogues
from gpu_backprop.backend.cuda.fusions import FUSIONS
from gpu_backprop.backend.cuda.graph import GraphCapture
from gpu_backprop.backend.cuda.kernel_arguments import GRID_LIMITS, common_stride
from gpu_backprop.backend.cuda.kernel_instance import TYPES, Instance
from gpu_backprop.backend.cuda.kernel_library import KernelLibrary
from gpu_backprop.backend.cuda.products import Products, workspace
from gpu_backprop.backend.cuda.staging import BLOCK_BYTES, OUT_OF_MEMORY, Staging
from gpu_backprop.backend.device import (
    BUFFERS,
    Advise,
    Device,
    Form,
    Processors,
    cuda_place,
    memory_size,
    memory_table,
)
from gpu_backprop.backend.errors import InputError, OutOfMemoryError
from gpu_backprop.backend.formula import Array, Call
from gpu_backprop.backend.lazy_rows import LazyRows
from gpu_backprop.backend.operation import Operation
from gpu_backprop.backend.operations import Operations

ADDRESSABLE = 1 << 48
"""Bytes. CuPy takes the size of an array modulo 2**64 and would give too small a one."""

TICKETS = 1024
"""How many tickets there are from the start, so that few kernels ask for more."""


COMPARING = 256, 2048
"""The threads of a block, and the most blocks, of a comparison of two arrays."""

MAX_PITCH = 2**31 - 1
"""Bytes from one part to the next that cudaMemcpy2D takes (cudaDevAttrMaxPitch)."""


class _Shared:
    """What all CudaDevices of one device have in common: the stream, kernels, matrix products, staging and tickets."""

    def __init__(self, cupy: Any, index: int) -> None:
        self.lock = threading.RLock()
        self.cupy, self.index = cupy, index
        with cupy.cuda.Device(index) as self.device:
            self.stream = cupy.cuda.Stream(non_blocking=False)
        self.kernels = KernelLibrary(cupy, index, self.stream)
        self.staging = Staging(cupy, index, self.stream, self.wait)
        self.tickets: dict[int, Array] = {}  # by branch
        self.waiting: Callable[[str], AbstractContextManager[None]] = lambda what: nullcontext()
        self._products: Products | None = None
        self._graphs: GraphCapture | None = None
        self.epilogues = Epilogues(cupy, index, lambda: self.products.direct_library())

    def wait(self, work: Any) -> None:
        """Waits for an event or a stream."""
        with self.waiting("the device"):
            work.synchronize()

    @property
    def opened(self) -> bool:
        """Whether the matrix products are there."""
        return self._products is not None

    @property
    def products(self) -> Products:
        with self.lock:  # they are compared with CuPy's when they are made, once
            if self._products is None:
                self._products = Products(self.cupy, self.index, self.stream)
            return self._products

    @property
    def graphs(self) -> GraphCapture:
        with self.lock:
            if self._graphs is None:
                self._graphs = GraphCapture(self.cupy, self.stream, self.products)
            return self._graphs


_all_shared: dict[int, _Shared] = {}
_lock = threading.Lock()


def _shared(cupy: Any, index: int) -> _Shared:
    with _lock:
        if index not in _all_shared:
            _all_shared[index] = _Shared(cupy, index)
        return _all_shared[index]


class CudaDevice(Device):
    """A CUDA device. Everything is done on it and on one stream, whichever are current where it is called.

    Work is queued, and only `to_host` and `synchronize` wait for it. The stream is one that CUDA keeps in order with
    the default stream: arrays that come from there or go there, as CuPy's and PyTorch's do unless told otherwise, need
    no care. Who works on a stream of their own, or on per-thread default streams, synchronizes that stream before
    handing an array in, and calls `device.synchronize()` before using one that came out, or writing to one that went
    in or giving its memory back.

    Attributes:
        index: the device's number, from 0.
        stream: the CuPy stream, one for each device and process.
        kernels: the KernelLibrary of the device.
        tf32: whether float32 products may round their operands to TF32 (False unless set).
        side_by_side: whether graphs have branches (True unless set); if not, their nodes run one after another.
        make_dry_run: makes a stand-in of it.
    """

    on_host = False
    gathered_dtypes = TYPES["S"]
    counts_memory = streams = has_graphs = trains_epochs_in_one_launch = compiles_kernels = True
    fusions = FUSIONS
    side_by_side = True
    make_dry_run: Callable[[CudaDevice], Any]

    def __init__(self, index: int, reason: str, dtype: str, cupy: Any, ops: Operations[CudaDevice]) -> None:
        super().__init__(f"cuda:{index}", reason, dtype, cupy, ops)
        self.index, self._cupy = index, cupy
        self._shared = _shared(cupy, index)
        self.stream, self.kernels = self._shared.stream, self._shared.kernels
        self.bus_id = self._shared.device.pci_bus_id

    @property
    def blas(self) -> Products:
        """The one door for matrix products; opened, and compared with CuPy's, when it is first asked for."""
        return self._shared.products

    @property
    def epilogues(self) -> Epilogues:
        """The products that do what follows them in the same launch."""
        return self._shared.epilogues

    @contextmanager
    def computing(self) -> Iterator[None]:
        """The context in which plans run: this device and its stream are the current ones."""
        with self._shared.device as device, self.stream:
            device.use()  # CuPy leaves it out where it is current, and a new thread has no context, which launches need
            yield

    def current(self) -> AbstractContextManager[None]:
        return self.computing()

    def memory(self) -> tuple[int, int]:
        """(free, total) bytes of the device; what CuPy holds in reserve counts as free. Where CuPy's memory pool has a
        limit, the total is that, unless the device has less.
        """
        with self._shared.device:
            free, total = self._cupy.cuda.runtime.memGetInfo()
            pool = self._cupy.get_default_memory_pool()
            free, limit = free + pool.free_bytes(), pool.get_limit()
            return (min(free, max(0, limit - pool.used_bytes())), min(total, limit)) if limit else (free, total)

    @property
    def processors(self) -> Processors | None:
        return setup.processors(self._cupy, self.index, self.master)

    @property
    def block_memory(self) -> int:
        return self.kernels.block_memory

    def require(self, needs: Mapping[str, int], what: str, advise: Advise | None = None) -> None:
        """Looks whether so much memory is free, before any of it is allocated.

        Args:
            needs: bytes by kind.
            what: needs them; the beginning of the message.
            advise: what would help, told the free bytes; None: what always does.

        Raises:
            OutOfMemoryError: it is not.
        """
        needed = sum(needs.values())
        if needed > self.memory()[0]:
            gc.collect()  # what is held by a cycle alone is nobody's
        free, total = self.memory()
        if needed <= free:
            self.needed = dict(needs)
            return
        advice, batch_size = advise(free) if advise else ("Use fewer units.", None)
        raise OutOfMemoryError(
            f"{what} needs {memory_size(needed)} on {self.name}, where {memory_size(free)} of {memory_size(total)} are "
            f"free:\n{memory_table(needs)}\n{advice} Or end other programs that use the device.",
            needs=needs, free=free, batch_size=batch_size,
        )  # fmt: skip

    @property
    def workspace(self) -> int:
        """The bytes that matrix products have yet to allocate, once for all networks of the device."""
        if self._shared.opened:
            return 0
        return workspace(int(self._shared.device.compute_capability[:-1]))

    @property
    def ticket_counts(self) -> dict[int, int]:
        """How many tickets there are now, by branch."""
        return {branch: held.size for branch, held in self._shared.tickets.items()}

    def empty(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """Uninitialised memory from CuPy's pool, which aligns it to 512 bytes."""
        dtype = np.dtype(self.dtype if dtype is None else dtype)
        size = math.prod(shape) * dtype.itemsize
        try:
            if size >= ADDRESSABLE:
                raise MemoryError
            with self.computing():
                array: Array = self._cupy.empty(shape, dtype)
        except (MemoryError, self._cupy.cuda.runtime.CUDARuntimeError) as error:
            if getattr(error, "status", OUT_OF_MEMORY) != OUT_OF_MEMORY:
                raise
            free, total = self.memory()
            raise OutOfMemoryError(
                f"{self.name} cannot give {memory_size(size)} for an array of shape {shape}: {memory_size(free)} of "
                f"{memory_size(total)} are free. Use fewer units or a smaller batch, or end other programs that use "
                "the device.",
                needs={f"an array of shape {shape}": size}, free=free,
            ) from None  # fmt: skip
        return array

    def zeros(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        array: Any = self.empty(shape, dtype)
        if array.size:
            with self.computing():
                array.data.memset_async(0, array.nbytes, self.stream)
        return array  # type: ignore[no-any-return]

    def from_host(self, array: Array, dtype: Any = None) -> Array:
        """The values of a host array in a new one on this device, converted on the host; an array that is on this
        device already stays as it is where it fits.
        """
        dtype = np.dtype(array.dtype if dtype is None else dtype).newbyteorder("=")
        here = isinstance(array, self._cupy.ndarray)
        if here and array.dtype == dtype and array.flags.c_contiguous:
            return array
        out = self.empty(array.shape, dtype)
        if isinstance(array, LazyRows):
            each = max(1, BLOCK_BYTES * len(array) // array.nbytes)
            for start in range(0, len(array), each):
                self.copy_in(out[start : start + each], array[start : start + each])
        else:
            self.copy_in(out, array)
        return out

    def to_host(self, array: Array) -> Array:
        """A NumPy copy of a device array; waits for all that was asked of the device before."""
        host: Array = np.empty(array.shape, array.dtype)
        array = array if array.flags.c_contiguous else self.copy(array)
        with self._shared.waiting("the device"):
            array.get(self.stream, out=host)  # type: ignore[attr-defined]
        return host

    def copy(self, array: Array) -> Array:
        out = self.empty(array.shape, array.dtype)
        self.copy_in(out, array)
        return out

    def copy_in(self, destination: Array, source: Array) -> None:
        """destination[...] = source, a host array or one on this device, which may be smaller by leading axes. The
        dtype may change; the host's arrays are converted there. A host array may be changed as soon as this returns.
        """
        with self.computing():
            if isinstance(source, self._cupy.ndarray):
                self._copy_within(destination, source)
                return
            source = np.asarray(source)
            tail = destination.shape[destination.ndim - source.ndim :]
            if not destination.flags.c_contiguous:
                values = self.empty(destination.shape, destination.dtype)
                self.copy_in(values, source)
                self._copy_within(destination, values)
            elif destination.nbytes > BLOCK_BYTES and tail == source.shape and source.ndim < destination.ndim:
                members = destination.reshape(-1, *source.shape)  # sent once, and then copied on the device
                self._shared.staging.send(members[0], source)
                done = 1
                while done < len(members):
                    to = members[done : 2 * done]
                    self._copy_within(to, members[: len(to)])
                    done += len(to)
            else:
                self._shared.staging.send(destination, np.broadcast_to(source, destination.shape))

    def _copy_within(self, destination: Any, source: Any) -> None:
        if source.device.id != self.index:
            raise InputError(
                f"an array on cuda:{source.device.id} cannot be copied to {self.name}: put all arrays on one device."
            )
        alike = (destination.shape, destination.dtype) == (source.shape, source.dtype)
        if alike and not source.size:
            return
        if alike and (found := _parts(destination, source)) is not None:
            parts, size, steps = found
            if parts == 1:
                destination.data.copy_from_device_async(source.data, size, self.stream)
                return
            runtime = self._cupy.cuda.runtime
            runtime.memcpy2DAsync(
                destination.data.ptr, steps[0], source.data.ptr, steps[1], size, parts, runtime.memcpyDeviceToDevice,
                self.stream.ptr,
            )  # fmt: skip
        else:  # by a kernel that CuPy compiles, which takes long when it is first used
            destination[...] = source

    def adopt(self, value: Any, name: str) -> Array | None:
        place = cuda_place(value)
        if place is None:
            return None
        if place == "cuda":  # the interface does not say which
            pointer = value.__cuda_array_interface__["data"][0]
            found = self._cupy.cuda.runtime.pointerGetAttributes(pointer).device if pointer else self.index
            place = f"cuda:{found}"
        if place != self.name:
            raise InputError(
                f"{name} lies on {place}, but the network on {self.name}. Copy it there (with "
                f"cupy.cuda.Device({self.index}): {name} = cupy.asarray({name})), or make the network with "
                f"device='{place}'."
            )
        if isinstance(value, self._cupy.ndarray):
            return value  # type: ignore[no-any-return]
        try:
            with self.computing():  # the stream that the other library is told to be in order with
                take = self._cupy.from_dlpack if hasattr(value, "__dlpack__") else self._cupy.asarray
                array: Array = take(value)
        except Exception as error:  # whatever another library raises when it cannot hand its memory over
            raise InputError(f"{name} cannot be read as an array: {type(value).__name__}: {error}.") from None
        return array

    def mark(self) -> Any:
        """An event of the stream."""
        event = self._cupy.cuda.Event()
        event.record(self.stream)
        return event

    def microseconds(self, begin: Any, end: Any) -> float:
        end.synchronize()
        return float(self._cupy.cuda.get_elapsed_time(begin, end)) * 1e3

    def wait(self, mark: Any) -> None:
        self._shared.wait(mark)

    def watch_waits(self, waiting: Callable[[str], AbstractContextManager[None]]) -> None:
        """Lets the host wait for this device, in whatever network and thread, within contexts made by `waiting`."""
        self._shared.waiting = waiting

    def synchronize(self) -> None:
        """Waits until the device has done all that was asked of it, also on the default stream."""
        with self._shared.device:
            self.wait(self._cupy.cuda.Stream.null)
            self.wait(self.stream)

    def differing(self, pairs: Sequence[tuple[Array, Array]]) -> Array:
        differing, (block, most) = self.zeros((len(pairs),), np.uint32), COMPARING
        with self.computing():
            for found, pair in zip(differing.reshape(-1, 1), pairs, strict=True):
                if pair[0].size:
                    a, b = self._bytes(*pair)
                    parts, n = a.shape
                    grid = min(-(-n // block), max(1, most // parts)), 1, parts
                    self.kernels.launch("compare", (), grid, (block,), a=a, b=b, differing=found, n=n)()
        return self.to_host(differing) > 0

    def _bytes(self, *alike: Any) -> list[Array]:
        """Views arrays of one shape and dtype as bytes, (parts, bytes of each)."""
        found = _parts(*alike)
        if found is None or found[0] > GRID_LIMITS[2]:
            return self._bytes(*map(self.copy, alike))
        parts, size, steps = found
        return [
            self._cupy.ndarray((parts, size), np.uint8, array.data, (step, 1))
            for array, step in zip(alike, steps, strict=True)
        ]

    def prepare(self, operations: Sequence[Operation]) -> None:
        dry_run = self.make_dry_run(self)  # where binding takes no memory
        for operation in operations:
            if binder := getattr(self.ops, operation.name, None):  # none: of an operation that is no device's
                deque(binder(dry_run.on_branch(operation.branch), *operation.arguments.values()), maxlen=0)
        self.compile(dry_run.needed_kernels.values())

    def compile(self, kernels: Iterable[Instance]) -> int:
        return self.kernels.compile(kernels)

    def capture(self, nodes: Sequence[Node]) -> Call:
        """All that the operations launch, as one CUDA graph: calling it queues them on the stream. Each of them must
        have run before. The device has to be the current one when it is called."""
        with self.computing():
            return self._shared.graphs.capture(nodes if self.side_by_side else in_a_row(nodes))

    def double_buffer(self, forms: Sequence[Form], buffers: int = BUFFERS) -> CudaDoubleBuffer:
        return CudaDoubleBuffer(self, self.stream, forms, buffers)

    def with_own_scratch(self) -> CudaDevice:
        """This device itself: launches run one after another, and none reads what another left in scratch memory."""
        return self

    def on_branch(self, branch: int) -> CudaDevice:
        """This device with scratch memory and tickets of that branch: those of the other may be in use meanwhile.
        Graphs run one after another, and so share them."""
        twin = copy.copy(self)
        twin.branch = branch
        return twin

    def report(self, seconds: float) -> Iterator[Check]:
        direct, compiled = self.blas.direct, len(self.kernels.compiled)
        again = "" if direct else f"results are as good, but steps take longer; {setup.INSTALL}"
        tf32 = "; TF32 on request" if direct and not setup.precision_obstacle("TF32", self.index) else ""
        yield Check("products", True, self.blas.reason + tf32, again)
        yield Check("epilogues", True, self.epilogues.report())
        yield Check("kernels", True, f"{compiled} compiled, or found compiled, and run, in {seconds:.1f} s")

    def address(self, array: Array) -> int:
        return int(array.data.ptr)  # type: ignore[attr-defined]

    def tickets(self, count: int) -> Array:
        """`count` counters (uint32) that are zero whenever no kernel runs: each kernel leaves them so. All launches
        of a branch share them, since they run one after another.
        """
        with self._shared.lock:
            held = self._shared.tickets.get(self.branch)
            if held is None or held.size < count:
                held = self.zeros((max(TICKETS, 1 << (count - 1).bit_length()),), np.uint32)
                self._shared.tickets[self.branch] = held
            return held[:count]

    def reset_tickets(self) -> None:
        held: Any
        for held in list(self._shared.tickets.values()):
            with self.computing():
                held.data.memset_async(0, held.nbytes, self.stream)


def _parts(*alike: Any) -> tuple[int, int, list[int]] | None:
    """Of which contiguous parts arrays of one shape and dtype consist, one step after another: how many, the bytes of
    each, and the step of each array. None where one of them does not."""
    first = alike[0]
    if all(array.flags.c_contiguous for array in alike):
        return 1, first.nbytes, [first.nbytes] * len(alike)
    item = first.itemsize
    elements = [common_stride(array.shape, array.strides, item) for array in alike]
    if None not in elements:
        parts, size, steps = first.size, item, [stride * item for stride in elements if stride is not None]
    elif all(common_stride(array.shape[1:], array.strides[1:], item) == 1 for array in alike):
        parts, size, steps = len(first), first.nbytes // len(first), [array.strides[0] for array in alike]
    else:
        return None
    return (parts, size, steps) if all(size <= step <= MAX_PITCH for step in steps) else None
