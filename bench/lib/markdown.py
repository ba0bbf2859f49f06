"""Tables in Markdown, for a page and for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]], numbers: str = "---") -> str:
    """Writes a table; `numbers` aligns all columns but the first."""
    lines = [heads, ["---", *[numbers] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)
