"""On a machine with a CUDA device: is everything in order, and how fast is it; bench/results/gpu-NAME.json and .md.

Runs `gpu-backprop doctor` and the tests of the device; where NVIDIA's compute-sanitizer is installed, those of single
operations under its checks of memory, races and barriers too. Then it times, by the events of the device and in turns:
each kernel beside a copy, each matrix product of five networks beside a large one, and their steps, operation by
operation and as CUDA graphs, beside plain CuPy and beside the least that the peaks just measured allow; epochs of many
small networks in one launch, beside their ordinary steps. Last come whole epochs beside PyTorch and JAX, where they are
installed: pip install "gpu-backprop[bench-cuda13]", or in an environment of their own, with --peers. What fails is told
with its reason, and the rest goes on.

On an emulated device all of it runs in small, and nothing is written: its times mean nothing.

Run it as: make gpu-check, or with the files of MNIST: make gpu-check ARGS="--data FOLDER"
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from gpu import fits, one_launch, report
from gpu.kernels import DTYPES, Kernels
from gpu.machine import commit, machine, reading
from gpu.products import PRECISIONS, Precision, Products
from gpu.steps import Peaks
from gpu.steps import measure as measure_step
from gpu.timing import FULL, TINY, Extent
from launches import CASES
from lib import record
from lib.device_trace import DeviceTrace

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"

TESTS = ("-m", "pytest", "-q", "-m", "gpu")
SANITIZED = (*TESTS, "tests/gpu/test_operations.py", "-k", "float32")
TOOLS = "memcheck", "racecheck", "synccheck"

T = TypeVar("T")


def commands() -> list[list[str]]:
    """Lists the commands that have to succeed. Without the first, doctor, there is nothing to measure."""
    python = sys.executable
    wanted = [[python, "-m", "gpu_backprop", "doctor", "--device", "cuda"], [python, *TESTS]]
    if sanitizer := shutil.which("compute-sanitizer"):
        checked = [[sanitizer, "--tool", tool, "--error-exitcode", "1"] for tool in TOOLS]
        wanted += [[*check, python, *SANITIZED] for check in checked]
    return wanted


def run_commands() -> dict[str, str]:
    """Runs them; gives the outcome of each."""
    found: dict[str, str] = {}
    for command in commands():
        told = " ".join(Path(word).name if word == command[0] else word for word in command)
        print(f"\n$ {told}", flush=True)
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
        found[told] = f"failed with status {status}" if status else "passed"
        if status:
            print(f"\nfailed: {told}", file=sys.stderr, flush=True)
            if len(found) == 1:
                break
    return found


class Check:
    """The measurements of one run.

    Attributes:
        found: all that was measured, as it goes into the files.
        extent: how much is measured.
    """

    def __init__(
        self, extent: Extent, dtypes: Sequence[str] = DTYPES, precisions: Sequence[Precision] = PRECISIONS
    ) -> None:
        self.extent, self.dtypes, self.precisions = extent, dtypes, precisions
        self.cases = CASES[: extent.cases]
        self.peaks: Peaks | None = None
        self.found: dict[str, Any] = {
            "readings": {}, "peaks_tflop_s": {}, "kernels": [], "kernels left out": [], "products": [], "doors": [],
            "steps": [], "one_launch": [], "fits": [], "data": "", "failed": [],
        }  # fmt: skip

    def attempt(self, what: str, measure: Callable[..., T], *arguments: Any) -> T | None:
        """Calls `measure` and gives its result; None where it fails, which is noted with its reason."""
        print(f"… {what}", flush=True)
        gc.collect()  # what the last one held is free for this one
        try:
            return measure(*arguments)
        except Exception as error:  # whatever a library or the device raises: the other measurements go on
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self.found["failed"].append({"what": what, "reason": reason})
            print(f"failed: {what}: {reason}", file=sys.stderr, flush=True)
            return None

    def attempts(self, calls: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Attempts what is given as (what, measure, arguments …); gives the results of those that succeed."""
        return [row for call in calls if (row := self.attempt(*call)) is not None]

    def read(self, when: str) -> None:
        if line := reading():
            self.found["readings"][when] = line

    def run(self, data: Path | None = None, peers: str = sys.executable) -> None:
        """All of it."""
        self.read("at the beginning")
        self.kernels()
        self.read("after the kernels")
        self.products()
        self.read("after the products")
        self.steps()
        self.one_launch()
        self.fits(data, peers)
        self.read("at the end")

    def kernels(self) -> None:
        kernels = self.attempt("a copy", Kernels, self.extent)
        if kernels is None:
            return
        for dtype in self.dtypes:
            self.attempt(f"kernels, {dtype}", kernels.measure, dtype)
        self.found |= {"kernels": kernels.rows, "kernels left out": kernels.left_out()}
        if kernels.copy.rates:
            self.found["copy_gb_s"] = round(kernels.copy.rate, 1)
            self.peaks = Peaks(kernels.copy.rate)

    def products(self) -> None:
        rows: list[dict[str, Any]] = []
        peaks: dict[str, float] = {}
        doors: list[str] = []
        for precision in self.precisions:
            what = f"products, {precision.name}"
            products = self.attempt(what, Products, precision, self.extent)
            if products is None:
                continue
            for case in self.cases:
                self.attempt(f"{what}, {case}", products.measure, case)
            rows += products.rows
            doors.append(f"{precision.name}: {products.door}")
            if products.square.rates:
                peaks[precision.name] = products.square.rate
        self.found |= {
            "products": rows,
            "doors": doors,
            "peaks_tflop_s": {name: round(peak, 3) for name, peak in peaks.items()},
        }
        if self.peaks is not None:
            self.peaks = replace(self.peaks, products=peaks)

    def steps(self) -> None:
        self.found["steps"] = self.attempts(
            (f"step, {precision.name}, {case}", measure_step, case, precision, self.extent, self.peaks)
            for precision in self.precisions
            for case in self.cases
        )

    def one_launch(self) -> None:
        self.found["one_launch"] = self.attempts(
            (f"epochs in one launch, {task.name}, {n}", one_launch.measure, task, n, self.extent.rounds)
            for task in one_launch.tasks(self.extent)
            for n in one_launch.numbers_of_models(self.extent)
        )

    def fits(self, data: Path | None, peers: str) -> None:
        images = self.attempt("the data", fits.Images.read, data, self.extent)
        if images is None:
            return
        networks, batches = fits.networks(self.extent)
        fits.make_room()
        rounds = self.extent.rounds
        rows = self.attempts(
            (f"epochs, {hidden}, batches of {batch}", fits.measure, images, hidden, batch, rounds, peers)
            for hidden in networks
            for batch in batches
        )
        self.found |= {"data": images.name, "fits": rows}


