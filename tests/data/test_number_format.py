"""Numbers as people write them: what each cell is in a format, and which format a column has, if that is certain."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_backprop import open_rows
from gpu_backprop.data import DataError, Preprocessing, Table, read
from gpu_backprop.data.number_format import NumberFormat, describe_finding, find_numbers


def found(*cells, text=()):
    return find_numbers(Table("t", {"a": np.array(cells, object)}, text=text), ["a"]).get("a")


@pytest.mark.parametrize(
    ("cells", "numbers", "format"),
    [
        (["55%", "7 %", "-0.5%"], [55, 7, -0.5], ("", "%", "", ".")),
        (["$55", "$1.50", "-$3", "$-3", "($4)"], [55, 1.5, -3, -3, -4], ("$", "", "", ".")),
        (["5 €", "7,50€"], [5, 7.5], ("", "€", "", ",")),
        (["US$5", "US$ 7.50"], [5, 7.5], ("US$", "", "", ".")),
        (["1.745,00 €", "2 €"], [1745, 2], ("", "€", ".", ",")),
        (["5 USD", ".5 USD"], [5, 0.5], ("", "USD", "", ".")),
        (["55 kg", "1 kg"], [55, 1], ("", "kg", "", ".")),
        (["1248 CC", "998 CC"], [1248, 998], ("", "CC", "", ".")),
        (["1.745.000 €", "2.100 €"], [1745000, 2100], ("", "€", ".", ",")),
        (["55 m2", "1.5 m2"], [55, 1.5], ("", "m2", "", ".")),
        (["20 °C", "-3.5°C"], [20, -3.5], ("", "°C", "", ".")),
        (["1.1D+00", "0.5d-01", "2.0"], [1.1, 0.05, 2], ("", "", "", ".")),
        (["1.055,50", "3,5", "7"], [1055.5, 3.5, 7], ("", "", ".", ",")),
        (["1,5", "2,25", "0,950"], [1.5, 2.25, 0.95], ("", "", "", ",")),
        (["0,950", "0,123"], [0.95, 0.123], ("", "", "", ",")),
        (["1,234,567", "5,041", "12"], [1234567, 5041, 12], ("", "", ",", ".")),
        (["1,234.5", "5,041"], [1234.5, 5041], ("", "", ",", ".")),
        (["$1,745.00", "$12.50"], [1745, 12.5], ("$", "", ",", ".")),
        (["1'745", "12.5"], [1745, 12.5], ("", "", "'", ".")),
        (["1 745", "12 345 678"], [1745, 12345678], ("", "", " ", ".")),
        (["1\u202f745,5", "3"], [1745.5, 3], ("", "", "\u202f", ",")),
        (["1_745", "3"], [1745, 3], ("", "", "_", ".")),
        (["\N{MINUS SIGN}5", "3", "+2", "1e\N{MINUS SIGN}3"], [-5, 3, 2, 0.001], ("", "", "", ".")),
        (["(5)", "3.5"], [-5, 3.5], ("", "", "", ".")),
        (["5%", None, "7%"], [5, np.nan, 7], ("", "%", "", ".")),
    ],
)
def test_a_format_that_is_certain(cells, numbers, format):
    finding = found(*cells)
    np.testing.assert_array_equal(finding.numbers, numbers)
    assert finding.format == NumberFormat(*format)
    assert NumberFormat.from_dict(json.loads(json.dumps(finding.format.to_dict()))) == finding.format


@pytest.mark.parametrize(
    ("cells", "why", "text"),
    [
        (["5,041", "1,200"], "doubtful", "5,041"),
        (["950", "1,200"], "doubtful", "1,200"),
        (["$5,041", "$1,200"], "doubtful", "$5,041"),
        (["1", "2", "?"], "stray", "?"),
        (["1", "2", "inf", "3", "?"], "stray", "?"),
        (["5%", "6%", "0.5"], "stray", "0.5"),
        (["5 kg", "6 kg", "7 lb"], "stray", "7 lb"),
        (["1,5", "2,5", "3.5"], "stray", "3.5"),
        (["7", "8"], "stored", "7"),
        (["$5", "€6", "$7", "€8"], "mixed", "$5"),
        (["$5.00", "6,00 €", "£7", ""], "mixed", "$5.00"),
        (["5%", "0.05", "7%", "0.07"], "mixed", "5%"),
        (["0.05", "5%", "7%", "0.07", "n/a"], "mixed", "0.05"),
        (["55kg", "3kg"], "doubtful", "55kg"),
        (["(5)", "(3)"], "doubtful", "(5)"),
        (["USD 5", "USD 3"], "doubtful", "USD 5"),
        (["1.228.700", "1.228.701"], "doubtful", "1.228.700"),
        (["711 219 745", "711 300 112"], "doubtful", "711 219 745"),
        (["3 B", "12 B"], "doubtful", "3 B"),
        (["6317 AB", "6318 AB"], "doubtful", "6317 AB"),
        (["27 May", "3 May"], "doubtful", "27 May"),
        (["858 Main St", "9 Main St"], "doubtful", "858 Main St"),
        (["192.168.100.191", "192.168.100.192", "1.234.567.891"], "doubtful", "192.168.100.191"),
        (["1", "2", "3", *["?"] * 9], "stray", "?"),
        (["1,81,34,063", "81,063", "34,063", "12,34,567"], "unknown", "1,81,34,063"),
        (["1,81,34,063", "2,11,34,063"], "unknown", "1,81,34,063"),
        (["Rs 206", "Rs 1,118"], "unknown", "Rs 206"),
        (["Rs. 118", "Rs. 9.50", "n/a"], "unknown", "Rs. 118"),
        (["kr 91", "kr -3"], "unknown", "kr 91"),
        (["USD58", "USD60"], "unknown", "USD58"),
        (["24.90-", "3.10-"], "unknown", "24.90-"),
        (["84+", "65+"], "unknown", "84+"),
        (["~96", "~9"], "unknown", "~96"),
        (["%37", "%5"], "unknown", "%37"),
        (["34.–", "5.–"], "unknown", "34.–"),
        (["21″", "24″"], "unknown", "21″"),
    ],
)
def test_what_is_left_as_text(cells, why, text):
    finding = found(*cells)
    assert (finding.why, finding.text, finding.format, finding.numbers) == (why, text, None, None)
    assert cells[finding.row] == text
    assert (
        text in describe_finding(Table("t", {"a": np.array(cells, object)}), "a", finding, "class") or why == "stored"
    )


@pytest.mark.parametrize(
    "cells",
    [
        ["a", "b"],
        ["1", "a", "b"],
        ["2024-01-02", "2024-01-03"],
        ["12:30", "7:15"],
        ["1.2.3", "1.10.0"],
        ["10-20", "20-30"],
        ["A12", "A13"],
        ["x53111", "x10115"],
        ["1st", "2nd", "3rd", "4th"],
        ["5'", "6'"],
        ["--5", "--6"],
        ["1,23,456", "2,34,567"],
        ["", "-"],
        ["5,,5", ",5,"],
    ],
)
def test_texts_that_are_no_numbers(cells):
    assert found(*cells) is None or found(*cells).why in ("stray", "unknown")
    assert found(*cells) is None or found(*cells).format is None


@pytest.mark.parametrize(
    "cells",
    [
        ["192.168.100.191", "10.100.200.201"],
        ["A17", "A18"],
        ["room 12", "room 3"],
        ["9th", "5th", "6th"],
        ["Q1", "Q2"],
        ["user_123", "user_7"],
        ["INV001", "INV002"],
        ["#17", "#18"],
        ["12-34", "12-35"],
        ["12A", "12B", "7", "9C"],
        ["06 12 34 56 78", "06 12 34 56 79"],
        ["1", "a", "b"],
        ["1", "2", "a", "b", "c"],
    ],
)
def test_names_with_numbers_draw_no_warning(cells):
    assert found(*cells) is None


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["1", "2", "?", "?"], "in all but 2 rows, .*, because row 3 has '[?]'; correct it, or leave the field empty"),
        (
            ["1 min", "2 min", "3 min", "2 Seasons", "1 Season"],
            "all but 2 rows,.*, because row 4 has .*; correct them$",
        ),
        (["1", "2", "3", "?", "-"], "in all but 2 rows, .*, because row 4 has '[?]'; correct them$"),
        (["5%", "6%", "0.5"], "in all but 1 row, .*, because row 3 has '0.5'; correct it$"),
        (
            ["$5", "€6", "$7", "€8"],
            "in more than one currency or unit, such as '[$]5' in row 1 and '€6' in row 2, .*, convert all to one$",
        ),
        (["(0)", "(5)"], r"which may be 0 or a name"),
        (
            ["Rs 206", "Rs 9"],
            r"such as 'Rs 206' in row 1, in a way that is not known, .*; if they are quantities, write",
        ),
    ],
)
def test_the_remedy_fits_what_was_found(cells, said):
    sentences = describe_finding(Table("t", {"a": np.array(cells, object)}), "a", found(*cells), "category")
    assert re.search(said, sentences)


@pytest.mark.parametrize("text", ["100.{}.700", "711 219 {}", "{} B", "{} May", "Rs {}", "{}-"])
def test_what_may_be_a_name_is_no_target_of_a_regression(text):
    cells = np.array([text.format(100 + row) for row in range(30)], object)
    learned = Preprocessing.fit(Table("t", {"a": np.arange(30.0), "y": cells}), "y")
    assert learned.task == "classification"
    assert any("column 'y' has numbers such as" in warning for warning in learned.warnings)


@pytest.mark.parametrize(
    ("other", "number", "why"),
    [
        (["0.5", "2"], 5041, ""),
        (["$1,745.50", "$2.00"], 5041, ""),
        (["1,000,000", "2"], 5041, ""),
        (["3,5 €", "1 €"], 5.041, ""),
        (["1.055,50", "2,00"], 5.041, ""),
        (["5", "2"], None, "doubtful"),
        (["55 %", "2 %"], None, "doubtful"),
        (["a", "b"], None, "doubtful"),
        (["$7,045", "$3,100"], None, "doubtful"),
    ],
)
def test_the_decimal_mark_of_other_columns_settles_doubt(other, number, why, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a;b;y\n" + "".join(f"5,041;{cell};{cell}\n1,200;{cell};{cell}\n" for cell in other))
    table = read(path)
    found = find_numbers(table, list(table.columns))["a"]
    assert found.why == why and (number is None or found.numbers[0] == number)
    with open_rows(path, target="a", task="auto" if number else "classification") as rows:
        learned = Preprocessing.fit(table, "a", task="auto" if number else "classification")
        assert rows.preprocessing.to_dict()["target"] == learned.to_dict()["target"]
    with open_rows(path, target="y") as rows:
        assert rows.preprocessing.features == Preprocessing.fit(table, "y").features


def test_disagreeing_decimal_marks_settle_nothing():
    columns = {"a": ["5,041", "1,200"], "b": ["1,000.5", "2"], "c": ["1.000,5", "2"]}
    table = Table("t", {name: np.array(cells, object) for name, cells in columns.items()})
    assert find_numbers(table, list(columns))["a"].why == "doubtful"


def test_text_that_was_asked_for_is_left_alone():
    assert found("5%", "6%", text=["a"]) is None


def test_a_format_is_chosen_from_all_over_a_long_column():
    assert found(*[f"{n / 7:,.2f}" for n in range(20_000)]).format == NumberFormat(group=",")
    assert found(*[f"{n:,}" for n in range(20_000)]).why == "doubtful"
    assert found(*[f"{n:,}" for n in range(20_000)], "1,000,000").format == NumberFormat(group=",")


@given(
    st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=5),
    st.sampled_from(["", "$", "€"]),
    st.sampled_from(["", "%", "kg"]),
    st.sampled_from([("", "."), (",", "."), (".", ","), (" ", ",")]),
)
def test_what_is_written_is_read(values, prefix, suffix, marks):
    group, decimal = marks
    format = NumberFormat(prefix, suffix, group, decimal)
    for value in values:
        text = f"{abs(value) / 100:,.2f}".replace(",", "g").replace(".", decimal).replace("g", group)
        cell = f"{'-' * (value < 0)}{prefix}{text}{' ' * bool(suffix)}{suffix}"
        assert format.number(cell) == value / 100


@given(st.text("0123456789.,'_ ()$%-+eEdDkg", max_size=12))
def test_anything_at_all(text):
    for format in NumberFormat(), NumberFormat("$", "", ",", "."), NumberFormat("", "kg", "", ","):
        try:
            assert isinstance(format.number(text), float)
        except ValueError:
            continue


@pytest.mark.parametrize("change", [{"decimal": ";"}, {"group": "0"}, {"prefix": 3}, {"suffix": None}])
def test_a_format_that_is_damaged(change):
    with pytest.raises(DataError, match="the stored preprocessing is damaged"):
        NumberFormat.from_dict(NumberFormat().to_dict() | change)
