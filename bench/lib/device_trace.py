"""What a program asks of a CUDA device, where an emulated device writes it down, and of CuPy's memory pool."""

from __future__ import annotations

import atexit
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

VARIABLE = "CUDASIM_TRACE"


class Event(NamedTuple):
    """One thing that was asked for.

    Attributes:
        event: "submit", "capture", "replay", "blocking" (a copy that the host waits for), "sync" or "alloc".
        what: the kernel's name, "gemm", "memcpy", "memset"; what was waited for; which memory was asked for.
        number: threads of a kernel, bytes of a copy or an allocation.
    """

    event: str
    what: str
    number: int


class DeviceTrace:
    """The file to which the emulated device appends a line for each thing that it is asked for.

    The device looks for the name of the file once, at its first use: this has to be made before.
    """

    def __init__(self) -> None:
        if VARIABLE not in os.environ:
            file, path = tempfile.mkstemp(prefix="device-trace-")
            os.close(file)
            atexit.register(Path(path).unlink, missing_ok=True)
            os.environ[VARIABLE] = path
        self.path = Path(os.environ[VARIABLE])

    @staticmethod
    def is_there() -> bool:
        """Whether this process runs on an emulated device, the one kind that leaves a trace."""
        return "CUDASIM_BUILD" in os.environ

    def of(self, action: Callable[[], object]) -> list[Event]:
        """What `action` asks of the device, in order."""
        start = self.path.stat().st_size if self.path.exists() else 0
        action()
        with self.path.open(encoding="utf-8") as file:
            file.seek(start)
            lines = [line.rstrip("\n").split("\t") for line in file]
        return [Event(event, what, int(number)) for event, what, number in lines]


def queued(events: list[Event]) -> list[str]:
    """The names of all that the device was given to do: kernels, products, copies and fills."""
    return [e.what for e in events if e.event == "submit" and e.what not in ("event", "wait", "free", "host")]


@contextmanager
def allocations() -> Iterator[list[int]]:
    """The sizes that CuPy's memory pool is asked for meanwhile, on any device."""
    from cupy.cuda import MemoryHook

    sizes: list[int] = []

    class Hook(MemoryHook):
        name = "allocations"

        def malloc_preprocess(self, **asked: Any) -> None:
            sizes.append(asked["size"])

    with Hook():
        yield sizes
