"""Parquet: its types become numbers or text as CSV has them."""

from __future__ import annotations

import datetime
import decimal
import re
import sys

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from gpu_backprop.data import DataError, MissingPyarrowError, Preprocessing, Table, files, parquet_file, read


def stored(tmp_path, columns, **options):
    path = tmp_path / "data.parquet"
    parquet.write_table(columns if isinstance(columns, pyarrow.Table) else pyarrow.table(columns), path, **options)
    return path


@pytest.mark.parametrize(
    "kind",
    [
        pyarrow.int8(),
        pyarrow.uint64(),
        pyarrow.float16(),
        pyarrow.float32(),
        pyarrow.float64(),
        pyarrow.decimal128(5, 2),
    ],
)
def test_numbers(tmp_path, kind):
    values = [decimal.Decimal(3), None, decimal.Decimal(7)] if pyarrow.types.is_decimal(kind) else [3, None, 7]
    if kind == pyarrow.float16():
        values = [np.float16(3), None, np.float16(7)]
    column = read(stored(tmp_path, {"a": pyarrow.array(values, kind)})).columns["a"]
    assert column.dtype == np.float64
    np.testing.assert_array_equal(column, [3, np.nan, 7])


@pytest.mark.parametrize(
    "kind", [pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary(pyarrow.int8(), pyarrow.string())]
)
def test_text(tmp_path, kind):
    array = pyarrow.array(["a", None, " b ", "NA", "7"]).cast(kind)
    assert read(stored(tmp_path, {"a": array})).columns["a"].tolist() == ["a", None, "b", None, "7"]


@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_every_way_to_store_text(tmp_path, encoding):
    columns = {
        "n": range(300),
        "t.u": [f"text {row % 99}" if row % 7 else None for row in range(300)],
        "v": ["w"] * 300,
    }
    options = {"use_dictionary": ["v"], "column_encoding": {"t.u": encoding}, "row_group_size": 130}
    found = read(stored(tmp_path, pyarrow.table({name: list(values) for name, values in columns.items()}), **options))
    assert {name: values.tolist() for name, values in found.columns.items()} == {
        name: list(values) for name, values in columns.items()
    }


def test_other_types_that_have_a_text(tmp_path):
    found = read(
        stored(
            tmp_path,
            {
                "truth": [True, None, False],
                "day": [datetime.date(2024, 2, 29), None, datetime.date(2025, 1, 1)],
                "moment": [datetime.datetime(2024, 2, 29, 12, 30), None, None],
                "nothing": pyarrow.nulls(3),
            },
        )
    )
    assert found.columns["truth"].tolist() == ["True", None, "False"]
    assert found.columns["day"].tolist() == ["2024-02-29", None, "2025-01-01"]
    assert found.columns["moment"].tolist()[0].startswith("2024-02-29 12:30:00")
    assert np.isnan(found.columns["nothing"]).all()


def test_rows_have_numbers_and_no_lines(tmp_path):
    found = read(stored(tmp_path, {"a": [1.0, 2.0], "b": ["x", "y"]}))
    assert (found.rows, found.line(1), found.place(1)) == (2, 2, "row 2")


def test_many_row_groups(tmp_path):
    found = read(stored(tmp_path, {"a": list(range(100)), "t": ["u", "v"] * 50}, row_group_size=7))
    assert found.columns["a"].tolist() == list(range(100))
    assert found.columns["t"].tolist() == ["u", "v"] * 50


def test_contents_decide_not_the_name(tmp_path):
    path = stored(tmp_path, {"a": [1]}).rename(tmp_path / "data.csv")
    assert read(path).columns["a"].tolist() == [1]


def test_the_same_data_as_csv_give_the_same_preprocessing(tmp_path):
    path = stored(tmp_path, {"n": [1, None, 3], "t": ["a", "b", None], "y": [0.5, 1.5, 2.0]})
    (tmp_path / "data.csv").write_text("n,t,y\n1,a,0.5\n,b,1.5\n3,,2\n")
    one, other = (Preprocessing.fit(read(p), "y", impute="mean") for p in (path, tmp_path / "data.csv"))
    assert one.to_dict() == other.to_dict()


