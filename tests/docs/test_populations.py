"""docs/populations.md is true: its examples run, in their order, in one session, and name nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import gpu_backprop as gb

PAGE = (Path(__file__).parents[2] / "docs" / "populations.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_examples_run_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for example in EXAMPLES:
        shorter = example.replace("epochs=100", "epochs=15").replace("seeds=2", "seeds=1")
        exec(compile(shorter, "docs/populations.md", "exec"), names)
    assert len(names["result"].trials) == 36 and names["result"].trials[0]["score"] < 0.65
    assert 40 < names["error"] < 65 and names["outputs"].shape == (3, 89, 1)
    assert (tmp_path / "trials.csv").stat().st_size > 0 and gb.load("winner.safetensors").trained_by["epochs"] > 0


def test_every_name_is_there():
    for name in set(re.findall(r"gb\.(\w+)", PAGE)):
        assert hasattr(gb, name), name
    for name in re.findall(r"`population\.(\w+)", PAGE):
        assert hasattr(gb.Population, name), name
