"""Device: where the arrays of a network live, and the few things that are done there besides its operations."""

from __future__ import annotations

import copy
import importlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np

from gpu_backprop.backend.branches import Node
from gpu_backprop.backend.check import Check
from gpu_backprop.backend.errors import DeviceError, InputError, MissingExtraError, OutOfMemoryError, install
from gpu_backprop.backend.formula import Array, Call, Calls
from gpu_backprop.backend.operation import Operation
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.text_table import columns

ALIGNMENT = 256
"""Bytes: where buffers, and the slices of a flat one, begin. Serves every vector width of both back ends."""

BUFFER = 128
"""How many numbers NumPy's own buffer holds. An operand that is broadcast is copied into it, by default 8,192 numbers
in every call, unless rows are longer than that. With a small one NumPy reads long rows where they lie."""

DLPACK_CUDA = (2, 13)
"""The device types of DLPack (dlpack.h) whose memory lies on a CUDA device: kDLCUDA and kDLCUDAManaged."""

BUFFERS = 2
"""In a double buffer."""

Form = tuple[tuple[int, ...], np.dtype[Any]]
"""The shape and dtype of an array."""

Advise = Callable[[int], tuple[str, int | None]]
"""What to do where so many bytes are free and more are needed: a sentence, and the batch size that it names."""


Fusion = Callable[[Any, list[Operation]], list[Operation]]
"""Takes a Plan and its operations, and returns operations that do the same. It may take memory from the plan."""


class Processors(NamedTuple):
    """What a device computes with: how many multiprocessors, how many products and sums of its dtype each begins in a
    cycle, and how many million cycles a second it has at least when it is busy."""

    multiprocessors: int
    lanes: float
    megahertz: float


