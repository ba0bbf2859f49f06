"""How names, values and counts are put into messages."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST, MOST = 60, 20
"""Characters of a value, and names of a list, that a message shows."""


def shown(value: object) -> str:
    """A value in quotes, its control characters escaped, cut where it is long."""
    text = str(value)
    return repr(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")


def listed(names: Iterable[object]) -> str:
    """'a', 'b' and 3 more: as many names as are read with patience."""
    texts = [shown(name) for name in names]
    more = f" and {len(texts) - MOST:,} more" if len(texts) > MOST else ""
    return ", ".join(texts[:MOST]) + more


def counted(number: int, thing: str, things: str | None = None) -> str:
    """1 row, 2,000 rows."""
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"


def nearest(name: object, names: Iterable[str]) -> str:
    """The words `did you mean 'x'? ` with the name that is most like the one given, or nothing."""
    import difflib  # not above: the first mistake can wait for it, every start of a program need not

    by_lower = {known.lower(): known for known in names}
    found = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.5)
    return f"did you mean {shown(by_lower[found[0]])}? " if found else ""
