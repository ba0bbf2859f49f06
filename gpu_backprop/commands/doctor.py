"""gpu-backprop doctor: check what this machine can train on, and say what to do where something does not work."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

import gpu_backprop as gb
from gpu_backprop.backend.check import Check
from gpu_backprop.backend.compiled import library_files
from gpu_backprop.backend.compiled.compiler import NO_COMPILER, VARIABLE
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.open_device import examine_cuda
from gpu_backprop.backend.text_table import terminal_width
from gpu_backprop.commands.usual_kernels import compile_usual
from gpu_backprop.training.console import wrapped

CLOSE = 1e-5
"""How far a CUDA device may be from the CPU after two steps in float32: other orders of summation, nothing more."""

MB = 1 << 20

THREADS = "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"


def doctor(options: argparse.Namespace) -> int:
    """Run the command; the exit code: 1 where the device that was asked for does not work."""
    for _ in _print_each(_host()):
        pass
    trained, cpu = _cpu()
    failures, chosen, why = _failures(cpu), "the CPU", ""
    if options.device != "cpu":
        index = int(options.device.partition(":")[2] or 0)
        obstacles = _failures(examine_cuda(index))
        if obstacles and options.device == "auto":
            why = f", since {obstacles[0]}"
        else:
            failures, chosen = obstacles or _failures(_cuda(f"cuda:{index}", trained)), f"cuda:{index}"
    end = f"It does not work: {failures[0].rstrip('.')}" if failures else "It works"
    if options.compile and not failures:
        failures = _failures(_compiled(chosen, options.compile))
        end += ", but no kernels were compiled" if failures else ""
    print(f"\n--device {options.device} takes {chosen}{why}. {end}.")
    return 1 if failures else 0


def _failures(checks: Iterable[Check]) -> list[str]:
    return [check.found for check in _print_each(checks) if not check.ok]


def _print_each(checks: Iterable[Check]) -> Iterator[Check]:
    """Print each check as soon as it is made."""
    for check in checks:
        width, indent = terminal_width(sys.stdout), " " * 19
        print(wrapped(f"{check.name:<14}{'ok' if check.ok else 'OFF':<5}{check.found}", width, indent), flush=True)
        if check.remedy:
            print(wrapped(f"{indent}→ {check.remedy}", width, f"{indent}  "), flush=True)
        yield check


def _host() -> Iterator[Check]:
    yield Check("gpu-backprop", True, gb.__version__)
    yield Check("Python", True, f"{platform.python_version()} on {platform.system()}, {platform.machine()}")
    config: Any = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {})
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limits = [f"{name}={os.environ[name]}" for name in THREADS if os.environ.get(name)]
    products = f"products by {blas.get('name', 'an unknown library')} {blas.get('version', '')}".rstrip()
    yield Check("NumPy", True, f"{np.__version__}, {products}, {', '.join([f'{cores} cores', *limits])}")


def _cpu() -> tuple[Array | None, list[Check]]:
    """Train a little on the CPU; return the parameters and the checks."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the check below says why there are no kernels
            net, losses = _train("cpu")
    except Exception as error:  # a damaged NumPy may raise anything
        return None, [Check("CPU", False, f"training fails: {type(error).__name__}: {error}", "install NumPy again")]
    kernels = net.device.reason.partition("; ")[2]
    again, cache = "", list[Check]()
    if net.device.compiles_kernels:
        size = f"{library_files.kept() / MB:.1f} of at most {library_files.LARGEST / MB:.0f} MB"
        cache = [Check("cache", True, f"compiled kernels in {library_files.folder()}, {size}")]
        kernels += f", {net.device.threads} thread{'s' * (net.device.threads != 1)}"
    elif NO_COMPILER in kernels:
        again = "a C++ compiler, such as g++, makes it faster"
    elif " fails: " in kernels:
        again = f"name another C++ compiler, as in {VARIABLE}=g++; until then NumPy computes the same, more slowly"
    return net.parameters, [Check("CPU", losses[1] < losses[0], f"{kernels}; {_course(losses)}", again), *cache]


def _cuda(name: str, expected: Array | None) -> Iterator[Check]:
    """Train a little on the device, as on the CPU."""
    begin = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the check below says it
            net, losses = _train(name)
            seconds = time.perf_counter() - begin
            reported = list(net.device.report(seconds))
    except Exception as error:  # kernels that do not compile or run may raise anything
        message = " ".join(str(error).split())
        yield Check("training", False, f"fails: {type(error).__name__}: {message}", "report this, with all lines above")
        return
    yield from reported
    if expected is None:
        return
    apart = float(np.abs(net.device.to_host(net.parameters) - expected).max())
    if apart <= CLOSE:
        yield Check("training", True, f"{_course(losses)}, at most {apart:.1e} from the CPU's parameters")
    else:
        found = f"the parameters are {apart:.1e} from the CPU's, where {CLOSE:g} is allowed"
        yield Check("training", False, found, "report this, with all lines above")


def _compiled(chosen: str, dtype: str) -> Iterator[Check]:
    """Compile kernels ahead, where the device that was chosen has any."""
    if chosen != "the CPU":
        return compile_usual(chosen, dtype)
    found = "--compile is for a CUDA device, and here the CPU was chosen"
    return iter([Check("compiled", False, found, "run it where the device is; a container is started with its GPUs")])


def _train(device: str) -> tuple[gb.Network, list[float]]:
    """Train a small network for two steps; return it and the loss before each."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((8, 5)).astype(np.float32)
    net = gb.Network(5, [gb.Dense(7, "tanh"), gb.Dense(3, "softmax")], device=device, seed=0)
    trainer = gb.Trainer(net, "cross_entropy", gb.SGD(0.1))
    return net, [float(trainer.step(x, np.arange(8) % 3)) for _ in range(2)]


def _course(losses: list[float]) -> str:
    return f"two steps of training: loss {losses[0]:.6f}, then {losses[1]:.6f}"
