"""How much bench/gpu_check.py measures, and times of single operations, which are CUDA graphs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lib.timing import Clock, Run, Time, in_order, median, spread

from gpu.machine import management
from gpu_backprop.backend.cuda.device import CudaDevice
from gpu_backprop.backend.device import Device


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        rounds: how often everything is timed, in turns.
        turns: how often whole epochs are, which take longer.
        steps: training steps timed together.
        span_us: how long one operation is repeated, about, as one CUDA graph: long beside the graph's own launch.
        bytes: of a float32 array at the least, for what the bandwidth of the memory bounds; 0: what 16 rows take.
        square: rows and columns of the matrices whose product gives the peak.
        samples: of the data set that is fitted, at most.
        warm_up: seconds of work before anything is timed, in which the clocks rise.
    """

    rounds: int
    turns: int
    steps: int
    span_us: float
    bytes: int
    square: int
    samples: int
    warm_up: float


FULL = Extent(5, turns=3, steps=200, span_us=2000, bytes=64 << 20, square=8192, samples=60_000, warm_up=0.5)
TINY = Extent(1, turns=1, steps=2, span_us=0, bytes=0, square=32, samples=64, warm_up=0)

REPEATS = 1, 200
"""How many repetitions one CUDA graph has, at least and at most."""

BURST = 20
"""Steps whose launches are timed on the host: few enough that the queue of launches has room for them."""


@contextmanager
def clocks_up(device: Device, extent: Extent, row: dict[str, Any]) -> Iterator[None]:
    """For what is timed in this block: lets the clocks of a CUDA device rise before, by work, and notes in the row what
    its SM clock was meanwhile, in MHz; "" where nothing tells it."""
    if not isinstance(device, CudaDevice):
        yield
        return
    warm_up(device, extent)
    with management().sampling() as mhz:
        yield
    row["sm_mhz"] = spread(mhz, 0) if mhz else ""


def warm_up(device: CudaDevice, extent: Extent) -> None:
    """Keeps the device at work for so long."""
    n = min(extent.square, 4096)
    with device.computing():
        a, b = (device.zeros((n, n)) for _ in range(2))
        product = in_order(device.blas.matmul(a, b, device.empty((n, n))))
        begin = time.perf_counter()
        while True:
            product()
            device.synchronize()
            if time.perf_counter() - begin >= extent.warm_up:
                return


class GraphClock(Clock):
    """Times what runs on a CUDA device's stream, and single operations without any time of the host."""

    def __init__(self, device: CudaDevice, rounds: int) -> None:
        super().__init__(device, rounds)
        self.stream = device.stream

    def repeated(self, calls: Sequence[Run], span_us: float) -> tuple[Run, int]:
        """One launch that does the calls again and again for about so long, and how often it does them.

        It is a CUDA graph, so that no time of the host is in it, and the pauses between small kernels are short.
        """
        all_of_them = in_order(calls)
        all_of_them()  # what the first run does once
        least, most = REPEATS
        repeats = int(min(max(span_us / max(self.once(all_of_them).device, 0.1), least), most))
        self.stream.begin_capture()
        try:
            for _ in range(repeats):
                all_of_them()
        finally:
            graph = self.stream.end_capture()

        def run(arrays_of: Sequence[Run] = calls) -> None:  # a graph has addresses, and keeps no memory
            graph.launch(self.stream)

        return run, repeats

    def alone(self, calls: Sequence[Run], span_us: float) -> float:
        """The median of µs that the calls take, repeated."""
        run, repeats = self.repeated(calls, span_us)
        return statistics.median(time.device for time in self.in_turns({"it": run})["it"]) / repeats

    def steps(self, runs: Mapping[str, Run], steps: int, before: Run) -> dict[str, list[Time]]:
        """Times of so many steps together; those of the host in a burst, in which it never waits for the device."""
        device = self.in_turns(runs, steps, before)
        host = self.in_turns(runs, min(steps, BURST), before)
        return {name: [Time(a.device, b.host) for a, b in zip(device[name], host[name], strict=True)] for name in runs}


class Reference:
    """Calls between which others are timed, as a measure of the device: a copy.

    Attributes:
        rates: its work a µs, in every round so far.
    """

    def __init__(self, clock: GraphClock, calls: Sequence[Run], work: float, span_us: float) -> None:
        self.clock, self.work, self.span_us = clock, work, span_us
        self._run, self._repeats = clock.repeated(calls, span_us)
        self.rates: list[float] = []

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    def beside(self, calls: Sequence[Run], work: float) -> tuple[float, float, dict[str, float]]:
        """Times other calls, in turns with these: µs, work a µs, and that in per cent of the reference's."""
        run, repeats = self.clock.repeated(calls, self.span_us)
        times = self.clock.in_turns({"reference": self._run, "it": run})
        us = [time.device / repeats for time in times["it"]]
        rates = [self.work * self._repeats / time.device for time in times["reference"]]
        self.rates += rates
        percent = spread([100 * work / one / rate for one, rate in zip(us, rates, strict=True)], 1)
        return median(us), statistics.median(work / one for one in us), percent
