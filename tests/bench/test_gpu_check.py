"""bench/gpu_check.py: budgets, files, commands that hang or are killed, and what it tells. No device is needed.

What it measures is tested in tests/gpu/test_gpu_check.py.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.operation import Operation

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "bench"
sys.path.insert(0, str(BENCH))
try:
    gpu_check, machine, measure, peaks, report, steps, timing = (
        importlib.import_module(name)
        for name in ("gpu_check", "gpu.machine", "gpu.measure", "gpu.peaks", "gpu.report", "gpu.steps", "lib.timing")
    )
finally:
    sys.path.remove(str(BENCH))

PASSES, FAILS = ([sys.executable, "-c", f"raise SystemExit({status})"] for status in (0, 3))


def telling(finding, then=""):
    """A program that tells a finding, as gpu.measure does."""
    line = measure.MARK + json.dumps(finding)
    return [sys.executable, "-c", f"print({line!r}, flush=True)\n{then}"]


def files(folder):
    [found] = folder.glob("gpu-*.json")
    return json.loads(found.read_text(encoding="utf-8")), found.with_suffix(".md").read_text(encoding="utf-8")


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Makes a Check whose commands are written down, and all pass."""
    asked = []

    def make(seconds=600, parts=tuple(gpu_check.PARTS), outcomes=None):
        def command(self, words, seconds, lines="", **environment):
            asked.append(SimpleNamespace(words=words, seconds=seconds, lines=lines, environment=environment))
            return (outcomes or (lambda asked, self: "passed"))(asked[-1], self)

        monkeypatch.setattr(gpu_check.Check, "command", command)
        made = gpu_check.Check(tmp_path, seconds, parts, "make gpu-check")
        made.asked = asked
        return made

    return make


# The budget -----------------------------------------------------------------------------------------------------------


def test_the_parts_share_the_minutes_and_what_one_leaves_goes_to_the_next(check, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(gpu_check.time, "monotonic", lambda: now[0])

    def outcomes(asked, _):
        now[0] += asked.seconds if "tests/gpu" in asked.words else 1
        return "passed"

    made = check(600, outcomes=outcomes)
    assert made.run()
    by_part = dict(zip(["machine", *gpu_check.PARTS], made.asked, strict=False))
    assert by_part["doctor"].seconds == pytest.approx(599 * 0.5 / 10)
    assert by_part["tests"].seconds == pytest.approx(598 * 2.5 / 9.5)
    assert by_part["steps"].seconds == pytest.approx((598 - 598 * 2.5 / 9.5) * 2 / 7)
    assert sum(gpu_check.PARTS.values()) == gpu_check.MINUTES == 10


def test_a_part_for_which_there_is_no_time_is_named(check, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(gpu_check.time, "monotonic", lambda: now[0])

    def outcomes(asked, _):
        now[0] += 600 if "doctor" in asked.words else 0
        return "passed"

    made = check(600, outcomes=outcomes)
    made.run()
    assert len(made.asked) == 2
    found, text = files(made.out)
    assert {one["what"]: one["reason"] for one in found["skipped"]} == dict.fromkeys(
        [part for part in gpu_check.PARTS if part != "doctor"], "there was no time"
    )
    assert "| fits | skipped: there was no time | 0 |" in text.splitlines()


@pytest.mark.parametrize(
    ("arguments", "parts", "seconds"),
    [
        ([], list(gpu_check.PARTS), 600),
        (["--quick"], ["doctor", "tests", "steps"], 240),
        (["--quick", "--minutes", "2.5"], ["doctor", "tests", "steps"], 150),
        (["--parts", "fits,doctor"], ["doctor", "fits"], 600),
    ],
)
def test_the_command_line(tmp_path, monkeypatch, arguments, parts, seconds):
    seen = []

    class Nothing(gpu_check.Check):
        def run(self):
            seen.append((list(self.parts), round(self.end - self.begun), self.out))
            return True

    monkeypatch.setattr(gpu_check, "Check", Nothing)
    monkeypatch.setattr(gpu_check.signal, "signal", lambda *_: None)
    assert gpu_check.main([*arguments, "--out", str(tmp_path / "new" / "folder")]) == 0
    assert seen == [(parts, seconds, tmp_path / "new" / "folder")]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--parts", "steps,speed"], "no part speed; there are doctor, tests, steps"),
        (["--minutes", "0"], "minutes have to be a number above 0"),
        (["--minutes", "nan"], "minutes have to be a number above 0"),
        (["--minutes", "soon"], "invalid minutes value"),
        (["--data", "not/there"], "argument --data: there is no folder not/there"),
        (["--data", __file__], "argument --data: there is no folder"),
        (["--peers", "not/there"], "argument --peers: not/there is no program that can be run"),
    ],
)
def test_a_wrong_command_line(arguments, reason, capsys):
    with pytest.raises(SystemExit):
        gpu_check.main(arguments)
    assert reason in capsys.readouterr().err


