"""The examples run as they stand where device="auto" takes CUDA; not the digits, which take longest and call nothing
that the others do not."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu

EXAMPLES = [path for path in (Path(__file__).parents[2] / "examples").glob("*.py") if path.stem != "digits"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_on_cuda(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
