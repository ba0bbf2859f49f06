"""Whether a machine was busy with something else while it was measured."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")

SHARE = 0.1
"""Of the time of all processors: it disturbs if others take more, or if the host of a virtual machine steals more."""

GRAIN = 0.02
"""Seconds by which the system's clocks may be wrong: they tick a hundred times a second."""


def processors() -> frozenset[int]:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


@dataclass(frozen=True)
class Clocks:
    """Seconds since some beginning: by the clock, of this process's processors at work for anybody, stolen from them,
    and at work for this process and its ended children. Other processors are not asked: on a machine of many, what
    takes ours would be lost among them. Where the system does not tell, nobody but this process works."""

    wall: float
    everybody: float
    stolen: float
    own: float

    @classmethod
    def now(cls) -> Clocks:
        own = time.process_time() + sum(os.times()[2:4])
        try:
            lines = [line.split() for line in STAT.read_text(encoding="ascii").splitlines()]
        except OSError:
            return cls(time.perf_counter(), own, 0.0, own)
        ours = [words for words in lines if words[0] in {f"cpu{k}" for k in processors()}] or lines[:1]
        columns = zip(*(map(int, words[1:9]) for words in ours), strict=True)
        user, nice, system, _idle, _waiting, irq, softirq, stolen = map(sum, columns)
        tick = 1 / os.sysconf("SC_CLK_TCK")
        return cls(time.perf_counter(), (user + nice + system + irq + softirq) * tick, stolen * tick, own)

    def since(self, before: Clocks) -> dict[str, float]:
        """What happened in between: its seconds, and those of processors that others took, and that were stolen."""
        others = (self.everybody - before.everybody) - (self.own - before.own)
        stolen = self.stolen - before.stolen
        return {"seconds": self.wall - before.wall, "others": max(0.0, others), "stolen": stolen}


def disturbed(window: Mapping[str, float], count: int) -> bool:
    """Whether what `since` has told of so many processors is more than a measurement bears."""
    bearable = SHARE * window["seconds"] * count + GRAIN
    return max(window["others"], window["stolen"]) > bearable