class Device:
    """Where the arrays of a network live and which operations work on them.

    Attributes:
        name: "cpu" or "cuda:0".
        reason: why this device, in a sentence.
        dtype: the working dtype of its networks: that of x, z, y and their gradients.
        master: the dtype of parameters, their gradients and moments: float32 where dtype has 16 bits, else dtype.
        tf32: whether float32 products may round their operands to TF32; never on a CPU.
        xp: the array module, numpy or cupy.
        ops: its operations: the module numpy_ops, compiled.ops or cuda.ops.
        scratch: the memory that `work` shares out, by dtype, slot and branch.
        branch: of a captured graph, that operations are bound for.
        needed: the bytes by kind that `require` found there last.
        threads: how many of a CPU's threads work at once.
        bus_id: of a CUDA device, by which those of a machine are told apart; else "".
    """

    threads = 1
    branch = 0
    bus_id = ""

    # Capabilities -----------------------------------------------------------------------------------------------------

    on_host = True
    """Its memory is the host's: host arrays, and memory maps, can be read where they lie."""

    gathered_dtypes: tuple[str, ...] = ()
    """The dtypes of x that `gather` converts on the way, so that data need not be converted beforehand."""

    counts_memory = False
    """`memory` tells how many bytes are free."""

    streams = False
    """Data may stay on the host and stream in while steps run."""

    block = 0
    """The rows, at most, of a plan that `any_rows` makes serve any number of them."""

    has_graphs = False
    """A plan can be captured as one call, see `capture`."""

    trains_epochs_in_one_launch = False
    """`train_epoch` is among its operations."""

    compiles_kernels = False
    """Its operations are kernels that were compiled for it."""

    fusions: Sequence[Fusion] = ()
    """What joins operations of a plan that this device can do at once, in the order in which they are tried."""

    def __init__(self, name: str, reason: str, dtype: str, xp: ModuleType, ops: Operations[Any]) -> None:
        self.name, self.reason, self.dtype, self.xp, self.ops = name, reason, storage(dtype), xp, ops
        self.master: np.dtype[Any] = np.dtype(np.float32) if self.dtype.itemsize == 2 else self.dtype
        self.tf32 = False
        self.needed: dict[str, int] = {}
        self.scratch: dict[tuple[str, int, int], Array] = {}

    def __repr__(self) -> str:
        return f"Device({self.name}, {self.dtype.name}: {self.reason})"

    def empty(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """Uninitialised memory whose first byte is aligned; NumPy's own alignment is 16 bytes."""
        dtype = np.dtype(self.dtype if dtype is None else dtype)
        size = math.prod(shape) * dtype.itemsize
        try:
            raw: Array = np.empty(size + ALIGNMENT, np.uint8)
        except (MemoryError, ValueError):  # NumPy's ValueError: beyond the address space
            raise OutOfMemoryError(
                f"{self.name} cannot give {memory_size(size)} for an array of shape {shape}. "
                "Use fewer units or a smaller batch.",
                needs={f"an array of shape {shape}": size},
            ) from None
        start = -raw.__array_interface__["data"][0] % ALIGNMENT
        array: Array = raw[start : start + size].view(dtype)
        return array.reshape(shape)

    def kind(self, name: str) -> AbstractContextManager[None]:
        """Marks what is allocated meanwhile as of this kind; only a DryRunDevice counts."""
        return nullcontext()

    def memory(self) -> tuple[int, int]:
        """(free, total) bytes of memory, where the device `counts_memory`."""
        raise NotImplementedError(f"{self.name} does not count its memory.")

    @property
    def processors(self) -> Processors | None:
        """What it computes with, where the device `trains_epochs_in_one_launch`; None: it is of a kind that this
        version does not know."""
        return None

    @property
    def block_memory(self) -> int:
        """The bytes that a network may have for itself where the device `trains_epochs_in_one_launch`."""
        raise NotImplementedError(f"{self.name} trains no epoch in one launch.")

    def require(self, needs: Mapping[str, int], what: str, advise: Advise | None = None) -> None:
        """Raises OutOfMemoryError where the device cannot give so many bytes; here nothing is known beforehand."""

    def zeros(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        array = self.empty(shape, dtype)
        array[...] = 0
        return array

    def work(self, shape: tuple[int, ...], dtype: Any = None, slot: int = 0) -> Array:
        """Scratch memory, shared by all operations of a branch: it holds its values for one operation only."""
        dtype = np.dtype(self.dtype if dtype is None else dtype)
        size, key = math.prod(shape), (dtype.name, slot, self.branch)
        if key not in self.scratch or self.scratch[key].size < size:
            self.scratch[key] = self.empty((size,), dtype)
        return self.scratch[key][:size].reshape(shape)

    def with_own_scratch(self) -> Device:
        """This device for plans that may run while its other plans do, which they would disturb in shared scratch."""
        twin = copy.copy(self)
        twin.scratch = {}
        return twin

    def on_branch(self, branch: int) -> Device:
        """This device for operations of a branch, where these run beside those of another."""
        return self

    def reset_tickets(self) -> None:
        """Brings counters that kernels leave at 0, and expect so, back to it: after a run that did not end."""

    def from_host(self, array: Array, dtype: Any = None) -> Array:
        """The values of a host array on this device; on a CPU the array itself where it already fits."""
        dtype = np.dtype(array.dtype if dtype is None else dtype)
        if array.dtype == dtype and array.flags.c_contiguous:
            return array
        out = self.empty(array.shape, dtype)
        np.copyto(out, array, casting="unsafe")
        return out

    def to_host(self, array: Array) -> Array:
        """A NumPy copy of a device array; waits for the device."""
        return np.array(array)

    def copy(self, array: Array) -> Array:
        """A new array on this device with the same values."""
        return array.copy()

    def copy_in(self, destination: Array, source: Array) -> None:
        """destination[...] = source, which may be smaller by a leading axis; the dtype may change."""
        destination[...] = source

    def copying(self, destination: Array, source: Array) -> Calls:
        """What `copy_in` does, bound once to be done often."""
        yield partial(self.copy_in, destination, source)

    def shuffle(self, generator: np.random.Generator, order: Array) -> None:
        """What `shuffle_by_numpy` does, in whatever way is the quickest here."""
        shuffle_by_numpy(generator, order)

    def adopt(self, value: Any, name: str) -> Array | None:
        """`value` as an array of this device where it lies on one already, without a copy; None for host values.

        Raises:
            InputError: it lies on another device; the message says where, and what to do.
        """
        place = cuda_place(value)
        if place is None:
            return None
        raise InputError(
            f"{name} lies on {place}, but the network is on the CPU. Give the host's copy ({name}.get() of a CuPy "
            f"array, {name}.cpu() of a PyTorch tensor), or make the network with device='{place}'."
        )

    def mark(self) -> Any:
        """A moment in the device's work, to measure times from and to."""
        return time.perf_counter()

    def microseconds(self, begin: Any, end: Any) -> float:
        """The time from one mark to a later one; waits for that."""
        return float(end - begin) * 1e6

    def wait(self, mark: Any) -> None:
        """Waits until all is done that was asked of the device before a mark; on a CPU it is."""

    def synchronize(self) -> None:
        """Waits until the device has done all that was asked of it; on a CPU it has."""

    def differing(self, pairs: Sequence[tuple[Array, Array]]) -> Array:
        """Which of these pairs, of arrays of one shape and dtype, are not the same in every bit: truth values on the
        host. A NaN is equal to itself there, and −0 is not 0."""
        return np.array([self.to_host(a).tobytes() != self.to_host(b).tobytes() for a, b in pairs], np.bool_)

    def prepare(self, operations: Sequence[Operation]) -> None:
        """Compiles the kernels of operations, several at once, where binding would compile one after another."""

    def compile(self, kernels: Iterable[Any]) -> int:
        """Compiles those of some `DryRunDevice.needed_kernels` that are not compiled yet, several at once, and returns
        how many these were.

        Raises:
            DeviceError: the first of them that cannot be compiled.
        """
        return 0

    def sequence(self, calls: Iterable[Call], repeats: int = 1) -> tuple[Call, ...]:
        """Returns calls that do the same as these in turn, so many times, and fewer where the device has a way to."""
        return tuple(calls) * repeats

    def any_rows(self, calls: Sequence[Call], x: Array, y: Array) -> AnyRows | None:
        """Returns what does for any number of rows what these calls, of a forward pass, do for x, a block of them, of
        which they make y; None: the calls are for their own rows alone."""
        return None

    def needs_context(self, calls: Sequence[Call]) -> bool:
        """Tells whether calls have to be made inside `computing`."""
        return True

    def at_once(self, calls: Sequence[Call]) -> int:
        """Returns how many times, at most, `sequence` had better do these calls at once: more than once where that is
        one call, which does not last long."""
        return 1

    def capture(self, nodes: Sequence[Node]) -> Call:
        """All that the operations of a plan do, see `Plan.nodes`, as one bound call.

        Raises:
            DeviceError: it cannot be; the message says why. Nothing has been done then.
        """
        raise DeviceError(f"{self.name} has no graphs; they are for CUDA devices.")

    def double_buffer(self, forms: Sequence[Form], buffers: int = BUFFERS) -> DoubleBuffer:
        """Makes a double buffer of an array for each form; or with another number of buffers."""
        arrays = [self.empty((buffers * shape[0], *shape[1:]), dtype) for shape, dtype in forms]
        return HostDoubleBuffer(arrays, buffers)

    def report(self, seconds: float) -> Iterator[Check]:
        """Tells how its products and kernels came about, after a first step of so many seconds."""
        yield from ()

    def address(self, array: Array) -> int:
        """Where the array's first element lies."""
        return int(array.__array_interface__["data"][0])

    def current(self) -> AbstractContextManager[None]:
        """The context in which expressions on its arrays are written out; on a CPU any will do."""
        return nullcontext()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """The context in which plans run: overflow becomes inf or NaN, which the trainer looks for, not a warning."""
        with np.errstate(all="ignore"):  # which also brings the buffer size back
            np.setbufsize(BUFFER)
            yield


class AnyRows(Protocol):
    """What works out any number of rows."""

    def few(self, x: Array) -> Array:
        """Returns y, (rows, outputs), of x, (rows, inputs), no more rows than the block has."""

    def takes(self, x: Array) -> bool:
        """Tells whether all rows of x may be given at once, because they are read where they lie."""

    def __call__(self, x: Array, y: Array) -> None:
        """Makes y, (rows, outputs), of x, (rows, inputs)."""


class DoubleBuffer(Protocol):
    """Arrays of two buffers, filled from the host: one while steps read the other.

    Attributes:
        arrays: on the device; the second buffer follows the first.
    """

    arrays: list[Array]

    def pinned(self, buffer: int) -> list[Array]:
        """Returns the host's arrays of a buffer, to be filled; waits until what was in them has been copied."""

    def send(self, buffer: int, rows: int) -> None:
        """Queues the copies of the first rows of a buffer, behind the steps that were queued on it before."""

    def acquire(self, buffer: int) -> None:
        """Makes what is queued from here on wait for the copies that were sent to this buffer last."""

    def release(self, buffer: int) -> None:
        """Lets the next copies into a buffer begin when what was queued on it up to here is done."""


class HostDoubleBuffer(DoubleBuffer):
    """A double buffer where steps read the host's memory: what fills a buffer fills the very arrays, and a step is over
    when the next one begins."""

    def __init__(self, arrays: list[Array], buffers: int) -> None:
        self.arrays, self._buffers = arrays, buffers

    def pinned(self, buffer: int) -> list[Array]:
        return [np.split(array, self._buffers)[buffer] for array in self.arrays]

    def send(self, buffer: int, rows: int) -> None:
        pass

    def acquire(self, buffer: int) -> None:
        pass

    def release(self, buffer: int) -> None:
        pass


def shuffle_by_numpy(generator: np.random.Generator, order: Array) -> None:
    """Makes an order, int64 (rows,) on the host, of 0, 1, ... as generator.shuffle leaves that."""
    order[...] = np.arange(len(order))
    generator.shuffle(order)


def memory_size(size: int) -> str:
    """So many bytes, as one would say it."""
    unit, name = next((row for row in ((2**30, "GiB"), (2**20, "MiB")) if size >= row[0]), (2**10, "KiB"))
    return f"{size / unit:,.1f} {name}"


def memory_table(needs: Mapping[str, int]) -> str:
    """So many bytes of each kind, and of all: a line each, in two columns."""
    rows = [(kind, memory_size(size)) for kind, size in {**needs, "in all": sum(needs.values())}.items() if size]
    return "\n".join(f"  {line}" for line in columns(rows, 1))


def storage(dtype: str) -> np.dtype[Any]:
    """The dtype of that name; bfloat16 is ml_dtypes's, since NumPy has none.

    Raises:
        MissingExtraError: bfloat16 without ml_dtypes.
    """
    if dtype == "bfloat16":
        try:
            dtype = importlib.import_module("ml_dtypes").bfloat16
        except ImportError:
            raise MissingExtraError(
                "dtype bfloat16 needs ml_dtypes, which the extras cuda13 and cuda12 bring: "
                f"{install('cuda13')}. Or use float16 or float32."
            ) from None
    return np.dtype(dtype)


def cuda_place(value: Any) -> str | None:
    """Which CUDA device a value lies on, as "cuda:0"; None where it lies in the host's memory. Imports nothing."""
    if isinstance(value, np.ndarray):
        return None
    if hasattr(value, "__dlpack_device__"):
        try:
            kind, index = map(int, value.__dlpack_device__())
        except Exception:  # a class, or an array without memory: whoever reads it says so
            return None
        return f"cuda:{index}" if kind in DLPACK_CUDA else None
    return "cuda" if hasattr(value, "__cuda_array_interface__") else None
