"""bench/busy_machine.py: the trouble it makes begins and ends, and the table says what was measured."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))
try:
    busy_machine, report = (importlib.import_module(name) for name in ("busy_machine", "comparison.busy_report"))
finally:
    sys.path.remove(str(BENCH))


def test_what_is_trained():
    specs = busy_machine.wanted(busy_machine.arguments_of([]))
    assert [str(spec.configuration) for spec in specs] == list(busy_machine.NETWORKS)
    assert all(spec.task().steps == busy_machine.STEPS for spec in specs)
    assert set(report.TROUBLES) == set(busy_machine.Trainings.__new__(busy_machine.Trainings)._timed())


@pytest.mark.parametrize(
    ("version", "files"),
    [(".", {"cpu.max": "50000 100000"}), ("cpu", {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"})],
)
def test_a_group_of_half_a_core(monkeypatch, tmp_path, version, files):
    monkeypatch.setattr(busy_machine, "GROUPS", tmp_path)
    with busy_machine.quota_group() as group:
        assert group is None
    (tmp_path / version).mkdir(exist_ok=True)
    (tmp_path / version / "cgroup.procs").touch()
    monkeypatch.setattr(Path, "rmdir", lambda group: None)  # the files of a real one are no reason not to
    with busy_machine.quota_group() as group:
        assert {file.name: file.read_text() for file in group.iterdir()} == files


def test_the_table():
    times = {"median": 2.0, "least": 1.0, "most": 3.0}
    us = {name: {**times, "median": median} for name, median in zip(report.PEERS, (20.0, 1000.0, 30.0), strict=True)}
    network = {"name": "one", "us": {report.TWO: us}, "times quiet": {report.TWO: dict.fromkeys(us, times)}}
    row = report.table_of({"networks": [network]}).splitlines()[-1]
    assert row == "| one: two fits at once | 20 (2.00) | 1,000 (2.00) | 30 (2.00) | 1.50 |"
    del us[report.PEERS[1]], us[report.PEERS[2]]
    assert report.table_of({"networks": [network]}).splitlines()[-1].endswith("| 20 (2.00) | - | - | - |")
