"""Texts from outside, made safe to print."""

from __future__ import annotations

import unicodedata

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories of characters that control a terminal, turn the direction of text, are invisible or end a line,
and of lone surrogates."""


class _Escapes(dict[int, int | str]):
    """For str.translate: what can be read stays, and line ends and tabs; hidden characters become escapes."""

    def __missing__(self, code: int) -> int | str:
        character = chr(code)
        hidden = unicodedata.category(character) in HIDDEN and character not in "\n\t"
        self[code] = repr(character)[1:-1] if hidden else code
        return self[code]


_ESCAPES = _Escapes()


def escaped(text: str) -> str:
    """Makes a text from outside safe to print: control characters are written as Python's escapes."""
    return text.translate(_ESCAPES)
