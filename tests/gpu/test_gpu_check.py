"""bench/gpu_check.py runs to its end, and reckons and writes right; what it measures means something on a GPU only."""

from __future__ import annotations

import functools
import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpu_backprop.backend.kernel_text import functor_name
from gpu_backprop.backend.operation import Operation
from gpu_backprop.backend.signatures import heads
from gpu_backprop.training.optimizers import RULES

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))
try:
    (
        processes, gpu_check, gpu_fits, gpu_kernels, gpu_machine, gpu_products, gpu_one_launch, gpu_steps, gpu_timing,
        peers, timing,
    ) = (
        importlib.import_module(name)
        for name in (
            "comparison.processes", "gpu_check", "gpu.fits", "gpu.kernels", "gpu.machine", "gpu.products",
            "gpu.one_launch", "gpu.steps", "gpu.timing", "comparison.peers", "lib.timing",
        )
    )  # fmt: skip
finally:
    sys.path.remove(str(BENCH))

TINY = gpu_timing.TINY
FLOAT32 = gpu_products.PRECISIONS[:1]
SUCCESS, FAILURE = ([sys.executable, "-c", f"raise SystemExit({status})"] for status in (0, 3))


@pytest.fixture
def check(monkeypatch, tmp_path):
    """The script: no tests of its own, one dtype, and results that go elsewhere."""
    monkeypatch.setattr(gpu_check, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu_check, "commands", lambda: [SUCCESS])
    monkeypatch.setattr(gpu_check, "Check", functools.partial(gpu_check.Check, dtypes=("float32",), precisions=FLOAT32))
    return gpu_check


# On a device ----------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_it_runs_to_its_end_and_writes_nothing(check, capfd, tmp_path):
    assert check.main(["--quick"]) == 0
    said = capfd.readouterr()
    assert said.out.endswith("Everything was measured.\n")
    assert "failed" not in said.err and not list(tmp_path.iterdir())


@pytest.mark.gpu
def test_every_kernel_is_measured(check):
    found = check.Check(TINY, dtypes=("float16",))
    found.kernels()
    updates = {f"update {functor_name(rule)}" for rule in RULES}
    expected = set(heads()) - {"update", "compare", "train_epoch"} | updates
    assert sorted(gpu_kernels.kind(row["kernel"]) for row in found.found["kernels"]) == sorted(expected)
    assert found.found["kernels left out"] == [
        "compare",  # which runs once for a plan
        "train_epoch",  # whose work is arithmetic: it has no share of a bandwidth
    ]
    assert all(row["us"] > 0 and row["percent_of_copy"]["least"] >= 0 for row in found.found["kernels"])
    assert found.peaks.bandwidth > 0 and not found.found["failed"]


@pytest.mark.gpu
def test_every_product_of_a_step_is_measured(check):
    products = gpu_products.Products(gpu_products.PRECISIONS[1], TINY)
    products.measure(gpu_check.CASES[0])
    assert [row["product"] for row in products.rows] == ["forward", "forward", "∇W", "∇x", "∇W"]
    sizes = [(row["rows"], row["inner"], row["cols"]) for row in products.rows]
    assert sizes == [(32, 64, 128), (32, 128, 10), (128, 32, 10), (32, 10, 128), (64, 32, 128)]
    assert products.square.rate > 0 and "cuBLAS" in products.door


@pytest.mark.gpu
def test_a_step_replayed_and_eager_beside_plain_cupy():
    peaks = gpu_steps.Peaks(1000.0, {"float32": 50.0})
    row = gpu_steps.measure(gpu_check.CASES[0], FLOAT32[0], TINY, peaks)
    assert (row["network"], row["batch"], row["launches"]) == ("64-128-10", 32, 12)
    assert min(row[way]["us"]["least"] for way in ("eager", "replayed", "plain CuPy")) > 0
    assert row["floor_us"] > 0 and row["eager"]["times_the_floor"] > 0 and row["plain CuPy / ours"]["least"] > 0
    assert gpu_steps.measure(gpu_check.CASES[0], FLOAT32[0], TINY, None)["floor_us"] is None


@pytest.mark.gpu
def test_epochs_in_one_launch_beside_ordinary_ones(check):
    found = check.Check(TINY)
    found.one_launch()
    rows = found.found["one_launch"]
    assert not found.found["failed"]
    assert [(row["network"], row["models"]) for row in rows] == [
        ("8-16-1", 1), ("8-16-1", 2), ("64-64-10", 1), ("64-64-10", 2),
    ]  # fmt: skip
    for row in rows:
        assert min(row[way]["ms_an_epoch"]["least"] for way in ("ordinary", "one_launch")) > 0
        assert row["ordinary / one_launch"]["least"] > 0 and row["rows"] % row["batch"] == 0


