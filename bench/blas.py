"""Whose matrix products are the fastest here, NumPy's BLAS's, MKL's or ours, and how near they come to what the
processor can do.

    pip install mkl             # the extra bench has it
    python bench/blas.py

The products are those of one training step of each network, in float32 and in float64. Each library is timed in a
process of its own, one after the other, several times over, with the same number of threads; results are compared with
NumPy's. So is a loop that does nothing but multiply and add in registers: its rate is the peak, of which each library
has a share. Writes bench/results/blas.json. What is not installed is left out by name.
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
from concurrent.futures import ThreadPoolExecutor
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
PEAK = "peak"
DTYPES = "float32", "float64"
ROW_MAJOR, AS_IT_IS, TRANSPOSED = 101, 111, 112

LOOP = """
extern "C" i64 bp_peak(i64 times) {
  Vector sum[12] = {};
  const Vector a = Vector{} + real(0.5), b = Vector{} + real(1);
  for (i64 i = 0; i < times; i++) {
    BP_UNROLL
    for (int k = 0; k < 12; k++) sum[k] = fma(sum[k], a, b);
  }
  for (int k = 1; k < 12; k++) sum[0] += sum[k];
  return sum[0][0] < 99 ? times * 12 * 2 * WIDTH : 0;
}
"""
"""Multiplies and adds in as many registers as keep all units busy; returns its flops."""

Product = tuple[Any, Any, Any]
"""a, b and out = a@b; a and b may be transposed views."""


class Missing(Exception):
    """The library is not installed."""


def products(widths: Sequence[int], batch: int, dtype: str) -> list[Product]:
    """Those of a step: z = x@W, ∇W = xᵀ@∇z, and but for the first layer ∇x = ∇z@Wᵀ."""
    draw = np.random.default_rng(0)

    def new(*shape: int) -> Any:
        return draw.standard_normal(shape).astype(dtype)

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
    single = some[0][0].dtype == np.float32
    library, real = ctypes.CDLL(str(found.locate())), ctypes.c_float if single else ctypes.c_double
    gemm = library.cblas_sgemm if single else library.cblas_dgemm
    gemm.restype = None

    def layout(a: Any) -> tuple[int, int]:
        return (AS_IT_IS, a.shape[1]) if a.flags.c_contiguous else (TRANSPOSED, a.shape[0])

    def bound(a: Any, b: Any, out: Any) -> Callable[[], object]:
        integer, place = ctypes.c_int, ctypes.c_void_p
        (how_a, lead_a), (how_b, lead_b) = layout(a), layout(b)
        sizes = map(integer, (ROW_MAJOR, how_a, how_b, *out.shape, a.shape[1]))
        operands = place(a.ctypes.data), integer(lead_a), place(b.ctypes.data), integer(lead_b)
        return partial(gemm, *sizes, real(1), *operands, real(0), place(out.ctypes.data), integer(out.shape[1]))

    return in_order([bound(*product) for product in some])


def by_us(some: Sequence[Product]) -> Callable[[], object]:
    from gpu_backprop.backend.compiled.device import CpuDevice
    from gpu_backprop.backend.open_device import open_device

    device = open_device("cpu", str(some[0][0].dtype))
    if not isinstance(device, CpuDevice):
        raise Missing(device.reason)
    calls = device.sequence([call for product in some for call in device.ops.matmul(device, *product)])
    return in_order(calls)


def peak(threads: int, dtype: str, window: float) -> float:
    """Flops in a nanosecond of so many threads that do nothing else."""
    from gpu_backprop.backend.compiled import compiler
    from gpu_backprop.backend.compiled.operations_text import REAL
    from gpu_backprop.backend.errors import DeviceError
    from gpu_backprop.backend.kernel_text import source

    try:
        (made,) = compiler.find().load([REAL[dtype] + source("cpu/products.cpp") + LOOP], "a loop")
        if isinstance(made, DeviceError):
            raise made
    except DeviceError as error:
        raise Missing(str(error)) from None
    loop, times = made.functions.bp_peak, 1_000_000  # milliseconds: a shorter one is over before the others have begun
    loop.argtypes, loop.restype = [ctypes.c_longlong], ctypes.c_longlong
    with ThreadPoolExecutor(threads) as pool:
        rates = []
        for _ in range(max(3, int(window / 0.002))):
            begin = time.perf_counter()
            flops = sum(pool.map(loop, [times] * threads))
            rates.append(flops / (time.perf_counter() - begin) / 1e9)
    return max(rates)


def measure(library: str, window: float, threads: int, dtype: str) -> dict[str, float]:
    """µs for the products of each network, once each in `window` seconds; checked against NumPy's."""
    if library == PEAK:
        return {PEAK: peak(threads, dtype, window)}
    how = {"NumPy": by_numpy, "ours": by_us}.get(library, by_mkl)
    found, done = {}, list[Product]()
    for network in CONFIGURATIONS:
        some = products(network.widths, network.batch, dtype)
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


