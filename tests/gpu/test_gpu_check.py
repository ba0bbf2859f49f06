"""What bench/gpu_check.py measures on a device, in small; what the times mean only a GPU can show."""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from gpu_backprop.backend.cuda import setup as cuda_setup
from gpu_backprop.backend.kernel_text import functor_name
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.backend.signatures import heads
from gpu_backprop.training.optimizers import RULES

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))
try:
    (
        processes, gpu_fits, gpu_kernels, gpu_machine, gpu_measure, gpu_one_launch, gpu_peaks, gpu_steps, gpu_timing,
        peers,
    ) = (
        importlib.import_module(name)
        for name in (
            "comparison.processes", "gpu.fits", "gpu.kernels", "gpu.machine", "gpu.measure", "gpu.one_launch",
            "gpu.peaks", "gpu.steps", "gpu.timing", "comparison.peers",
        )
    )  # fmt: skip
finally:
    sys.path.remove(str(BENCH))

TINY = gpu_timing.TINY
FLOAT32, TF32, *_ = gpu_peaks.PRECISIONS
SMALL = gpu_steps.TINY_CASES[0]


# On a device ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def part(monkeypatch, capsys):
    """Measures a part, in small on a GPU too, and gives what it told."""
    monkeypatch.setattr(gpu_measure, "FULL", TINY)
    monkeypatch.setattr(gpu_peaks, "PRECISIONS", (FLOAT32,))
    monkeypatch.setattr(gpu_kernels, "DTYPES", ("float16",))
    monkeypatch.setattr(gpu_fits, "ON_CUDA", ())

    def measured(name):
        assert gpu_measure.main([name, "600"]) == 0
        found = {"failed": [], "skipped": []}
        for line in capsys.readouterr().out.split("\n"):
            if line.startswith(gpu_measure.MARK):
                finding = json.loads(line[1:])
                found |= finding.get("set", {})
                for rows, more in finding.get("add", {}).items():
                    found.setdefault(rows, []).extend(more)
        assert not found["failed"] and not found.get("todo")
        return found

    return measured


@pytest.mark.gpu
def test_the_machine(part):
    found = part("machine")
    assert found["device"] and float(found["compute_capability"]) >= 7.0 and float(found["cuda"]) >= 12
    assert isinstance(found["reading"], str)


@pytest.mark.gpu
def test_steps_beside_the_peaks_that_were_measured(part):
    found = part("steps")
    [row] = found["steps"]
    assert row["floor_us"] > 0 and "cuBLAS" in found["doors"][0] and not found["skipped"]
    assert found["peaks"]["memory"] > 0 and found["peaks"]["cache"] > 0 and found["peaks"]["products"]["float32"] > 0


@pytest.mark.gpu
def test_every_kernel_is_measured(part):
    found = part("kernels")
    updates = {f"update {functor_name(rule)}" for rule in RULES}
    expected = set(heads()) - {"update", "compare", "train_epoch"} | updates
    assert sorted(gpu_kernels.kind(row["kernel"]) for row in found["kernels"]) == sorted(expected)
    # The one runs once for a plan, and the other's work is arithmetic.
    assert [one["what"] for one in found["skipped"]] == ["kernel compare", "kernel train_epoch"]
    for row in found["kernels"]:
        assert row["us"] > 0 and row["percent_of_copy"]["least"] >= 0 and "sm_mhz" in row
    assert found["copies_gb_s"]["16 × 64"] > 0


@pytest.mark.gpu
def test_sums_over_the_ranks_of_several_devices(part, monkeypatch):
    monkeypatch.setattr("gpu_backprop.backend.open_device.count_devices", lambda: 1)
    assert "ranks" not in part("ranks")
    if "CUDASIM_BUILD" in os.environ:  # the processes that are started have two then
        monkeypatch.setenv("CUDASIM_DEVICES", "2")
    elif cuda_setup.count_devices() < 2:
        return
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(BENCH), str(BENCH.parent), os.environ["PYTHONPATH"]]))
    monkeypatch.setattr("gpu_backprop.backend.open_device.count_devices", lambda: 2)
    for row in part("ranks")["ranks"]:
        assert row["ranks"] == 2 and row["bytes"] >= 4096 and min(row["us"], row["model_us"]) > 0


