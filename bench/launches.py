"""What a training step asks of a CUDA device, beside the same step in plain CuPy, into bench/results/launches.json.

For five networks: launches, allocations and bytes of our plan, and of `PlainStep`, which is how one writes the step in
CuPy's own array expressions. Both train the same networks on the same rows, and their results are compared.
Allocations are those of CuPy's memory pool. Bytes are what passes if every array that an operation reads or writes
passes once: ours as the plan states them, PlainStep's as counted on NumPy, operation by operation.

CuPy's launches can be counted only where the device writes a trace, which the emulated one does; there the plan's own
number is compared with the trace too, and the JSON is written. On a real GPU the table is printed without them.

Run it as: python bench/launches.py [--quick]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lib import markdown, record
from lib.cuda_plan import CudaLikeDevice
from lib.device_trace import DeviceTrace, allocations, queued
from lib.plain_step import Counted, PlainStep, counted

import gpu_backprop as gb
from gpu_backprop.backend.formula import CORRECT, LOSS, Array
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.minibatches import DataSet

RESULTS = Path(__file__).parent / "results" / "launches.json"
STEPS = 3
"""Two to warm up, and the one that is counted."""

DISTINCT = 4096
"""Rows of the data that differ, at most: to draw many would take longer than to train on them."""

FLOPS, BANDWIDTH = 67e12, 3.35e12
"""What an H100 SXM does a second at most, in float32 and in bytes (NVIDIA's data sheet): for a model of the time, which
is no measurement."""


@dataclass(frozen=True)
class Case:
    """A network of rectified units under softmax and cross entropy, trained by Adam."""

    widths: tuple[int, ...]
    batch: int

    def __str__(self) -> str:
        return "-".join(map(str, self.widths))


CASES = (
    Case((64, 128, 10), 32),
    Case((784, 100, 10), 64),
    Case((784, 512, 512, 10), 128),
    Case((1024, 1024, 1024, 1024, 10), 512),
    Case((784, 2500, 2000, 1500, 1000, 500, 10), 256),
)


# One network ----------------------------------------------------------------------------------------------------------


@dataclass
class Step:
    """A network, our plan for it, not yet run, and what it begins with."""

    case: Case
    net: gb.Network
    plan: Plan
    total: Array
    x: Array
    labels: Array
    start: list[tuple[Array, Array]]
    data: DataSet


def build(case: Case, device: str, dtype: str = "float32", *, tf32: bool = False, steps: int = STEPS) -> Step:
    """Our plan for a network, data for so many steps, and what PlainStep needs to do the same. On a CPU the plan is
    there to look at, joined as CUDA joins it."""
    layers = [*(gb.Dense(n, "relu") for n in case.widths[1:-1]), gb.Dense(case.widths[-1], "softmax")]
    net = gb.Network(case.widths[0], layers, dtype=dtype, device=device, tf32=tf32)
    rng = np.random.default_rng(0)
    rows = steps * case.batch
    x = np.resize(rng.standard_normal((min(rows, DISTINCT), net.inputs), dtype=np.float32), (rows, net.inputs))
    labels = rng.integers(0, net.outputs, rows)
    total = net.device.zeros((3,), np.float64)
    trainer = gb.Trainer(net, "cross_entropy", gb.Adam(), batch_size=case.batch)
    data = DataSet(net, Samples(x, labels, None))
    start = [(net.device.to_host(layer.weight), net.device.to_host(layer.bias)) for layer in net.layers]
    looked_at = CudaLikeDevice(net.device) if device == "cpu" else None
    plan = trainer.training_step.build(data, case.batch, total, device=looked_at)
    return Step(case, net, plan, total, x, labels, start, data)


def plain_step(step: Step, xp: Any, place: Callable[[Array], Any]) -> PlainStep:
    """PlainStep with arrays that `place` makes of the host's."""
    parameters = [(place(w.copy()), place(b.copy())) for w, b in step.start]
    order = place(np.arange(len(step.x)))
    return PlainStep(xp, parameters, place(step.x), place(step.labels), order, step.case.batch)


def plan_account(plan: Plan) -> dict[str, Any]:
    """Sums up the launches, bytes and flops of a plan, and a model of its least time."""
    optimizer = sum(o.bytes for o in plan.operations if o.name == "update")
    products = sum(o.bytes for o in plan.operations if o.name == "matmul")
    cost = plan.cost()
    floor = sum(max(o.flops / FLOPS, o.bytes / BANDWIDTH) for o in plan.operations)
    return {
        "launches": cost["launches"],
        "bytes": {"products": products, "elementwise": cost["bytes"] - products - optimizer, "optimizer": optimizer},
        "flops": cost["flops"],
        "model_floor_us": round(floor * 1e6, 1),
    }


def plain_bytes(step: Step) -> dict[str, int]:
    """The bytes of one PlainStep, Adam's apart."""
    run = plain_step(step, np, counted)
    adam, optimizer = run.adam, 0

    def measured(gradients: list[Any]) -> None:
        nonlocal optimizer
        before = Counted.moved["other"]
        adam(gradients)
        optimizer = Counted.moved["other"] - before

    run.adam = measured
    Counted.moved = {"products": 0, "other": 0}
    run()
    moved = Counted.moved
    return {"products": moved["products"], "elementwise": moved["other"] - optimizer, "optimizer": optimizer}


def observe(run: Callable[[], object], trace: DeviceTrace | None) -> tuple[int | None, int]:
    """(launches, allocations) of the last of STEPS runs; launches where there is a trace."""
    for _ in range(STEPS - 1):
        run()
    with allocations() as sizes:
        if trace is None:
            run()
            return None, len(sizes)
        return len(queued(trace.of(run))), len(sizes)


def agree(step: Step, other: PlainStep) -> None:
    """Raises unless the other step has learned what ours has: parameters, sum of losses, and right answers."""
    device, get = step.net.device, other.xp.asnumpy
    total, start = device.to_host(step.total), flat(p for pair in step.start for p in pair)
    ours = flat(device.to_host(p) for layer in step.net.layers for p in (layer.weight, layer.bias))
    theirs = flat(get(p) for pair in zip(other.weights, other.biases, strict=True) for p in pair)
    # Not number by number: Adam divides by the root of squares, so where a gradient is about 0 rounding decides.
    apart = np.linalg.norm(ours - theirs) / np.linalg.norm(ours - start)
    assert apart < 0.01, f"{step.case}: what the two steps learn differs by {apart:.2%}"
    np.testing.assert_allclose(total[LOSS], get(other.loss)[0], rtol=1e-4)
    assert total[CORRECT] == get(other.hits)[0]


def flat(arrays: Iterable[Array]) -> Array:
    return np.concatenate([a.ravel() for a in arrays])


def account(case: Case, trace: DeviceTrace | None) -> dict[str, Any]:
    """One network's row."""
    import cupy

    step = build(case, "cuda")
    plan = plan_account(step.plan)
    with step.net.device.computing():
        seen, allocated = observe(step.plan.run, trace)
    if seen not in (None, plan["launches"]):
        raise AssertionError(f"{case}: the plan says {plan['launches']} launches, the device saw {seen}.")
    cupy_step = plain_step(step, cupy, cupy.asarray)
    cupy_seen, cupy_allocated = observe(cupy_step, trace)
    agree(step, cupy_step)
    moved = plain_bytes(step)
    assert moved["products"] > plan["bytes"]["products"]  # of which the head takes two over
    return {
        "network": str(case),
        "batch": case.batch,
        "parameters": sum(w.size + b.size for w, b in step.start),
        "plan": {**plan, "allocations": allocated},
        "cupy": {"launches": cupy_seen, "allocations": cupy_allocated, "bytes": moved},
    }


# All of them ----------------------------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> str:
    """Ours before the stroke, CuPy's behind it; megabytes without those of the products, which are the same."""

    def cells(side: dict[str, Any]) -> Iterator[object]:
        yield "?" if side["launches"] is None else side["launches"]
        yield side["allocations"]
        yield from (f"{side['bytes'][kind] / 1e6:.2f}" for kind in ("elementwise", "optimizer"))

    heads = "network", "rows", "launches", "allocations", "MB elementwise", "MB optimizer", "floor, µs (model)"
    lines = []
    for row in rows:
        both = (f"{ours} / {theirs}" for ours, theirs in zip(cells(row["plan"]), cells(row["cupy"]), strict=True))
        lines.append((row["network"], row["batch"], *both, row["plan"]["model_floor_us"]))
    return markdown.table(heads, lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the two smallest networks, and write nothing")
    options = parser.parse_args(arguments)
    os.environ["GPU_BACKPROP_EPILOGUES"] = "off"  # which serve depends on times, and what is counted here must not
    trace = DeviceTrace() if DeviceTrace.is_there() else None
    started = time.perf_counter()
    try:
        gb.Network(1, [gb.Dense(1)], device="cuda")
    except gb.GpuBackpropError as error:
        print(f"launches.py: {error}\nIt needs a CUDA device, real or emulated.", file=sys.stderr)
        return 1
    rows = []
    for case in CASES[:2] if options.quick else CASES:
        print(f"{case}, {case.batch} rows", file=sys.stderr, flush=True)
        rows.append(account(case, trace))
    print(table(rows))
    if trace is None:
        print("CuPy's launches, and a check of the plan's, take the trace of an emulated device. Nothing was written.")
    elif not options.quick:
        import cupy

        model = {"device": "H100 SXM, float32", "flops_per_second": FLOPS, "bytes_per_second": BANDWIDTH}
        measured = {"cupy": cupy.__version__, "device": "emulated", "model": model, "networks": rows}
        record.write(RESULTS, "python bench/launches.py", time.perf_counter() - started, measured)
    return 0


if __name__ == "__main__":
    sys.exit(main())
