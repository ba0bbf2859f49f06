"""What denormal numbers cost on this machine, into bench/results/denormals.json.

A float32 below 1.2e-38 is denormal: it has fewer digits, and many processors take a slow path for it. Vanishing
gradients become such numbers, and so do Adam's moments of a weight whose gradient stays 0. Products and elementwise
passes on denormal numbers are timed in turns with the same ones on normal numbers; then steps of a deep network whose
gradients vanish, since its sigmoids saturate or its weights are small, with those of the same network as it begins.

All of it is NumPy's: the kernels that are compiled for the CPU make 0 of such numbers.

Run it as: python bench/denormals.py [--quick]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from lib import record
from lib.timing import Clock, Run, ranged, spread
from lib.workload import Workload

from gpu_backprop.backend.compiled import compiler
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.open_device import open_device

RESULTS = Path(__file__).parent / "results" / "denormals.json"
ROUNDS, ROWS, INPUTS, UNITS = 7, 256, 784, 512
DENORMAL, TINY = 1e-41, np.finfo(np.float32).tiny
DEEP = Workload((784, *[256] * 12, 10), 256, ("sigmoid",), optimizer="sgd", device="cpu")
SCALES = {"saturated": 100.0, "with small weights": 0.002}
"""What weights are multiplied by so that gradients vanish."""


def kinds() -> dict[str, tuple[Run, Run]]:
    """Each operation on normal numbers, and on denormal ones."""
    rng = np.random.default_rng(0)
    x, w = rng.random((ROWS, INPUTS), np.float32) + 1, rng.random((INPUTS, UNITS), np.float32) + 1
    low_x, low_w, out, high = x * np.float32(DENORMAL), w * np.float32(DENORMAL), np.empty((ROWS, UNITS), "f"), x.copy()
    half, low_half = x * np.float32(1e-19), w * np.float32(1e-22)

    def product(a: Array, b: Array) -> Run:
        return lambda: np.dot(a, b, out)

    def scaled(a: Array) -> Run:
        return lambda: np.multiply(a, np.float32(0.75), out=high)

    def added(a: Array) -> Run:
        return lambda: np.add(a, a, out=high)

    return {
        "x@W, x denormal": (product(x, w), product(low_x, w)),
        "x@W, x and W denormal": (product(x, w), product(low_x, low_w)),
        "x@W, results denormal": (product(x, w), product(half, low_half)),
        "0.75·x": (scaled(x), scaled(low_x)),
        "x + x": (added(x), added(low_x)),
    }


def step(scale: float) -> tuple[Run, dict[str, float]]:
    """A step of the deep network with its weights multiplied, and which share of the gradients is denormal, or 0."""
    trainer = DEEP.trainer()
    for layer in trainer.network.layers[1:]:
        layer.weight[...] *= scale
    plan = trainer.manual_steps.load(trainer.manual_steps.minibatch(*DEEP.data(DEEP.batch))).plan
    with trainer.device.computing():
        plan.run()
        shares = [abs(layer.grad_weight) for layer in trainer.network.layers]
    sizes = np.concatenate([share.ravel() for share in shares])
    return plan.run, {"denormal": float(((sizes > 0) & (sizes < TINY)).mean()), "zero": float((sizes == 0).mean())}


def adam(moment: float, gradient: float) -> Run:
    """Adam's update where all moments and gradients are the same."""
    trainer = replace(DEEP, optimizer="adam").trainer()
    plan = trainer.manual_steps.replay(DEEP.batch, True, False).plan
    trainer.network.gradients[...] = gradient
    for array in trainer.optimizer.moments.values():
        array[...] = moment
    return lambda: plan.run("update")


def timed(clock: Clock, normal: Run, denormal: Run, times: int) -> dict[str, Any]:
    found = clock.in_turns({"normal": normal, "denormal": denormal}, times)
    us = {name: [one.device for one in ones] for name, ones in found.items()}
    ratios = [b / a for a, b in zip(us["normal"], us["denormal"], strict=True)]
    return {**{f"{name}_us": spread(ones) for name, ones in us.items()}, "denormal / normal": spread(ratios)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round, which only shows that it runs; writes nothing")
    options = parser.parse_args(arguments)
    os.environ[compiler.VARIABLE] = compiler.NONE  # compiled kernels make 0 of them
    started, device = time.perf_counter(), open_device("cpu")
    clock, times = Clock(device, 1 if options.quick else ROUNDS), 1 if options.quick else 30
    with device.computing():
        rows = [{"what": name, **timed(clock, *runs, times)} for name, runs in kinds().items()]
        rows.append({"what": "Adam, moments denormal", **timed(clock, adam(1.0, 1.0), adam(DENORMAL, 0.0), times)})
        for name, scale in SCALES.items():
            (normal, _), (vanishing, shares) = step(1.0), step(scale)
            found = timed(clock, normal, vanishing, times)
            rows.append({"what": f"a step of {DEEP} {name}", "gradients": shares, **found})
    for row in rows:
        print(f"{row['what']}: × {ranged(row['denormal / normal'])} {row.get('gradients', '')}")
    if not options.quick:
        record.write(RESULTS, "python bench/denormals.py", time.perf_counter() - started, {"rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
