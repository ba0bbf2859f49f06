"""Tables in plain text, as plans, profiles and networks print them."""

from __future__ import annotations

from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """A line for each row, with the cells of a column below each other: the first `left` columns begin at the same
    place, the others end there."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pads = [str.ljust if k < left else str.rjust for k in range(len(widths))]
    return ["  ".join(pad(c, w) for pad, c, w in zip(pads, row, widths, strict=True)).rstrip() for row in rows]


def ruled(rows: Sequence[Sequence[str]], left: int) -> str:
    """The same with a rule below the first row, the heads, and one above the last, the sums."""
    head, *body, foot = columns(rows, left)
    rule = "─" * max(map(len, (head, *body, foot)))
    return "\n".join([head, rule, *body, rule, foot])
