"""On a machine with a CUDA device: is everything in order, and how long does a step take; bench/results/gpu_check.json.

Runs `gpu-backprop doctor` and the tests of the device; where NVIDIA's compute-sanitizer is installed, those of single
operations under its checks of memory and of races too. Then it times a step of five networks, ours and plain CuPy's in
turns, by the events of the device. On an emulated device it does the same and writes nothing: its times mean nothing.

Run it as: make gpu-check
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record
from device_trace import DeviceTrace
from launches import CASES, Case, build, plain_step

RESULTS = Path(__file__).parent / "results" / "gpu_check.json"
ROUNDS, STEPS = 7, 20
"""How often both are timed, in turns, and how many steps at a time: few enough that the queue of launches has room."""

TESTS = ("-m", "pytest", "-q", "-m", "gpu")
SANITIZED = (*TESTS, "tests/gpu/test_operations.py", "-k", "float32")


def commands() -> list[list[str]]:
    """What has to succeed before anything is timed."""
    python = sys.executable
    wanted = [[python, "-m", "gpu_backprop", "doctor", "--device", "cuda"], [python, *TESTS]]
    if sanitizer := shutil.which("compute-sanitizer"):
        checked = [[sanitizer, "--tool", tool, "--error-exitcode", "1"] for tool in ("memcheck", "racecheck")]
        wanted += [[*check, python, *SANITIZED] for check in checked]
    return wanted


def timed(cupy: Any, stream: Any, run: Callable[[], object]) -> tuple[float, float]:
    """µs a step on the device, and µs a step that the host takes to ask for it."""
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    stream.synchronize()
    begin.record(stream)
    asked = time.perf_counter()
    for _ in range(STEPS):
        run()
    asked = time.perf_counter() - asked
    end.record(stream)
    end.synchronize()
    return cupy.cuda.get_elapsed_time(begin, end) * 1e3 / STEPS, asked * 1e6 / STEPS


def measure(case: Case) -> dict[str, Any]:
    """One network: medians over the rounds, and the least and the largest ratio."""
    import cupy

    step = build(case, "cuda")
    stream = step.net.device.stream
    with step.net.device.computing():
        plain = plain_step(step, cupy, cupy.asarray)

        def plainly() -> None:
            plain.cursor = 0  # ours goes on to rows that are not there, and takes the last one in their place
            plain()

        both = {"plan": step.plan.run, "cupy": plainly}
        for run in both.values():
            timed(cupy, stream, run)
        rounds = [{name: timed(cupy, stream, run) for name, run in both.items()} for _ in range(ROUNDS)]
    ratios = [r["cupy"][0] / r["plan"][0] for r in rounds]
    launches = step.plan.cost()["launches"]
    return {
        "network": str(case),
        "batch": case.batch,
        "launches": launches,
        "plan_us": round(statistics.median(r["plan"][0] for r in rounds), 1),
        "cupy_us": round(statistics.median(r["cupy"][0] for r in rounds), 1),
        "times_faster": {
            "median": round(statistics.median(ratios), 2),
            "least": round(min(ratios), 2),
            "most": round(max(ratios), 2),
        },
        "host_us_a_launch": round(statistics.median(r["plan"][1] for r in rounds) / launches, 2),
    }


def machine() -> dict[str, Any]:
    """Which device, and what drives it."""
    import cupy

    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(0)
    return {
        "device": properties["name"].decode(),
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "driver": runtime.driverGetVersion(),
        "cuda": runtime.runtimeGetVersion(),
        "cupy": cupy.__version__,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only-time", action="store_true", help="leave out doctor and the tests, and write nothing")
    options = parser.parse_args(arguments)
    started, passed = time.perf_counter(), []
    for command in [] if options.only_time else commands():
        told = " ".join(command)
        print(f"\n$ {told}", flush=True)
        if subprocess.run(command, cwd=RESULTS.parents[2], check=False).returncode:
            print(f"\nfailed: {told}", file=sys.stderr)
            return 1
        passed.append(" ".join(Path(word).name if word == command[0] else word for word in command))
    rows = []
    for case in CASES:
        rows.append(measure(case))
        print(rows[-1], flush=True)
    if DeviceTrace.is_there():
        print("This device is emulated: its times mean nothing, and nothing was written.")
    elif not options.only_time:
        measured = {**machine(), "passed": passed, "networks": rows}
        record.write(RESULTS, "make gpu-check", time.perf_counter() - started, measured)
        print(f"written to {RESULTS.relative_to(RESULTS.parents[2])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