@pytest.mark.gpu
def test_epochs_in_one_launch_that_learn_something_else_are_not_timed(monkeypatch):
    task = next(gpu_one_launch.tasks(TINY))
    monkeypatch.setattr(gpu_one_launch, "CLOSE", 0.0)
    fit = gpu_one_launch._fit
    monkeypatch.setattr(
        gpu_one_launch, "_fit", lambda task, trainer, *how, **of: fit(task, trainer, 1 + trainer.one_launch, **of)
    )
    with pytest.raises(RuntimeError, match="differ by up to .* in their losses"):
        gpu_one_launch.measure(task, 1, 1)


@pytest.mark.gpu
def test_the_machine():
    found = gpu_machine.machine()
    assert found["device"] and float(found["compute_capability"]) >= 7.0 and float(found["cuda"]) >= 12


# Anywhere -------------------------------------------------------------------------------------------------------------


def operation(name, flops, moved):
    return Operation(name, "", {}, {}, flops, moved, 1, "forward", lambda: ())


def test_the_floor_is_what_bounds_each_operation():
    peaks = gpu_steps.Peaks(2000.0, {"float32": 50.0, "tf32": 400.0})
    product, other = operation("matmul", 4 * 10**9, 10**6), operation("update", 10**6, 6 * 10**7)
    assert gpu_steps.floor([product], peaks, "float32") == pytest.approx(80.0)  # 4 GFLOP at 50 TFLOP/s
    assert gpu_steps.floor([product], peaks, "tf32") == pytest.approx(10.0)
    assert gpu_steps.floor([other], peaks, "tf32") == pytest.approx(30.0)  # 60 MB at 2 TB/s
    assert gpu_steps.floor([operation("gelu", 10**9, 8)], peaks, "tf32") == pytest.approx(20.0)  # not on tensor cores
    assert gpu_steps.floor([product, other], peaks, "float32") == pytest.approx(110.0)


def test_what_the_times_of_a_step_come_to():
    def times(*of_rounds):
        return [timing.Time(device, host) for device, host in of_rounds]

    given = {
        "eager": times((40, 30), (60, 50), (50, 40)),
        "replayed": times((20, 2), (25, 3), (10, 1)),
        "plain CuPy": times((200, 1), (100, 1), (100, 1)),
    }
    row = gpu_steps.row(given, 10, 5.0)
    assert row["eager"] == {
        "us": {"median": 50, "least": 40, "most": 60}, "host_us_a_launch": 4, "times_the_floor": 10,
    }  # fmt: skip
    assert row["replayed"]["host_us_a_launch"] == 0.2 and row["replayed"]["times_the_floor"] == 4
    assert row["plain CuPy / ours"] == {"median": 10, "least": 4, "most": 10}
    assert gpu_steps.row({"eager": given["eager"], "plain CuPy": given["plain CuPy"]}, 10, None)["floor_us"] is None


RANGE = {"median": 12.345, "least": 0.5, "most": 1234.5}
MEASURED = {
    "device": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0", "driver": "580.1", "driver_cuda": "13.0",
    "cuda": "13.1", "cupy": "14.2.0", "commit": "abc123", "commands": {"python -m pytest": "failed with status 1"},
    "readings": {"at the end": "40 °C"}, "copy_gb_s": 2900.0, "peaks_tflop_s": {"tf32": 401.25},
    "kernels": [{
        "kernel": "update<float, update_adam, 4>", "dtype": "float32", "shape": [16, 64], "bytes": 28_000_000,
        "us": 11.111, "gb_s": 2520.0, "percent_of_copy": RANGE,
    }],
    "kernels left out": ["train_epoch"], "doors": ["tf32: cuBLAS 13.0.0 is called directly"],
    "products": [{
        "network": "64-128-10", "batch": 32, "precision": "tf32", "product": "∇W", "formula": "∇W1 = xᵀ@∇z1",
        "rows": 64, "inner": 32, "cols": 128, "us": 3.333, "tflop_s": 7.77, "percent_of_peak": RANGE,
    }],
    "steps": [
        {
            "network": "64-128-10", "batch": 32, "precision": "float32", "launches": 12, "floor_us": 1.5,
            "eager": {"us": RANGE, "host_us_a_launch": 4.56, "times_the_floor": 9.87},
            "replayed": {"us": RANGE, "host_us_a_launch": 0.78, "times_the_floor": 2.34},
            "plain CuPy": {"us": RANGE}, "plain CuPy / ours": RANGE,
        },
        {
            "network": "8-8", "batch": 32, "precision": "float16", "launches": 12, "floor_us": None,
            "eager": {"us": RANGE, "host_us_a_launch": 4.56}, "not replayed": "no door",
        },
    ],
    "one_launch": [{
        "network": "8-16-1", "models": 132, "rows": 2048, "batch": 32, "ordinary": {"ms_an_epoch": RANGE},
        "one_launch": {"ms_an_epoch": RANGE}, "ordinary / one_launch": RANGE,
    }],
    "data": "digits: 64",
    "fits": [{
        "network": "784-300-10", "batch": 128, "loss of the first epoch": 0.4,
        "not timed": {"JAX, jitted step": "missing: jax is not installed"},
        "gpu_backprop": {"samples_per_second": RANGE},
        "PyTorch, eager": {"samples_per_second": RANGE, "version": "PyTorch 9.9", "ours, times as fast": RANGE},
    }],
    "failed": [{"what": "a copy", "reason": "DeviceError: a | b"}],
}  # fmt: skip


