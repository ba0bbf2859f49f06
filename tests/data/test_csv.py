"""CSV: what is read from a file as programs write them, and what is said about one that is broken."""

from __future__ import annotations

import csv
import gzip
import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_backprop.data import DataError, csv_file, files, read
from gpu_backprop.data.cells import MISSING, composed, is_number


@pytest.fixture
def table(tmp_path):
    """Writes text or bytes to a file and reads it."""

    def write_and_read(content, name="data.csv", **options):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read(path, **options)

    return write_and_read


def lists(table):
    return {name: [None if v != v else v for v in column.tolist()] for name, column in table.columns.items()}


# What is read -----------------------------------------------------------------------------------------------------


def test_numbers_text_and_missing_values(table):
    read_table = table("age,name,score\n31,Ann,1e3\n,NA,-.5\n 40 ,Bo b,n/a\n")
    assert lists(read_table) == {"age": [31, None, 40], "name": ["Ann", None, "Bo b"], "score": [1000, -0.5, None]}
    assert read_table.columns["age"].dtype == np.float64
    assert read_table.columns["name"].dtype == object
    assert read_table.rows == 3
    assert [read_table.line(row) for row in range(3)] == [2, 3, 4]


@pytest.mark.parametrize("word", ["", " ", "NA", "na", "N/A", "n/a", "NaN", "nan", "NULL", "null", '""', " Null "])
def test_every_word_for_a_missing_value(table, word):
    assert lists(table(f"a,b\n1,x\n{word},{word}\n")) == {"a": [1, None], "b": ["x", None]}


@pytest.mark.parametrize("word", ["none", "-", "?", "missing", "1_000", "1,5", "0x10", "1 2", "one"])
def test_one_word_that_is_neither_a_number_nor_missing_makes_text(table, word):
    assert lists(table(f"a;b\n1;2\n{word};3\n")) == {"a": ["1", word], "b": [2, 3]}


def test_a_column_of_missing_values_only_is_numeric(table):
    assert np.isnan(table("a,b\n1,\n2,NA\n").columns["b"]).all()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(table, delimiter):
    rows = [["one", "two words", "3"], ["x, y; z", "|", "1.5"], ["tab\there", ",,,", "2"]]
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows(rows)
    assert lists(table(file.getvalue())) == {"one": rows[1][:1] + rows[2][:1], "two words": ["|", ",,,"]} | {
        "3": [1.5, 2]
    }


def test_the_rows_decide_where_the_header_does_not(table):
    assert list(table("a;b,c;d\n1;2;3\n4;5;6\n").columns) == ["a", "b,c", "d"]


def test_a_decimal_comma_is_no_delimiter(table):
    assert lists(table("a;b\n1,5;2,5\n3,5;4,5\n")) == {"a": ["1,5", "3,5"], "b": ["2,5", "4,5"]}


def test_a_delimiter_that_is_given_is_used(table):
    assert list(table("a,b:c,d\n1:2\n", delimiter=":").columns) == ["a,b", "c,d"]
    assert lists(table("a\tb\n1\t2\n", delimiter="\\t")) == {"a": [1], "b": [2]}
    assert lists(table("a  b c\n1 2   3\n", delimiter=" ")) == {"a": [1], "b": [2], "c": [3]}


def test_spaces_separate_where_nothing_else_does(table):
    assert lists(table("  a  b   c \n 1 -2.5  3\n10  x  4   \n")) == {"a": [1, 10], "b": ["-2.5", "x"], "c": [3, 4]}
    assert list(table("full name,a\nA B,1\n").columns) == ["full name", "a"]
    assert list(table("full name\nA\nB C D\n").columns) == ["full name"]


def test_a_delimiter_at_the_end_of_each_line_makes_no_column(table):
    assert list(table("a,b,\n1,2,\n3,4, \n").columns) == ["a", "b"]
    assert lists(table(",b,c\n1,2,\n3,4,\n")) == {"column 1": [1, 3], "b": [2, 4], "c": [None, None]}


def test_the_name_tells_that_tabs_separate(table):
    assert list(table("a,b,c\n1,2,3\n", name="data.tsv").columns) == ["a,b,c"]


def test_one_column(table):
    assert lists(table("a\n1\n\n2\n")) == {"a": [1, 2]}


