"""Output for people: no text from outside can command the terminal, and lines end between words."""

from __future__ import annotations

import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from gpu_backprop.backend.text_table import terminal_width
from gpu_backprop.display.escapes import escaped


class Readable:
    """Standard output or error with everything escaped that is no text; a terminal's lines are wrapped between words,
    unless they are data. A bar may write escapes of its own to its `stream`."""

    def __init__(self, stream: TextIO, wraps: bool = True) -> None:
        self.stream, self.wraps = stream, wraps

    def write(self, text: str) -> int:
        """Writes it all; returns the number of characters that were given."""
        self.stream.write(wrapped(escaped(text), terminal_width(self.stream) if self.wraps else None))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def wrapped(text: str, width: int | None, indent: str | None = None) -> str:
    """Wraps a text into lines of at most so many characters, unless a word is longer; what follows a line of it is
    indented by two more than the line, or by `indent`."""
    if width is None:
        return text
    lines = []
    for line in text.split("\n"):
        further = " " * (len(line) - len(line.lstrip(" ")) + 2) if indent is None else indent
        lines += [line] if len(line) <= width else textwrap.wrap(
            line, width, subsequent_indent=further, expand_tabs=False, replace_whitespace=False,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    return "\n".join(lines)


def in_notebook() -> bool:
    """Tells whether this runs in a cell of Jupyter, where a button stops what goes on, and the cells go on."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


@contextmanager
def readable_output() -> Iterator[None]:
    """Makes all that is printed inside it readable, and a warning a line without the place in our code."""
    streams, formatwarning = (sys.stdout, sys.stderr), warnings.formatwarning
    warnings.formatwarning = lambda message, *where, **more: f"warning: {message}\n"
    out, err = (None if stream is None else Readable(stream) for stream in streams)
    sys.stdout, sys.stderr = out, err
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        warnings.formatwarning = formatwarning
