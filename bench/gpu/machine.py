"""Which CUDA device it is, what drives it, how warm it is and how fast its clocks run, and which commit is measured."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from lib.device_trace import DeviceTrace
from lib.record import git

SM, MEMORY = 1, 2
"""NVML's numbers of the two clocks."""

READINGS = (
    ("Temperature", (0,), 1, "°C"),
    ("ClockInfo", (SM,), 1, "MHz SM"),
    ("ClockInfo", (MEMORY,), 1, "MHz memory"),
    ("MaxClockInfo", (SM,), 1, "MHz SM at most"),
    ("PowerUsage", (), 1000, "W"),
    ("EnforcedPowerLimit", (), 1000, "W at most"),
)
"""What NVML is asked for, nvmlDeviceGet…: the name, arguments besides the device, divisor and unit. Nothing is set."""

PAUSE = 0.02
"""Seconds between two readings of the SM clock."""


def machine() -> dict[str, Any]:
    """The first CUDA device, and the versions of what drives it."""
    import cupy

    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(0)
    return {
        "device": properties["name"].decode(),
        "emulated": DeviceTrace.is_there(),
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "memory": properties["totalGlobalMem"],
        "multiprocessors": properties["multiProcessorCount"],
        "l2_cache": properties["l2CacheSize"],
        "driver": management().driver,
        "driver_cuda": version(runtime.driverGetVersion()),
        "cuda": version(runtime.runtimeGetVersion()),
        "cupy": cupy.__version__,
    }


def version(number: int) -> str:
    """CUDA's own number, 13020, as 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"


class Management:
    """NVIDIA's management library, NVML, asked about one device. Without it, every answer is "" or None.

    Attributes:
        driver: its version; "unknown" without an answer.
    """

    def __init__(self, bus: str) -> None:
        self.driver, self._library, self._device = "unknown", None, ctypes.c_void_p()
        try:
            library = ctypes.CDLL("nvml.dll" if os.name == "nt" else "libnvidia-ml.so.1")
        except OSError:
            return
        text = ctypes.create_string_buffer(96)
        if library.nvmlInit_v2() == 0 and library.nvmlSystemGetDriverVersion(text, len(text)) == 0:
            self.driver = text.value.decode()
            if library.nvmlDeviceGetHandleByPciBusId_v2(bus.encode(), ctypes.byref(self._device)) == 0:
                self._library = library

    def ask(self, name: str, *arguments: int) -> int | None:
        value = ctypes.c_uint()
        if self._library is None:
            return None
        status = getattr(self._library, f"nvmlDeviceGet{name}")(self._device, *arguments, ctypes.byref(value))
        return None if status else value.value

    def reading(self) -> str:
        """Temperature, clocks and power of the device as they are now."""
        answers = [(self.ask(name, *arguments), divisor, unit) for name, arguments, divisor, unit in READINGS]
        return ", ".join(f"{answer / divisor:.0f} {unit}" for answer, divisor, unit in answers if answer is not None)

    @contextmanager
    def sampling(self) -> Iterator[list[int]]:
        """A list that fills with the MHz of the SM clock while the block runs; it stays empty without NVML."""
        readings: list[int] = []
        done = threading.Event()

        def sample() -> None:
            while (mhz := self.ask("ClockInfo", SM)) is not None:
                readings.append(mhz)
                if done.wait(PAUSE):
                    return

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield readings
        finally:
            done.set()
            thread.join()


@cache
def management() -> Management:
    """Of CUDA's first device."""
    import cupy

    return Management(cupy.cuda.runtime.deviceGetPCIBusId(0))


def commit(root: Path) -> str:
    """The commit of the checkout, and whether more than that is in it; "unknown" outside of one."""
    head = git(root, "rev-parse", "HEAD")
    return head + (" and changes" if git(root, "status", "--porcelain") else "") if head else "unknown"
