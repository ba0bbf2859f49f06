"""docs/cuda.md: its accuracies are those of the results."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cuda.md").read_text(encoding="utf-8")
RECORD = json.loads((ROOT / "bench" / "results" / "precision.json").read_text(encoding="utf-8"))


def test_the_accuracies_are_those_of_the_results():
    measured = {p["precision"]: f"{p['accuracy']:.4f}" for p in RECORD["precisions"] if p["device"] == "cuda"}
    told = {}
    for row in re.findall(r"^\| `dtype=(.*)\|$", PAGE, re.MULTILINE):
        head, *_, accuracy = (cell.strip() for cell in row.split("|"))
        dtype = head.split('"')[1]
        told[f"{dtype} with TF32" if "tf32=True" in head else dtype] = accuracy
    assert told == measured
    assert (RECORD["device"], RECORD["settings"]["network"].split(",")[0]) == ("emulated", "64-64-10")
    assert f"{RECORD['settings']['network'].split(',')[0]} after {RECORD['settings']['epochs']} epochs" in PAGE


def test_the_page_says_what_no_gpu_has_done():
    assert "**No GPU has run this yet.**" in PAGE
    assert not list((ROOT / "bench" / "results").glob("gpu-*"))
