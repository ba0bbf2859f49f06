"""read: what a file is, and what it is said to be if it is none of ours."""

from __future__ import annotations

import gzip
import os
import zipfile
from decimal import Decimal

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from gpu_backprop.data import Arrays, DataError, Preprocessing, Table, read


def idx(array) -> bytes:
    array = np.asarray(array, np.uint8)
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_of_idx_files(tmp_path, packed):
    for part, first in ("train", 0), ("t10k", 5):
        images = np.arange(first, first + 12).reshape(3, 2, 2)
        for what, array in ("images-idx3-ubyte", images), ("labels-idx1-ubyte", [2, 1, 0]):
            content = idx(array)
            (tmp_path / f"{part}-{what}{'.gz' * packed}").write_bytes(gzip.compress(content) if packed else content)
    found = read(tmp_path)
    assert isinstance(found, Arrays)
    assert found.x.dtype == np.uint8
    np.testing.assert_array_equal(found.x, np.arange(12).reshape(3, 4))
    np.testing.assert_array_equal(found.y, [2, 1, 0])
    assert (found.images, found.labelled) == (True, True)
    assert read(str(tmp_path), part="test").x[0, 0] == 5


def test_a_name_may_be_a_str(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    found = read(str(tmp_path / "a.csv"))
    assert isinstance(found, Table)
    assert found.source == str(tmp_path / "a.csv")


def test_a_header_may_begin_like_a_parquet_file(tmp_path):
    (tmp_path / "a.csv").write_text("PAR1,PAR2\n1,2\n")
    assert list(read(tmp_path / "a.csv").columns) == ["PAR1", "PAR2"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "is empty; a line of column names"),
        ("a.csv.gz", gzip.compress(b"", mtime=0), "is empty"),
        (
            "a.csv",
            b"\x7fELF\x02\x01\x01\x00",
            "is no text: it begins with the bytes 7f 45 4c 46 02 01 01 00; give CSV, P",
        ),
        ("a.csv", b"a,b\n1\x002\n", "is no text: line 2 has the byte 00, which no text has; take it out, or give CSV"),
        ("a.csv", b"a,b\n1,2\n\x1b[1m3,4\n", "is no text: line 3 has the byte 1b"),
        ("a.csv.gz", gzip.compress("größe,b\n\a1,2\n".encode(), mtime=0), "is no text: line 2 has the byte 07"),
        ("a.csv", b"\x89PNG\r\n\x1a\n", "is an image"),
        ("a.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an Excel workbook of the old kind; export it as CSV"),
        ("a.csv", b"BZh91AY&SY", "is packed with bzip2; unpack it first"),
        (
            "w.arff",
            b"% made up\n\n%\n@RELATION w\n@attribute t numeric\n@data\n20.5\n",
            "is ARFF; put one line, the names",
        ),
        ("w.csv.gz", gzip.compress(b"%" + b"%s\n" * 3000 + b" @relation w", mtime=0), "is ARFF"),
        ("a.jsonl", b'{"a": 1, "y": "p"}\n{"a": 2, "y": "q"}\n', "is JSON, or JSON lines; save it as CSV"),
        ("a.csv", b'\xef\xbb\xbf[\n  {\n    "a": 1},', "is JSON"),
        (
            "page.csv",
            b"\r\n<!DOCTYPE html>\n<html><p>x, y</p></html>\n",
            "is a web page or other XML, maybe an error where",
        ),
        ("a.csv", b"<!-- made up\n -->\n<?xml version=1.0?>\n<rows/>", "is a web page or other XML"),
        (
            "a.csv",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
            "is a Git LFS pointer, which only says where the data are; fetch them with git lfs pull",
        ),
        (
            "a.tab",
            b"age\tsex\ty\ncontinuous\td\tdiscrete\r\nmeta\t\tclass\r\n5\tm\tp\n",
            "is a table with the three header",
        ),
        ("train-labels-idx1-ubyte", idx([1, 2]), "is one IDX file; give the folder that holds it"),
        (
            "train-labels-idx1-ubyte.gz",
            gzip.compress(idx([1, 2]), mtime=0),
            "is one IDX file; give the folder that holds it",
        ),
        ("a.npy", b"a,b\n1,2\n", r"is no \.npy file: it begins with the bytes 61 2c 62"),
        ("a.npz", b"\0\1\2\3", r"is no \.npz file: it begins with the bytes 00 01 02 03; copy it again"),
        ("a.parquet", b"PAR1", r"is no \.parquet file"),
        ("a.parquet.gz", gzip.compress(b"PAR1\x15\x04", mtime=0), "is a gzipped parquet file; unpack it with gunzip"),
        ("a.npz", b"PK\x03\x04\0\0\0\0", "is damaged or cut off"),
        ("a.gz", b"\x1f\x8b\x08\0\0", "is damaged or cut off"),
    ],
)
def test_files_that_are_something_else(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} {message}"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    "header",
    [
        '"{a}",{b},y',
        "@relation_id,b,y",
        "% of all,b,y",
        "<b,b,y",
        "version https,b,y",
        "[a],b,y",
        "c,d,class\nc,d,c\nc,d,class",
    ],
)
def test_headers_that_only_look_like_other_formats(tmp_path, header):
    (tmp_path / "a.csv").write_text(f"{header}\n1,2,3\n")
    assert len(read(tmp_path / "a.csv").columns) == 3


