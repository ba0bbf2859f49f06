"""What each lever on the speed of a CPU brings here, one by one, into bench/results/levers.json.

    python bench/levers.py [--quick]

Both sides of a lever do the same work in turns, in one process, and come to the same values. Before each, a product is
worked out, as in a training step, so that whatever it leaves behind (threads that wait for the next one) is there.
`predicted` was written down before this was first run: it is what was expected when the lever was asked for or built,
from a rough trial at best. compare.json has the gain of whole steps, blas.json that of products.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_float, c_longlong, c_void_p
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lib import record
from lib.timing import Clock, Run, in_order, ranged, spread
from lib.workload import Workload

from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.compiled import compiler
from gpu_backprop.backend.compiled.device import CpuDevice
from gpu_backprop.backend.compiled.operations_text import REAL
from gpu_backprop.backend.device import Device
from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.kernel_text import source
from gpu_backprop.backend.numpy_ops import blocks
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.backend.threads import threads
from gpu_backprop.training.optimizers import ADAM, PLAIN

RESULTS = Path(__file__).parent / "results" / "levers.json"
ROUNDS = 15
SPAN = 0.01
"""Seconds that one timing takes, about, if one run does not take longer."""

SMALL, MEDIUM, LARGE = 8_970, 669_706, 11_972_510
"""Parameters of 64-64-64-10, 784-512-512-10 and 784-2500-2000-1500-1000-500-10."""


JOINED = """
extern "C" void joined(const real* x, const real* grad_z, real* w, float rate, i64 m, i64 n, i64 times) {
  for (; times > 0; times--)
    for (i64 i = 0; i < m; i++) {
      BP_LANES
      for (i64 c = 0; c < n; c++) w[i * n + c] -= rate * (x[i] * grad_z[c]);
    }
}"""
"""What XLA makes of SGD on one row: ∇W, which is an outer product, is not written."""


class Lever(NamedTuple):
    """Twice the same work: as it was, and with the lever."""

    name: str
    predicted: str
    before: Run
    after: Run


def normal(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def adam(ops: Any, device: Device, size: int) -> Run:
    """One update of so many parameters."""
    w, g, moments = normal(size), normal(size), np.abs(normal(2, size))
    hyper = np.array([1, 1e-4, 0.9, 0.999, 1e-8])
    return in_order(device.sequence(ops.update(device, w, g, moments, ADAM, hyper, None, None, None)))


def whole(build: Callable[[], Run]) -> Run:
    """The same with operands that are not cut."""
    size = blocks.BLOCK
    blocks.BLOCK = 1 << 60
    try:
        return build()
    finally:
        blocks.BLOCK = size


def on_one_row(device: CpuDevice, m: int, n: int) -> tuple[Run, Run]:
    """∇W = xᵀ∇z of one row and SGD's update, and both joined; ten times, so that a call from Python weighs little."""
    x, grad_z, w, g = normal(1, m), normal(1, n), normal(m, n), np.empty((m, n), np.float32)
    hyper = np.array([1, 1e-9])
    calls = [
        *device.ops.matmul(device, x.T, grad_z, g),
        *device.ops.update(device, w.ravel(), g.ravel(), None, PLAIN, hyper, None, None, None),
    ]
    (made,) = compiler.find().load([REAL["float32"] + source("cpu/columns.hpp") + JOINED])
    if isinstance(made, DeviceError):
        raise made
    arguments = (
        *(c_void_p(a.ctypes.data) for a in (x, grad_z, w)),
        c_float(1e-9),
        c_longlong(m),
        c_longlong(n),
        c_longlong(10),
    )
    return in_order(device.sequence(calls * 10)), lambda: made.functions.joined(*arguments)


def step(workload: Workload, count: int, together: bool = True) -> Run:
    """A training step on so many threads, in one call or in one for each operation."""
    trainer = workload.trainer()
    assert isinstance(trainer.device, CpuDevice)
    trainer.device.threads = count  # before anything is bound
    plan = trainer.manual_steps.load(trainer.manual_steps.minibatch(*workload.data(workload.batch))).plan
    calls = [call for operation in plan.operations for call in operation.calls]
    return in_order(trainer.device.sequence(calls) if together else calls)


