"""Releases what a method has allocated where it runs out of memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from gpu_backprop.backend.device import Device, memory_table
from gpu_backprop.backend.errors import OutOfMemoryError
from gpu_backprop.backend.suggestions import explain_call


class OnDevice(Protocol):
    """Whatever has a device."""

    device: Device


P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound=OnDevice)


def release_on_oom(method: Callable[Concatenate[T, P], R]) -> Callable[Concatenate[T, P], R]:
    """Releases all that `method` has allocated where it runs out of memory, whatever the caller keeps of the error. As
    it stands around the methods that are called most, it explains an unknown keyword too, at no cost to other calls.

    The frames of a traceback hold their functions' arrays. So the error is raised again, without them.
    """

    @wraps(method)
    def run(self: T, /, *args: P.args, **kwargs: P.kwargs) -> R:
        device = self.device
        device.needed, scratch = {}, device.scratch.copy()
        try:
            return method(self, *args, **kwargs)
        except TypeError as error:
            explain_call(error, method, kwargs)
            raise
        except MemoryError as error:
            device.scratch = scratch
            failure = _without_frames(error, device.needed)
        try:
            raise failure
        finally:
            del failure  # the error holds this frame

    return run


def _without_frames(error: MemoryError, needed: dict[str, int]) -> MemoryError:
    """Returns the error without its frames, and with all that was needed, not only the array that did not fit."""
    if not isinstance(error, OutOfMemoryError) or error.free is None or not needed:  # it may be the host's memory
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    why = "In total there was enough free memory at the start, but not in blocks that are large enough:"
    message = f"{error}\n{why}\n{memory_table(needed)}"
    return OutOfMemoryError(message, needs=needed, free=error.free)
