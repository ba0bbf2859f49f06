"""Another checkout of this project beside this one: `trainer.step` in a loop of one's own, and the command line.

    python bench/before_after.py CHECKOUT

Every time is taken in a process of its own, which has the package of one of the two checkouts and this Python's other
packages. The two take turns, and a ratio is taken within a round. `python bench/compare.py --before CHECKOUT` compares
epochs of `fit` and plans.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lib.busy import Clocks, disturbed, processors
from lib.timing import median, ranged, spread

from gpu_backprop.backend.text_table import columns

ROOT = Path(__file__).parents[1]

STEP = """
import sys, time
import numpy as np
import gpu_backprop as gb
widths, batch, seconds = eval(sys.argv[1])
net = gb.Network(widths[0], [*(gb.Dense(n, "relu") for n in widths[1:-1]), gb.Dense(widths[-1], "softmax")], seed=0,
                 device="cpu")
trainer = gb.Trainer(net, "cross_entropy", gb.SGD(0.01), batch_size=batch)
rng = np.random.default_rng(0)
x, labels = rng.standard_normal((batch, widths[0]), np.float32), rng.integers(0, widths[-1], batch)
def run(seconds):
    steps, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for _ in range(20):
            trainer.step(x, labels)
        steps += 20
    return 1e6 * (time.perf_counter() - began) / steps
run(seconds / 4)
print(np.median([run(seconds / 5) for _ in range(5)]))
"""
NETWORKS = ((784, 128, 10), 128), ((64, 64, 64, 10), 32)


def step_us(checkout: Path, folder: str, network: object) -> float:
    return float(run(checkout, folder, "-c", STEP, repr(network)))


def command_ms(checkout: Path, folder: str, epochs: int) -> float:
    """Trains on the bundled digits; the time of the whole command."""
    words = ("train", "--device", "cpu", "--epochs", str(epochs), "--quiet", "--overwrite", "--out", f"{folder}/run")
    began = time.perf_counter()
    run(checkout, folder, "-m", "gpu_backprop", *words)
    return 1e3 * (time.perf_counter() - began)


def run(checkout: Path, folder: str, *words: str) -> str:
    """Runs Python on the package of a checkout, from a folder in which no other one lies."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("checkout", type=Path, help="the other one")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="default: 9")
    parser.add_argument("--quick", action="store_true", help="one round, which only shows that it runs")
    options = parser.parse_args(arguments)
    before = options.checkout.resolve()
    if not (before / "gpu_backprop" / "__init__.py").exists():
        parser.error(f"{options.checkout} is not a checkout of this project")
    seconds, epochs, rounds = (0.1, 1, 1) if options.quick else (1.0, 5, options.rounds)
    measures = {
        f"trainer.step, {'-'.join(map(str, widths))}, B {batch}, µs": (step_us, (widths, batch, seconds))
        for widths, batch in NETWORKS
    } | {f"gpu-backprop train --epochs {epochs}, ms": (command_ms, epochs)}
    rows = [("", "before", "now", "now / before")]
    with tempfile.TemporaryDirectory() as folder:
        for what, (measure, how) in measures.items():
            times: dict[Path, list[float]] = {before: [], ROOT: []}
            busy = 0
            for k in range(-1, rounds):  # the first round, which may compile kernels, does not count
                clocks = Clocks.now()
                for checkout in (before, ROOT) if k % 2 else (ROOT, before):
                    times[checkout].append(measure(checkout, folder, how))
                busy += k >= 0 and disturbed(Clocks.now().since(clocks), len(processors()))
            then, now = times[before][1:], times[ROOT][1:]
            ratio = spread([b / a for a, b in zip(then, now, strict=True)], 3)
            rows.append((what, *(f"{median(one):,.1f}" for one in (then, now)), ranged(ratio, 3)))
            print(f"… {what}: {busy} of {rounds} rounds disturbed", flush=True)
    print("\n".join(columns(rows, 1)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
