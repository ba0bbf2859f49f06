"""Tables in plain text: what stands where."""

from __future__ import annotations

from gpu_backprop.backend.columns import columns, ruled

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
    head, above, row, below, foot = ruled(ROWS, 2).split("\n")
    assert [head, row, foot] == columns(ROWS, 2)
    assert above == below == "─" * len(row)