@pytest.mark.gpu
def test_epochs_in_one_launch_beside_ordinary_ones(part):
    rows = part("one_launch")["one_launch"]
    assert [(row["network"], row["models"]) for row in rows] == [
        (name, models) for name in ("8-16-1", "64-64-64-10") for models in gpu_one_launch.TINY_MODELS
    ]
    for row in rows:
        assert min(row[way]["ms_an_epoch"]["least"] for way in gpu_one_launch.WAYS) > 0
        assert row["ordinary / one_launch"]["least"] > 0 and row["rows"] % row["batch"] == 0


@pytest.mark.gpu
def test_epochs_in_every_precision(part):
    found = part("fits")
    assert [row["precision"] for row in found["fits"]] == ["float32", "tf32", "bfloat16"]
    assert all(row["gpu_backprop"]["samples_per_second"]["least"] > 0 for row in found["fits"]) and found["data"]


@pytest.mark.gpu
def test_a_step_replayed_and_eager_beside_plain_cupy_and_operation_by_operation():
    peaks = gpu_peaks.Peaks(1000.0, 3000.0, 50 << 20, products={"float32": 50.0})
    row = gpu_steps.measure(SMALL, FLOAT32, TINY, peaks)
    assert (row["network"], row["batch"]) == ("64-128-10", 32) and row["launches"] <= 12
    ways = "eager", "replayed", "in a row", "products alone", "plain CuPy"
    assert min(row[way]["us"]["least"] for way in ways) > 0 and row["epoch_us_a_step"] > 0
    assert row["nodes"] >= row["launches"]
    assert row["sm_mhz"] == "" or row["sm_mhz"]["least"] > 0
    assert row["floor_us"] > 0 and row["eager"]["times_the_floor"] > 0 and row["plain CuPy / ours"]["least"] > 0
    assert sum(one["launches"] for one in row["operations"]) == row["launches"]
    assert all(one["us"] > 0 and one["floor_us"] >= 0 and one["bound"] for one in row["operations"])
    products = [one for one in row["operations"] if "@" in one["formula"]]
    assert len(products) >= 4


@pytest.mark.gpu
def test_a_step_without_peaks_has_no_floor():
    row = gpu_steps.measure(SMALL, TF32, TINY, None)
    assert row["floor_us"] is None and "times_the_floor" not in row["eager"] and "plain CuPy" not in row


@pytest.mark.gpu
def test_epochs_in_one_launch_that_learn_something_else_are_not_timed(monkeypatch):
    task = next(gpu_one_launch.tasks(TINY))
    monkeypatch.setattr(gpu_one_launch, "CLOSE", {"float32": 0.0})
    fit = gpu_one_launch._fit
    monkeypatch.setattr(
        gpu_one_launch, "_fit", lambda task, trainer, *how, **of: fit(task, trainer, 1 + trainer.one_launch, **of)
    )
    with pytest.raises(RuntimeError, match="differ by up to .* in their losses"):
        gpu_one_launch.measure(task, 1, TINY)


# Peers ----------------------------------------------------------------------------------------------------------------

