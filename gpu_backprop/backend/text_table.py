"""Tables in plain text, as plans, profiles and networks print them."""

from __future__ import annotations

import os
import sys
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import TextIO

NARROWEST = 20
"""A terminal that reports fewer columns than this is taken to have no limit."""

WIDEST = 48
"""Characters of a wrapped column where a line has no limit."""


def terminal_width(stream: TextIO) -> int | None:
    """Returns the columns of a stream's terminal, or the variable COLUMNS where that is set; None: no terminal."""
    try:
        if not stream.isatty():
            return None
        given = os.environ.get("COLUMNS", "")
        width = int(given) if given.isdecimal() else os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # closed, or with no file behind it
        return None
    return width if width >= NARROWEST else None


def columns(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Returns a line for each row, with its cells in columns: the first `left` are aligned left, the others right."""
    widths = _widths(rows)

    def padded(row: Sequence[str]) -> Iterator[str]:
        for k, (cell, width) in enumerate(zip(row, widths, strict=True)):
            blank = " " * (width - _length(cell))
            yield cell + blank if k < left else blank + cell

    return ["  ".join(padded(row)).rstrip() for row in rows]


def wrap(text: str, width: int, indent: str = "") -> list[str]:
    """Breaks a formula into lines of at most `width` characters, all but the first indented: behind commas where that
    is possible, otherwise between words."""
    kept = [part.replace(" ", "\xa0") if len(indent + part) < width else part for part in text.split(", ")]
    lines = textwrap.wrap(
        ", ".join(kept), width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace("\xa0", " ") for line in lines]


def format_table(rows: Sequence[Sequence[str]], left: int, width: int | None = None) -> str:
    """Formats rows as a table, with a rule below the first row, the heads, and one above the last, the sums.

    The `left` columns behind the first are wrapped to WIDEST, and further where a line may have only `width`
    characters; where that is not enough, the last columns are left out, and a line below says which.
    """
    rows, missing = _fitted(rows, left, sys.maxsize if width is None else width)
    head, *body, foot = columns(rows, left)
    rule = "─" * max(map(_length, (head, *body, foot)))
    return "\n".join([head, rule, *body, rule, foot, *missing])


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(_length, column)) for column in zip(*rows, strict=True)]


def _length(text: str) -> int:
    """How many places a text takes: the hat of m̂ has none of its own."""
    return sum(not unicodedata.combining(character) for character in text)


def _fitted(rows: Sequence[Sequence[str]], left: int, width: int) -> tuple[Sequence[Sequence[str]], list[str]]:
    """Wraps rows to a width, and says which columns don't fit. Names, in the first column, stay on one line."""
    widths, words = _widths(rows), _widths([[max(cell.split(), key=len, default="") for cell in row] for row in rows])
    least = [words[k] if 0 < k < left else widths[k] for k in range(len(widths))]
    widths = [max(min(wide, WIDEST), words[k]) if 0 < k < left else wide for k, wide in enumerate(widths)]
    count = next((n for n in range(len(least), 1, -1) if _total(least[:n]) <= width), 1)
    while _total(widths[:count]) > width and (wide := [k for k in range(count) if widths[k] > least[k]]):
        widths[max(wide, key=widths.__getitem__)] -= 1
    folded: list[Sequence[str]] = []
    for row in rows:
        cells = [wrap(cell, wide) for cell, wide in zip(row[:count], widths, strict=False)]
        folded += zip_longest(*cells, fillvalue="")
    missing = ", ".join(rows[0][count:])
    return folded, textwrap.wrap(f"not shown, for want of width: {missing}", width) if missing else []


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)