@pytest.mark.parametrize(
    ("member", "message"), [("xl/workbook.xml", "is an Excel workbook"), ("a.csv", "without arrays")]
)
def test_other_archives(tmp_path, member, message):
    with zipfile.ZipFile(tmp_path / "a.csv", "w") as archive:
        archive.writestr(member, "a")
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.csv")


def test_a_file_that_is_a_folder(tmp_path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(DataError, match=r"a\.csv is a folder without IDX files; give one with them, or name the file"):
        read(tmp_path / "a.csv")


def test_a_file_that_does_not_exist(tmp_path):
    (tmp_path / "iris.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match=r"Iris\.cvs does not exist; did you mean 'iris\.csv'\?$"):
        read(tmp_path / "Iris.cvs")
    with pytest.raises(DataError, match="does not exist; check the name"):
        read(tmp_path / "nowhere" / "a.csv")
    with pytest.raises(DataError, match="is no name of a file"):
        read("a\0b.csv")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(DataError, match="is no ordinary file; copy its contents into one"):
        read(tmp_path / "a.csv")


def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a\n1\n")
    path.chmod(0)
    if os.access(path, os.R_OK):
        (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")  # whoever may read all is refused this
        path = tmp_path / "loop.csv"
    with pytest.raises(DataError, match=r"cannot be read .*; check its name and permissions"):
        read(path)


def test_a_part_that_is_none(tmp_path):
    with pytest.raises(DataError, match="part is 'validation'; data have the parts 'train' and 'test'"):
        read(tmp_path, part="validation")


# Text that looks like numbers, and what is missing ----------------------------------------------------------------


def written(path, **columns):
    """A CSV file of texts, or a Parquet file of values."""
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.table(columns), path)
    else:
        rows = zip(*columns.values(), strict=True)
        path.write_text("\n".join(",".join(map(str, row)) for row in [columns, *rows]), encoding="utf-8")
    return path


@pytest.fixture
def learned(tmp_path):
    """From texts of which some look like numbers, in an input and the target."""
    texts = ["3.1", "3.10", "7", "07", "007", "dev"]
    return Preprocessing.fit(read(written(tmp_path / "train.csv", release=texts, y=texts)), "y")


@pytest.mark.parametrize("texts", [["3.1", "3.10", "7", "07", "007", "8"], ["007", "3.10"], ["07", "dev"], ["7", "NA"]])
def test_what_training_called_text_is_text_in_every_file(tmp_path, learned, texts):
    again = Preprocessing.from_dict(learned.to_dict())
    found = [name.removeprefix("release=") for name in again.features]
    data = read(written(tmp_path / "new.csv", release=texts, y=texts))
    if "NA" in texts:
        with pytest.raises(DataError, match="column 'release' has 1 missing value"):
            again.transform(data)
        return
    expected = [[float(text == name) for name in found] for text in texts]
    np.testing.assert_array_equal(again.transform(data), expected)
    assert again.unseen == ({"release": 1} if "8" in texts else {})
    if "8" in texts:
        data = data.take(np.array(texts) != "8")
    assert again.inverse(again.targets(data)).tolist() == [text for text in texts if text != "8"]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pyarrow.array([7, 8]), ["7", None]),
        (pyarrow.array([7.0, 3.1]), ["7", "3.1"]),
        (pyarrow.array([7, 3.1], pyarrow.float32()), ["7", "3.1"]),
        (pyarrow.array([np.float16(7)], pyarrow.float16()), ["7"]),
        (pyarrow.array([Decimal("3.10"), Decimal("3.11")]), ["3.10", None]),
        (pyarrow.array(["07", "3.10"]).dictionary_encode(), ["07", "3.10"]),
        (pyarrow.array([7, 3]).dictionary_encode(), ["7", None]),
    ],
)
def test_numbers_in_parquet_are_the_text_that_spells_them(tmp_path, learned, values, texts):
    data = read(written(tmp_path / "new.parquet", release=values))
    x = learned.transform(data)
    found = [learned.features[row.argmax()].removeprefix("release=") if row.any() else None for row in x]
    assert found == texts