def of_numpy(device: Device) -> list[Lever]:
    """Where NumPy does everything."""
    x, columns, ones = normal(512, 1024), np.empty(1024, np.float32), np.ones(512, np.float32)
    zeros, out, y = np.zeros_like(x), np.empty_like(x), np.empty_like(x)
    a, b, c = normal(32, 64), normal(64, 64), normal(32, 64)
    order, rows = np.random.default_rng(0).permutation(4096)[:64], np.empty((64, 784), np.float32)
    data, pool = normal(4096, 784), ThreadPoolExecutor(2)
    halves = [(half, y[k * 256 : (k + 1) * 256]) for k, half in enumerate(np.split(x, 2))]

    def on_two_threads() -> None:
        for done in [pool.submit(np.tanh, *half) for half in halves]:
            done.result()

    found = [
        Lever(
            f"NumPy: Adam of {size:,} parameters in blocks of 1 MB", said,
            whole(lambda size=size: adam(numpy_ops, device, size)), adam(numpy_ops, device, size),
        )
        for size, said in ((MEDIUM, "1.5 to 2"), (LARGE, "1.5 to 2"))
    ]  # fmt: skip
    return [
        *found,
        Lever(
            "NumPy: ∇b as a product with ones", "2 to 3",
            lambda: np.add.reduce(x, 0, None, columns), lambda: np.dot(ones, x, columns),
        ),
        Lever(
            "NumPy: relu as the maximum with an array of zeros", "3",
            lambda: np.maximum(x, np.float32(0), out=out), lambda: np.maximum(x, zeros, out=out),
        ),
        Lever(
            "NumPy: np.dot for np.matmul, 32×64 @ 64×64", "1 µs a call",
            lambda: np.matmul(a, b, c), lambda: np.dot(a, b, c),
        ),
        Lever(
            'NumPy: take(mode="clip") of 64 rows of 784', "not predicted",
            lambda: data.take(order, 0, rows), lambda: data.take(order, 0, rows, "clip"),
        ),
        Lever("NumPy: tanh 512×1024 on two Python threads", "1.9", lambda: np.tanh(x, y), on_two_threads),
    ]  # fmt: skip


def of_kernels(device: CpuDevice, by_numpy: Device) -> list[Lever]:
    """Where kernels are compiled, beside a device where NumPy does everything."""
    digits = Workload((64, 64, 64, 10), 32, device="cpu")
    wide = Workload((784, 512, 512, 10), 1024, device="cpu")
    found = [
        Lever(
            f"compiled: Adam of {size:,} parameters in one pass, against NumPy in blocks", "3",
            adam(numpy_ops, by_numpy, size), adam(device.ops, device, size),
        )
        for size in (SMALL, MEDIUM, LARGE)
    ]  # fmt: skip
    name = f"compiled: a step of {digits}, B {digits.batch}, as one call instead of one an operation"
    found.append(Lever(name, "2", step(digits, device.threads, together=False), step(digits, device.threads)))
    for one, said in ((digits, "1.4"), (wide, "1.9")):
        name = f"compiled: a step of {one}, B {one.batch}, on {device.threads} threads instead of one"
        found.append(Lever(name, said, step(one, 1), step(one, device.threads)))
    name = "compiled, not built: ∇W of one row, 784 × 100, joined with the update of SGD and not written, ten times"
    return [*found, Lever(name, "1.5", *on_one_row(device, 784, 100))]


FIRST = """
import time
import numpy as np
import gpu_backprop as gb
x, y = np.zeros((128, 784), np.float32), np.arange(128) % 10
begin = time.perf_counter()
net = gb.Network(784, [gb.Dense(128, "relu"), gb.Dense(10, "softmax")], device="cpu")
gb.Trainer(net, optimizer="adam").step(x, y)
print(time.perf_counter() - begin)
"""


def first_network() -> float:
    """Seconds of the first network and its first step in a process that finds nothing compiled."""
    with tempfile.TemporaryDirectory() as empty:
        environment = os.environ | {"XDG_CACHE_HOME": empty}
        done = subprocess.run([sys.executable, "-c", FIRST], env=environment, check=True, stdout=subprocess.PIPE)
    return float(done.stdout)


def timed(clock: Clock, lever: Lever, product: Run) -> dict[str, Any]:
    """Both sides in turns, each after a product."""
    lever.before()
    lever.after()
    slower = max(clock.once(lever.before).device, clock.once(lever.after).device)
    times = max(1, int(SPAN * 1e6 / slower)) if clock.rounds > 1 else 1
    found = clock.in_turns({"before": lever.before, "after": lever.after}, times, before=product)
    before, after = ([one.device for one in found[side]] for side in ("before", "after"))
    return {
        "lever": lever.name,
        "predicted": lever.predicted,
        "before_us": spread(before),
        "after_us": spread(after),
        "times as fast": spread([b / a for b, a in zip(before, after, strict=True)]),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round, which only shows that it runs; writes nothing")
    quick, started = parser.parse_args(arguments).quick, time.perf_counter()
    device, compiled = Device("cpu", "", "float32", np, numpy_ops), open_device("cpu")
    x, w, z = normal(256, 784), normal(784, 512), np.empty((256, 512), np.float32)
    rows = []
    for one, levers in (
        (device, of_numpy(device)),
        (compiled, of_kernels(compiled, device) if isinstance(compiled, CpuDevice) else []),
    ):
        clock = Clock(one, 1 if quick else ROUNDS)
        with one.computing():
            rows += [timed(clock, lever, lambda: np.dot(x, w, z)) for lever in levers]
    for row in rows:
        print(f"{row['lever']}: × {ranged(row['times as fast'])}, predicted {row['predicted']}")
    if not isinstance(compiled, CpuDevice):
        print(f"left out: what compiled kernels bring ({compiled.reason})")
    if not quick:
        first = spread([first_network() for _ in range(ROUNDS)])
        print(f"the first network, 784-128-10, and its first step: {ranged(first)} s")
        about = {"threads": threads(), "this device": compiled.reason, "first network, s": first, "levers": rows}
        record.write(RESULTS, "python bench/levers.py", time.perf_counter() - started, about)
    return 0


if __name__ == "__main__":
    sys.exit(main())