@pytest.mark.parametrize("array", [[[1], [2]], [{"a": 1}, {"a": 2}], [b"a", b"b"], [datetime.timedelta(1)] * 2])
def test_types_that_are_neither_numbers_nor_text(tmp_path, array):
    """They may be there, as long as nobody wants to learn from them."""
    found = read(stored(tmp_path, {"odd": array, "a": [1, 2], "y": [0.5, 1]}))
    assert (found.rows, found.names) == (2, ["a", "y", "odd"])
    says = r"data\.parquet: column 'odd' has the type .*; save it as numbers or text"
    with pytest.raises(DataError, match=says + r", or leave it out with --ignore \(ignore= in Python\)$"):
        Preprocessing.fit(found, "y")
    with pytest.raises(DataError, match=f"{says}$"):
        Preprocessing.fit(found, "odd")
    with pytest.raises(DataError, match="column 'odds', which is to be ignored, is not there; did you mean 'odd'"):
        Preprocessing.fit(found, "y", ignore=["odds"])
    learned = Preprocessing.fit(found, "y", ignore=["odd"])
    assert learned.transform(found).tolist() == [[-1], [1]]
    assert learned.extra == ["odd"]
    assert learned.transform(Table("b", {"a": np.array([1.0, 2])})).tolist() == [[-1], [1]]
    needed = Preprocessing.fit(Table("b", {"odd": np.array([1.0, 2]), "y": np.array([0.5, 1])}), "y")
    with pytest.raises(DataError, match=f"{says}$"):
        needed.transform(found)


@pytest.mark.parametrize("error", [MemoryError, pyarrow.ArrowMemoryError])
def test_a_column_that_does_not_fit_into_memory(tmp_path, monkeypatch, error):
    path = stored(tmp_path, {"a": [1, 2], "b": ["u", "v"]})

    def full(*_, **__):
        raise error("realloc of size 8000000000 failed")

    monkeypatch.setattr(parquet_file, "texts", full)
    with pytest.raises(
        DataError, match=r"data\.parquet: column 'b' is too large for the memory of this machine; use few"
    ):
        read(path)
    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", full)
    with pytest.raises(DataError, match=r"data\.parquet is too large for the memory of this machine"):
        read(path)


def test_a_table_without_rows(tmp_path):
    with pytest.raises(DataError, match="has 0 rows and 1 columns"):
        read(stored(tmp_path, {"a": pyarrow.array([], pyarrow.int8())}))


def test_names_that_occur_twice(tmp_path):
    with pytest.raises(DataError, match="more than one column is called 'a'"):
        read(stored(tmp_path, pyarrow.table([[1], [2]], names=["a", " a"])))


@pytest.mark.parametrize("cut", [10, 100, -1, -20])
def test_a_file_that_is_cut_off(tmp_path, cut):
    path = stored(tmp_path, {"a": list(range(100))})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=f"^{re.escape(str(path))} is damaged or cut off"):
        read(path)


def test_a_header_that_announces_other_rows(tmp_path):
    path = stored(tmp_path, {"a": [1, 2, 3]}, store_schema=False)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\x18\x01a\x00\x16\x06", b"\x18\x01a\x00\x16\x08"))  # after the name: 2 · rows
    assert path.read_bytes() != content
    with pytest.raises(DataError, match=r"is damaged or cut off .'3 rows, and its header announces 4'"):
        read(path)


def test_rows_that_unpack_to_far_too_much(tmp_path, monkeypatch):
    path = stored(tmp_path, {"a": [7] * 100_000})
    assert path.stat().st_size < 2000
    assert read(path).rows == 100_000
    monkeypatch.setattr(files, "ALWAYS", 1000)
    with pytest.raises(DataError, match="its header announces 100,000 rows of 1 columns, 800,000 bytes unpacked, many"):
        read(path)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    path = stored(tmp_path, {"a": [1]})
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.setitem(sys.modules, name, None)
    checkout = r"\(in a checkout: pip install -e '\.\[data\]'\)"
    with pytest.raises(MissingPyarrowError, match=rf"pyarrow reads: pip install 'gpu-backprop\[data\]' {checkout}$"):
        read(path)