def test_truth_values_of_csv_and_parquet_are_the_same(tmp_path):
    data = read(written(tmp_path / "t.parquet", flag=[True, False, True], y=[0.5, 1, 2]))
    learned = Preprocessing.fit(data, "y")
    for texts in ["true", "false"], ["TRUE", "FALSE"], ["True", "False"]:
        x = learned.transform(read(written(tmp_path / "t.csv", flag=texts)))
        np.testing.assert_array_equal(x, [[0, 1], [1, 0]])


def test_a_number_format_is_that_of_training(tmp_path):
    path = tmp_path / "u.csv"
    path.write_text("a;y\n1.055,5;3,5\n2,5;1.000,25\n")
    learned = Preprocessing.fit(read(path), "y", task="regression")
    path.write_text("a;y\n1.055;2.5\n2;3\n")  # 1055, not 1.055
    x = learned.transform(read(path))
    np.testing.assert_allclose(x[:, 0], [(1055 - 529) / 526.5, (2 - 529) / 526.5], rtol=1e-6)
    with pytest.raises(DataError, match="line 2: column 'y' is the text '2.5', and regression needs numbers such as"):
        learned.targets(read(path))
    numbers = read(written(tmp_path / "u.parquet", a=[2.5, 1055.5]))
    np.testing.assert_allclose(learned.transform(numbers)[:, 0], [-1, 1], rtol=1e-6)


def test_columns_that_are_text_because_that_is_asked_for(tmp_path):
    path = written(tmp_path / "t.csv", plz=["01067", "10115"], id=[2**53, 2**53 + 1], y=[0.5, 1])
    data = read(path, text=["plz", "id"])
    assert data.columns["plz"].tolist() == ["01067", "10115"]
    learned = Preprocessing.fit(data, "y", ignore=["id"])
    np.testing.assert_array_equal(learned.transform(read(path)), np.eye(2))
    exact = Preprocessing.fit(data, "id", ignore=["plz"])
    assert exact.classes == ["9007199254740992", "9007199254740993"]
    assert exact.targets(read(written(tmp_path / "t.parquet", id=[2**53 + 1, 2**53]))).tolist() == [1, 0]
    (said,) = [said for said in Preprocessing.fit(read(path), "y").warnings if "2⁵³" in said]
    assert said.startswith(f"{path}: column 'id' has whole numbers from 2⁵³ on that float64 cannot tell apart")
    with pytest.raises(DataError, match=r"t\.csv has no column 'plzz', which is to be text; did you mean 'plz'\?"):
        read(path, text=["plzz"])


