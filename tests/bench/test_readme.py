"""bench/README.md: whoever looks for a measurement finds it there."""

from __future__ import annotations

import re
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"


def test_it_names_everything_in_the_folder_and_nothing_else():
    named = re.findall(r"\]\(([^)]+)\)", (BENCH / "README.md").read_text(encoding="utf-8"))
    packages = {path.parent.name for path in BENCH.glob("*/__init__.py")}
    assert sorted(named) == sorted({path.name for path in BENCH.glob("*.py")} | packages)
