"""docs/architecture.md shows the house as it is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_picture_shows_the_imports_of_today():
    spec = importlib.util.spec_from_file_location("draw_architecture", DOCS / "draw_architecture.py")
    drawing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawing)
    written = (DOCS / "architecture.svg").read_text(encoding="utf-8")
    assert written == drawing.draw(), "run python docs/draw_architecture.py"
    assert {part for pair in drawing.arrows() for part in pair} == set(drawing.PARTS)
