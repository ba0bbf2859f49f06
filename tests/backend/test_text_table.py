"""Tables in plain text: what stands where."""

from __future__ import annotations

import io

import pytest

from gpu_backprop.backend.text_table import columns, format_table, terminal_width, wrap

ROWS = [("name", "of", "µs"), ("a", "long one", "1,000.0"), ("sum", "", "2.0")]


def test_columns_begin_or_end_at_the_same_place():
    assert columns(ROWS, 2) == [
        "name  of             µs",
        "a     long one  1,000.0",
        "sum                 2.0",
    ]


def test_nothing_stands_behind_the_last_word():
    assert columns([("a", "b"), ("c", "")], 2) == ["a  b", "c"]


def test_head_and_sum_are_ruled_off():
    head, above, row, below, foot = format_table(ROWS, 2).split("\n")
    assert [head, row, foot] == columns(ROWS, 2)
    assert above == below == "─" * len(row)


WIDE = [
    ("operation", "formula", "shapes", "flops", "bytes"),
    ("bias_activate", "y1 = gelu_tanh(z1 + b1)", "128×300, 300 → 128×300, 128×300", "76,800", "462,000"),
    ("matmul", "z1 = x@W1", "128×784, 784×300 → 128×300", "60,211,200", "1,495,808"),
    ("2 operations", "", "", "60,288,000", "1,957,808"),
]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_a_table_keeps_to_the_width_and_parts_no_word(width):
    lines = format_table(WIDE, 3, width).split("\n")
    assert max(map(len, lines)) <= width
    words = " ".join(lines).replace("─", "").split()
    missing = 2 if width == 40 else 0
    said = ["not", "shown,", "for", "want", "of", "width:", "flops,", "bytes"] if missing else []
    assert sorted(words) == sorted(said + " ".join(c for row in WIDE for c in row[: 5 - missing]).split())
    assert format_table(WIDE, 3) == format_table(WIDE, 3, 200)


def test_a_long_formula_breaks_behind_commas():
    formula = "m ← β₁m + (1 − β₁)∇W, v ← β₂v + (1 − β₂)∇W², W ← W − η∇W/(√v + ε)"
    rows = [("operation", "formula", "flops"), ("update", formula, "1"), ("1 operation", "", "1")]
    _, _, *lines, _, _ = format_table(rows, 2).split("\n")
    assert [line[13:].rstrip(" 1") for line in lines] == [formula[:44], formula[45:]]
    assert wrap("f(x + y + z), g", 9, "  ") == ["f(x + y +", "  z), g"]


def test_a_hat_takes_no_place():
    assert columns([("m\u0302", "1"), ("mm", "2")], 1) == ["m\u0302   1", "mm  2"]


@pytest.mark.parametrize(
    ("columns", "terminal", "expected"),
    [("72", True, 72), ("72", False, None), ("0", True, None), ("many", True, None), ("", True, None)],
)
def test_the_width_of_a_terminal(monkeypatch, columns, terminal, expected):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setenv("COLUMNS", columns)
    assert terminal_width(stream) == expected  # without COLUMNS this one, which has no file, can't be asked


def test_a_closed_stream_has_no_width():
    stream = io.StringIO()
    stream.close()
    assert terminal_width(stream) is None
