"""report.py: a confusion matrix, counted and shown."""

from __future__ import annotations

import numpy as np

from gpu_backprop.data.messages import cells
from gpu_backprop.report import accuracy, aligned, confusion_matrix, confusion_text

LABELS = [0, 0, 0, 1, 1, 3]
PREDICTED = [0, 0, 1, 1, 1, 0]
MATRIX = [[2, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]


def test_counts():
    matrix = confusion_matrix(LABELS, PREDICTED, 4)
    np.testing.assert_array_equal(matrix, MATRIX)
    assert accuracy(matrix) == 4 / 6


def test_table():
    assert confusion_text(np.array(MATRIX)).splitlines() == [
        " true  0  1  2  3   recall",
        "    0  2  1  .  .    0.667",
        "    1  .  2  .  .    1.000",
        "    2  .  .  .  .        -",
        "    3  1  .  .  .    0.000",
    ]


def test_columns_stay_aligned_under_long_names_and_large_counts():
    lines = confusion_text(np.array([[12345, 6], [0, 7]]), ["cat", "elephant"]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["cat", "12345", "6", "1.000"]


def test_columns_stay_aligned_under_wide_and_combining_characters():
    lines = confusion_text(np.array([[1, 2], [3, 4]]), ["東京都", "Zu\u0308rich"]).splitlines()
    assert len({cells(line) for line in lines}) == 1
    assert [cells(text) for text in ("東京都", "Zu\u0308rich", "abc", "")] == [6, 6, 3, 0]


def test_what_a_class_is_called_cannot_command_a_terminal():
    text = confusion_text(np.eye(2, dtype=int), ["\x1b[2J", "\u202ereversed"])
    assert "\\x1b[2J" in text and "\\u202e" in text
    assert not {"\x1b", "\u202e"} & set(text)


def test_numbers_below_each_other_have_the_same_decimals():
    assert aligned([(73321.53, 3899.5), (-4.7, 0)]) == [["73,322", "3,900"], ["-5", "0"]]
    assert aligned([(1.064, 0.0759), (0.00098, -0.5)]) == [["1.064", "0.076"], ["0.001", "-0.500"]]
    assert aligned([(0.0, 0.0)]) == [["0", "0"]] and aligned([]) == []