def test_both_files_name_the_circumstances_and_hold_all_that_was_measured(tmp_path):
    js, md = gpu_check.write(tmp_path, "make gpu-check", 12.34, MEASURED)
    assert (js.name, md.name) == ("gpu-nvidia-h100-80gb-hbm3.json", "gpu-nvidia-h100-80gb-hbm3.md")
    record, text = json.loads(js.read_text(encoding="utf-8")), md.read_text(encoding="utf-8")
    assert {key: record[key] for key in MEASURED} == MEASURED and record["seconds"] == 12.3
    for name in ("command", "date", "device", "driver", "cuda", "cupy", "commit"):
        assert record[name] in text, name
    for row in (
        "| square product, tf32 | 401.2 TFLOP/s |",
        "| copy | 2,900 GB/s, read and written |",
        "| 64-128-10 | 32 | float32 | 12 | 1.50 | 12.3 (0.50 to 1,234) | 2.34 | 0.78 "
        "| 12.3 (0.50 to 1,234) | 9.87 | 4.56 | 12.3 (0.50 to 1,234) |",
        "| 8-8 | 32 | float16 | 12 | - | not replayed: no door | - | - | 12.3 (0.50 to 1,234) | - | 4.56 | - |",
        "| 8-16-1 | 132 | 2048 | 32 | 12.3 (0.50 to 1,234) | 12.3 (0.50 to 1,234) | 12.3 (0.50 to 1,234) |",
        "| 784-300-10 | 128 | gpu_backprop | 12.3 (0.50 to 1,234) | - |",
        "| 784-300-10 | 128 | PyTorch, eager (PyTorch 9.9) | 12.3 (0.50 to 1,234) | 12.3 (0.50 to 1,234) |",
        "| 784-300-10 | 128 | JAX, jitted step | missing: jax is not installed | - |",
        "| `update<float, update_adam, 4>` | 16 × 64 | 28.0 | 11.1 | 2,520 | 12.3 (0.50 to 1,234) |",
        "| 64-128-10 | ∇W1 = xᵀ@∇z1 | 64 × 32 × 128 | tf32 | 3.33 | 7.77 | 12.3 (0.50 to 1,234) |",
        "| `python -m pytest` | failed with status 1 |",
        "| a copy | DeviceError: a / b |",
        "| nvidia-smi, at the end | 40 °C |",
    ):
        assert row in text.splitlines(), row


def test_nothing_measured_is_written_too(tmp_path):
    empty = {key: type(value)() for key, value in MEASURED.items() if isinstance(value, (list, dict))}
    _, md = gpu_check.write(tmp_path, "make gpu-check", 1.0, {**MEASURED, **empty})
    assert "## Kernels" not in md.read_text(encoding="utf-8")


def test_without_a_device_that_works_nothing_else_is_done(check, monkeypatch, capsys):
    monkeypatch.setattr(check, "commands", lambda: [FAILURE, SUCCESS])
    monkeypatch.setattr(check, "Check", None)
    assert check.main([]) == 1
    assert capsys.readouterr().err.count("failed: ") == 1


def test_tests_that_fail_are_told_and_the_rest_goes_on(check, monkeypatch, tmp_path, capsys):
    class Nothing(gpu_check.Check.func):
        def run(self, data, peers):
            self.attempt("a division", lambda: 1 / 0)

    monkeypatch.setattr(check, "commands", lambda: [SUCCESS, FAILURE])
    monkeypatch.setattr(check, "Check", Nothing)
    monkeypatch.setattr(check, "machine", lambda: {k: v for k, v in MEASURED.items() if isinstance(v, str)})
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check.DeviceTrace, "is_there", lambda: False)
    assert check.main([]) == 1
    found = json.loads((tmp_path / "gpu-nvidia-h100-80gb-hbm3.json").read_text(encoding="utf-8"))
    assert list(found["commands"].values()) == ["passed", "failed with status 3"]
    assert found["failed"] == [{"what": "a division", "reason": "ZeroDivisionError: division by zero"}]
    assert found["commit"] == "unknown"


