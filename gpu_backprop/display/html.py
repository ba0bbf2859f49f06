"""HTML out of texts, which are escaped here and nowhere else."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from gpu_backprop.display.escapes import escaped

SHOWN, MOST = 30, 500
"""Rows of a long table that are seen at once, and that there are at all."""


class Html(str):
    """A piece of a page; any other string is a text, whatever it holds."""


def tag(name: str, *inside: object, **attributes: object) -> Html:
    """Makes an element; an attribute is written with _ for -, and "class_" for class."""
    own = "".join(f' {key.rstrip("_").replace("_", "-")}="{_text(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{own}>{join(inside)}</{name}>")


def join(pieces: Iterable[object]) -> Html:
    """Puts pieces one behind the other, texts escaped."""
    return Html("".join(piece if isinstance(piece, Html) else _text(piece) for piece in pieces))


def table(rows: Iterable[Sequence[object]], head: Sequence[object] = (), left: int = 1, **attributes: object) -> Html:
    """Makes a table, the first `left` columns of which hold texts, the others numbers. A cell may be an element of its
    own. A table that is wider than the page is moved by itself."""

    def cell(kind: str, inside: object, column: int) -> Html:
        if isinstance(inside, Html) and inside.startswith(("<td", "<th")):
            return inside
        return tag(kind, inside, class_="text" if column < left else "number")

    def row(kind: str, cells: Sequence[object]) -> Html:
        return tag("tr", *(cell(kind, inside, column) for column, inside in enumerate(cells)))

    body = [tag("thead", row("th", head))] if head else []
    body.append(tag("tbody", *(row("td", cells) for cells in rows)))
    return tag("div", tag("table", *body, **attributes), class_="wide")


def folded_table(
    rows: Sequence[Sequence[object]], head: Sequence[object], of_what: str, left: int | None = None
) -> Html:
    """Makes a table as `table` does, of texts where `left` is None; rows beyond SHOWN are folded away, and beyond MOST
    are only counted."""
    left = len(head) if left is None else left
    some = [table(rows[:SHOWN], head, left=left)]
    if folded := rows[SHOWN:MOST]:
        count = tag("summary", f"{len(folded):,} more {of_what}")
        some.append(tag("details", count, table(folded, left=left)))
    if len(rows) > MOST:
        some.append(tag("p", f"{len(rows) - MOST:,} further {of_what} are not listed", class_="quiet"))
    return join(some)


@cache
def parts_style() -> str:
    """Returns the style sheet of tables and charts."""
    return Path(__file__).with_name("parts.css").read_text(encoding="utf-8")


def cell_output(*pieces: object) -> str:
    """Makes what a notebook shows of an object: pieces in a frame that brings its own style sheet, for light and dark
    themes alike. It needs nothing from elsewhere, and runs nothing."""
    return tag("div", Html(f"<style>.gpu-backprop {{\n{parts_style()}}}</style>"), *pieces, class_="gpu-backprop")


def _text(value: object) -> str:
    return html.escape(escaped(str(value)))
