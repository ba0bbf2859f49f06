"""How long a training step takes, operation by operation and as one CUDA graph, for bench/gpu_check.py.

It is compared with the least that it could take, and with the same step in plain CuPy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from launches import Case, build, plain_step
from lib.timing import Clock, Run, Time, median, spread

import gpu_backprop as gb
from gpu.products import Precision
from gpu.timing import Extent
from gpu_backprop.backend.operation import Operation
from gpu_backprop.training.replay import Replay


@dataclass(frozen=True)
class Peaks:
    """What the device was seen to do.

    Attributes:
        bandwidth: GB/s of a copy, read and written bytes together.
        products: TFLOP/s of a large square product, by precision.
    """

    bandwidth: float
    products: Mapping[str, float] = field(default_factory=dict)


def floor(operations: Iterable[Operation], peaks: Peaks, precision: str) -> float:
    """The least µs for these operations, one after another: for each, max(flops / peak, bytes / bandwidth).

    Products have the peak of their precision; all else is worked out in float32. Where the buffers of a step stay in
    the device's cache, which is faster than its memory, a step may come below this.
    """
    total = 0.0
    for operation in operations:
        peak = peaks.products[precision if operation.name == "matmul" else "float32"]
        total += max(operation.flops / (peak * 1e6), operation.bytes / (peaks.bandwidth * 1e3))
    return total


def measure(case: Case, precision: Precision, extent: Extent, peaks: Peaks | None) -> dict[str, Any]:
    """One network in one precision; `floor_us` is left out where the peaks are not known."""
    step = build(case, "cuda", precision.dtype, tf32=precision.tf32, steps=extent.steps)
    device, plan = step.net.device, step.plan
    runs: dict[str, Run] = {"eager": plan.run}
    plain, reason = None, ""
    with device.computing():
        if precision.name == "float32":
            import cupy

            plain = runs["plain CuPy"] = plain_step(step, cupy, cupy.asarray)

        def rewind() -> None:
            step.data.rewind()
            if plain is not None:
                plain.cursor = 0

        try:
            rewind()
            replay = Replay(plan, graph=True)
            replay.run()  # eagerly and as a graph, and compares the two
            runs["replayed"] = replay.run
        except gb.GpuBackpropError as error:
            reason = str(error)
        clock = Clock(device, extent.rounds)
        times = clock.in_turns(runs, extent.steps, rewind)
    least = None if peaks is None or not {precision.name, "float32"} <= set(peaks.products) else peaks
    floor_us = None if least is None else floor(plan.operations, least, precision.name)
    return {
        "network": str(case),
        "batch": case.batch,
        "precision": precision.name,
        **row(times, plan.cost()["launches"], floor_us),
        **({"not replayed": reason} if reason else {}),
    }


def row(times: Mapping[str, list[Time]], launches: int, floor_us: float | None) -> dict[str, Any]:
    """Makes the row of a step from the times of the rounds."""
    found: dict[str, Any] = {"launches": launches, "floor_us": None if floor_us is None else round(floor_us, 2)}
    for name, of_rounds in times.items():
        one: dict[str, Any] = {"us": spread([time.device for time in of_rounds])}
        if name != "plain CuPy":
            one["host_us_a_launch"] = median([time.host / launches for time in of_rounds], 3)
            if floor_us:
                one["times_the_floor"] = median([time.device / floor_us for time in of_rounds])
        found[name] = one
    if "plain CuPy" in times:
        both = zip(times["plain CuPy"], times.get("replayed", times["eager"]), strict=True)
        found["plain CuPy / ours"] = spread([plain.device / ours.device for plain, ours in both])
    return found
