"""On a machine with a CUDA device: is everything in order, and how fast is it; DIR/gpu-NAME.json, .md and .log.

Nothing is installed and nothing fetched: the Python that runs this needs CuPy, NumPy and rich, and for the tests
pytest, hypothesis, safetensors and ml_dtypes. Its parts, each in processes of their own, in this order:

doctor      gpu-backprop doctor
tests       those of the device, side by side where pytest-xdist is there; those that fail again, alone
steps       training steps, operation by operation, beside the peaks just measured and plain CuPy
kernels     each kernel beside a copy of the same size
one_launch  epochs of many small networks in one launch, beside their ordinary steps
fits        whole epochs beside PyTorch and JAX, where they are installed
ranks       sums over ranks by NCCL, one on each device, where there are several
sanitizer   the tests of single operations under compute-sanitizer: memory, races and barriers

--minutes are shared out among them, and what one leaves goes to the next; a command that takes longer than its part has
is ended. The files are written again after everything that is found, and what was left out is named in them. In the end
a summary is printed. On an emulated device all of it runs in small, and its times mean nothing.

Run it as: make gpu-check, or make gpu-check ARGS="--quick", which is four minutes of doctor, tests and steps
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

try:
    from gpu import report
    from gpu.machine import commit
    from gpu.measure import MARK
    from lib import record
except ModuleNotFoundError as error:
    sys.exit(
        f"gpu-check needs {error.name}, which {sys.executable} does not have: make gpu-env installs all that it needs, "
        "then make gpu-check PYTHON=.venv/bin/python"
    )

ROOT = Path(__file__).parents[1]

PARTS = {
    "doctor": 0.5,
    "tests": 2.5,
    "steps": 2,
    "kernels": 1,
    "one_launch": 0.5,
    "fits": 2,
    "ranks": 0.5,
    "sanitizer": 1,
}
"""The parts, the most valuable first, and how many of ten minutes each may take."""

QUICK = "doctor", "tests", "steps"
MINUTES, QUICK_MINUTES = 10.0, 4.0

PROCESSES = 8
"""In which tests run side by side, at most."""

GRACE = 10
"""The last seconds of a command's time, at most a quarter of it: it is interrupted, and may say what it knows."""

LEAST = 2
"""Seconds under which a part is not begun."""

PYTEST = ("-m", "pytest", "-v", "-m", "gpu", "--tb=short", "--color=no", "-o", "faulthandler_timeout=60")
ALL = "tests/gpu"
AGAIN = (ALL, "--last-failed", "--last-failed-no-failures=none")
SANITIZED = ("tests/gpu/test_operations.py", "-k", "float32", "-p", "no:cacheprovider")
TOOLS = "memcheck", "racecheck", "synccheck"
TOOLKIT = "/usr/local/cuda/bin"

DOCTOR = "doctor"
FAILED = re.compile(r"\b(?:FAILED|ERROR) (tests/\S+?::.+?)(?: - (.*))?$")
BEGUN = re.compile(r"(tests/\S+?::.+?)$")
ENDED = re.compile(r"\[gw\d+\] \[ *\d+%\] (\w+) (tests/.+)$")
SKIPPED = re.compile(r"SKIPPED \[\d+\] (tests/.+?): (.*)$")
COUNTS = re.compile(r"=* ?(\d+ \w+(?:, \d+ \w+)* in [\d.]+s.*?) ?=*$")
"""What pytest says in lines of its own: which tests failed, were skipped, began and ended, and how many passed."""


