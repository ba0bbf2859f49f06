"""What a text from outside may do in a message: be read, and nothing else."""

from __future__ import annotations

import pytest

from gpu_backprop.data import Arrays, DataError, Table, read
from gpu_backprop.data.messages import shown
from gpu_backprop.display.escapes import escaped

HOSTILE = {
    "red\x1b[31m": "red\\x1b[31m",
    "title\x1b]0;mine\x07": "title\\x1b]0;mine\\x07",
    "one byte \x9b2J": "one byte \\x9b2J",
    "over\rwritten\x08\x7f": "over\\rwritten\\x08\\x7f",
    "\u202egnp.exe": "\\u202egnp.exe",
    "\u2066isolated\u2069": "\\u2066isolated\\u2069",
    "no\u200bwidth\ufeff": "no\\u200bwidth\\ufeff",
    "next\u2028line\x85": "next\\u2028line\\x85",
    "half \ud800": "half \\ud800",
    "nul \0": "nul \\x00",
    "tag \U000e0041": "tag \\U000e0041",
}
READABLE = ["Größe (m²)", "東京　都", "∇W ← η", "a\tb\nc", "[red]x[/red]", "[/]", "ключ", "a\u00a0b", "C:\\new"]


@pytest.mark.parametrize(("text", "expected"), HOSTILE.items())
def test_what_commands_a_terminal_is_escaped(text, expected):
    assert escaped(text) == expected
    assert escaped(escaped(text)) == expected
    assert expected in shown(text)


@pytest.mark.parametrize("text", READABLE)
def test_what_can_be_read_stays(text):
    assert escaped(text) == text


@pytest.mark.parametrize(("text", "expected"), HOSTILE.items())
def test_errors_about_data_show_what_they_quote(text, expected):
    assert str(DataError(f"{text}: line 2")) == f"{expected}: line 2"


def test_a_source_is_shown_as_it_can_be_read(tmp_path):
    import numpy as np

    assert Table("a\x1b[1m.csv", {}).source == "a\\x1b[1m.csv"
    assert Arrays("a\x1b[1m.npy", np.zeros((2, 1))).source == "a\\x1b[1m.npy"
    with pytest.raises(DataError, match=r"no\\x1b\[1m\.csv does not exist"):
        read(tmp_path / "no\x1b[1m.csv")
