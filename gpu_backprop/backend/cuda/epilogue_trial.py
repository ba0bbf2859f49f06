"""A trial of operations against those that do the same at once: whether their results are equal, and which is faster.

The numbers are small integers and halves whose sums are exact in every dtype, so that equal means equal.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from gpu_backprop.backend.branches import Node
from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.formula import Activation, Array, Call
from gpu_backprop.backend.operation import Operation, account_of
from gpu_backprop.backend.operations import CudaOperations

TERMS = 128
"""How many terms of a sum are not 0, about: so that it is less than 128, and a half more of it exact in bfloat16."""

PERIOD = (1 << 20) + 7
"""How many numbers are drawn; a larger array repeats them, out of step with its rows."""

HALVES = "bias", "s", "aux"
"""The parameters of operations that get odd multiples of ½, so that no z is 0 unless it is meant to be."""

ALL_DIFFERENT, ZERO, NAN, RANDOM = "all z different from 0", "z = 0", "NaN", "random"
REPEATS, ROUNDS, MILLISECOND = 20, 5, 1e3
GAIN = 0.98
"""What part of the time of plain operations an epilogue may take: a smaller gain is not told from chance."""

LONG = 50 * MILLISECOND
"""The µs of a product that is long: beside its sums one more pass over its result is less than what GAIN leaves."""

EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}

AT_ZERO = "its relu′(0) is 1"


class _Side:
    """One of the two ways: its operations, bound to scratch memory."""

    def __init__(self, device: Any, operations: Sequence[Operation]) -> None:
        self.device = device
        self._graph: Call | None = None
        self._repeats = 1
        sizes = {device.address(array): array.nbytes for o in operations for _, array in _arrays(o)}
        self._memory = {address: device.empty((size,), np.uint8) for address, size in sizes.items()}
        self.operations = [self._bound(operation) for operation in operations]
        self.inputs: list[tuple[str, Array]] = []  # what is read before it is written
        self.outputs: dict[int, Array] = {}
        for operation in operations:
            written = {name for name, _ in _account(operation).arrays(operation.arguments)[1]}
            fresh = written & set(_account(operation).writes)
            for name, array in _arrays(operation):
                if device.address(array) not in self.outputs and name not in fresh:
                    self.inputs.append((name, array))
            self.outputs |= {device.address(a): a for name, a in _arrays(operation) if name in written}

    def _bound(self, operation: Operation) -> Operation:
        given = {
            name: _view(self._memory[self.device.address(value)], value) if hasattr(value, "nbytes") else value
            for name, value in operation.arguments.items()
        }
        bind = partial(getattr(self.device.ops, operation.name), self.device, *given.values())
        return replace(operation, arguments=given, bind=bind)

    def run(self) -> None:
        for operation in self.operations:
            for call in operation.calls:
                call()

    def fill(self, case: str) -> None:
        """Fills what is read with numbers that depend on what it is to the operation alone."""
        x = next(array for name, array in self.inputs if name == "a")
        for name, array in self.inputs:
            host = np.empty(array.nbytes, np.uint8)
            view = _view(host, array)
            view[...] = _numbers(name, array.shape, case)
            if case == ZERO and name in ("a", "b"):  # of z = x@W + b only x is 0, and no number of ∇y
                view[...] = array is not x
            self._memory[self.device.address(array)].set(host)

    def results(self, addresses: Sequence[int]) -> Iterator[Array]:
        """Yields copies on the host of what was written there."""
        for address in addresses:
            yield _view(self.device.to_host(self._memory[address]), self.outputs[address])

    def microseconds(self) -> float:
        """Returns the time of one run on the device, where a graph has several of them."""
        device = self.device
        if self._graph is None:
            once = self.timed(self.run)
            self._repeats = max(1, min(REPEATS, int(MILLISECOND / max(once, 1))))
            self._graph = device.capture([Node(operation) for operation in self.operations * self._repeats])
            self._graph()
        return self.timed(self._graph) / self._repeats

    def timed(self, call: Call) -> float:
        """Returns the µs on the device from before a call to behind what it has queued."""
        begin = self.device.mark()
        call()
        return float(self.device.microseconds(begin, self.device.mark()))


class Trial:
    """Operations, and those with an epilogue that may take their place, on memory of their own.

    Raises:
        UnsupportedEpilogueError: the library has no such product.
        OutOfMemoryError: the device has no memory for it.
    """

    def __init__(self, device: Any, plain: Sequence[Operation], joined: Sequence[Operation]) -> None:
        self._plain, self._joined = _Side(device, plain), _Side(device, joined)
        self._common = [address for address in self._joined.outputs if address in self._plain.outputs]
        functions = {o.arguments["f"].name for o in plain if isinstance(o.arguments.get("f"), Activation)}
        self._relu = "relu" in functions
        dtype = next(o.arguments["a"].dtype.name for o in plain if o.name == "matmul")
        self._rounding = 0.0 if functions <= {"relu"} else 16 * EPSILON[dtype]
        slopes = [a for o in plain if o.name == "activation_gradient" for a in o.writes.values()]
        self._gradients = {device.address(array) for array in slopes} if self._relu else set()

    def is_long(self) -> bool:
        """Tells whether the plain operations take so long that none of it can be gained."""
        self._plain.fill(ALL_DIFFERENT)
        self._plain.run()  # compiles and loads
        return self._plain.timed(self._plain.run) > LONG

    def compare(self) -> str:
        """Compares the results, also where z is 0 and where it is NaN, and those of several runs bit by bit.

        Returns how the slope of relu differs where z is 0, and nothing does elsewhere; "": it does not.

        Raises:
            DeviceError: the results differ otherwise.
        """
        at_zero = ""
        for case in (ALL_DIFFERENT, ZERO, NAN):
            results = (self._results(side, case) for side in (self._plain, self._joined))
            for address, want, got in zip(self._common, *results, strict=True):
                if self._equal(want, got):
                    continue
                if case != ZERO or address not in self._gradients:
                    raise DeviceError(f"the results differ where the case is: {case}")
                at_zero = AT_ZERO
        runs = [[array.tobytes() for array in self._results(self._joined, RANDOM)] for _ in range(3)]
        if runs.count(runs[0]) < len(runs):
            raise DeviceError("the results of two runs differ")
        return at_zero

    def _results(self, side: _Side, case: str) -> list[Array]:
        side.fill(case)
        side.run()
        return list(side.results(self._common))

    def _equal(self, want: Array, got: Array) -> bool:
        """Tells whether the results are equal; but for the rounding of a function, to the last bit."""
        expected, found = (np.asarray(array, np.float64) for array in (want, got))
        missing = np.isnan(expected)
        tolerance = self._rounding * max(1.0, np.abs(expected[~missing]).max(initial=0))
        either = np.isnan(found) | (np.isfinite(found) & self._relu)  # whose epilogue makes numbers of NaN
        return bool(np.where(missing, either, np.abs(expected - found) <= tolerance).all())

    def is_faster(self) -> bool:
        """Tells whether the operations with an epilogue take less time, of several measurements in turn."""
        times = [(self._plain.microseconds(), self._joined.microseconds()) for _ in range(ROUNDS)]
        plain, joined = (min(column) for column in zip(*times, strict=True))
        return bool(joined <= GAIN * plain)


def _account(operation: Operation) -> Any:
    return account_of(getattr(CudaOperations, operation.name))


def _arrays(operation: Operation) -> list[tuple[str, Array]]:
    return [(name, value) for name, value in operation.arguments.items() if hasattr(value, "nbytes")]


def _view(memory: Any, array: Array) -> Any:
    """Memory, of the host or the device, as an array of that form, its rows without gaps; transposed if it is."""
    flipped = array.ndim > 1 and array.strides[-1] > array.strides[-2]
    shape = (*array.shape[:-2], *array.shape[:-3:-1]) if flipped else array.shape
    view = memory.view(array.dtype).reshape(shape)
    return view.swapaxes(-1, -2) if flipped else view


def _numbers(name: str, shape: tuple[int, ...], case: str) -> Array:
    """Draws what the parameter of that name gets: the same for all operations that have it."""
    role = "halves" if name in HALVES else name
    rng = np.random.default_rng(zlib.crc32(role.encode()))
    count = min(int(np.prod(shape)), PERIOD)
    if case == RANDOM:
        return np.resize(rng.normal(0, 1, count), shape)
    values = rng.integers(-3, 3, count) + 0.5 if role == "halves" else rng.integers(-1, 2, count).astype(np.float64)
    if name == "a":
        values *= rng.random(count) < TERMS / shape[-1]
    values = np.resize(values, shape)
    if case == ZERO and name == "bias":
        values[...] = 0
    if case == NAN and name in ("a", "b"):
        values[..., -1, -1] = np.nan
    return values