# Commands -------------------------------------------------------------------------------------------------------------


def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "GRACE", 0.5)
    made = gpu_check.Check(tmp_path, 600)
    hanging = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "time.sleep(600)"
    )
    assert made.command([sys.executable, "-c", hanging], 2) == "ended after 2 s, its time"


def test_a_test_that_hangs_is_named(tmp_path):
    made = gpu_check.Check(tmp_path, 600)
    hanging = "import time\nprint('tests/gpu/test_a.py::test_hangs ', flush=True)\ntime.sleep(600)"
    made.command([sys.executable, "-c", hanging], 2, "tests that failed")
    assert made.found["tests that failed"] == {
        "tests/gpu/test_a.py::test_hangs": "it had not ended when the time was up"
    }


def test_a_part_that_is_ended_leaves_what_it_found_and_names_the_rest(tmp_path, monkeypatch):
    made = gpu_check.Check(tmp_path, 600, ["kernels"])
    words = telling({"add": {"doors": ["one"]}, "set": {"todo": ["the second", "the third"]}}, "import os; os.abort()")
    monkeypatch.setattr(made, "measuring", lambda part: words)
    assert not made.run()
    found, _ = files(tmp_path)
    assert found["doors"] == ["one", "one"]  # the part "machine" told it too
    assert found["parts"]["kernels"]["outcome"] == "failed with status -6"
    named = {one["what"]: one["reason"] for one in found["skipped"]}
    assert named["the second"] == named["the third"] == "kernels failed with status -6" and "tests" in named


DRIVER = """
import sys
import gpu_check
gpu_check.Check.doctor = lambda self, seconds: self.command({first!r}, seconds)
gpu_check.Check.tests = lambda self, seconds: self.command({second!r}, seconds)
gpu_check.Check.measuring = lambda self, part: {machine!r}
sys.exit(gpu_check.main(["--quick", "--out", {out!r}]))
"""


@pytest.fixture
def hanging(tmp_path):
    """The script in a process: its first part found something, its second found something else and hangs."""
    then = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    program = DRIVER.format(
        machine=telling({"set": {"device": "Some Device"}}),
        first=telling({"add": {"doors": ["one thing"]}}),
        second=telling({"add": {"doors": ["another thing"]}}, then),
        out=str(tmp_path),
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(BENCH), str(ROOT)]))
    process = subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    path = tmp_path / "gpu-some-device.json"
    while not path.exists() or "another thing" not in path.read_text(encoding="utf-8"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    yield process, tmp_path
    process.kill()
    process.communicate()


def test_a_kill_loses_nothing_that_was_found(hanging):
    process, folder = hanging
    process.kill()
    process.communicate()
    found, text = files(folder)
    assert found["doors"] == ["one thing", "another thing"]
    assert found["parts"]["doctor"]["outcome"] == "passed" and found["parts"]["tests"]["outcome"] == "interrupted"
    assert "| steps | not begun | 0 |" in text.splitlines() and not list(folder.glob("*.part"))
    for command in subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout.splitlines():
        if "another thing" in command and "sleep(600)" in command:
            os.kill(int(command.split()[0]), signal.SIGKILL)  # it would end by itself when it says something


def test_who_is_told_to_end_says_what_was_found_and_ends_the_command(hanging):
    process, folder = hanging
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143 and "tests: interrupted" in out and "steps: not begun" in out
    assert files(folder)[0]["doors"] == ["one thing", "another thing"]


# Parts ----------------------------------------------------------------------------------------------------------------


def test_without_a_device_that_works_nothing_else_is_done(check):
    made = check(outcomes=lambda asked, _: "failed with status 1" if "doctor" in asked.words else "passed")
    assert not made.run()
    assert len(made.asked) == 2
    skipped = {one["what"]: one["reason"] for one in files(made.out)[0]["skipped"]}
    assert skipped == dict.fromkeys(list(gpu_check.PARTS)[1:], "doctor finds no device that works")


def test_the_tests_run_side_by_side_where_xdist_is_there(check, monkeypatch):
    for found, expected in ((object(), ["-n", "3", "--dist", "loadfile"]), (None, [])):
        monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda name, found=found: found)
        monkeypatch.setattr(gpu_check.os, "cpu_count", lambda: 3)
        made = check()
        made.tests(100)
        words = made.asked[-1].words
        assert words[words.index("tests/gpu") + 1 :] == expected and "--last-failed" not in words