IMAGES = gpu_fits.Images(np.ones((32, 4), np.float32), np.arange(32) % 10, "ones")
FIT = gpu_fits.Fit((3,), 16, "float32")


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Puts a program in the place of bench/comparison/worker.py, which answers as that does."""

    def put(first, answer='{"seconds": [9.0, 0.5, 0.5]}'):
        program = tmp_path / "worker.py"
        program.write_text(
            f"import sys\nprint('to nobody')\ninput()\nprint({first!r}, flush=True)\n"
            f"if not {first!r}:\n    sys.exit('no room')\nfor line in sys.stdin:\n"
            f"    print({first!r} if 'load' in line else {answer!r}, flush=True)\n"
        )
        monkeypatch.setattr(processes, "program", lambda _: program)
        monkeypatch.setitem(gpu_fits.CLOSE, "float32", np.inf)

    return put


def measured(peers, times=1):
    extent = replace(TINY, turns=2)
    return [gpu_fits.measure(IMAGES, FIT, peers, extent, device="cpu") for _ in range(times)][-1]


def test_a_peer_that_does_the_same_is_timed_in_one_process_for_all_that_is_trained(fake):
    fake('{"loss": 2.3, "version": "Fake 1"}')
    with gpu_fits.start_peers() as started:
        processes_of = {name: worker._process.pid for name, worker in started.workers.items()}
        row = measured(started, times=2)
        assert {name: worker._process.pid for name, worker in started.workers.items()} == processes_of
    assert row["not timed"] == {}
    assert (row["network"], row["batch"], row["precision"]) == ("4-3-10", 16, "float32")
    for name in peers.ON_CUDA:
        assert row[name]["samples_per_second"] == {"median": 64, "least": 64, "most": 64}
        assert row[name]["version"] == "Fake 1" and row[name]["ours, times as fast"]["least"] > 1


@pytest.mark.parametrize(
    ("first", "reason", "goes_on"),
    [
        ('{"loss": 9.5, "version": ""}', "it does other work: its loss after an epoch is 9.50000, ours 2.", True),
        ('{"loss": NaN, "version": ""}', "it does other work", True),
        ('{"failed": "it is too large"}', "it failed: it is too large", True),
        ('{"missing": "PyTorch finds no CUDA device"}', "missing: PyTorch finds no CUDA device", False),
        ("", "it ended with status 1: no room", False),
    ],
)
def test_a_peer_that_does_not_is_told_with_its_reason(fake, monkeypatch, first, reason, goes_on):
    fake(first)
    monkeypatch.setitem(gpu_fits.CLOSE, "float32", 0.01)
    with gpu_fits.start_peers() as started:
        row = measured(started, times=2)
        assert bool(started.workers) == goes_on
    assert set(row["not timed"]) == set(peers.ON_CUDA) and "gpu_backprop" in row
    assert all(why.startswith(reason) for why in row["not timed"].values())


def test_a_peer_that_fails_in_the_middle_is_not_timed(fake):
    fake('{"loss": 2, "version": ""}', '{"failed": "no"}')
    with gpu_fits.start_peers() as started:
        row = measured(started)
    assert set(row["not timed"].values()) == {"it failed: no"} and set(peers.ON_CUDA).isdisjoint(row)


def test_a_peer_that_never_answers_is_ended(fake, monkeypatch):
    fake('{"loss": 2, "version": ""}', "")
    monkeypatch.setattr(gpu_fits, "PATIENCE", 1)
    monkeypatch.setattr(gpu_fits, "ON_CUDA", ("JAX, jitted step",))
    with gpu_fits.start_peers() as started:
        row = measured(started)
    assert "it ended with status -9" in row["not timed"]["JAX, jitted step"]


def test_what_a_peer_is_given_is_what_we_begin_with(tmp_path):
    first = gpu_fits.first_parameters((4, 3, 10), 0)
    ours = gpu_fits.Ours(peers.Task(IMAGES.x, IMAGES.labels, first, 16, gpu_fits.ADAM, device="cpu"))
    ours.task.save(tmp_path)
    task = peers.Task.load(tmp_path)
    assert (task.batch, task.settings, task.device, task.rows) == (16, gpu_fits.ADAM, "cpu", 32)
    assert task.precision == "float32"
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


@pytest.mark.gpu
def test_what_is_timed_keeps_its_arrays():
    """A graph has their addresses alone: who launches it later writes into what others got meanwhile."""
    device = open_device("cuda", "float32")
    with device.computing():
        a, b = device.zeros((8,), np.float32), device.zeros((8,), np.float32)
        copy = partial(b.data.copy_from_device_async, a.data, a.nbytes, device.stream)
        kept = weakref.ref(copy)
        reference = gpu_timing.Reference(gpu_timing.GraphClock(device, 1), [copy], 1.0, 1.0)
    del a, b, copy
    gc.collect()
    assert kept() is not None and reference.rates == []
