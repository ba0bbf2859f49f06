"""How long each operation of a plan takes: the median of many runs, by the clock of the device."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gpu_backprop.backend.operation import Operation
from gpu_backprop.backend.plan import Plan
from gpu_backprop.backend.text_table import format_table, terminal_width
from gpu_backprop.display.html import cell_output, table, tag

BAR = 6
"""The width of the longest bar, in letters."""

HEADS = "operation", "formula", "µs", "share", "GB/s", "GFLOP/s"


@dataclass(frozen=True)
class Timing:
    """An operation and how long it took, in microseconds."""

    operation: Operation
    microseconds: float


class Profile:
    """The operations of a plan in their order, each with its time; printed, it is a table.

    On CUDA, times are those between events of the stream. An operation that the device finishes before the host has
    launched the next one counts until that launch: where all take a few microseconds and none much longer, the host is
    the bottleneck, and a captured graph helps.
    """

    def __init__(self, timings: Sequence[Timing]) -> None:
        self.timings = tuple(timings)

    def __iter__(self) -> Iterator[Timing]:
        return iter(self.timings)

    def __len__(self) -> int:
        return len(self.timings)

    @property
    def microseconds(self) -> float:
        """The time of all operations together."""
        return sum(timing.microseconds for timing in self.timings)

    def by_name(self) -> dict[str, float]:
        """Sums the microseconds of each kind of operation, the longest first."""
        sums: dict[str, float] = {}
        for timing in self.timings:
            sums[timing.operation.name] = sums.get(timing.operation.name, 0.0) + timing.microseconds
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    def describe(self) -> None:
        """Prints the table, fitted to the width of a terminal."""
        print(self._table(terminal_width(sys.stdout)))

    def __str__(self) -> str:
        return self._table(None)

    def _table(self, width: int | None) -> str:
        return format_table([HEADS, *self._rows(), self._sums()], 2, width)

    def _rows(self) -> Iterator[tuple[str, ...]]:
        whole = self.microseconds or 1.0
        for timing in self.timings:
            o, time = timing.operation, timing.microseconds or 1e-3
            rates = f"{o.bytes / time / 1e3:,.1f}", f"{o.flops / time / 1e3:,.1f}"
            yield o.name, o.formula, f"{time:,.1f}", f"{time / whole:.0%}", *rates

    def _sums(self) -> tuple[str, ...]:
        return f"{len(self)} operations", "", f"{self.microseconds:,.1f}", "", "", ""

    def __repr__(self) -> str:
        return f"<Profile of {len(self)} operations: {self.microseconds:,.1f} µs>"

    def _repr_html_(self) -> str:
        longest = max((timing.microseconds for timing in self.timings), default=0.0) or 1.0
        bars = (
            tag("td", tag("i", class_="share", style=f"width: {BAR * timing.microseconds / longest:.2f}em"))
            for timing in self.timings
        )
        rows = [(*row[:4], bar, *row[4:]) for row, bar in zip(self._rows(), bars, strict=True)]
        return cell_output(table([*rows, self._sums()], (*HEADS[:4], "", *HEADS[4:]), left=2))


def profile(plan: Plan, runs: int) -> Profile:
    """Runs a plan `runs` times, an operation at a time, after a first run that is not counted.

    They are real runs, which change what the plan changes.
    """
    device = plan.device
    moments = []
    with device.computing():
        plan.run()
        try:
            for _ in range(runs):
                marks = [device.mark()]
                for operation in plan.operations:
                    for call in operation.calls:
                        call()
                    marks.append(device.mark())
                moments.append(marks)
        except BaseException:
            plan.reset()
            raise
        times = [[device.microseconds(begin, end) for begin, end in pairwise(marks)] for marks in moments]
    medians = map(statistics.median, zip(*times, strict=True))
    return Profile([Timing(operation, time) for operation, time in zip(plan.operations, medians, strict=True)])
