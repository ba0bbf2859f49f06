"""Whose matrix products are the fastest here: NumPy's own BLAS, MKL, or NumPy's BLAS split among threads of our own.

    pip install mkl             # the extra bench has it
    python bench/blas.py

It answers whether an extra that binds MKL would be worth having. The products are those of one training step of each
network. Each library is timed in a process of its own, one after the other, several times over, with the same number of
threads; results are compared with NumPy's. Writes bench/results/blas.json. What is not installed is left out by name.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, files, version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from comparison.tasks import CONFIGURATIONS
from lib.timing import in_order, median, spread

RESULTS = Path(__file__).parent / "results" / "blas.json"
LAYERS = "SEQUENTIAL", "INTEL", "GNU"
"""How MKL may get its threads, as MKL_THREADING_LAYER says; TBB cannot be loaded from the wheels."""
LIBRARIES = "NumPy", *(f"MKL, {layer}" for layer in LAYERS), "ours"
ROW_MAJOR, AS_IT_IS, TRANSPOSED = 101, 111, 112

Product = tuple[Any, Any, Any]
"""a, b and out = a@b; a and b may be transposed views."""


class Missing(Exception):
    """The library is not installed."""


def products(widths: Sequence[int], batch: int) -> list[Product]:
    """Those of a step: z = x@W, ∇W = xᵀ@∇z, and but for the first layer ∇x = ∇z@Wᵀ."""
    draw = np.random.default_rng(0)

    def new(*shape: int) -> Any:
        return draw.standard_normal(shape, dtype=np.float32)

    found: list[Product] = []
    for layer, (inputs, units) in enumerate(pairwise(widths)):
        x, w, z = new(batch, inputs), new(inputs, units), new(batch, units)
        found += [(x, w, np.empty_like(z)), (x.T, z, np.empty_like(w))]
        if layer:
            found.append((z, w.T, np.empty_like(x)))
    return found


def by_numpy(some: Sequence[Product]) -> Callable[[], object]:
    return in_order([partial(np.dot, a, b, out) for a, b, out in some])


def by_mkl(some: Sequence[Product]) -> Callable[[], object]:
    try:
        found = next(f for f in files("mkl") or () if f.name.startswith("libmkl_rt.so"))
    except (PackageNotFoundError, StopIteration):
        raise Missing("mkl is not installed") from None
    gemm = ctypes.CDLL(str(found.locate())).cblas_sgemm
    gemm.restype = None

    def layout(a: Any) -> tuple[int, int]:
        return (AS_IT_IS, a.shape[1]) if a.flags.c_contiguous else (TRANSPOSED, a.shape[0])

    def bound(a: Any, b: Any, out: Any) -> Callable[[], object]:
        integer, real, place = ctypes.c_int, ctypes.c_float, ctypes.c_void_p
        (how_a, lead_a), (how_b, lead_b) = layout(a), layout(b)
        sizes = map(integer, (ROW_MAJOR, how_a, how_b, *out.shape, a.shape[1]))
        operands = place(a.ctypes.data), integer(lead_a), place(b.ctypes.data), integer(lead_b)
        return partial(gemm, *sizes, real(1), *operands, real(0), place(out.ctypes.data), integer(out.shape[1]))

    return in_order([bound(*product) for product in some])


def by_us(some: Sequence[Product]) -> Callable[[], object]:
    from gpu_backprop.backend.compiled.device import CpuDevice
    from gpu_backprop.backend.open_device import open_device

    device = open_device("cpu")
    if not isinstance(device, CpuDevice):
        raise Missing(device.reason)
    calls = device.sequence([call for product in some for call in device.ops.matmul(device, *product)])
    return in_order(calls)


def measure(library: str, window: float) -> dict[str, float]:
    """µs for the products of each network, once each in `window` seconds; checked against NumPy's."""
    how = {"NumPy": by_numpy, "ours": by_us}.get(library, by_mkl)
    found, done = {}, list[Product]()
    for network in CONFIGURATIONS:
        some = products(network.widths, network.batch)
        run = how(some)
        run()
        begin = time.perf_counter()
        run()
        times = max(1, int(window / (time.perf_counter() - begin)))
        begin = time.perf_counter()
        for _ in range(times):
            run()
        found[str(network)] = (time.perf_counter() - begin) / times * 1e6
        done += some
    # only now, since the threads of NumPy's BLAS look for the next product for a while, and take the cores from others
    for a, b, out in done:
        np.testing.assert_allclose(out, a @ b, rtol=1e-3, atol=1e-3 * a.shape[1] ** 0.5)
    return found


def ask(library: str, window: float, threads: int) -> dict[str, Any]:
    """Measures in a process of its own; gives the times, or why there are none."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    environment = {**os.environ, **limits}
    if library.startswith("MKL"):
        environment["MKL_THREADING_LAYER"] = library.rpartition(" ")[2]
    command = [sys.executable, __file__, "--library", library, "--window", str(window)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"missing": (done.stderr.strip().splitlines() or ["no answer"])[-1]}
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def summary(rounds: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """By network: the median µs of each library, and how many times as long NumPy took, round by round."""
    found: dict[str, Any] = {}
    for configuration in CONFIGURATIONS:
        network = str(configuration)
        found[network] = {"batch": configuration.batch}
        for name in rounds[0]:
            if "missing" in rounds[0][name]:
                continue
            us = median([turn[name][network] for turn in rounds], 1)
            ratio = spread([turn["NumPy"][network] / turn[name][network] for turn in rounds])
            found[network][name] = {"microseconds": us, "times as fast as NumPy": ratio.pop("median"), **ratio}
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Whose matrix products are the fastest here.")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is timed (default: 7)")
    parser.add_argument("--window", type=float, default=0.1, help="seconds a network and round (default: 0.1)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each (default: all cores)")
    parser.add_argument("--quick", action="store_true", help="one round, which only shows that it runs; writes nothing")
    parser.add_argument("--library", choices=LIBRARIES, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.library:
        try:
            print(json.dumps(measure(given.library, given.window)))
        except Missing as missing:
            sys.exit(str(missing))
        return 0
    from lib.record import write

    began = time.perf_counter()
    count, window = (1, 0.001) if given.quick else (given.rounds, given.window)
    rounds = [{name: ask(name, window, given.threads) for name in LIBRARIES} for _ in range(count)]
    found = summary(rounds)
    left_out = {name: answer["missing"] for name, answer in rounds[0].items() if "missing" in answer}
    for network, row in found.items():
        figures = "  ".join(f"{name} {row[name]['microseconds']:,.1f}" for name in LIBRARIES if name in row)
        print(f"{network}, µs:  {figures}")
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")
    if given.quick:
        return 0
    mkl = "not installed" if left_out.get(f"MKL, {LAYERS[0]}") else version("mkl")
    about = {"threads": given.threads, "rounds": given.rounds, "mkl": mkl, "left out": left_out, "products": found}
    write(RESULTS, "python bench/blas.py", time.perf_counter() - began, about)
    return 0


if __name__ == "__main__":
    sys.exit(main())
