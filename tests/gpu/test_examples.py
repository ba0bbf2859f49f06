"""The examples run as they stand where device="auto" takes CUDA; not the digits, which take longest and call nothing
that the others do not."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

import gpu_backprop as gb

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]
EXAMPLES = [path for path in (ROOT / "examples").glob("*.py") if path.stem != "digits"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_on_cuda(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")


def test_the_many_small_networks_of_the_guide():
    """docs/cuda.md's, with fewer members and epochs."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "cuda.md").read_text(encoding="utf-8"), re.DOTALL)
    code = next(block for block in blocks if "one_launch=True" in block)
    assert "200" in code
    assert "epochs=50" in code
    names = {"gb": gb, "x": np.random.default_rng(0).normal(0, 1, (20, 8)), "y": np.ones((20, 1))}
    exec(code.replace("200", "3").replace("epochs=50", "epochs=2"), names)
    history = names["trainer"].history
    assert len(history) == 2
    assert all(now < before for before, now in zip(history[0]["loss"], history[1]["loss"], strict=True))