def ask(library: str, window: float, threads: int, dtype: str) -> dict[str, Any]:
    """Measures in a process of its own; gives the times, or why there are none."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    environment = {**os.environ, **limits}
    if library.startswith("MKL"):
        environment["MKL_THREADING_LAYER"] = library.rpartition(" ")[2]
    command = [sys.executable, __file__, "--library", library, "--window", str(window), "--threads", str(threads)]
    command += ["--dtype", dtype]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"missing": (done.stderr.strip().splitlines() or ["no answer"])[-1]}
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def summary(rounds: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """By network: the median µs of each library, how many times as long NumPy took, and its share of the peak, round by
    round."""
    found: dict[str, Any] = {}
    for configuration in CONFIGURATIONS:
        network = str(configuration)
        widths = configuration.widths
        weights = 3 * sum(i * units for i, units in pairwise(widths)) - widths[0] * widths[1]
        flops = 2 * configuration.batch * weights
        found[network] = {"batch": configuration.batch, "flops": flops}
        for name in rounds[0]:
            if name == PEAK or "missing" in rounds[0][name]:
                continue
            us = median([turn[name][network] for turn in rounds], 1)
            ratio = spread([turn["NumPy"][network] / turn[name][network] for turn in rounds])
            found[network][name] = {"microseconds": us, "times as fast as NumPy": ratio.pop("median"), **ratio}
            if PEAK in rounds[0][PEAK]:
                shares = [flops / turn[name][network] / 1000 / turn[PEAK][PEAK] for turn in rounds]
                found[network][name]["share of the peak"] = median(shares, 3)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Whose matrix products are the fastest here.")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is timed (default: 7)")
    parser.add_argument("--window", type=float, default=0.1, help="seconds a network and round (default: 0.1)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each (default: all cores)")
    parser.add_argument("--quick", action="store_true", help="one round, which only shows that it runs; writes nothing")
    parser.add_argument("--library", choices=(PEAK, *LIBRARIES), help=argparse.SUPPRESS)
    parser.add_argument("--dtype", choices=DTYPES, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.library:
        try:
            print(json.dumps(measure(given.library, given.window, given.threads, given.dtype)))
        except Missing as missing:
            sys.exit(str(missing))
        return 0
    from lib.record import write

    began = time.perf_counter()
    count, window = (1, 0.001) if given.quick else (given.rounds, given.window)
    about: dict[str, Any] = {"threads": given.threads, "rounds": count}
    for dtype in DTYPES:
        rounds = [{name: ask(name, window, given.threads, dtype) for name in (PEAK, *LIBRARIES)} for _ in range(count)]
        about["products" if dtype == DTYPES[0] else dtype] = found = summary(rounds)
        left_out = {name: answer["missing"] for name, answer in rounds[0].items() if "missing" in answer}
        for network, row in found.items():
            figures = (
                f"{name} {row[name]['microseconds']:,.1f} ({row[name].get('share of the peak', 0):.0%})"
                for name in LIBRARIES
                if name in row
            )
            print(f"{network}, {dtype}, µs (share of the peak):  {'  '.join(figures)}")
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")
    if given.quick:
        return 0
    mkl = "not installed" if left_out.get(f"MKL, {LAYERS[0]}") else version("mkl")
    about |= {"mkl": mkl, "left out": left_out}
    write(RESULTS, "python bench/blas.py", time.perf_counter() - began, about)
    return 0


if __name__ == "__main__":
    sys.exit(main())