# Peers ----------------------------------------------------------------------------------------------------------------

IMAGES = gpu_fits.Images(np.ones((32, 4), np.float32), np.arange(32) % 10, "ones")


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Puts a program in the place of bench/comparison/worker.py, which answers as that does."""

    def put(first, answer='{"seconds": [9.0, 0.5, 0.5]}'):
        program = tmp_path / "worker.py"
        program.write_text(
            f"import sys\nprint('to nobody')\ninput()\nprint({first!r}, flush=True)\n"
            f"if not {first!r}:\n    sys.exit('no room')\nfor _ in sys.stdin:\n    print({answer!r}, flush=True)\n"
        )
        monkeypatch.setattr(processes, "program", lambda _: program)
        monkeypatch.setattr(gpu_fits, "CLOSE", np.inf)
        monkeypatch.setattr(processes, "PATIENCE", 30)

    return put


def test_a_peer_that_does_the_same_is_timed(fake):
    fake('{"loss": 2.3, "version": "Fake 1"}')
    row = gpu_fits.measure(IMAGES, (3,), 16, 2, device="cpu")
    assert row["not timed"] == {} and (row["network"], row["batch"]) == ("4-3-10", 16)
    for name in peers.ON_CUDA:
        assert row[name]["samples_per_second"] == {"median": 64, "least": 64, "most": 64}
        assert row[name]["version"] == "Fake 1" and row[name]["ours, times as fast"]["least"] > 1


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ('{"loss": 9.5, "version": ""}', "it does other work: its loss after an epoch is 9.50000, ours 2."),
        ('{"loss": NaN, "version": ""}', "it does other work"),
        ('{"missing": "PyTorch finds no CUDA device"}', "missing: PyTorch finds no CUDA device"),
        ('{"failed": "it is too large"}', "it failed: it is too large"),
    ],
)
def test_a_peer_that_does_not_is_told_with_its_reason(fake, monkeypatch, first, reason):
    fake(first)
    monkeypatch.setattr(gpu_fits, "CLOSE", 0.01)
    row = gpu_fits.measure(IMAGES, (3,), 16, 1, device="cpu")
    assert set(row["not timed"]) == set(peers.ON_CUDA) and "gpu_backprop" in row
    assert all(why.startswith(reason) for why in row["not timed"].values())


def test_a_peer_that_ends_is_told_with_its_last_words(fake, tmp_path):
    fake("")
    with pytest.raises(gpu_fits.WorkerError, match="it ended with status 1: no room"):
        gpu_fits.Peer("JAX", tmp_path, sys.executable, 1.0)


def test_a_peer_that_fails_in_the_middle_is_not_timed(fake):
    fake('{"loss": 2, "version": ""}', '{"failed": "no"}')
    row = gpu_fits.measure(IMAGES, (3,), 16, 2, device="cpu")
    assert set(row["not timed"].values()) == {"it failed: no"} and set(peers.ON_CUDA).isdisjoint(row)


def test_what_a_peer_is_given_is_what_we_begin_with(tmp_path):
    first = gpu_fits.first_parameters((4, 3, 10), 0)
    ours = gpu_fits.Ours(peers.Task(IMAGES.x, IMAGES.labels, first, 16, gpu_fits.ADAM, device="cpu"))
    ours.task.save(tmp_path)
    task = peers.Task.load(tmp_path)
    assert (task.batch, task.settings, task.device, task.rows) == (16, gpu_fits.ADAM, "cpu", 32)
    np.testing.assert_array_equal(task.x, IMAGES.x)
    np.testing.assert_array_equal(task.target, IMAGES.labels)
    assert [w.shape for w, _ in task.parameters] == [(4, 3), (3, 10)]
    for (w, b), layer in zip(task.parameters, ours.net.layers, strict=True):
        np.testing.assert_array_equal(w, layer.weight)
        np.testing.assert_array_equal(b, layer.bias)


def test_every_batch_divides_the_rows():
    images = gpu_fits.Images.read(None, replace(gpu_timing.FULL, samples=5000))
    assert images.x.shape == (4096, 64) and images.x.dtype == np.float32 and images.x.max() == 1
    assert images.name == "the bundled 8×8 digits, repeated: 4,096"
    np.testing.assert_array_equal(images.x[1797:3594], images.x[:1797])
    np.testing.assert_array_equal(images.labels[1797:3594], images.labels[:1797])
