"""How long a first fit waits until its kernels are compiled, by NVRTC and without a GPU: bench/results/cold_start.json.

    python bench/cold_start.py [--network 784-512-512-10] [--arch sm_90] [--quick]

Needed: CuPy, ml_dtypes, NVRTC and the CUDA headers, all of them from PyPI; neither driver nor toolkit. Which kernels a
fit with validation needs, replayed as a graph, is told by its dry run; each is compiled as CuPy compiles it for a
launch where its cache on disk has none. Every way to compile them has processes of its own, in turns:

- one after another, as binding alone would;
- by as many threads as a plan takes, `KernelLibrary.compile`, and by more;
- as one module for each file, with several name expressions, one module after another.

`seconds` are by the clock, `cpu` of the processor: they are apart where the machine has other things to do. `waiting`
is how long the threads, together, neither ran nor lacked a core: they waited for each other. `modelled` is what so many
threads take on as many free cores, by the processor's time of each kernel. `predicted` was written down before this was
first run.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from lib import record
from lib.cuda_plan import BLOCK_MEMORY
from lib.kernel_instances import text_of
from lib.timing import spread
from lib.workload import Workload, widths

import kernels
from gpu_backprop.backend.cuda import kernel_library, ops
from gpu_backprop.backend.cuda.dry_run import CudaDryRunDevice
from gpu_backprop.backend.cuda.fusions import FUSIONS
from gpu_backprop.backend.cuda.kernel_instance import TYPES, Instance
from gpu_backprop.backend.cuda.kernel_library import KernelLibrary
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.threads import threads
from gpu_backprop.network.samples import samples
from gpu_backprop.training.memory import make_fit

RESULTS = Path(__file__).parent / "results" / "cold_start.json"
ROUNDS = 5
ROWS, HELD_OUT = 1000, 300
PREDICTED = (
    "10 kernels; 25 ms each for the compiler to begin and to read port.cuh, 1.0 s in all; softmax_cross_entropy alone "
    "0.27 s, so 0.5 s by two threads on two free cores and 0.3 s by four on four; a module a file saves 20 ms for each "
    "kernel that it joins, 0.1 s, and no more than that."
)


class Outlined(Device):
    """What a dry run asks of a CUDA device, without one."""

    on_host = False
    gathered_dtypes = TYPES["S"]
    fusions = FUSIONS
    workspace = 0
    ticket_counts: ClassVar = {}
    epilogues = SimpleNamespace(expected=lambda key: False)  # each is tried on a device first

    def __init__(self) -> None:
        super().__init__("cuda:0", "an outline", "float32", np, ops)
        self.kernels = KernelLibrary(np, 0, None)


def needed(work: Workload) -> list[Instance]:
    """The kernels of a fit with validation, in the order in which they are bound; the network itself is on the CPU."""
    trainer, dry_run = work.trainer(), CudaDryRunDevice(Outlined())  # type: ignore[arg-type]
    vars(dry_run.kernels)["block_memory"] = BLOCK_MEMORY
    kernel_library.address = dry_run.address
    data, held_out = (
        samples(trainer.network, trainer.loss, *work.data(rows), None, values=False) for rows in (ROWS, HELD_OUT)
    )
    make_fit(dry_run, trainer.training_step, trainer.settings, data, held_out)
    return list(dry_run.needed_kernels.values())


def by_threads(count: int, made: Sequence[Instance], architecture: int) -> float:
    """Compiles a module a kernel. Returns how long the threads neither ran nor waited for a core."""

    def compile_one(instance: Instance) -> float:
        began, ready = time.perf_counter(), ready_seconds()
        kernels.compiled(instance.text, [instance.name], architecture)
        return time.perf_counter() - began - (ready_seconds() - ready)

    with ThreadPoolExecutor(count) as pool:
        return sum(pool.map(compile_one, made))


def ready_seconds() -> float:
    """How long this thread has run, or waited for a core, as Linux counts it."""
    ran, waited, _ = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()
    return (int(ran) + int(waited)) / 1e9


def by_files(made: Sequence[Instance], architecture: int) -> float:
    """Compiles a module a file."""
    for file in dict.fromkeys(instance.kernel.file for instance in made):
        of_file = [instance for instance in made if instance.kernel.file == file]
        kernels.compiled(text_of(of_file), [instance.name for instance in of_file], architecture)
    return 0.0


COUNTS = sorted({1, 2, 4, threads()})
WAYS = {**{f"threads: {count}": partial(by_threads, count) for count in COUNTS}, "a module a file": by_files}


def modelled(each: Sequence[float], count: int) -> float:
    """When so many threads are done, each of which takes the next kernel as soon as it is free."""
    free = [0.0] * count
    for seconds in each:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def measured(way: str, work: Workload, architecture: int) -> None:
    """What a process of its own does and prints: seconds by the clock, of the processor, and of waiting."""
    made = needed(work)
    kernels.nvrtc()  # loads the libraries, as opening a device does
    began, used = time.perf_counter(), time.process_time()
    if way == "each":
        by_files(made[:1], architecture)  # so that none pays for the compiler's own beginning
        for instance in made:
            used = time.process_time()
            kernels.compiled(instance.text, [instance.name], architecture)
            print(json.dumps([instance.name, time.process_time() - used]))
    else:
        waiting = WAYS[way](made, architecture)
        print(json.dumps([time.perf_counter() - began, time.process_time() - used, waiting]))


def child(way: str, options: argparse.Namespace) -> list[Any]:
    command = [sys.executable, __file__, "--way", way, "--network", options.network, "--arch", options.arch]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="How long a first fit waits for its kernels.")
    parser.add_argument("--network", default="784-512-512-10", metavar="WIDTHS")
    parser.add_argument("--arch", default="sm_90", metavar="sm_XY")
    parser.add_argument("--quick", action="store_true", help="one round; writes no results")
    parser.add_argument("--way", choices=("each", *WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    work, architecture = Workload(widths(options.network), device="cpu"), int(options.arch.removeprefix("sm_"))
    started = time.perf_counter()
    try:
        version, _ = kernels.nvrtc()
    except (ImportError, RuntimeError) as error:
        print(f"cold_start.py: CuPy, ml_dtypes and NVRTC are needed: {error}", file=sys.stderr)
        return 2
    if options.way:
        measured(options.way, work, architecture)
        return 0
    names = [made.name for made in needed(work)]
    times: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    each: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(1 if options.quick else ROUNDS):
        for way, of_way in times.items():
            of_way += child(way, options)
        for name, seconds in child("each", options):
            each[name].append(seconds)
    alone = {name: spread([1e3 * s for s in of], 0) for name, of in each.items()}
    found = {
        way: {what: spread([row[k] for row in rows], 2) for k, what in enumerate(("seconds", "cpu", "waiting"))}
        for way, rows in times.items()
    }
    model = {str(n): round(modelled([row["median"] / 1e3 for row in alone.values()], n), 2) for n in COUNTS}
    for way, row in found.items():
        print(f"{way:16}" + ", ".join(f"{what} {of['median']:.2f}" for what, of in row.items()))
    print(f"on as many free cores: {model}")
    for name, row in alone.items():
        print(f"  {row['median']:5.0f} ms  {name}")
    if options.quick:
        print("--quick: one round; nothing was written.")
        return 0
    result = {
        "nvrtc": version, "architecture": options.arch, "network": options.network, "rounds": ROUNDS,
        "threads of a plan": threads(), "predicted": PREDICTED, "load": round(os.getloadavg()[0], 1),
        "kernels": len(names), "ways": found, "modelled": model, "each_ms": alone,
    }  # fmt: skip
    record.write(RESULTS, "python bench/cold_start.py", time.perf_counter() - started, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
