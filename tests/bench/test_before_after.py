"""bench/before_after.py: each side has its own checkout's package, and a ratio is taken within a round."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(ROOT / "bench")
    return importlib.import_module("before_after")


@pytest.fixture
def other(tmp_path):
    """Another checkout, as far as Python sees one."""
    (tmp_path / "other" / "gpu_backprop").mkdir(parents=True)
    (tmp_path / "other" / "gpu_backprop" / "__init__.py").touch()
    return tmp_path / "other"


def test_each_side_has_the_package_of_its_checkout(script, other, tmp_path):
    for checkout in (ROOT, other):
        found = script.run(checkout, str(tmp_path), "-c", "import gpu_backprop; print(gpu_backprop.__file__)")
        assert Path(found.strip()) == checkout / "gpu_backprop" / "__init__.py"


def test_a_step_and_the_command_line_are_timed(script, tmp_path):
    assert script.step_us(ROOT, str(tmp_path), ((3, 2, 2), 4, 0.001)) > 0
    assert script.command_ms(ROOT, str(tmp_path), 1) > 0
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_ratio_is_that_of_a_round(script, other, monkeypatch, capsys):
    times = {other: iter([99, 2, 4, 8]), ROOT: iter([99, 1, 4, 16])}
    monkeypatch.setattr(script, "NETWORKS", script.NETWORKS[:1])
    monkeypatch.setattr(script, "step_us", lambda checkout, *_: next(times[checkout]))
    monkeypatch.setattr(script, "command_ms", lambda *_: 1.0)
    assert script.main([str(other), "--rounds", "3"]) == 0
    said = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert ["trainer.step, 784-128-10, B 128, µs", "4.0", "4.0", "1.000 (0.500 to 2.000)"] in [
        [cell.strip() for cell in line if cell] for line in said
    ]


def test_what_is_no_checkout_is_refused(script, tmp_path, capsys):
    with pytest.raises(SystemExit):
        script.main([str(tmp_path)])
    assert "is not a checkout of this project" in capsys.readouterr().err
