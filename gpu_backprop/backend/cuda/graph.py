"""Captures the launches of a plan in a CUDA graph, which is one launch."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from gpu_backprop.backend.branches import BRANCHES, MAIN, RANKS, Node
from gpu_backprop.backend.cuda.products import Products
from gpu_backprop.backend.errors import DeviceError, one_line
from gpu_backprop.backend.formula import Array, Call
from gpu_backprop.backend.operation import Operation

_capturing = threading.Lock()  # of all devices: while one has garbage collection off, no other may turn it on


class GraphCapture:
    """Captures the plans of one device, on streams of its own, one for each branch.

    On the stream that the plans run on, what another thread launches meanwhile would be captured instead of being run,
    and nobody could use CUDA's default stream. So every launch is bound again, to streams that nothing else uses. The
    graph is launched on `stream`, that of the plans and of `products`, on the current device: one graph runs after
    another, so that all share what belongs to a branch.

    Raises:
        DeviceError: products cannot be captured.
    """

    def __init__(self, cupy: Any, stream: Any, products: Products) -> None:
        if not products.direct:
            raise DeviceError(f"matrix products cannot be captured: {products.reason}")
        self._cupy, self._plans = cupy, stream
        self._streams = [cupy.cuda.Stream(non_blocking=True) for _ in BRANCHES]
        for stream in self._streams[:RANKS]:  # there are no products on that one
            self._prepare(products, stream)

    def _prepare(self, products: Products, stream: Any) -> None:
        """Runs a product on a capturing stream: the first one there may allocate, which a captured one may not. The
        waits keep it behind what still uses the memory that its operands get, and before what gets that next."""
        a: Array = self._cupy.zeros((8, 8), "float32")
        calls = products.matmul(a, a, self._cupy.empty_like(a))
        stream.wait_event(self._mark(self._plans))
        for call in calls:
            call.on(stream)()  # type: ignore[attr-defined]
        self._plans.wait_event(self._mark(stream))

    def _mark(self, stream: Any) -> Any:
        """Returns an event: what the stream has been given until now."""
        event = self._cupy.cuda.Event(disable_timing=True)
        event.record(stream)
        return event

    def capture(self, nodes: Sequence[Node]) -> Call:
        """Captures all launches of the nodes' operations as one bound call, which holds on to what they use.

        Each of them must have run before, so that all it needs is compiled, loaded and allocated. The device must
        be the current one, here and when the call runs.

        Raises:
            DeviceError: an operation cannot be captured; the message names it and says why.
        """
        main = self._streams[MAIN]
        with _capturing, main, _no_garbage_collection():
            launches = [(node, self._rebind(node)) for node in nodes]
            try:
                # Thread-local: other threads may allocate or wait; this one may not, even where the hook misses it.
                main.begin_capture(self._cupy.cuda.runtime.streamCaptureModeThreadLocal)
                with _no_allocation(self._cupy):
                    self._record_all(launches)
                graph = main.end_capture()
            except BaseException as error:
                with suppress(self._cupy.cuda.runtime.CUDARuntimeError):  # which says again that it has failed
                    main.end_capture()
                if isinstance(error, self._cupy.cuda.runtime.CUDARuntimeError):
                    raise DeviceError(f"CUDA refuses the graph: {error}") from error
                raise
        call: Call = partial(self._cupy.cuda.runtime.graphLaunch, graph.graphExec, self._plans.ptr)
        vars(call)["holds"] = graph, self._plans, tuple(nodes)
        return call

    def _rebind(self, node: Node) -> list[Call]:
        calls = node.operation.calls
        if not all(hasattr(call, "on") for call in calls):
            raise DeviceError(f"{_name(node.operation)} is more than launches that can go to another stream")
        return [call.on(self._streams[node.branch]) for call in calls]  # type: ignore[attr-defined]

    def _record_all(self, launches: Sequence[tuple[Node, Sequence[Call]]]) -> None:
        """Forks the streams of the other branches, captures each branch on its own, and joins them."""
        main = self._streams[MAIN]
        forks = [self._streams[branch] for branch in {node.branch for node, _ in launches} - {MAIN}]
        for stream in forks:
            stream.wait_event(self._mark(main))
        awaited, marks = {place for node, _ in launches for place in node.after}, dict[int, Any]()
        for place, (node, calls) in enumerate(launches):
            stream = self._streams[node.branch]
            for before in node.after:
                stream.wait_event(marks[before])
            self._record(node.operation, calls)
            if place in awaited:
                marks[place] = self._mark(stream)
        for stream in forks:
            main.wait_event(self._mark(stream))

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
