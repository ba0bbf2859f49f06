"""How much bench/gpu_check.py measures, and times of single operations, which are CUDA graphs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lib.timing import Clock, Run, in_order, median, spread

from gpu_backprop.backend.cuda.device import CudaDevice


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
        return lambda: graph.launch(self.stream), repeats


class Reference:
    """Calls between which others are timed, as a measure of the device: a copy, or a large product.

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
