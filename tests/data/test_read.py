"""read: what a file is, and what it is said to be if it is none of ours."""

from __future__ import annotations

import gzip
import os
import zipfile

import numpy as np
import pytest

from gpu_backprop.data import Arrays, DataError, Table, read


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
        ("a.csv.gz", gzip.compress(b""), "is empty"),
        (
            "a.csv",
            b"\x7fELF\x02\x01\x01\x00",
            "is no text: it begins with the bytes 7f 45 4c 46 02 01 01 00; give CSV, P",
        ),
        ("a.csv", b"a,b\n1\x002\n", "is no text"),
        ("a.csv", b"\x89PNG\r\n\x1a\n", "is an image"),
        ("a.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an Excel workbook of the old kind; export it as CSV"),
        ("a.csv", b"BZh91AY&SY", "is packed with bzip2; unpack it first"),
        (
            "w.arff",
            b"% made up\n\n%\n@RELATION w\n@attribute t numeric\n@data\n20.5\n",
            "is ARFF; put one line, the names",
        ),
        ("w.csv.gz", gzip.compress(b"%" + b"%s\n" * 3000 + b" @relation w"), "is ARFF"),
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
        ("train-labels-idx1-ubyte.gz", gzip.compress(idx([1, 2])), "is one IDX file; give the folder that holds it"),
        ("a.npy", b"a,b\n1,2\n", r"is no \.npy file: it begins with the bytes 61 2c 62"),
        ("a.npz", b"\0\1\2\3", r"is no \.npz file: it begins with the bytes 00 01 02 03; copy it again"),
        ("a.parquet", b"PAR1", r"is no \.parquet file"),
        ("a.parquet.gz", gzip.compress(b"PAR1\x15\x04"), "is a gzipped parquet file; unpack it with gunzip"),
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
