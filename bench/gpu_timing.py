"""Times on a CUDA device: by its events, after a warm-up, and of several things in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gpu_backprop.backend.cuda_device import CudaDevice

Run = Callable[[], object]


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        rounds: how often everything is timed, in turns.
        steps: training steps timed together: few enough that the queue of launches has room for them.
        span_us: how long one operation is repeated, about, as one CUDA graph: long beside the graph's own launch.
        bytes: of a float32 array at the least, for what the bandwidth of the memory bounds; 0: what 16 rows take.
        square: rows and columns of the matrices whose product gives the peak.
        samples: of the data set that is fitted, at most.
        cases: how many of the networks are looked at.
    """

    rounds: int
    steps: int
    span_us: float
    bytes: int
    square: int
    samples: int
    cases: int


FULL = Extent(rounds=7, steps=20, span_us=2000, bytes=64 << 20, square=8192, samples=60_000, cases=5)
TINY = Extent(rounds=1, steps=2, span_us=0, bytes=0, square=32, samples=64, cases=1)

REPEATS = 1, 200
"""How many repetitions one CUDA graph has, at least and at most."""


class Time(NamedTuple):
    """µs a run: on the device, and of the host, which asks for it."""

    device: float
    host: float


class Clock:
    """Times what runs on one device's stream.

    Args:
        device: it has to be the computing one, see `CudaDevice.computing`.
        rounds: how often everything is timed.
    """

    def __init__(self, device: CudaDevice, rounds: int) -> None:
        import cupy

        self._cupy, self.stream, self.rounds = cupy, device.stream, rounds
        self._begin, self._end = cupy.cuda.Event(), cupy.cuda.Event()

    def once(self, run: Run, times: int = 1) -> Time:
        """`times` runs in a row."""
        self.stream.synchronize()
        self._begin.record(self.stream)
        asked = time.perf_counter()
        for _ in range(times):
            run()
        asked = time.perf_counter() - asked
        self._end.record(self.stream)
        self._end.synchronize()
        elapsed = self._cupy.cuda.get_elapsed_time(self._begin, self._end)
        return Time(elapsed * 1e3 / times, asked * 1e6 / times)

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

    def repeated(self, calls: Sequence[Run], span_us: float) -> tuple[Run, int]:
        """One launch that does the calls again and again for about so long, and how often it does them.

        It is a CUDA graph, so that no time of the host is in it, and the pauses between small kernels are short.
        """

        def all_of_them() -> None:
            for call in calls:
                call()

        all_of_them()  # what the first run does once
        least, most = REPEATS
        repeats = int(min(max(span_us / max(self.once(all_of_them).device, 0.1), least), most))
        self.stream.begin_capture()
        try:
            for _ in range(repeats):
                all_of_them()
        finally:
            graph = self.stream.end_capture()
        return lambda: graph.launch(self.stream), repeats


def median(values: Sequence[float], digits: int = 2) -> float:
    return round(statistics.median(values), digits)


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """The median, and between which bounds all of them lie."""
    return {"median": median(values, digits), "least": round(min(values), digits), "most": round(max(values), digits)}
