"""What training costs as the work grows: bench/results/growth.json, and a plot of each series, growth-NAME.svg.

    python bench/growth.py                 everything; some minutes on two cores
    python bench/growth.py --only batch    a part of it, printed; writes no results
    python bench/growth.py --quick         a few seconds that only show that it runs; writes no results

batch, width, depth: a step and its matrix products alone, timed in turns. rows: epochs of `fit` on memory-mapped .npy
files, all sizes in turns. memory: what building and running a step allocates, by Python's own account, beside what the
plan says. building: the first step of ten layers. importing: what the package adds to NumPy, in processes of their own.
Where something is over the bound that the project has set itself, that is said.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lib import first_costs, growth_plots, record
from lib.held_memory import account
from lib.timing import Clock, ranged, spread
from lib.workload import Workload
from throughput import measure, products_alone, undisturbed

import gpu_backprop as gb
from gpu_backprop.backend.text_table import columns

RESULTS = Path(__file__).parent / "results"

NETWORK = Workload((784, 512, 512, 10), 1024)
SQUARE = Workload((784, 512, 512, 10), 256)
DEEP, DEEP_UNITS = Workload((784, 256, 10), 256), 256
NARROW = Workload((64, 128, 10), 256)
TEN_LAYERS = Workload((*[256] * 10, 10), 128)


@dataclass(frozen=True)
class Extent:
    """How far each series goes, and how much is measured."""

    batches: Sequence[int] = (1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536)
    widths: Sequence[int] = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
    depths: Sequence[int] = (1, 2, 4, 8, 16, 32)
    rows: Sequence[int] = (1000, 10_000, 100_000, 1_000_000)
    rounds: int = 7
    window: float = 0.1
    repeats: int = 11


FULL = Extent()
QUICK = Extent((1, 4), (16, 32), (1, 2), (512, 1000), rounds=1, window=0.001, repeats=1)


# Series ---------------------------------------------------------------------------------------------------------------


def over(name: str, works: Iterator[tuple[int, Workload]], extent: Extent) -> dict[str, Any]:
    """A step and its products alone for every network of a series."""
    points = []
    for value, work in works:
        found = measure(work, rounds=extent.rounds, window=extent.window, end_to_end=False, kinds=False)
        kept = ("steps a round", "disturbed rounds", "flops", "step", "floor", "step / floor", "memory")
        points.append({name: value, "network": str(work), "batch": work.batch, **{key: found[key] for key in kept}})
        del points[-1]["floor"]["products"]
        print(f"  {name} {value:,}: {points[-1]['step']['us']['median']:,.1f} µs", file=sys.stderr, flush=True)
    return {"device": found["device"], "operations by": found["operations by"], "points": points}


def batch(extent: Extent) -> dict[str, Any]:
    return over("batch", ((rows, replace(NETWORK, batch=rows)) for rows in extent.batches), extent)


def width(extent: Extent) -> dict[str, Any]:
    inputs, outputs = SQUARE.widths[0], SQUARE.widths[-1]
    return over("width", ((n, replace(SQUARE, widths=(inputs, n, n, outputs))) for n in extent.widths), extent)


def depth(extent: Extent) -> dict[str, Any]:
    """By hidden layers."""
    inputs, outputs = DEEP.widths[0], DEEP.widths[-1]
    works = ((n, replace(DEEP, widths=(inputs, *[DEEP_UNITS] * n, outputs))) for n in extent.depths)
    return over("depth", works, extent)


def rows(extent: Extent) -> dict[str, Any]:
    """Epochs end to end, on data of so many rows in memory-mapped files."""
    trainer = NARROW.trainer()
    replay = trainer.manual_steps.load(trainer.manual_steps.minibatch(*NARROW.data(NARROW.batch)))
    replay.run()
    floor, floors, clock = products_alone(replay), [], Clock(trainer.device, 1)
    found: dict[int, list[tuple[tuple[float, list[float]], bool]]] = {n: [] for n in extent.rows}
    with tempfile.TemporaryDirectory() as folder:
        data = {n: mapped(Path(folder), n) for n in extent.rows}
        for _ in range(extent.rounds):
            with trainer.device.computing():
                pilot = clock.once(floor).device
                (us, _), _ = undisturbed(partial(clock.once, floor, max(1, round(extent.window * 1e6 / pilot))))
            floors.append(us)
            for n, (x, y) in data.items():
                epochs = 1 + max(1, min(100, extent.rows[-1] // (10 * n)))
                found[n].append(undisturbed(partial(fitted, trainer, x, y, epochs)))
        del data, x, y  # the maps, before their folder
    told = {"us": spread(floors), "samples_per_second": round(1e6 * NARROW.batch / statistics.median(floors), 1)}
    points = [point(n, [fit for fit, _ in fits], sum(not calm for _, calm in fits)) for n, fits in found.items()]
    return {"network": str(NARROW), "batch": NARROW.batch, "floor": told, "points": points}


def point(n: int, fits: Sequence[tuple[float, list[float]]], disturbed: int) -> dict[str, Any]:
    """What fits on so many rows took; the first epoch of each is kept apart, since its buffers are new."""
    steps = -(-n // NARROW.batch)
    us = [1e6 * statistics.fmean(of_epochs[1:]) / steps for _, of_epochs in fits]
    return {
        "rows": n,
        "file_bytes": n * NARROW.widths[0] * 4,
        "disturbed rounds": disturbed,
        "us": spread(us),
        "samples_per_second": round(1e6 * n / steps / statistics.median(us), 1),
        "first_epoch_us": spread([1e6 * of_epochs[0] / steps for _, of_epochs in fits]),
        "seconds_before_the_first_epoch": spread([seconds - sum(of_epochs) for seconds, of_epochs in fits], 4),
    }


def fitted(trainer: gb.Trainer, x: Any, y: Any, epochs: int) -> tuple[float, list[float]]:
    """The seconds of a whole fit, and those of each of its epochs."""
    started = time.perf_counter()
    history = trainer.fit(x, y, epochs, progress=False)
    return time.perf_counter() - started, history["seconds"][-epochs:]


def mapped(folder: Path, n: int) -> tuple[Any, Any]:
    """So many samples, written to files and mapped from there."""
    paths = folder / f"x{n}.npy", folder / f"y{n}.npy"
    inputs, outputs = NARROW.widths[0], NARROW.widths[-1]
    rng = np.random.default_rng(0)
    x = np.lib.format.open_memmap(paths[0], "w+", np.float32, (n, inputs))
    for start in range(0, n, 1 << 16):
        x[start : start + (1 << 16)] = rng.standard_normal((min(1 << 16, n - start), inputs), np.float32)
    x.flush()
    np.save(paths[1], rng.integers(0, outputs, n))
    return np.load(paths[0], mmap_mode="r"), np.load(paths[1], mmap_mode="r")


# What is not a series -------------------------------------------------------------------------------------------------


def memory(extent: Extent) -> dict[str, Any]:
    """Steps of several kinds."""
    small = extent is not FULL
    works = [
        replace(NETWORK, batch=64 if small else NETWORK.batch),
        Workload((8, 32, 32, 1), 64, ("tanh",), "half_squared_error", "sgd"),
        Workload((64, 128, 10), 256, ("gelu",), optimizer="adamw", dropout=0.5),
        Workload((64, 128, 128, 10), 256, ("tanh", "softplus", "softmax"), "absolute_error", "rmsprop"),
        Workload((64, 128, 10), 256, ("sigmoid",), "binary_cross_entropy", "adagrad", dtype="float64"),
    ]
    if not small:
        works.append(Workload((784, 2500, 2000, 1500, 1000, 500, 10), 256, ("tanh",)))
    points = [account(work) for work in works]
    return {"points": points, "holds": all(point["holds"] for point in points)}


PARTS: dict[str, Callable[[Extent], dict[str, Any]]] = {
    "importing": lambda extent: first_costs.importing(extent.repeats),
    "building": lambda extent: first_costs.building(TEN_LAYERS, extent.repeats),
    "memory": memory,
    "batch": batch,
    "width": width,
    "depth": depth,
    "rows": rows,
}


# Telling --------------------------------------------------------------------------------------------------------------


def table(name: str, found: dict[str, Any]) -> Iterator[str]:
    """A part as one reads it."""
    yield f"\n{name}"
    if name in ("importing", "building"):
        lines = [(key, ranged(value, 1)) for key, value in found.items() if isinstance(value, dict)]
        yield from columns([("ms", "median (least to most)"), *lines], 1)
        yield f"bound: {found['bound_ms']} ms: {'holds' if found['holds'] else 'DOES NOT HOLD'}"
        return
    if name == "memory":
        heads = ("network", "batch", "the plan says", "scratch", "allocated", "of that else", "while it runs", "")
        cells = [
            (
                p["network"], f"{p['batch']:,}", *(f"{p[key]:,}" for key in ("plan", "scratch", "allocated", "own")),
                f"{p['while running']:,}", "holds" if p["holds"] else "DOES NOT HOLD",
            )
            for p in found["points"]
        ]  # fmt: skip
        yield from columns([heads, *cells], 1)
        return
    heads = (name, "µs a step (least to most)", "samples/s", "products' samples/s", "")
    cells = []
    for p in found["points"]:
        step, floor = p.get("step", p), p.get("floor", found.get("floor"))
        each = (f"{one['samples_per_second']:,.0f}" for one in (step, floor))
        cells.append((f"{p[name]:,}", ranged(step["us"], 1), *each, "DISTURBED" if p["disturbed rounds"] else ""))
    yield from columns([heads, *cells], 1)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; can be repeated; writes nothing")
    parser.add_argument("--quick", action="store_true", help="in small; writes nothing")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write to, with --quick too")
    options = parser.parse_args(arguments)
    extent, started, found = QUICK if options.quick else FULL, time.perf_counter(), {}
    for name in options.only or PARTS:
        print(f"… {name}", file=sys.stderr, flush=True)
        try:
            found[name] = PARTS[name](extent)
        except gb.GpuBackpropError as error:
            print(f"growth.py: {name}: {error}", file=sys.stderr)
            return 1
        print("\n".join(table(name, found[name])), flush=True)
    if options.only or (options.quick and options.out is None):
        return 0
    folder = options.out or RESULTS
    record.write(folder / "growth.json", "python bench/growth.py", time.perf_counter() - started, found)
    growth_plots.draw(folder / "growth.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