def test_quotes(table):
    found = table('id,said,n\n1,"a, ""b""\nc",2\n"3", "d" ,"4"\n')
    assert lists(found) == {"id": [1, 3], "said": ['a, "b"\nc', "d"], "n": [2, 4]}
    assert [found.line(0), found.line(1)] == [2, 4]  # the first row goes over two lines


def test_spaces_after_a_closing_quote_are_passed_over(table):
    found = table('a ,"b, c"  ,d\n1,"x, 1" ,"p" \n"2" , "y ""z"" , w\n"" , v" ,\n')
    assert lists(found) == {"a": [1, 2], "b, c": ["x, 1", 'y "z" , w\n" , v'], "d": ["p", None]}
    assert lists(table('a;b\n"1" ;"x" \n')) == {"a": [1], "b": ["x"]}


def test_lines_with_nothing_in_them_are_passed_over(table):
    found = table("\n\na,b\n\n1,2\n   \n3,4\n\n")
    assert lists(found) == {"a": [1, 3], "b": [2, 4]}
    assert [found.line(0), found.line(1)] == [5, 7]


def test_a_row_of_delimiters_is_a_row_of_missing_values(table):
    assert lists(table("a,b\n1,2\n,\n")) == {"a": [1, None], "b": [2, None]}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
def test_ends_of_lines(table, end, last):
    found = table(end.join(["a,b", "1,x", "2,y"]) + end * last)
    assert lists(found) == {"a": [1, 2], "b": ["x", "y"]}
    assert found.line(1) == 3


def test_a_byte_order_mark_is_no_part_of_the_first_name(table):
    assert list(table(b"\xef\xbb\xbfa,b\n1,2\n").columns) == ["a", "b"]


def test_a_gzipped_file(table):
    assert lists(table(gzip.compress(b"a,b\n1,2\n"), name="data.csv.gz")) == {"a": [1], "b": [2]}
    assert lists(table(gzip.compress(b"a,b\n1,2\n"), name="gzipped all the same.csv")) == {"a": [1], "b": [2]}


def test_names_lose_the_spaces_around_them_and_empty_ones_are_counted(table):
    assert list(table(' a , "b" ,\n1,2,3\n').columns) == ["a", "b", "column 3"]


def test_text_after_thousands_of_numbers_loses_nothing(table, monkeypatch):
    monkeypatch.setattr(csv_file, "BLOCK", 4)
    cells = [f"{n:03}" for n in range(50)]
    rows = [f"{cell},{n},{cell}" for n, cell in enumerate(cells)]
    found = table("\n".join(["a,b,c", *rows, "x,7,", "NA,8,y"]))
    assert found.columns["a"].tolist() == [*cells, "x", None]
    assert found.columns["b"].tolist() == [*range(50), 7, 8]
    assert found.columns["c"].tolist() == [*cells, None, "y"]
    assert found.line(51) == 53


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp"]), min_size=1)


@given(names=st.lists(NAMES, min_size=1, max_size=5, unique=True), cells=st.data())
def test_what_the_csv_module_writes_is_read(tmp_path_factory, names, cells):
    names = sorted({composed(name) for name in names})
    if all(is_number(name) or name.lower() in MISSING for name in names):
        names[0] += "x"
    cell = st.one_of(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], include_characters="\t\r\n")),
        st.integers().map(str),
        st.floats().map(repr),
        st.sampled_from(sorted(MISSING)),
    )
    row = st.lists(cell, min_size=len(names), max_size=len(names)).filter(lambda row: any(c.strip() for c in row))
    rows = cells.draw(st.lists(row, min_size=1, max_size=6))
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([names, *rows])
    found = read(path, delimiter=",")
    assert list(found.columns) == names
    for values, expected in zip(found.columns.values(), zip(*rows, strict=True), strict=True):
        gone = [c.strip().lower() in MISSING for c in expected]
        if values.dtype == object:
            assert values.tolist() == [None if g else c.strip() for g, c in zip(gone, expected, strict=True)]
        else:
            wanted = [np.nan if g else float(c) for g, c in zip(gone, expected, strict=True)]
            np.testing.assert_array_equal(values, wanted)


