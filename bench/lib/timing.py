"""Times on any device: by its own clock, after a warm-up, and of several things in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gpu_backprop.backend.device import Device

Run = Callable[[], object]


class Time(NamedTuple):
    """µs a run: on the device, and of the host, which asks for it. On a CPU the two are one."""

    device: float
    host: float


class Clock:
    """Times what runs on one device: on CUDA between events of its stream.

    Args:
        device: it has to be the computing one, see `Device.computing`.
        rounds: how often everything is timed.
    """

    def __init__(self, device: Device, rounds: int) -> None:
        self.device, self.rounds = device, rounds

    def once(self, run: Run, times: int = 1) -> Time:
        """`times` runs in a row."""
        self.device.synchronize()
        begin = self.device.mark()
        asked = time.perf_counter()
        for _ in range(times):
            run()
        asked = time.perf_counter() - asked
        elapsed = self.device.microseconds(begin, self.device.mark())
        return Time(elapsed / times, asked * 1e6 / times)

    def in_turns(self, runs: Mapping[str, Run], times: int = 1, before: Run | None = None) -> dict[str, list[Time]]:
        """A time a round of each run, warmed up by one round that does not count. `before` prepares each."""
        rounds: list[dict[str, Time]] = []
        for _ in range(1 + self.rounds):
            times_of: dict[str, Time] = {}
            for name, run in runs.items():
                if before:
                    before()
                times_of[name] = self.once(run, times)
            rounds.append(times_of)
        return {name: [times_of[name] for times_of in rounds[1:]] for name in runs}


def in_order(calls: Iterable[Run]) -> Run:
    """The calls, one after the other, as one."""
    bound = tuple(calls)

    def run() -> None:
        for call in bound:
            call()

    return run


def median(values: Sequence[float], digits: int = 2) -> float:
    return round(statistics.median(values), digits)


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """The median, and between which bounds all of them lie."""
    return {"median": median(values, digits), "least": round(min(values), digits), "most": round(max(values), digits)}


def in_line(task: Mapping[str, Any], what: str, digits: int = 0) -> str:
    """Writes what was timed of a task, "us", and what was not, and why, behind what the times are of."""
    us = ", ".join(f"{name} {spread['median']:,.{digits}f}" for name, spread in task["us"].items())
    left = "; ".join(f"{name}: {why}" for name, why in task["not timed"].items())
    return f"{what}: {us}" + (f" (not timed: {left})" if left else "")


def ranged(one: Mapping[str, float], digits: int = 2) -> str:
    """Writes a spread: the median, and in parentheses the bounds."""
    median, least, most = (f"{one[name]:,.{digits}f}" for name in ("median", "least", "most"))
    return f"{median} ({least} to {most})"
