"""One operation of a plan, and the account that tells what any operation of its kind reads, writes and costs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from gpu_backprop.backend.formula import Array, Call, Calls

F = TypeVar("F", bound=Callable[..., Any])


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
        phase: "data", "forward", "loss", "backward", "reduce" or "update"; "epoch" where it is all of these.
        bind: gives the calls that do it; on CUDA each is one launch.
        arguments: what it was bound to, by the names of its parameters, in their order.
        branch: of a captured graph, see `branches`.
    """

    name: str
    formula: str
    reads: Mapping[str, Array]
    writes: Mapping[str, Array]
    flops: int
    bytes: int
    launches: int
    phase: str
    bind: Callable[[], Calls]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    branch: int = 0

    @cached_property
    def calls(self) -> tuple[Call, ...]:
        """The bound calls. Binding may compile and allocate, so it waits until it is known that nothing else does what
        this operation does."""
        return tuple(self.bind())


class Account(NamedTuple):
    """What an operation writes and costs. Each function is called with those of the operation's arguments that it
    names."""

    parameters: Sequence[str]  # of the operation, in order, without the device
    writes: Sequence[str]  # those that are written and not read; of the others, all arrays are read
    updates: Sequence[str] | Callable[..., Sequence[str]]  # those that are read and written
    flops: Callable[..., int]
    launches: Callable[..., int]
    bytes: Callable[..., int] | None  # the traffic, where that is not each array once

    def arrays(self, given: Mapping[str, Any]) -> tuple[list[Array], list[tuple[str, Array]]]:
        """The arrays that are read, and those that are written with the names of their parameters, of arguments by
        name."""
        updated = _apply(self.updates, given) if callable(self.updates) else self.updates
        found = [(name, array) for name, value in given.items() for array in _arrays(value)]
        written = [(name, array) for name, array in found if name in self.writes or name in updated]
        return [array for name, array in found if name not in self.writes], written

    def cost(self, given: Mapping[str, Any], arrays: Iterable[Array]) -> tuple[int, int, int]:
        """Flops, bytes and launches for arguments by name, of which these arrays are read and written."""
        traffic = sum(array.nbytes for array in arrays) if self.bytes is None else _apply(self.bytes, given)
        return _apply(self.flops, given), traffic, _apply(self.launches, given)


def account(
    writes: Sequence[str] = (), *, updates: Sequence[str] | Callable[..., Sequence[str]] = (),
    flops: Callable[..., int] = lambda: 0, launches: Callable[..., int] = lambda: 1,
    bytes: Callable[..., int] | None = None,
) -> Callable[[F], F]:  # fmt: skip
    """Marks the signature of an operation with its Account."""

    def mark(operation: F) -> F:
        parameters = tuple(inspect.signature(operation).parameters)[2:]  # without self and the device
        vars(operation)["account"] = Account(parameters, writes, updates, flops, launches, bytes)
        return operation

    return mark


def account_of(operation: Callable[..., Any]) -> Account:
    """The Account of a signature."""
    told: Account = vars(operation)["account"]
    return told


def _apply(function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """The value of a function of an Account for these arguments."""
    code = function.__code__
    return function(*(given[name] for name in code.co_varnames[: code.co_argcount]))


def _arrays(value: Any) -> Iterable[Array]:
    """The arrays of an argument: one, several, or none."""
    if hasattr(value, "nbytes"):
        return (value,)
    if isinstance(value, (list, tuple)):
        return [array for array in value if array is not None]
    return value.values() if isinstance(value, dict) else ()
