"""docs/notebook.ipynb holds what its cells show, and they show it today, in a real kernel."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
MISSING = [name for name in ("nbclient", "ipykernel") if importlib.util.find_spec(name) is None]


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def shown(cell: dict[str, Any]) -> list[tuple[object, ...]]:
    """What a cell shows: of which kinds, and as text, but for its numbers."""
    found = []
    for output in cell["outputs"]:
        text = "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
        kinds = sorted(output.get("data", {output.get("name"): ""}))
        found.append((output["output_type"], *kinds, re.sub(r"\d[\d.,:]*(e[+-]\d+)?", "#", text)))
    return found


STORED = code_cells(NOTEBOOK)


def test_every_cell_was_run_in_order_and_without_an_error() -> None:
    assert [cell["execution_count"] for cell in STORED] == list(range(1, len(STORED) + 1))
    outputs = [output for cell in STORED for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert all(len(cell["source"]) < 12 for cell in STORED)


def test_it_shows_tables_a_curve_and_a_bar() -> None:
    pages = ["".join(output.get("data", {}).get("text/html", "")) for cell in STORED for output in cell["outputs"]]
    assert sum('<div class="gpu-backprop">' in page for page in pages) == 7
    assert sum("<svg" in page for page in pages) == sum("<progress" in page for page in pages) == 2


def test_it_is_small_and_tells_nothing_of_the_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 100_000
    own = {socket.gethostname(), str(ROOT), str(Path.home())} - {"localhost", "/"}
    assert not [name for name in own if name in text]
    assert not re.search(r"0x[0-9a-f]{6}|[\"' (](/\w+){2,}|[A-Z]:\\\\\w", re.sub(r"</\w+>", "", text))


@pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}")
def test_its_cells_run_and_show_what_is_stored(tmp_path: Path) -> None:
    written = tmp_path / "notebook.ipynb"
    surroundings = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, ROOT / "docs" / "run_notebook.py", written]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, f"{done.stderr}\nrun python docs/run_notebook.py"
    for stored, now in zip(STORED, code_cells(written), strict=True):
        assert now["source"] == stored["source"]
        assert shown(now) == shown(stored), "run python docs/run_notebook.py"