class Check:
    """One run of the script.

    Args:
        out: the folder of the files.
        seconds: for all of it.
        parts: names of PARTS.
        about: what was asked for, in the words of the command line.
        options: further arguments for what measures.

    Attributes:
        found: all that is known, as it goes into the files.
        running: the tests that have begun and not ended, where pytest-xdist says so.
    """

    def __init__(
        self,
        out: Path,
        seconds: float,
        parts: Sequence[str] = tuple(PARTS),
        about: str = "",
        options: Sequence[str] = (),
    ) -> None:
        self.out, self.parts, self.options, self.about = out, parts, options, about
        self.begun = time.monotonic()
        self.end = self.begun + seconds
        self.found: dict[str, Any] = {**copy.deepcopy(report.NOTHING), "commit": commit(ROOT)}
        self.found["parts"] = {part: {"outcome": "not begun", "seconds": 0} for part in parts}
        self.found["skipped"] = [{"what": part, "reason": "not asked for"} for part in PARTS if part not in parts]
        out.mkdir(parents=True, exist_ok=True)
        self.running: set[str] = set()
        self.log = out / "gpu-check.log"
        self.log.write_text("", encoding="utf-8")
        self.environment = dict(os.environ, PYTHONUNBUFFERED="1")
        paths = str(ROOT), str(ROOT / "bench"), os.environ.get("PYTHONPATH", "")
        self.environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))

    # Parts ------------------------------------------------------------------------------------------------------------

    def run(self) -> bool:
        """All parts; whether each of them passed."""
        self.command([*self.measuring("machine"), "60"], min(60, self.end - self.begun))
        for k, part in enumerate(self.parts):
            one, begun = self.found["parts"][part], time.monotonic()
            seconds = (self.end - begun) * PARTS[part] / sum(PARTS[other] for other in self.parts[k:])
            if seconds < LEAST:
                one["outcome"] = self.skip(part, "there was no time")
            elif self.found["parts"].get("doctor", one)["outcome"].startswith(("failed", "ended")):
                one["outcome"] = self.skip(part, "doctor finds no device that works")
            else:
                print(f"{part}, up to {seconds:.0f} s", file=sys.stderr, flush=True)
                one["outcome"] = "interrupted"
                try:
                    one["outcome"] = getattr(self, part, partial(self.measure, part))(seconds)
                finally:
                    one["seconds"] = round(time.monotonic() - begun, 1)
            self.write()
        return all(one["outcome"].startswith(("passed", "skipped")) for one in self.found["parts"].values())

    def doctor(self, seconds: float) -> str:
        return self.command([sys.executable, "-m", "gpu_backprop", "doctor", "--device", "cuda"], seconds, DOCTOR)

    def tests(self, seconds: float) -> str:
        """Side by side where pytest-xdist is there; then those that failed once more, alone."""
        end = time.monotonic() + seconds
        together = min(PROCESSES, os.cpu_count() or 1)
        aside = ["-n", str(together), "--dist", "loadfile"] if importlib.util.find_spec("xdist") else []
        pytest = [sys.executable, *PYTEST, "-o", f"cache_dir={self.out.resolve() / '.pytest_cache'}"]
        outcome = self.command([*pytest, ALL, *aside], seconds, "tests that failed")
        if "tests that failed" in self.found and (left := end - time.monotonic()) > LEAST:
            again = self.command([*pytest, *AGAIN], left, "tests that failed alone too")
            outcome += f"; those that failed, again and alone: {again}"
        return outcome

    def sanitizer(self, seconds: float) -> str:
        """With the kernels that are in CuPy's cache, and without CuPy's own accelerators, which it would check too."""
        program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=TOOLKIT)
        if program is None:
            return self.skip("sanitizer", f"no compute-sanitizer in PATH or {TOOLKIT}")
        end, outcomes = time.monotonic() + seconds, []
        for k, tool in enumerate(TOOLS):
            words = [program, "--tool", tool, "--error-exitcode", "1", sys.executable, *PYTEST, *SANITIZED]
            left = (end - time.monotonic()) / (len(TOOLS) - k)
            failed = f"tests that failed under {tool}"
            enough = left >= LEAST
            outcomes.append(self.command(words, left, failed, CUPY_ACCELERATORS="") if enough else "had no time")
        told = ", ".join(f"{tool} {outcome}" for tool, outcome in zip(TOOLS, outcomes, strict=True))
        return "passed" if set(outcomes) == {"passed"} else f"not passed: {told}"

    def measure(self, part: str, seconds: float) -> str:
        failed = len(self.found["failed"])
        outcome = self.command([*self.measuring(part), str(round(seconds, 1)), *self.options], seconds)
        for what in self.found.pop("todo", []):
            self.skip(what, f"{part} {outcome}")
        new = len(self.found["failed"]) - failed
        return f"failed: {new} of its measurements" if new and outcome == "passed" else outcome

    @staticmethod
    def measuring(part: str) -> list[str]:
        return [sys.executable, "-m", "gpu.measure", part]

    def skip(self, what: str, reason: str) -> str:
        self.found["skipped"].append({"what": what, "reason": reason})
        return f"skipped: {reason}"

    # Commands ---------------------------------------------------------------------------------------------------------

    def command(self, words: Sequence[str], seconds: float, lines: str = "", **environment: str) -> str:
        """Runs a command, its output into the log and its findings into `found`. After so many seconds it is
        interrupted, and killed with all that it started if that is not enough. Gives the outcome in words.

        Args:
            lines: what of `found` its lines are for: DOCTOR, or the list of the tests that failed; "": nothing.
        """
        self.keep(f"\n$ {' '.join(words)}")
        self.running.clear()
        ended = threading.Event()
        process = subprocess.Popen(
            words, cwd=ROOT, env=self.environment | environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace", start_new_session=True,
        )  # fmt: skip

        def interrupt() -> None:
            ended.set()
            process.send_signal(signal.SIGINT)

        patience = seconds - min(GRACE, seconds / 4)
        timers = [threading.Timer(patience, interrupt), threading.Timer(seconds, kill_all, [process])]
        with process:  # which waits for it
            try:
                for timer in timers:
                    timer.daemon = True
                    timer.start()
                assert process.stdout
                for line in process.stdout:
                    self.take(line.rstrip(), lines)
                status = process.wait()
            finally:
                for timer in timers:
                    timer.cancel()
                kill_all(process)
        if ended.is_set():
            for test in sorted(self.running):
                self.found.setdefault(lines, {})[test] = "it had not ended when the time was up"
            return f"ended after {patience:.0f} s, its time"
        return f"failed with status {status}" if status else "passed"

    def take(self, line: str, lines: str) -> None:
        """Reads a line that a command printed."""
        before, mark, finding = line.partition(MARK)
        if mark:
            try:
                told = json.loads(finding)
            except ValueError:  # it was killed in the middle of a line
                self.keep(line)
                return
            if before:
                self.keep(before)
            self.found |= told.get("set", {})
            for name, rows in told.get("add", {}).items():
                self.found[name] += rows
            self.write()
            return
        self.keep(line)
        if line.startswith("…"):
            print(line, file=sys.stderr, flush=True)
        elif lines == DOCTOR:
            self.found[DOCTOR].append(line)
        elif not lines:
            return
        elif match := FAILED.search(line):
            failed = self.found.setdefault(lines, {})
            failed[match[1]] = match[2] or failed.get(match[1], "")
        elif match := SKIPPED.match(line):
            self.skip(match[1], match[2])
        elif match := COUNTS.match(line):
            self.found["counts"].append(match[1])
        if match := ENDED.match(line):
            self.running.discard(match[2])
            self.found["passed"] += match[1] == "PASSED"
        elif match := BEGUN.match(line):
            self.running.add(match[1])

    # Files ------------------------------------------------------------------------------------------------------------

    def keep(self, line: str) -> None:
        """Appends to the log."""
        with self.log.open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    def write(self) -> Path:
        """gpu-NAME.json, and the same as tables, gpu-NAME.md; each is there as a whole at any time."""
        path = self.out / f"{report.file_name(self.found['device'])}.json"
        part = path.with_suffix(".part")
        record.write(part, self.about, time.monotonic() - self.begun, self.found)
        text = report.markdown(json.loads(part.read_text(encoding="utf-8")))
        part.replace(path)
        part.write_text(text, encoding="utf-8")
        part.replace(path.with_suffix(".md"))
        return path