def test_tests_that_fail_run_again_alone(check):
    def outcomes(asked, self):
        self.found.setdefault(asked.lines, {"tests/gpu/test_x.py::test_y": "it is 1"})
        return "failed with status 1"

    made = check(outcomes=outcomes)
    assert made.tests(100).startswith("failed with status 1; those that failed, again and alone: failed")
    first, again = (" ".join(one.words) for one in made.asked)
    assert "--last-failed" in again and " -n " not in again and "--last-failed" not in first
    text = report.markdown({**made.found, "date": "", "command": ""})
    assert "## Tests that failed alone too" in text and text.count("| tests/gpu/test_x.py::test_y | it is 1 |") == 2


PYTEST = """\
tests/gpu/test_a.py::test_fine
tests/gpu/test_a.py::test_killed_later[a b]
[gw1] [ 12%] PASSED tests/gpu/test_a.py::test_fine
tests/gpu/test_b.py::test_hangs[c d]
[gw0] [ 25%] FAILED tests/gpu/test_a.py::test_killed_later[a b]
SKIPPED [2] tests/gpu/test_b.py:12: no driver
FAILED tests/gpu/test_a.py::test_one[x] - AssertionError: 1 == 2
ERROR tests/gpu/test_b.py::test_two - DeviceError: no
=================== 2 failed, 7 passed, 1 skipped in 12.34s ===================
"""


def test_what_pytest_says_is_read(tmp_path):
    made = gpu_check.Check(tmp_path, 600)
    for line in PYTEST.splitlines():
        made.take(line, "tests that failed")
    assert made.found["tests that failed"] == {
        "tests/gpu/test_a.py::test_killed_later[a b]": "",
        "tests/gpu/test_a.py::test_one[x]": "AssertionError: 1 == 2",
        "tests/gpu/test_b.py::test_two": "DeviceError: no",
    }
    assert made.found["skipped"] == [{"what": "tests/gpu/test_b.py:12", "reason": "no driver"}]
    assert made.found["passed"] == 1 and made.running == {"tests/gpu/test_b.py::test_hangs[c d]"}
    assert made.found["counts"] == ["2 failed, 7 passed, 1 skipped in 12.34s"]


def test_a_finding_that_is_cut_off_or_stands_behind_other_words(tmp_path):
    made = gpu_check.Check(tmp_path, 600)
    for line in (f'{measure.MARK}{{"add": {{"doo', f'words {measure.MARK}{{"add": {{"doors": ["one"]}}}}'):
        made.take(line, "")
    assert made.found["doors"] == ["one"]
    assert made.log.read_text(encoding="utf-8").endswith('"doo\nwords \n')