def write(folder: Path, command: str, seconds: float, measured: dict[str, Any]) -> list[Path]:
    """gpu-NAME.json, and the same as a table, gpu-NAME.md."""
    path = folder / f"{report.file_name(measured['device'])}.json"
    record.write(path, command, seconds, measured)
    text = report.markdown(json.loads(path.read_text(encoding="utf-8")))
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    return [path, path.with_suffix(".md")]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="the IDX files of MNIST, or .gz; else the digits")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="a Python that has PyTorch and JAX")
    parser.add_argument("--only-time", action="store_true", help="leave out doctor and the tests, and write nothing")
    parser.add_argument("--quick", action="store_true", help="time in small, as on an emulated device; write nothing")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    outcomes = {} if options.only_time else run_commands()
    passed = all(outcome == "passed" for outcome in outcomes.values())
    if not passed and len(outcomes) == 1:
        return 1  # there is no device that works
    emulated = DeviceTrace.is_there()
    check = Check(TINY if emulated or options.quick else FULL)
    check.run(options.data, options.peers)
    if emulated:
        print("This device is emulated: its times mean nothing, and nothing was written.")
    elif options.quick or options.only_time:
        print(json.dumps(check.found, indent=2, ensure_ascii=False))
    else:
        words = ["make gpu-check", *(["--data FOLDER"] if options.data else [])]
        measured = {**machine(), "commit": commit(ROOT), "commands": outcomes, **check.found}
        for path in write(RESULTS, " ".join(words), time.perf_counter() - started, measured):
            print(f"written to {path.relative_to(ROOT)}")
    print(f"{len(check.found['failed'])} measurements failed." if check.found["failed"] else "Everything was measured.")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
