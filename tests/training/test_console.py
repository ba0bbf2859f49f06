"""What is printed for people: readable whatever it quotes, and as wide as the terminal."""

from __future__ import annotations

import sys
import warnings

import pytest

from gpu_backprop.training.console import Readable, readable_output, wrapped
from gpu_backprop.training.history import History
from gpu_backprop.training.progress import BarProgress, open_progress


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_escapes_are_shown_and_lines_stay_whole_where_no_terminal_is(name, capsys):
    with readable_output():
        print("\x1b[31mred\u202e\t" + "word " * 60 + "end", file=getattr(sys, name))
    assert getattr(capsys.readouterr(), name[3:]) == "\\x1b[31mred\\u202e\t" + "word " * 60 + "end\n"


def test_a_terminal_gets_lines_that_end_at_words(terminal):
    stream = terminal(60)
    with readable_output():
        print("warning: " + "word " * 30)
        print("    a/path/" + "x" * 70)
    first, *more, path, _ = stream.getvalue().split("\n")
    assert len(first) <= 60 and first.startswith("warning: word")
    assert all(line.startswith("  word") and line.endswith("word") and len(line) <= 60 for line in more)
    assert path.strip() == "a/path/" + "x" * 70  # one word


def test_streams_come_back_and_none_stays_none(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    before = sys.stderr
    with pytest.raises(ZeroDivisionError), readable_output():
        assert sys.stdout is None and isinstance(sys.stderr, Readable)
        raise ZeroDivisionError
    assert sys.stdout is None and sys.stderr is before


def test_a_warning_is_a_line():
    before = warnings.formatwarning
    with readable_output():
        assert warnings.formatwarning(RuntimeWarning("slow"), RuntimeWarning, "code.py", 7, "line") == "warning: slow\n"
    assert warnings.formatwarning is before


def test_what_is_printed_while_a_bar_is_shown_is_readable_too(terminal):
    stream = terminal(60)
    with readable_output():
        shown = open_progress(True, 3, 100, History())
        assert isinstance(shown, BarProgress)
        with shown:
            print("\x1b[31mred\x1b[0m [red]x[/red] [/] \u202egnp")
            print("\x9b2J", file=sys.stderr)
            shown.advance(100)
        print("\x1b[1mafter")
    text = stream.getvalue()
    assert "\\x1b[31mred\\x1b[0m [red]x[/red] [/] \\u202egnp\n" in text
    assert "\\x9b2J" in text and "\\x1b[1mafter" in text
    assert not {"\x9b", "\u202e"} & set(text) and "\x1b[31m" not in text
    assert text.count("\x1b[?25h") == 1  # the bar's own


def test_in_python_a_bar_leaves_what_others_print_alone(terminal):
    terminal(60)
    with open_progress(True, 3, 100, History()):
        assert not isinstance(sys.stdout, Readable)


@pytest.mark.parametrize(("indent", "further"), [(None, "    "), (" " * 7, " " * 7)])
def test_further_lines_are_indented(indent, further):
    assert wrapped("  aaa bbb ccc", 8, indent).split("\n")[1].startswith(further)
    assert wrapped("  aaa bbb ccc", None) == "  aaa bbb ccc"
