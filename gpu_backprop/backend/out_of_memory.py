"""What happens where memory runs out in the middle: all of it is given back."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from gpu_backprop.backend.device import Device, memory_table
from gpu_backprop.backend.errors import OutOfMemoryError


class OnDevice(Protocol):
    """Whatever has a device."""

    device: Device


P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound=OnDevice)


def release_on_oom(method: Callable[Concatenate[T, P], R]) -> Callable[Concatenate[T, P], R]:
    """Where `method` runs out of memory, it gives back all that it had, whatever the caller keeps of the error.

    The frames of a traceback hold what their functions had in hand. So the error is raised anew, without them.
    """

    @wraps(method)
    def run(self: T, /, *args: P.args, **kwargs: P.kwargs) -> R:
        device = self.device
        device.needed, scratch = {}, dict(device.scratch)
        try:
            return method(self, *args, **kwargs)
        except MemoryError as error:
            device.scratch = scratch
            failure = _told(error, device.needed)
        try:
            raise failure
        finally:
            del failure  # the error holds this frame

    return run


def _told(error: MemoryError, needed: dict[str, int]) -> MemoryError:
    """The error without its frames, and with all that was needed besides the one array that could not be had."""
    if not isinstance(error, OutOfMemoryError) or error.free is None or not needed:  # it may be the host's memory
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    message = f"{error}\nSo much was free when it began, but not in pieces that serve:\n{memory_table(needed)}"
    return OutOfMemoryError(message, needs=needed, free=error.free)
