"""How long a training step takes, as a whole and operation by operation, for bench/gpu_check.py.

As a whole: its operations launched one by one and as one CUDA graph, with branches and all in a row, products alone,
the same step in plain CuPy, and epochs of `fit`. Beside it stands the least that it could take.
"""

from __future__ import annotations

import ctypes
import os
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from launches import CASES as LAUNCHES
from launches import Case, Step, build, plain_step
from lib.timing import Run, Time, median, spread
from throughput import products_alone

import gpu_backprop as gb
from gpu.peaks import Peaks, Precision
from gpu.timing import Extent, GraphClock, clocks_up
from gpu_backprop.backend.branches import in_a_row
from gpu_backprop.backend.errors import one_line
from gpu_backprop.backend.operation import Operation
from gpu_backprop.training.replay import Replay

CASES = (
    Case((64, 64, 64, 10), 32),
    *(Case((784, 512, 512, 10), batch) for batch in (128, 1024, 8192)),
    *LAUNCHES[3:],
)
TINY_CASES = LAUNCHES[:1]

MOST_ROWS = 65_536
"""Of the data. Where more steps are timed together, they begin again."""

EPOCHS = 3
"""Of `fit`; the first does not count, since it allocates and captures."""


def cases(extent: Extent) -> tuple[Case, ...]:
    return CASES if extent.bytes else TINY_CASES


def measure(case: Case, precision: Precision, extent: Extent, peaks: Peaks | None) -> dict[str, Any]:
    """One network in one precision; what the floor is made of is left out where the peaks are not known."""
    step = build(case, "cuda", precision.dtype, tf32=precision.tf32, steps=min(extent.steps, MOST_ROWS // case.batch))
    device, plan, cost = step.net.device, step.plan, step.plan.cost()
    row: dict[str, Any] = {
        "network": str(case), "batch": case.batch, "precision": precision.name,
        "launches": cost["launches"], "path": cost["path"], "memory": cost["memory"],
    }  # fmt: skip
    runs: dict[str, Run] = {"eager": plan.run}
    with device.computing():
        step.data.rewind()
        try:
            replay = Replay(plan, graph=True)
            replay.run()  # eagerly and as a graph, and compares the two
            runs |= {"replayed": replay.run, "in a row": device.capture(in_a_row(plan.nodes()))}
            runs["products alone"] = products_alone(replay)
            row["nodes"] = nodes(replay.run)
        except gb.GpuBackpropError as error:
            row["not replayed"] = str(error)
        rewind = step.data.rewind
        if precision.name == "float32":
            rewind = _with_plain_cupy(step, runs)
        clock = GraphClock(device, extent.rounds)
        with clocks_up(device, extent, row):
            times = clock.steps(_beginning_again(runs, len(step.x) // case.batch, rewind), extent.steps, rewind)
    row["epoch_us_a_step"] = epochs(step)
    # Last, since an update that is repeated leaves weights with which nothing can be trained any more.
    row["operations"] = [operation_row(o, step, extent, peaks, precision.name) for o in plan.operations]
    floors = [one["floor_us"] for one in row["operations"]]
    row |= times_of(times, cost["launches"], None if None in floors else sum(floors))
    return row


def _with_plain_cupy(step: Step, runs: dict[str, Run]) -> Run:
    """Adds the step in plain CuPy; gives what brings both back to the first rows."""
    import cupy

    plain = runs["plain CuPy"] = plain_step(step, cupy, cupy.asarray)

    def rewind() -> None:
        step.data.rewind()
        plain.cursor = 0

    return rewind


def _beginning_again(runs: Mapping[str, Run], steps: int, rewind: Run) -> dict[str, Run]:
    """The runs, which go back to the first rows after so many."""

    def wrapped(run: Run) -> Run:
        done = 0

        def again() -> None:
            nonlocal done
            if done == steps:
                rewind()
                done = 0
            run()
            done += 1

        return again

    return {name: wrapped(run) for name, run in runs.items()}


def operation_row(
    operation: Operation, step: Step, extent: Extent, peaks: Peaks | None, precision: str
) -> dict[str, Any]:
    """Times one operation of a step by itself, repeated."""
    least = peaks and peaks.floor(operation, precision)
    row: dict[str, Any] = {
        "operation": operation.name, "formula": operation.formula, "launches": operation.launches,
        "us": None, "floor_us": least and round(least[0], 3), "bound": least[1] if least else "",
    }  # fmt: skip
    device = step.net.device
    with device.computing():
        step.data.rewind()
        try:
            row["us"] = round(GraphClock(device, min(extent.rounds, 3)).alone(operation.calls, extent.span_us), 2)
        except Exception as error:  # whatever CUDA refuses: the others go on
            row["not timed"] = one_line(error)
    return row


def epochs(step: Step) -> float:
    """µs a step of whole epochs of `fit`, with the drawing of an order and the reading of the loss."""
    trainer = gb.Trainer(step.net, "cross_entropy", gb.Adam(), batch_size=step.case.batch)
    seconds = trainer.fit(step.x, step.labels, EPOCHS, progress=False)["seconds"][1 - EPOCHS :]
    return round(statistics.fmean(seconds) * 1e6 * step.case.batch / len(step.x), 2)


def nodes(graph_launch: Callable[[], object]) -> int | None:
    """The nodes of a captured graph as the driver counts them: a product may be several kernels."""
    graph = next((held for held in vars(graph_launch).get("holds", ()) if hasattr(held, "graph")), None)
    driver, count = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1"), ctypes.c_size_t()
    if graph is None or driver.cuGraphGetNodes(ctypes.c_void_p(graph.graph), None, ctypes.byref(count)):
        return None
    return count.value


def times_of(times: Mapping[str, list[Time]], launches: int, floor_us: float | None) -> dict[str, Any]:
    """What the times of the rounds come to."""
    found: dict[str, Any] = {"floor_us": None if floor_us is None else round(floor_us, 2)}
    for name, of_rounds in times.items():
        one: dict[str, Any] = {"us": spread([time.device for time in of_rounds])}
        if name in ("eager", "replayed"):
            one["host_us_a_launch"] = median([time.host / launches for time in of_rounds], 3)
            if floor_us:
                one["times_the_floor"] = median([time.device / floor_us for time in of_rounds])
        found[name] = one
    if "plain CuPy" in times:
        both = zip(times["plain CuPy"], times.get("replayed", times["eager"]), strict=True)
        found["plain CuPy / ours"] = spread([plain.device / ours.device for plain, ours in both])
    return found
