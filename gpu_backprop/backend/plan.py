"""A training step as data: a flat list of operations on buffers that were allocated once.

A plan is built once per number of rows, then run for every minibatch. Everything that can be decided is decided while
it is built: the run only calls. The audit, the trace and a captured CUDA graph read the same list.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Activation, Array, Call, Calls
from gpu_backprop.backend.text_table import format_table, terminal_width

MINIBATCH = "x", "y*", "w"
"""The buffers that hold rows of data."""

KEPT_PLANS = 8
"""How many plans are kept where each number of rows needs one."""


@dataclass(frozen=True)
class Operation:
    """One operation of a plan.

    Attributes:
        name: the binder's name, and the kernel's.
        formula: what it computes, in the names of its buffers.
        reads, writes: these buffers by name.
        flops: floating-point operations: one for each addition, multiplication and function value.
        bytes: memory traffic if all that is read and written passes once.
        launches: how many kernels CUDA needs for it.
        phase: "data", "forward", "loss", "backward" or "update"; "epoch" where it is all of these.
        calls: bound callables that do it; on CUDA each is one launch.
    """

    name: str
    formula: str
    reads: Mapping[str, Array]
    writes: Mapping[str, Array]
    flops: int
    bytes: int
    launches: int
    phase: str
    calls: tuple[Call, ...]


class Plan:
    """Operations in order, and the buffers that they work on.

    On a `DryRunDevice` it can be looked at and not run.

    Args:
        device: where.
        training: whether dropout is active.
        keep: share no buffers and fuse nothing, so that a trace shows every z, y and ∇ on its own.
    """

    def __init__(self, device: Device, training: bool = True, keep: bool = False) -> None:
        self.device, self.training, self.keep = device, training, keep
        self.operations: list[Operation] = []
        self.buffers: dict[str, Array] = {}
        self.memory: dict[str, int] = {}  # bytes of the buffers that are this plan's own, by kind
        self._own: set[int] = set()
        self.phase = "forward"
        self.gate: Array | None = None  # where this is 0, the optimizer changes nothing
        self.loss_scale: Array | None = None  # what the gradient of the loss is multiplied by, one number a model
        self._names: dict[Any, str] = {}
        self._saved: dict[int, SimpleNamespace] = {}
        self._runs: dict[tuple[str, ...], tuple[Call, ...]] = {}

    # Buffers ----------------------------------------------------------------------------------------------------------

    def empty(self, name: str, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """A new buffer of this plan."""
        kind = "minibatch" if name in MINIBATCH else self.phase
        with self.device.kind(kind):
            array = self.device.empty(shape, dtype)
        self.memory[kind] = self.memory.get(kind, 0) + array.nbytes
        self._own.add(self.device.address(array))
        return self.named(name, array)

    def named(self, name: str, array: Array) -> Array:
        """Gives a buffer its name; one that takes another's place is called by the newer name from here on."""
        if self.buffers.setdefault(name, array) is not array:
            raise ValueError(f"two buffers of one plan are called {name!r}")
        self._names[self._identity(array)] = name
        return array

    def name_of(self, array: Array) -> str:
        return self._names.get(self._identity(array), "?")

    def saved(self, layer: object) -> SimpleNamespace:
        """What a layer's backward needs from its forward. It lies here, so that several plans can live at once."""
        return self._saved.setdefault(id(layer), SimpleNamespace())

    def outputs(self) -> dict[str, Array]:
        """Returns by name what it writes and does not own: all that a run of it leaves behind."""
        written = {name: array for o in self.operations for name, array in o.writes.items()}
        return {name: array for name, array in written.items() if self.device.address(array) not in self._own}

    def _identity(self, array: Array) -> tuple[int, tuple[int, ...]]:
        return self.device.address(array), tuple(sorted(array.shape))  # a transposed view is the same buffer

    # Operations -------------------------------------------------------------------------------------------------------

    def add(
        self, name: str, formula: str, calls: Calls, reads: Sequence[Array | None], writes: Mapping[str, Array | None],
        flops: int, launches: int = 1, bytes: int | None = None,
    ) -> None:  # fmt: skip
        """Appends an operation. Buffers that are None are left out; `writes` gives buffers their names from here on.
        `bytes` tells the traffic where it is not all of these buffers, once each."""
        read = {self.name_of(a): a for a in reads if a is not None}
        written = {n: self.named(n, a) for n, a in writes.items() if a is not None}
        if bytes is None:
            bytes = sum(a.nbytes for a in (*read.values(), *written.values()))
        operation = Operation(name, formula, read, written, flops, bytes, launches, self.phase, tuple(calls))
        self.operations.append(operation)
        self._runs.clear()

    def matmul(self, formula: str, a: Array, b: Array, out: Array) -> Array:
        calls = self.device.ops.matmul(self.device, a, b, out)
        self.add("matmul", formula, calls, (a, b), {self.name_of(out): out}, 2 * a.shape[-1] * out.size)
        return out

    def add_bias(self, formula: str, x: Array, bias: Array, z: Array) -> Array:
        calls = self.device.ops.add_bias(self.device, x, bias, z)
        self.add("add_bias", formula, calls, (x, bias), {self.name_of(z): z}, z.size)
        return z

    def bias_activate(self, formula: str, z: Array, bias: Array | None, f: Activation, y: Array, y_name: str) -> Array:
        """y = f(z + b); only a new name where f is the identity, there is no bias and y is z."""
        writes = {} if y is z or bias is None else {self.name_of(z): z}
        if y is not z or bias is not None or f.numpy_value is not None:
            calls = self.device.ops.bias_activate(self.device, z, bias, f, y)
            flops = y.size * ((bias is not None) + (f.numpy_value is not None))
            self.add("bias_activate", formula, calls, (z, bias), {**writes, y_name: y}, flops)
        elif self.name_of(y).startswith("z"):  # a layer that passes its input on has no buffer of its own to name
            self.named(y_name, y)
        return y

    def activation_gradient(
        self, formula: str, grad_y: Array, s: Array | None, f: Activation, grad_z: Array, grad_bias: Array | None,
        grad_z_name: str,
    ) -> Array:  # fmt: skip
        """∇z = ∇y ⊙ f′(s) and ∇b = Σ∇z. For the identity in place, only the sum remains to be done."""
        if f.reads or grad_z is not grad_y:
            launches = 2 if f.rowwise and grad_bias is not None else 1
            flops = grad_z.size * ((4 if f.rowwise else 2) + (grad_bias is not None))
            calls = self.device.ops.activation_gradient(self.device, grad_y, s, f, grad_z, grad_bias)
            writes = {grad_z_name: grad_z} | ({} if grad_bias is None else {self.name_of(grad_bias): grad_bias})
            self.add("activation_gradient", formula, calls, (grad_y, s), writes, flops, launches)
        else:
            self.named(grad_z_name, grad_z)
            if grad_bias is not None:
                self.column_sum(grad_z, grad_bias)
        return grad_z

    def column_sum(self, grad_z: Array, grad_bias: Array) -> None:
        grad_z_name, name = self.name_of(grad_z), self.name_of(grad_bias)
        calls = self.device.ops.column_sum(self.device, grad_z, grad_bias)
        self.add("column_sum", f"{name} = Σ{grad_z_name}", calls, (grad_z,), {name: grad_bias}, grad_z.size)

    def dropout(self, formula: str, x: Array, rate: float, random: Array, y: Array, mask: Array) -> Array:
        calls = self.device.ops.dropout(self.device, x, rate, random, y, mask)
        writes: dict[str, Array | None] = {self.name_of(y): y, self.name_of(mask): mask}
        self.add("dropout", formula, calls, (x, random), writes, 2 * y.size)
        return y

    def multiply(self, formula: str, a: Array, b: Array, out: Array, out_name: str) -> Array:
        calls = self.device.ops.multiply(self.device, a, b, out)
        self.add("multiply", formula, calls, (a, b), {out_name: out}, out.size)
        return out

    def loss(
        self, name: str, formula: str, reads: Sequence[Array | float | None], calls: Calls,
        writes: Mapping[str, Array | None], flops: int,
    ) -> None:  # fmt: skip
        """A loss operation on y or z, the first that it reads."""
        arrays = [a for a in reads if not isinstance(a, float)]
        assert arrays[0] is not None
        self.add(name, formula, calls, arrays, writes, flops * arrays[0].size)

    # Running ----------------------------------------------------------------------------------------------------------

    def run(self, *phases: str) -> None:
        """Runs every operation, or those of the given phases."""
        calls = self._runs.get(phases)
        if calls is None:
            chosen = [o for o in self.operations if not phases or o.phase in phases]
            calls = self._runs[phases] = self.device.sequence(call for o in chosen for call in o.calls)
        try:
            for call in calls:
                call()
        except BaseException:
            self.reset()
            raise

    def reset(self) -> None:
        """Brings the counters that operations expect at 0 back to it: after a run that did not end."""
        with suppress(Exception):  # where the device itself has failed, its own error says so
            self.device.reset_tickets()
        for call in (call for o in self.operations for call in o.calls):
            getattr(call, "reset", lambda: None)()

    def trace(self) -> Iterator[tuple[Operation, dict[str, Array]]]:
        """Runs one operation at a time and yields it with host copies of what it wrote, by name."""
        for operation in self.operations:
            try:
                with self.device.computing():
                    for call in operation.calls:
                        call()
            except BaseException:
                self.reset()
                raise
            yield operation, {name: self.device.to_host(array) for name, array in operation.writes.items()}

    # Accounts ---------------------------------------------------------------------------------------------------------

    def cost(self) -> dict[str, Any]:
        """The sums: operations, launches (on CUDA), flops, bytes moved; the bytes of memory held, and the same by kind:
        "minibatch" (x, y*, w), then the phase whose results they hold."""
        return {
            "operations": len(self.operations),
            "launches": sum(o.launches for o in self.operations),
            "flops": sum(o.flops for o in self.operations),
            "bytes": sum(o.bytes for o in self.operations),
            "memory": sum(self.memory.values()),
            "memory_by_kind": dict(self.memory),
        }

    def describe(self) -> None:
        """Prints the table of operations: formula, shapes, flops and bytes; as much of it as a terminal is wide."""
        print(self._table(terminal_width(sys.stdout)))

    def __str__(self) -> str:
        return self._table(None)

    def _table(self, width: int | None) -> str:
        def shapes(buffers: Mapping[str, Array]) -> str:
            return ", ".join("×".join(map(str, a.shape)) or "1" for a in buffers.values())

        cost = self.cost()
        rows = [
            ("operation", "formula", "shapes", "flops", "bytes"),
            *(
                (o.name, o.formula, f"{shapes(o.reads)} → {shapes(o.writes)}", f"{o.flops:,}", f"{o.bytes:,}")
                for o in self.operations
            ),
            (f"{cost['operations']} operations", "", "", f"{cost['flops']:,}", f"{cost['bytes']:,}"),
        ]
        return format_table(rows, 3, width)


def forget_oldest(plans: dict[Any, Any]) -> None:
    """Makes room for one more plan among those that are kept."""
    while len(plans) >= KEPT_PLANS:
        del plans[next(iter(plans))]
