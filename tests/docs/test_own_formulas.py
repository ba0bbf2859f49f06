"""docs/own-formulas.md is true: its examples run and print what stands below them, its grammar is the parser's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpu_backprop.backend.expression import LENGTH
from gpu_backprop.backend.expression_tree import COMPARISONS, DEPTH, KNOWN, LARGEST, MOST_POWER, SIZE, SMALLEST
from gpu_backprop.network.formula_check import PLACES

PAGE = (Path(__file__).parents[2] / "docs" / "own-formulas.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(python|text)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_examples_run_in_their_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for kind, block in BLOCKS:
        if kind == "python":
            exec(compile(block, "docs/own-formulas.md", "exec"), names)
        else:
            assert " ".join(block.split()) in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "sine.safetensors").stat().st_size > 0


@pytest.mark.parametrize("name", [*KNOWN, *COMPARISONS])
def test_the_table_has_every_function(name):
    assert re.search(rf"`{re.escape(name)}[`(]", PAGE)


def test_the_limits():
    assert f"{LENGTH:,} characters, {SIZE:,} operations, and {DEPTH} operations one within another" in PAGE
    assert f"between {SMALLEST:g} and {LARGEST:g}".replace("e+", "e") in PAGE
    assert f"from −{MOST_POWER} to {MOST_POWER}" in PAGE and f"at {len(PLACES)} places" in PAGE