# What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("5.1,3.5\n4.9,3\n", r", line 1: only numbers, '5.1,3.5', where a header is needed; put a line that names"),
        ("\n\n5.1,,NA\n1,2,3\n", r", line 3: only numbers, '5.1,,NA'"),
        ("a,b\n", " holds only its header; rows of values must follow"),
        ("a,b", " holds only its header"),
        ("\n\n", " is empty; a line of column names"),
        (",,,\n", " is empty"),
        ("\ufeff", " is empty"),
        ("a,b\n1,2\n3\n", ", line 3: 1 field where the header has 2; correct the line"),
        ('a,b\n"1\n1",2\n\n3,4,5\n', ", line 5: 3 fields where the header has 2"),
        ("Rents\na,b\n1,2\n", ", line 2: 2 fields where the header has 1; .*take out what stands above the names"),
        ("a,b,a,b,c\n1,2,3,4,5\n", ", line 1: more than one column is called 'a', 'b'; give each its own name"),
        ("a, a\n1,2\n", ", line 1: more than one column is called 'a'"),
        ('a,b\n1,2\n3,"4\n5,6\n', r', line 3: the file ends within a quoted field; close its quotes \("\)'),
        ('a,b\n1,2\n3,"4"x\n', r", line 3: ',' expected after '\"'"),
        ('a,b\n1,2\n3,"4" x\n', r", line 3: ',' expected after '\"'"),
        ("a,b\nr1,1,2\n", ", line 2: 3 fields where the header has 2; .* or if each row begins with its name, as R wr"),
        (f'a,b\n1,2\n3,"{"x" * 140_000}\n', ", line 3: a field of more than 131,072 characters; a quote that isn't"),
        (b"a,b\n1,caf\xe9\n", ", line 2: the byte e9 is not UTF-8; save it as UTF-8; iconv -f LATIN1"),
        (b"a,b\n" + b"1,2\n" * 70_000 + b"\xff,1\n", ", line 70002: the byte ff is not UTF-8"),
        (b"a,b\n1,\xc3", ", line 2: the file ends within a UTF-8 character"),
        ("a,b\n1,2\n".encode("utf-16"), " is UTF-16 text; save it as UTF-8"),
        (b"a,b\n" + b"1,2\n" * 20 + b"\0\0\0\n", ", line 22: a zero byte, which no text has"),
    ],
)
def test_broken_files(table, tmp_path, content, message):
    with pytest.raises(DataError, match=f"^{re.escape(str(tmp_path / 'data.csv'))}{message}"):
        table(content)


@pytest.mark.parametrize("delimiter", ["", ",,", '"', "\n", "\0", "comma"])
def test_a_delimiter_that_is_none(table, delimiter):
    with pytest.raises(DataError, match=r"the delimiter is .*; give one character"):
        table("a,b\n1,2\n", delimiter=delimiter)


def test_a_long_header_is_shown_shortened(table):
    with pytest.raises(DataError) as caught:
        table(",".join(map(str, range(1000))) + "\n1\n")
    assert "'0,1,2,3," in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_column_that_does_not_fit_into_memory(table, monkeypatch):
    def full(arrays):
        raise MemoryError("Unable to allocate 7.45 GiB for an array")

    monkeypatch.setattr(csv_file.np, "concatenate", full)
    with pytest.raises(
        DataError, match=r"data\.csv: column 'a' is too large for the memory of this machine; use fewer"
    ):
        table("a,b\n1,2\n")


def test_an_endless_line(table, monkeypatch):
    monkeypatch.setattr(csv_file, "LONGEST_LINE", 100)
    assert table("a" * 98 + "\n1\n").rows == 1
    with pytest.raises(DataError, match="line 3: longer than 100 characters"):
        table("a\n1\n" + "2" * 100)


def test_a_gzipped_file_that_unpacks_to_far_too_much(table, monkeypatch):
    monkeypatch.setattr(files, "ALWAYS", 1000)
    packed = gzip.compress(b"a,b\n" + b"1,2\n" * 100_000)
    with pytest.raises(DataError, match="MiB unpacked, many times the size of the file; unpack it with gunzip"):
        table(packed, name="data.csv.gz")


@pytest.mark.parametrize("cut", [5, 15, -1, -9])
def test_a_gzipped_file_that_is_cut_off(table, cut):
    with pytest.raises(DataError, match=r"is damaged or cut off .*; copy or download it again"):
        table(gzip.compress(b"a,b\n1,2\n")[:cut], name="data.csv.gz")
