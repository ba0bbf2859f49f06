"""Names, values and counts in messages."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

LONGEST, MOST = 60, 20
"""Characters of a value, and names of a list, that a message shows."""


def cells(text: str) -> int:
    """Counts the columns of a terminal that a text takes: two for a wide character, such as a Chinese one, none for one
    that combines with the last."""
    wide = sum(unicodedata.east_asian_width(c) in ("W", "F") for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def shown(value: object) -> str:
    """Puts a value in quotes, its control characters escaped, cut where it is long."""
    text = str(value)
    return repr(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")


def listed(names: Iterable[object]) -> str:
    """Lists the first names in quotes, and counts the rest: 'a', 'b' and 3 more."""
    texts = [shown(name) for name in names]
    more = f" and {len(texts) - MOST:,} more" if len(texts) > MOST else ""
    return ", ".join(texts[:MOST]) + more


def counted(number: int, thing: str, things: str | None = None) -> str:
    """Writes a number with its noun: 1 row, 2,000 rows."""
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"


def nearest(name: object, names: Iterable[str]) -> str:
    """Returns `did you mean 'x'? ` with the name that is most like the one given, or nothing."""
    import difflib  # slow to import, and needed only after a mistake

    by_lower = {known.lower(): known for known in names}
    found = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.5)
    return f"did you mean {shown(by_lower[found[0]])}? " if found else ""
