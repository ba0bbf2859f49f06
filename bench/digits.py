"""How well `gpu-backprop train` learns: its test accuracy for five seeds, into bench/results/digits.json.

The command itself is run, once a seed, on the CPU and with no other options. Run it as: python bench/digits.py
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lib import record

SEEDS = range(5)
RESULTS = Path(__file__).parent / "results" / "digits.json"


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()  # it takes none, and says so
    started = time.perf_counter()
    accuracies = [test_accuracy(seed) for seed in SEEDS]
    mean = sum(accuracies) / len(accuracies)
    print(f"mean test accuracy over seeds {SEEDS[0]} to {SEEDS[-1]}: {mean:.4f}")
    measured = {"test_accuracy": dict(zip(map(str, SEEDS), accuracies, strict=True)), "mean": round(mean, 4)}
    record.write(RESULTS, "gpu-backprop train --device cpu --seed SEED", time.perf_counter() - started, measured)
    return 0


def test_accuracy(seed: int) -> float:
    """Runs the command and reads its line "test accuracy: ..."."""
    with tempfile.TemporaryDirectory() as folder:
        words = ("train", "--device", "cpu", "--seed", str(seed), "--out", folder, "--quiet")
        command = [sys.executable, "-m", "gpu_backprop", *words]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = re.search(r"^test accuracy: ([0-9.]+)$", output, re.MULTILINE)
    if line is None:
        raise RuntimeError(f"no test accuracy in the output:\n{output}")
    print(f"seed {seed}: {line[1]}", flush=True)
    return float(line[1])


if __name__ == "__main__":
    sys.exit(main())
