"""bench/gpu_check.py runs; what it measures means something on a real device only."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu


@pytest.fixture
def gpu_check(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "bench"))
    for name in ("gpu_check", "launches", "device_trace", "plain_step", "record"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import gpu_check

    monkeypatch.setattr(gpu_check, "STEPS", 2)
    monkeypatch.setattr(gpu_check, "CASES", gpu_check.CASES[:1])
    return gpu_check


def test_a_network_is_timed(gpu_check):
    row = gpu_check.measure(gpu_check.CASES[0])
    assert (row["network"], row["batch"], row["launches"]) == ("64-128-10", 32, 12)
    assert min(row["plan_us"], row["cupy_us"], row["host_us_a_launch"]) > 0
    assert row["times_faster"]["least"] <= row["times_faster"]["median"] <= row["times_faster"]["most"]


def test_what_is_recorded_of_the_machine(gpu_check):
    found = gpu_check.machine()
    assert found["device"] and float(found["compute_capability"]) >= 7.0 and found["cuda"] >= 12000


def test_a_command_that_fails_ends_it(gpu_check, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpu_check, "RESULTS", tmp_path / "bench" / "results" / "gpu_check.json")
    (tmp_path / "bench" / "results").mkdir(parents=True)
    monkeypatch.setattr(gpu_check, "commands", lambda: [[sys.executable, "-c", "raise SystemExit(3)"]])
    assert gpu_check.main([]) == 1
    assert "failed: " in capsys.readouterr().err
    assert not (tmp_path / "bench" / "results" / "gpu_check.json").exists()


def test_only_time_writes_nothing(gpu_check, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpu_check, "RESULTS", tmp_path / "bench" / "results" / "gpu_check.json")
    assert gpu_check.main(["--only-time"]) == 0
    assert "64-128-10" in capsys.readouterr().out and list(tmp_path.iterdir()) == []
