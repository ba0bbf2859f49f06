"""Captures the launches of a plan in a CUDA graph, which is one launch."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from gpu_backprop.backend.cuda.products import Products
from gpu_backprop.backend.errors import DeviceError, one_line
from gpu_backprop.backend.formula import Array, Call
from gpu_backprop.backend.operation import Operation

_capturing = threading.Lock()  # of all devices: while one has garbage collection off, no other may turn it on


class GraphCapture:
    """Captures the plans of one device, on a stream of its own.

    On the stream that the plans run on, what another thread launches meanwhile would be captured instead of being run,
    and nobody could use CUDA's default stream. So every launch is bound again, to a stream that nothing else uses. The
    graph is launched on `stream`, that of the plans and of `products`, on the current device.

    Raises:
        DeviceError: products cannot be captured.
    """

    def __init__(self, cupy: Any, stream: Any, products: Products) -> None:
        if not products.direct:
            raise DeviceError(f"matrix products cannot be captured: {products.reason}")
        self._cupy, self._plans = cupy, stream
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._prepare(products)

    def _prepare(self, products: Products) -> None:
        """Runs a product on the capturing stream: the first one there may allocate, which a captured one may not. The
        events keep it behind what makes its operands, and before what gets their memory next."""
        before, after = (self._cupy.cuda.Event(disable_timing=True) for _ in range(2))
        a: Array = self._cupy.zeros((8, 8), "float32")
        calls = products.matmul(a, a, self._cupy.empty_like(a))
        before.record(self._plans)
        self._stream.wait_event(before)
        for call in calls:
            call.on(self._stream)()  # type: ignore[attr-defined]
        after.record(self._stream)
        self._plans.wait_event(after)

    def capture(self, operations: Sequence[Operation]) -> Call:
        """Captures all launches of the operations as one bound call, which holds on to what they use.

        Each of them must have run before, so that all it needs is compiled, loaded and allocated. The device must
        be the current one, here and when the call runs.

        Raises:
            DeviceError: an operation cannot be captured; the message names it and says why.
        """
        with _capturing, self._stream, _no_garbage_collection():
            launches = [(operation, self._rebind(operation)) for operation in operations]
            try:
                # Thread-local: other threads may allocate or wait; this one may not, even where the hook misses it.
                self._stream.begin_capture(self._cupy.cuda.runtime.streamCaptureModeThreadLocal)
                with _no_allocation(self._cupy):
                    for operation, calls in launches:
                        self._record(operation, calls)
                graph = self._stream.end_capture()
            except BaseException as error:
                with suppress(self._cupy.cuda.runtime.CUDARuntimeError):  # which says again that it has failed
                    self._stream.end_capture()
                if isinstance(error, self._cupy.cuda.runtime.CUDARuntimeError):
                    raise DeviceError(f"CUDA refuses the graph: {error}") from error
                raise
        call: Call = partial(self._cupy.cuda.runtime.graphLaunch, graph.graphExec, self._plans.ptr)
        vars(call)["holds"] = graph, self._plans, tuple(operations)
        return call

    def _rebind(self, operation: Operation) -> list[Call]:
        if not all(hasattr(call, "on") for call in operation.calls):
            raise DeviceError(f"{_name(operation)} is more than launches that can go to another stream")
        return [call.on(self._stream) for call in operation.calls]  # type: ignore[attr-defined]

    @staticmethod
    def _record(operation: Operation, calls: Sequence[Call]) -> None:
        try:
            for call in calls:
                call()
        except Exception as error:  # of CuPy, of cuBLAS, of CUDA, of the hook below
            raise DeviceError(f"{_name(operation)} cannot be captured: {one_line(error)}") from error


def _name(operation: Operation) -> str:
    return f"the operation {operation.name} ({operation.formula})"


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Turns garbage collection off: it would run in this thread, and might do what is not allowed while capturing, such
    as freeing memory that does not come from CuPy's pool."""
    enabled = gc.isenabled()
    try:
        gc.disable()
        yield
    finally:
        if enabled:
            gc.enable()


def _no_allocation(cupy: Any) -> Any:
    """Makes a context in which this thread gets no memory from CuPy's pool, which would reuse a temporary that a
    captured launch still works on."""

    class Refusal(cupy.cuda.MemoryHook):  # type: ignore[misc]
        name = "gpu_backprop: no allocation while capturing"

        def malloc_preprocess(self, *, size: int, **asked: Any) -> None:
            raise DeviceError(f"it allocates {size:,} bytes of device memory, which a captured operation may not")

    return Refusal()