def kill_all(process: subprocess.Popen[str]) -> None:
    """Kills a command that leads a session, with all that it has started there."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def some_parts(text: str) -> list[str]:
    """The parts in a comma-separated list, in their own order."""
    names = text.split(",")
    if unknown := set(names) - set(PARTS):
        raise argparse.ArgumentTypeError(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return [part for part in PARTS if part in names]


def minutes(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"minutes have to be a number above 0, got {text}")
    return value


def folder(text: str) -> Path:
    if not (path := Path(text).resolve()).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return path


def program(text: str) -> str:
    if shutil.which(text) is None:
        raise argparse.ArgumentTypeError(f"{text} is no program that can be run")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=str(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add: Callable[..., Any] = parser.add_argument
    add("--parts", type=some_parts, metavar="A,B", help=f"some of {','.join(PARTS)}")
    add("--minutes", type=minutes, metavar="M", help=f"for all of it (default: {MINUTES:.0f})")
    add("--quick", action="store_true", help=f"{', '.join(QUICK)} in {QUICK_MINUTES:.0f} minutes")
    add("--out", type=Path, default=ROOT / "gpu-check", metavar="DIR", help="for the files (default: gpu-check)")
    add("--data", type=folder, metavar="FOLDER", help="the IDX files of MNIST, or .gz; else the digits")
    add("--peers", type=program, default=sys.executable, metavar="PYTHON", help="a Python that has PyTorch and JAX")
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(given)
    seconds = 60 * (options.minutes or (QUICK_MINUTES if options.quick else MINUTES))
    parts = options.parts or (QUICK if options.quick else tuple(PARTS))
    further = ["--peers", options.peers, *(["--data", str(options.data)] if options.data else [])]
    about = f'make gpu-check ARGS="{" ".join(given)}"' if given else "make gpu-check"
    check = Check(options.out, seconds, parts, about, further)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return 0 if check.run() else 1
    finally:
        print(report.summary(check.found, check.write().with_suffix(".md")))


if __name__ == "__main__":
    sys.exit(main())
