"""docs/training.md is true: its examples run, in their order, in one session, and name nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import gpu_backprop as gb

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_examples_run_in_their_order(tmp_path, monkeypatch, capsys):
    pytest.importorskip("scipy", reason="L-BFGS is scipy's")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for example in EXAMPLES:
        exec(compile(example, "docs/training.md", "exec"), names)
    for written in ("rates.png", "curves.png", "report.html", "history.jsonl", "digits.safetensors"):
        assert (tmp_path / written).stat().st_size > 0
    history = names["trainer"].history
    assert len(history) == 3 and history.stopped is None


def test_every_item_has_an_example():
    code = "\n".join(EXAMPLES)
    others = {"SGD", "Trainer", "Network"}
    for name in (*gb.SCHEDULES, "early_stopping", "class_weight", "clip_norm", "average", "accumulate", "max_norm"):
        assert name in PAGE
    for name in set(re.findall(r"gb\.(\w+)", PAGE)):
        assert hasattr(gb, name), name
    assert others <= set(re.findall(r"gb\.(\w+)", code))
