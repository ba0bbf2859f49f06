"""Imported before NumPy: where this process is the command gpu-backprop, a signal ends it at once.

There is nothing yet to save; and a traceback, as Python has it by itself, is for errors.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = {
    getattr(signal, name): called
    for name, called in {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGHUP": "SIGHUP"}.items()
    if hasattr(signal, name)
}
"""The signals that ask a program to end, and what users call them. Windows has no SIGHUP."""


def exit_code(number: int) -> int:
    """Return the exit code of a program that this signal ended, as a shell has it: 130 after Ctrl-C."""
    return 128 + number


def catch(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> dict[int, object]:
    """Set the handler of all these signals; return those that they had. Signals that are ignored, as under nohup, stay
    so. Outside of the main thread, where Python allows no handlers, this does nothing."""
    try:
        heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        return {number: signal.signal(number, handler) or signal.SIG_DFL for number in heeded}
    except ValueError:
        return {}


@contextmanager
def caught(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Set the handler of all these signals in this context."""
    before = catch(handler)
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)  # type: ignore[arg-type]


def _is_command() -> bool:
    """Tell whether Python was started as gpu-backprop, or to run this package."""
    if sys.argv[:1] == ["-m"]:  # so while Python imports a package that it is to run
        return ("-m", "gpu_backprop") in zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
    return bool(sys.argv) and os.path.basename(sys.argv[0]) in ("gpu-backprop", "gpu-backprop.exe")


IS_COMMAND = _is_command()
if IS_COMMAND:
    catch(lambda number, frame: os._exit(exit_code(number)))


def end() -> None:
    """Ignore signals from here on, where this process is the command: its exit code is decided."""
    if IS_COMMAND:  # at exit Python resets signals with a handler to the default, which kills, but not ignored ones
        catch(signal.SIG_IGN)