def test_what_is_missing_is_said_and_may_be_chosen(tmp_path):
    path = written(tmp_path / "t.csv", a=["1", "-999", "?"], b=["Na", "K", "Na"], y=["Na", "K", "K"])
    data = read(path)
    with pytest.raises(DataError, match=r"the first in line 2; .*; 'Na' in line 2 was taken for one, and with --missi"):
        Preprocessing.fit(data, "y")
    with pytest.raises(DataError, match=r"column 'b' has 2 missing values, .*; 'Na' in line 2 was taken for one"):
        Preprocessing.fit(data, "a", ignore=["y"])
    assert read(path, missing="Na", text="a").columns["b"].tolist() == [None, "K", None]
    chosen = read(path, missing=["?", "-999"])
    np.testing.assert_array_equal(chosen.columns["a"], [1, np.nan, np.nan])
    learned = Preprocessing.fit(chosen, "y", impute="constant")
    assert learned.features == ["a", "b=K", "b=Na"]
    again = Preprocessing.from_dict(learned.to_dict())
    for way in chosen, data:
        np.testing.assert_array_equal(again.transform(way), learned.transform(chosen))
        assert again.inverse(again.targets(way)).tolist() == ["Na", "K", "K"]
    numbers = read(written(tmp_path / "t.parquet", a=[1, -999, 3], b=["Na", "", None]), missing=["-999"])
    np.testing.assert_array_equal(numbers.columns["a"], [1, np.nan, 3])
    assert numbers.columns["b"].tolist() == ["Na", None, None]


@pytest.mark.parametrize(("cells", "missing"), [(["nan", "1"], ["-"]), (["NaN", "1"], ["nan"]), (["1_0", "1"], [])])
def test_what_no_longer_stands_for_a_missing_value_is_text(tmp_path, cells, missing):
    assert read(written(tmp_path / "t.csv", a=cells), missing=missing).columns["a"].tolist() == cells


def test_some_rows_of_a_table_know_where_they_stand(tmp_path):
    for path in tmp_path / "t.csv", tmp_path / "t.parquet":
        data = read(written(path, a=["7", "8", "9", "8"], y=[1, 2, 3, 4]), text=["a"])
        some = data.take([False, True, True, True]).take([2, 0])
        assert some.columns["y"].tolist() == [4, 2]
        assert some.place(0) == ("line 5" if path.suffix == ".csv" else "row 4")
        assert some.again(["y"], some.missing).columns["y"].tolist() == ["4", "2"]


def test_a_file_that_has_changed_is_not_read_again(tmp_path, learned):
    path = written(tmp_path / "new.csv", release=["3.1", "3.10"])
    data = read(path)
    path.write_text("release\n3.10\n")
    with pytest.raises(DataError, match=r"new\.csv has changed since it was read, and its text is needed once more"):
        learned.transform(data)
    path.unlink()
    with pytest.raises(DataError, match=r"new\.csv cannot be read \(No such file"):
        learned.transform(data)


def test_a_file_is_found_again_from_another_folder(tmp_path, monkeypatch, learned):
    written(tmp_path / "new.csv", release=["3.1", "3.10"])
    monkeypatch.chdir(tmp_path)
    data = read("new.csv")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir("other")
    assert learned.transform(data).shape[0] == 2
    assert learned.as_in_training(data).source == "new.csv"
    assert learned.as_in_training(data).again([], frozenset([""])).rows == 2
    (tmp_path / "new.csv").unlink()
    with pytest.raises(DataError, match=r"^new\.csv cannot be read \(No such file"):
        learned.transform(data)


@pytest.mark.parametrize("option", [{"text": ["a"]}, {"missing": []}])
def test_arrays_have_no_texts(tmp_path, option):
    np.savez(tmp_path / "a.npz", x=np.eye(2))
    with pytest.raises(DataError, match="holds arrays, which have neither columns of text nor texts for what is miss"):
        read(tmp_path / "a.npz", **option)