def test_the_sanitizer_is_looked_for_in_the_toolkit_too(check, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    monkeypatch.setattr(gpu_check, "TOOLKIT", str(tmp_path / "cuda"))
    made = check()
    assert made.sanitizer(90) == f"skipped: no compute-sanitizer in PATH or {tmp_path / 'cuda'}" and not made.asked
    assert made.found["skipped"][-1]["what"] == "sanitizer"
    program = tmp_path / "cuda" / "compute-sanitizer"
    program.parent.mkdir()
    program.touch(0o755)
    assert made.sanitizer(90) == "passed"
    assert [one.words[:3] for one in made.asked] == [[str(program), "--tool", tool] for tool in gpu_check.TOOLS]
    assert all(one.environment == {"CUPY_ACCELERATORS": ""} for one in made.asked)
    assert made.asked[0].seconds == pytest.approx(30, abs=1)


def test_measurements_that_fail_make_the_part_fail_and_the_rest_goes_on(check, tmp_path):
    def outcomes(asked, self):
        if "kernels" in asked.words:
            self.found["failed"].append({"what": "a copy", "reason": "no | no"})
        return "passed"

    made = check(outcomes=outcomes)
    assert not made.run()
    parts = made.found["parts"]
    assert parts["kernels"]["outcome"] == "failed: 1 of its measurements" and parts["fits"]["outcome"] == "passed"
    assert "| a copy | no / no |" in files(made.out)[1].splitlines()


def test_what_is_interrupted_fails_and_what_there_is_no_time_for_is_named():
    told = []

    def interrupted():
        raise KeyboardInterrupt

    run = measure.Run(measure.TINY, 600, tell=told.append)
    run.attempts("rows", [("a", lambda: {"row": 1}), ("b", interrupted), ("c", lambda: {"row": 3})])
    assert told == [
        {"set": {"todo": ["a", "b", "c"]}}, {"add": {"rows": [{"row": 1}]}}, {"set": {"todo": ["b", "c"]}},
        {"add": {"failed": [{"what": "b", "reason": "it was interrupted: the time was up"}]}},
        {"set": {"todo": ["c"]}}, {"add": {"skipped": [{"what": "c", "reason": "there was no time"}]}},
        {"set": {"todo": []}},
    ]  # fmt: skip


def test_what_raises_is_told_with_its_reason():
    told = []
    run = measure.Run(measure.TINY, 600, tell=told.append)
    assert run.attempt("a division", lambda: 1 / 0) is None
    assert told == [{"add": {"failed": [{"what": "a division", "reason": "ZeroDivisionError: division by zero"}]}}]


def test_what_a_device_does_not_take_is_named_and_left_out(monkeypatch):
    def refuse(name, dtype, tf32):
        if tf32:
            raise InputError("tf32 is not\nfor this device")

    told = []
    monkeypatch.setattr(measure, "open_device", refuse)
    run = measure.Run(measure.TINY, 600, tell=told.append)
    assert run.has("float16", "float16") and not run.has("tf32", "float32", tf32=True)
    assert told == [{"add": {"skipped": [{"what": "tf32", "reason": "tf32 is not for this device"}]}}]


def test_the_page_has_the_parts_and_their_minutes():
    page = (ROOT / "docs" / "cuda.md").read_text(encoding="utf-8")
    fractions = {0.5: "½", 1.5: "1½", 2.5: "2½"}
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    told = {row[0].removeprefix("| "): row[-1].removesuffix(" |") for row in rows}
    for part, share in gpu_check.PARTS.items():
        assert told[part] == fractions.get(share, str(share)), part
    assert list(gpu_check.PARTS) == [part for part in told if part in gpu_check.PARTS]


def test_make_installs_nothing(tmp_path):
    command = ["make", "--no-print-directory", "-n", "gpu-check", "PYTHON=some-python"]
    given = {"ARGS", "EMULATOR", "MFLAGS"}  # by `make test`, which these tests may be run by
    alone = {name: value for name, value in os.environ.items() if "MAKE" not in name and name not in given}
    told = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True)
    [line] = told.stdout.splitlines()
    environment, python, script = shlex.split(line)
    assert environment.startswith(f"PYTHONPATH={ROOT}") and [python, script] == ["some-python", "bench/gpu_check.py"]


