"""A training step as data: a flat list of operations on buffers that were allocated once.

A plan is built once per number of rows, then run for every minibatch. Everything that can be decided is decided while
it is built: the run only calls. The audit, the trace and a captured CUDA graph read the same list.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from itertools import groupby
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, Concatenate, ParamSpec

from gpu_backprop.backend.branches import Node, arrange, assign_branches, longest_path
from gpu_backprop.backend.communicator import ALONE, Communicator
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Array, Call, Calls
from gpu_backprop.backend.operation import Operation, account_of
from gpu_backprop.backend.text_table import format_table, terminal_width
from gpu_backprop.display.html import cell_output, table, tag

P = ParamSpec("P")

MINIBATCH = "x", "y*", "w", "all x", "all y*", "all w"
"""The buffers that hold rows of data."""

HEADS = "operation", "formula", "shapes", "flops", "bytes"

KEPT_PLANS = 8
"""How many plans are kept where each number of rows needs one."""


class Plan:
    """Operations in order, and the buffers that they work on.

    On a `DryRunDevice` it can be looked at and not run.

    Args:
        device: where.
        training: whether dropout is active.
        fuse: False: share no buffers and fuse nothing, so that a trace shows every z, y and ∇ on its own.
        communicator: the ranks that run it together, each on its share of a minibatch.
        begin: the first row of this rank's share.

    Attributes:
        first_row: of the part of a minibatch that is being planned. A further part, from another row than `begin` on,
            has the same number of rows as the first or fewer, and works in its buffers.
    """

    def __init__(
        self, device: Device, training: bool = True, fuse: bool = True, communicator: Communicator = ALONE,
        begin: int = 0,
    ) -> None:  # fmt: skip
        self.device, self.training, self.fuse = device, training, fuse
        self.communicator, self.begin = communicator, begin
        self.operations: list[Operation] = []
        self._emitted: Sequence[Operation] = self.operations  # as they were before any of them were joined
        self.buffers: dict[str, Array] = {}
        self.memory: dict[str, int] = {}  # bytes of the buffers that are this plan's own, by kind
        self._own: set[int] = set()
        self.phase = "forward"
        self.first_row = begin
        self.gradient_factor: Array | None = None  # of each model, float64: 0 where the optimizer changes nothing
        self.loss_scale: Array | None = None  # what the gradient of the loss is multiplied by, one number a model
        self._names: dict[Any, str] = {}
        self._saved: dict[int, SimpleNamespace] = {}
        self._runs: dict[tuple[tuple[str, ...], int], tuple[Call, ...]] = {}

    # Buffers ----------------------------------------------------------------------------------------------------------

    def empty(self, name: str, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """A new buffer of this plan; in a further part of a minibatch the memory of that with the same name."""
        if self.first_row > self.begin and name in self.buffers:
            before = self.buffers[name]
            same = before.shape == shape
            return self.named(name, before if same else before.reshape(-1)[: math.prod(shape)].reshape(shape))
        kind = "minibatch" if name in MINIBATCH else self.phase
        with self.device.kind(kind):
            array = self.device.empty(shape, dtype)
        self.memory[kind] = self.memory.get(kind, 0) + array.nbytes
        self._own.add(self.device.address(array))
        return self.named(name, array)

    def named(self, name: str, array: Array) -> Array:
        """Gives a buffer its name; one that takes another's place is called by the newer name from here on."""
        known = self.buffers.setdefault(name, array)
        if known is not array and self.device.address(known) != self.device.address(array):
            raise ValueError(f"two buffers of one plan are called {name!r}")
        self._names[self._identity(array)] = name
        return array

    def name_of(self, array: Array) -> str:
        return self._names.get(self._identity(array), "?")

    def saved(self, layer: object) -> SimpleNamespace:
        """Keeps what a layer's backward needs from its forward: here, so that several plans can live at once."""
        return self._saved.setdefault(id(layer), SimpleNamespace())

    def outputs(self) -> dict[str, Array]:
        """Returns by name what it writes and does not own: all that a run of it leaves behind."""
        written = {name: array for o in self.operations for name, array in o.writes.items()}
        return {name: array for name, array in written.items() if self.device.address(array) not in self._own}

    def _identity(self, array: Array) -> tuple[int, tuple[int, ...]]:
        return self.device.address(array), tuple(sorted(array.shape))  # a transposed view is the same buffer

    # Operations -------------------------------------------------------------------------------------------------------

    def add(
        self, operation: Callable[Concatenate[Any, Any, P], Calls], formula: str, names: Mapping[str, str], /,
        *args: P.args, **options: P.kwargs,
    ) -> None:  # fmt: skip
        """Binds an operation of the device to its arguments, and appends it with its account.

        Args:
            operation: its signature, as in Operations.matmul.
            formula: what it computes.
            names: by the names of its parameters, new names of the buffers that it writes.
            args, options: what it takes besides the device.
        """
        given = self._given(operation, args, options)
        if unknown := names.keys() - given.keys():
            name = operation.__name__
            raise TypeError(f"{name} has no parameter {', '.join(unknown)} to give a name to.")
        read, written = account_of(operation).arrays(given)
        reads = {self.name_of(array): array for array in read}
        writes = {
            self.name_of(self.named(names[parameter], array) if parameter in names else array): array
            for parameter, array in written
        }
        self.append(self._operation(operation, formula, reads, writes, given, self.phase))

    def joined(
        self, parts: Sequence[Operation], operation: Callable[Concatenate[Any, Any, P], Calls], formula: str, /,
        *args: P.args, **options: P.kwargs,
    ) -> Operation:  # fmt: skip
        """Makes the operation that does at once what these do; for a fusion, which puts it into their place. Its
        buffers have the names that they have there."""
        given = self._given(operation, args, options)
        read, written = account_of(operation).arrays(given)
        before = {self._identity(a): name for part in reversed(parts) for name, a in part.reads.items()}
        after = {self._identity(a): name for part in parts for name, a in part.writes.items()}
        reads = {before.get(self._identity(a), self.name_of(a)): a for a in read}
        writes = {after.get(self._identity(a), self.name_of(a)): a for _, a in written}
        return self._operation(operation, formula, reads, writes, given, parts[-1].phase)

    def _operation(
        self, operation: Callable[..., Calls], formula: str, reads: dict[str, Array], writes: dict[str, Array],
        given: Mapping[str, Any], phase: str,
    ) -> Operation:  # fmt: skip
        name, account = operation.__name__, account_of(operation)
        flops, traffic, launches = account.cost(given, (*reads.values(), *writes.values()))
        bind = self._binder(name, given)
        return Operation(name, formula, reads, writes, flops, traffic, launches, phase, bind, given)

    def _put(self, operation: Operation, branch: int) -> Operation:
        """Puts an operation on a branch, unless it was not made here, so that it cannot be bound anew."""
        if not branch or not operation.arguments:
            return operation
        return replace(operation, branch=branch, bind=self._binder(operation.name, operation.arguments, branch))

    def _binder(self, name: str, given: Mapping[str, Any], branch: int = 0) -> Callable[[], Calls]:
        device = self.device.on_branch(branch)
        return partial(getattr(device.ops, name), device, *given.values())

    @staticmethod
    def _given(operation: Callable[..., Calls], args: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of an operation by the names of its parameters, in their order."""
        parameters = account_of(operation).parameters
        given = dict(zip(parameters, args, strict=False)) | dict(options)
        return {name: given.pop(name) for name in parameters if name in given} | given

    def append(self, operation: Operation) -> None:
        """Appends an operation."""
        self.operations.append(operation)
        self._runs.clear()
        vars(self).pop("needs_context", None)

    def finish(self) -> Plan:
        """Ends the building: operations that the device can do at once become one, those of a training step get their
        branches, and all are bound, so that what a run needs is compiled and allocated. Returns the plan, to which
        nothing is added any more."""
        self._emitted = self.operations
        if self.fuse:
            for fusion in self.device.fusions:
                self.operations = fusion(self, self.operations)
        if self.training:  # the rest waits for one another
            branches = assign_branches(self.operations, self.device.address)
            self.operations = [self._put(o, branch) for o, branch in zip(self.operations, branches, strict=True)]
        self._runs.clear()
        self.device.prepare(self.operations)
        for operation in self.operations:
            operation.calls  # noqa: B018, binds them
        return self

    # Running ----------------------------------------------------------------------------------------------------------

    def run(self, *phases: str, repeats: int = 1) -> None:
        """Runs every operation, or those of the given phases; all of it `repeats` times."""
        calls = self._runs.get((phases, repeats))
        if calls is None:
            calls = self._runs[phases, repeats] = self.device.sequence(self.calls(*phases), repeats)
        try:
            for call in calls:
                call()
        except BaseException:
            self.reset()
            raise

    @cached_property
    def needs_context(self) -> bool:
        """Whether it runs inside device.computing() only."""
        return self.device.needs_context(self.calls())

    def alone(self, run: Callable[..., None], *arguments: Any) -> None:
        """Calls what runs this plan, or some of it, from outside of device.computing()."""
        if not self.needs_context:
            return run(*arguments)
        with self.device.computing():
            run(*arguments)

    @cached_property
    def at_once(self) -> int:
        """How many runs are worth being one with `repeats`."""
        return self.device.at_once(self.calls())

    def calls(self, *phases: str) -> list[Call]:
        """Returns the calls of all operations, or of those of the given phases."""
        return [call for o in self.operations if not phases or o.phase in phases for call in o.calls]

    def reset(self) -> None:
        """Brings the counters that operations expect at 0 back to it: after a run that did not end."""
        with suppress(Exception):  # where the device itself has failed, its own error says so
            self.device.reset_tickets()
        for call in self.calls():
            getattr(call, "reset", lambda: None)()

    def trace(self, joined: bool = True) -> Iterator[tuple[Operation, dict[str, Array]]]:
        """Runs one operation at a time and yields it with host copies of what it wrote, by name. With joined=False it
        runs what was joined in `finish` as it was before, in the same buffers: all that is written in between shows."""
        for operation in self.operations if joined else self._emitted:
            try:
                with self.device.computing():
                    for call in operation.calls:
                        call()
            except BaseException:
                self.reset()
                raise
            yield operation, {name: self.device.to_host(array) for name, array in operation.writes.items()}

    def nodes(self, repeats: int = 1) -> list[Node]:
        """Returns what a graph of so many runs is captured from."""
        return arrange(self.operations, self.device.address, repeats)

    # Accounts ---------------------------------------------------------------------------------------------------------

    def cost(self) -> dict[str, Any]:
        """The sums: operations, launches (on CUDA), flops, bytes moved; the "path": how many of the launches a captured
        graph does one after another at least; the bytes of memory held, and the same by kind: "minibatch" (x, y*, w),
        then the phase whose results they hold."""
        return {
            "operations": len(self.operations),
            "launches": sum(o.launches for o in self.operations),
            "path": longest_path(self.nodes()),
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
        return format_table([HEADS, *map(_row, self.operations), self._sums()], 3, width)

    def _sums(self) -> tuple[str, ...]:
        cost = self.cost()
        return f"{cost['operations']} operations", "", "", f"{cost['flops']:,}", f"{cost['bytes']:,}"

    def __repr__(self) -> str:
        return f"<Plan of {len(self.operations)} operations>"

    def _repr_html_(self) -> str:
        rows: list[Sequence[object]] = []
        for phase, operations in groupby(self.operations, attrgetter("phase")):
            rows += [(tag("th", phase, colspan=len(HEADS), class_="group"),), *map(_row, operations)]
        return cell_output(table([*rows, self._sums()], HEADS, left=3))


def _row(operation: Operation) -> tuple[str, ...]:
    """Tells of an operation what a plan prints below HEADS."""

    def shapes(buffers: Mapping[str, Array]) -> str:
        return ", ".join("×".join(map(str, a.shape)) or "1" for a in buffers.values())

    o = operation
    return o.name, o.formula, f"{shapes(o.reads)} → {shapes(o.writes)}", f"{o.flops:,}", f"{o.bytes:,}"


def forget_oldest(plans: dict[Any, Any]) -> None:
    """Makes room for one more plan among those that are kept."""
    while len(plans) >= KEPT_PLANS:
        del plans[next(iter(plans))]