def test_what_python_does_not_have_is_said_in_one_sentence(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['numpy'] = None\n", encoding="utf-8")
    words, paths = [sys.executable, str(BENCH / "gpu_check.py")], os.pathsep.join([str(tmp_path), str(ROOT)])
    told = subprocess.run(words, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
    assert told.returncode == 1 and told.stdout == ""
    assert told.stderr.startswith("gpu-check needs numpy, which ") and told.stderr.count("\n") == 1
    assert "make gpu-env installs" in told.stderr


def test_a_machine_without_a_device_is_no_traceback(capsys, monkeypatch):
    monkeypatch.setattr(machine, "machine", lambda: exec("import no_such_cupy"))
    assert measure.main(["machine", "60"]) == 0
    told = capsys.readouterr()
    said = "which device it is could not be found out: No module named 'no_such_cupy'\n"
    assert (told.out, told.err) == (said, "")


# Floors, clocks -------------------------------------------------------------------------------------------------------


def operation(formula, flops, moved, held=None):
    buffer = SimpleNamespace(data=SimpleNamespace(ptr=1), nbytes=moved if held is None else held)
    same = {"a": buffer, "the same": buffer}
    return Operation("operation", formula, same, same, flops, moved, 1, "forward", lambda: ())


def test_the_floor_of_an_operation_is_what_bounds_it():
    known = peaks.Peaks(2000.0, 6000.0, 50 << 20, products={"float32": 50.0, "tf32": 400.0})
    product = operation("z = x@W", 4 * 10**9, 10**6)
    assert known.floor(product, "float32") == (pytest.approx(80), "arithmetic")  # 4 GFLOP at 50 TFLOP/s
    assert known.floor(product, "tf32") == (pytest.approx(10), "arithmetic")
    assert known.floor(product, "float16") is None
    assert known.floor(operation("y = gelu(z)", 10**9, 8), "tf32") == (pytest.approx(20), "arithmetic")
    large, small = operation("w ← w − ηg", 10**6, 6 * 10**7), operation("w ← w − ηg", 10**6, 3 * 10**7)
    assert known.floor(large, "tf32") == (pytest.approx(30), "memory")  # 60 MB at 2 TB/s
    assert known.floor(small, "tf32") == (pytest.approx(5), "cache")  # 30 MB at 6 TB/s
    rows_of_much = operation("x = data[order]", 0, 10**6, held=10**9)
    assert known.floor(rows_of_much, "float32") == (pytest.approx(0.5), "memory")


def test_what_the_times_of_a_step_come_to():
    def times(*of_rounds):
        return [timing.Time(device, host) for device, host in of_rounds]

    given = {
        "eager": times((40, 30), (60, 50), (50, 40)),
        "replayed": times((20, 2), (25, 3), (10, 1)),
        "plain CuPy": times((200, 1), (100, 1), (100, 1)),
    }
    row = steps.times_of(given, 10, 5.0)
    assert row["eager"] == {
        "us": {"median": 50, "least": 40, "most": 60}, "host_us_a_launch": 4, "times_the_floor": 10,
    }  # fmt: skip
    assert row["replayed"]["host_us_a_launch"] == 0.2 and row["replayed"]["times_the_floor"] == 4
    assert row["plain CuPy / ours"] == {"median": 10, "least": 4, "most": 10}
    assert steps.times_of({"eager": given["eager"], "plain CuPy": given["plain CuPy"]}, 10, None)["floor_us"] is None


class Library:
    """What the management library would answer."""

    def __init__(self):
        self.readings = {"ClockInfo": [1980, 1755], "Temperature": [40], "PowerUsage": [350_000]}

    def __getattr__(self, name):
        def answer(*arguments):
            if name == "nvmlSystemGetDriverVersion":
                arguments[0].value = b"580.1"
            elif name.startswith("nvmlDeviceGet") and "Handle" not in name:
                values = self.readings.get(name.removeprefix("nvmlDeviceGet"))
                if values is None:
                    return 3  # not supported
                arguments[-1]._obj.value = values.pop(0) if len(values) > 1 else values[0]
            return 0

        return answer


def test_the_clock_is_read_during_a_measurement(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    asked = machine.Management("0000:01:00.0")
    assert asked.driver == "580.1"
    with asked.sampling() as mhz:
        while len(mhz) < 3:
            time.sleep(0.001)
    assert mhz[:2] == [1980, 1755]
    assert asked.reading() == "40 °C, 1755 MHz SM, 1755 MHz memory, 350 W"


def test_without_the_management_library_nothing_is_known(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    asked = machine.Management("0000:01:00.0")
    with asked.sampling() as mhz:
        pass
    assert (asked.driver, asked.reading(), mhz) == ("unknown", "", [])


# What is told ---------------------------------------------------------------------------------------------------------

RANGE = {"median": 12.345, "least": 0.5, "most": 1234.5}
OPERATION = {
    "operation": "matmul",
    "formula": "∇W1 = xᵀ@∇z1",
    "launches": 1,
    "us": 3.333,
    "floor_us": 1.5,
    "bound": "cache",
}
STEP = {
    "network": "64-128-10", "batch": 32, "precision": "float32", "launches": 12, "nodes": 14, "memory": 1000,
    "floor_us": 1.5, "eager": {"us": RANGE, "host_us_a_launch": 4.56, "times_the_floor": 9.87},
    "replayed": {"us": RANGE, "host_us_a_launch": 0.78, "times_the_floor": 2.34}, "in a row": {"us": RANGE},
    "products alone": {"us": RANGE},
    "plain CuPy": {"us": RANGE}, "plain CuPy / ours": RANGE, "epoch_us_a_step": 45.6, "operations": [OPERATION],
    "sm_mhz": {"median": 1980, "least": 1755, "most": 1980},
}  # fmt: skip
EAGER = {
    **{name: STEP[name] for name in ("network", "batch", "launches", "memory", "epoch_us_a_step")},
    "precision": "float16",
    "floor_us": None, "eager": {"us": RANGE, "host_us_a_launch": 4.56}, "not replayed": "no door", "sm_mhz": "",
    "operations": [{**OPERATION, "us": None, "floor_us": None, "bound": "", "not timed": "it allocates"}],
}  # fmt: skip
MEASURED = {
    "device": "NVIDIA H100 80GB HBM3", "emulated": False, "compute_capability": "9.0", "driver": "580.1",
    "driver_cuda": "13.0", "cuda": "13.1", "cupy": "14.2.0", "commit": "abc123", "reading": "40 °C",
    "parts": {"doctor": {"outcome": "passed", "seconds": 3.2}, "tests": {"outcome": "failed", "seconds": 60}},
    "doctor": ["CuPy  ok  14.2.0", "", "It works."], "passed": 9, "counts": ["1 failed, 9 passed in 12s"],
    "tests that failed": {"tests/gpu/test_x.py::test_y": "it is | 1"},
    "peaks": {
        "memory": 2900.0, "cache": 5500.0, "cache_bytes": 50_000_000, "node_us": 1.23, "products": {"tf32": 401.25},
    },
    "doors": ["tf32: cuBLAS 13.0.0 is called directly"], "steps": [STEP, EAGER],
    "kernels": [{
        "kernel": "update<float, update_adam, 4>", "dtype": "float32", "shape": [16, 64], "bytes": 28_000_000,
        "us": 11.111, "gb_s": 2520.0, "percent_of_copy": RANGE, "sm_mhz": "",
    }],
    "copies_gb_s": {"16 × 64": 2900.0},
    "one_launch": [{
        "network": "8-16-1", "models": 132, "rows": 2048, "batch": 32, "ordinary": {"ms_an_epoch": RANGE},
        "one_launch": {"ms_an_epoch": RANGE}, "ordinary / one_launch": RANGE, "sm_mhz": "",
    }],
    "data": "digits: 64",
    "fits": [{
        "network": "784-300-10", "batch": 128, "precision": "tf32", "loss of the first epoch": 0.4, "sm_mhz": "",
        "not timed": {"JAX, jitted step": "missing: jax is not installed"},
        "gpu_backprop": {"samples_per_second": RANGE},
        "PyTorch, eager": {"samples_per_second": RANGE, "version": "PyTorch 9.9", "ours, times as fast": RANGE},
    }],
    "ranks": [{"ranks": 8, "bytes": 4096, "us": 17.25, "model_us": 16.4}],
    "failed": [{"what": "a copy", "reason": "DeviceError: a | b"}],
    "skipped": [{"what": "sanitizer", "reason": "not there"}],
}  # fmt: skip


def test_both_files_name_the_circumstances_and_hold_all_that_was_measured(tmp_path):
    made = gpu_check.Check(tmp_path, 600, about="make gpu-check")
    made.found = MEASURED
    made.write()
    record, text = files(tmp_path)
    assert (tmp_path / "gpu-nvidia-h100-80gb-hbm3.md").exists()
    assert {key: record[key] for key in MEASURED} == MEASURED
    for name in ("command", "date", "device", "driver", "cuda", "cupy", "commit"):
        assert record[name] in text, name
    for row in (
        "| tests | failed: 1 failed, 9 passed in 12s | 60 |",
        "| tests/gpu/test_x.py::test_y | it is / 1 |",
        "| square product, tf32 | 401.2 TFLOP/s |",
        "| copy beyond the L2 cache | 2,900 GB/s, read and written |",
        "| copy in the L2 cache of 50 MB | 5,500 GB/s, likewise |",
        "| 64-128-10 | 32 | float32 | 12 | 14 | 0.00 | 1.50 | 12.3 (0.50 to 1,234) | 2.34 | 12.3 (0.50 to 1,234) "
        "| 12.3 (0.50 to 1,234) | 12.3 (0.50 to 1,234) | 4.56 | 45.6 | 12.3 (0.50 to 1,234) | 1,980 (1,755 to 1,980) |",
        "| 64-128-10 | 32 | float16 | 12 | - | 0.00 | - | not replayed: no door | - | - | - | 12.3 (0.50 to 1,234) "
        "| 4.56 | 45.6 | - |  |",
        "| 64-128-10 | 32 | float32 | `∇W1 = xᵀ@∇z1` | 1 | 3.33 | 1.50 | cache |",
        "| 64-128-10 | 32 | float16 | `∇W1 = xᵀ@∇z1` | 1 | it allocates | - |  |",
        "| 8-16-1 | 132 | 2048 | 32 | 12.3 (0.50 to 1,234) | 12.3 (0.50 to 1,234) | 12.3 (0.50 to 1,234) |  |",
        "| 784-300-10 | 128 | tf32 | gpu_backprop | 12.3 (0.50 to 1,234) | - |  |",
        "| 784-300-10 | 128 | tf32 | PyTorch, eager (PyTorch 9.9) | 12.3 (0.50 to 1,234) | 12.3 (0.50 to 1,234) |  |",
        "| 784-300-10 | 128 | tf32 | JAX, jitted step | missing: jax is not installed | - | - |",
        "| `update<float, update_adam, 4>` | 16 × 64 | 28.0 | 11.1 | 2,520 | 12.3 (0.50 to 1,234) |  |",
        "| a copy | DeviceError: a / b |",
        "| 8 | 4,096 | 17.2 | 16.4 |",
        "| sanitizer | not there |",
        "| CuPy  ok  14.2.0 |",
        "| at the beginning | 40 °C |",
    ):
        assert row in text.splitlines(), row


def test_nothing_measured_is_written_too(tmp_path):
    gpu_check.Check(tmp_path, 600).write()
    found, text = files(tmp_path)
    assert found["device"] == "unknown" and "## Kernels" not in text and "| doctor | not begun | 0 |" in text


def test_an_emulated_device_is_said_to_be_one():
    emulated = {**MEASURED, "emulated": True, "date": "", "command": ""}
    assert "its times mean nothing" in report.markdown(emulated)
    assert "EMULATED: its times mean nothing" in report.summary(emulated, Path("a"))


def test_a_summary_tells_each_list_and_is_never_too_long():
    text = report.summary(MEASURED, Path("gpu-x.md"))
    for line in (
        "  tests: failed: 1 failed, 9 passed in 12s (60 s)",
        "  tests/gpu/test_x.py::test_y: it is | 1",
        "  sanitizer: not there",
        "  It works.",
        "  64-128-10, 32 rows, float32: 12.3 (12.3; 1.50) | 12.3 | 45.6 | 12.3 | 12, 14 | 1,980 (1,755 to 1,980)",
        "  64-128-10, 32 rows, float32: matmul 3.33",
        "  784-300-10, 128 rows, tf32: PyTorch, eager 12.3",
    ):
        assert line in text.splitlines(), line
    titles = [line for line in text.splitlines() if not line.startswith("  ")]
    much, long = {f"tests/gpu/test_x.py::test_{k}": "x\n" * 999 for k in range(500)}, "y" * 9_999
    flood = {
        **MEASURED, "device": long, "tests that failed": much, "tests that failed alone too": much,
        "failed": MEASURED["failed"] * 1000, "skipped": [{"what": long, "reason": long}] * 1000,
        "steps": [STEP] * 1000, "kernels": MEASURED["kernels"] * 1000, "fits": MEASURED["fits"] * 1000,
        "parts": {f"{k}{long}": {"outcome": long, "seconds": 1} for k in range(1000)},
    }  # fmt: skip
    text = report.summary(flood, Path(long))
    assert len(text) <= 8000
    told = [line for line in text.splitlines() if not line.startswith("  ")]
    assert told[1:-1] == [*titles[1:3], "Tests that failed alone too", *titles[3:-1]]
    assert "  … and 99" in text
