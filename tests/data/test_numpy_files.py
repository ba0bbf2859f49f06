""".npy pairs and .npz: what NumPy writes is read, and nothing else is."""

from __future__ import annotations

import io
import pickle
import re
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from gpu_backprop.data import DataError, files, read

X = np.arange(12, dtype=np.float32).reshape(4, 3)
Y = np.array([0, 1, 1, 0])


def npy_bytes(array, **options) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def header(shape: str, dtype: str = "'<f8'", version: bytes = b"\1\0") -> bytes:
    """The start of an .npy file that claims something."""
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    length = struct.pack("<H" if version == b"\1\0" else "<I", len(text))
    return b"\x93NUMPY" + version + length + text


# .npy -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x_name", "y_name"),
    [
        ("x.npy", "y.npy"),
        ("iris_x.npy", "iris_y.npy"),
        ("a_b_x.npy", "a_b_y.npy"),
        ("X.npy", "y.npy"),
        ("X_train.npy", "y_train.npy"),
    ],
)
def test_either_file_of_a_pair_gives_both(tmp_path, x_name, y_name):
    np.save(tmp_path / x_name, X)
    np.save(tmp_path / y_name, Y)
    for name in x_name, y_name:
        found = read(tmp_path / name)
        np.testing.assert_array_equal(found.x, X)
        np.testing.assert_array_equal(found.y, Y)
        assert found.source == str(tmp_path / x_name)


@pytest.mark.parametrize("name", ["x.npy", "iris_x.npy", "matrix.npy", "box.npy"])
def test_x_alone_has_no_y(tmp_path, name):
    np.save(tmp_path / name, X)
    np.save(tmp_path / "bo_y.npy", Y)
    assert read(tmp_path / name).y is None


def test_y_alone_is_refused(tmp_path):
    np.save(tmp_path / "iris_y.npy", Y)
    with pytest.raises(
        DataError, match=r"iris_y.npy holds targets, and no file of the same name with x for y is beside"
    ):
        read(tmp_path / "iris_y.npy")


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", ">i2", "<u4", ">i8", "<f2", ">f4", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_type_comes_as_it_is_stored(tmp_path, dtype, order):
    array = np.array(X % 2 if dtype == "?" else X, dtype=dtype, order=order)
    np.save(tmp_path / "x.npy", array)
    found = read(tmp_path / "x.npy").x
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype.newbyteorder("=")
    assert found.dtype.isnative


def test_images_become_rows_and_one_axis_a_column(tmp_path):
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.save(tmp_path / "x.npy", images)
    np.testing.assert_array_equal(read(tmp_path / "x.npy").x, images.reshape(2, 12))
    np.save(tmp_path / "x.npy", images.ravel())
    assert read(tmp_path / "x.npy").x.shape == (24, 1)


@pytest.mark.parametrize("order", "<>")
def test_half_of_a_surrogate_pair_is_text_and_what_is_beyond_unicode_is_damage(tmp_path, order):
    y = np.array(["a", "caf\udce9", "b\U0010ffff", "a"], f"{order}U4")
    np.savez(tmp_path / "d.npz", x=X, y=y)
    assert read(tmp_path / "d.npz").y.tolist() == y.tolist()
    y.view(f"{order}u4")[3] = 0x110000
    np.savez(tmp_path / "d.npz", x=X, y=y)
    with pytest.raises(DataError, match=r"d\.npz, array 'y': damaged, because there are characters in its text that"):
        read(tmp_path / "d.npz")


def test_texts_are_labels(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", np.array([["cat"], [" dog"], ["NA"], ["cat"]]))
    assert read(tmp_path / "x.npy").y.tolist() == ["cat", "dog", None, "cat"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy_bytes(X)[:-1], "its header announces 4 × 3 values of float32, 48 bytes, and 47 follow; copy it again"),
        (npy_bytes(X) + b"\0", "its header announces 4 × 3 values of float32, 48 bytes, and 49 follow"),
        (npy_bytes(X)[:40], "the header is missing or damaged"),
        (npy_bytes(X)[:7], "the header is missing or damaged"),
        (b"\x93NUMPY\7\0" + npy_bytes(X)[8:], r"damaged \('version \(7, 0\) of the format'\)"),
        (
            header("(10_000_000_000, 10)") + bytes(80),
            "10000000000 × 10 values of float64, 800,000,000,000 bytes, and 80 f",
        ),
        (header("(9" + "9" * 4000 + ",)"), "a shape that no array has"),
        (header("(-3, -4)") + bytes(96), "a shape that no array has"),
        (header("(" + "1," * 40 + ")") + bytes(8), "a shape that no array has"),
        (header("(2,)", "'<f8', 'x': print('ran')") + bytes(16), "the header is missing or damaged"),
        (header("[" * 3000 + "]" * 3000), "the header is missing or damaged"),
        (header("(2,)" + " " * 20_000) + bytes(16), "the header is missing or damaged"),
        (header("(2,)" + " " * 20_000, version=b"\2\0") + bytes(16), "the header is missing or damaged"),
        (header("(1000000000000,)", "'<U0'"), "values of the dtype '<U0'"),
        (npy_bytes(np.array([{}], object), allow_pickle=True), "Python objects, which could run code"),
        (npy_bytes(np.zeros(3, [("a", "f4")])), r"values of the dtype"),
        (npy_bytes(np.zeros(3, "c16")), "values of the dtype 'complex128'; save integers, float16 to float64, or text"),
        (npy_bytes(np.zeros(3, "M8[s]")), "values of the dtype 'datetime64"),
        (npy_bytes(np.zeros((0, 3))), r"the shape \(0, 3\) has nothing in it"),
        (npy_bytes(np.array(3.0)), r"x has the shape \(\); it must have rows"),
        (npy_bytes(np.array([["a"]])), "x has the dtype object; it must be numbers"),
    ],
)
def test_broken_files(tmp_path, content, message):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=f"^{re.escape(str(path))}: .*{message}"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_nothing_runs_that_a_file_brings_along(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    np.save(tmp_path / "x.npy", np.array([Bomb()], object), allow_pickle=True)
    np.savez(tmp_path / "d.npz", x=np.array([Bomb()], object))
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps([1, 2]))
    for name in "x.npy", "d.npz", "pickle.npy":
        with pytest.raises(DataError, match="which could run code"):
            read(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("y", [np.arange(3), np.zeros((4, 0)), np.zeros((4, 2, 2)), np.array(1)])
def test_targets_that_do_not_fit(tmp_path, y):
    np.savez(tmp_path / "d.npz", x=X, y=y)
    with pytest.raises(DataError, match=r"d\.npz.*(y has the shape .* and x has 4 rows|has nothing in it)"):
        read(tmp_path / "d.npz")


# .npz -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_x_and_y(tmp_path, save):
    save(tmp_path / "d.npz", x=X, y=Y, other=np.zeros(2))
    found = read(tmp_path / "d.npz")
    np.testing.assert_array_equal(found.x, X)
    np.testing.assert_array_equal(found.y, Y)


def test_both_parts(tmp_path):
    np.savez(tmp_path / "d.npz", x_train=X, y_train=Y, x_test=X[:2] + 1, y_test=Y[:2])
    assert read(tmp_path / "d.npz").rows == 4
    found = read(tmp_path / "d.npz", part="test")
    np.testing.assert_array_equal(found.x, X[:2] + 1)
    np.testing.assert_array_equal(found.y, Y[:2])


def test_x_alone(tmp_path):
    np.savez(tmp_path / "d.npz", x=X)
    assert read(tmp_path / "d.npz").y is None


def test_other_names(tmp_path):
    np.savez(tmp_path / "d.npz", images=X, labels=Y)
    with pytest.raises(
        DataError, match="has the arrays 'images', 'labels'; it must have x and y, or x_test and y_test"
    ):
        read(tmp_path / "d.npz", part="test")


def test_a_sparse_matrix(tmp_path):
    np.savez(tmp_path / "d.npz", data=X[0], indices=Y, indptr=Y, shape=Y)
    with pytest.raises(
        DataError, match=r"have x and y, or x_train and y_train; of a sparse matrix, save x=matrix\.toarr"
    ):
        read(tmp_path / "d.npz")


def test_a_member_that_unpacks_to_far_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ALWAYS", 1000)
    np.savez_compressed(tmp_path / "d.npz", x=np.zeros((1000, 1000)))
    with pytest.raises(DataError, match="array 'x': 8,000,128 bytes unpacked, many times the size of the file"):
        read(tmp_path / "d.npz")


def test_a_member_that_claims_far_too_much(tmp_path):
    np.savez(tmp_path / "d.npz", x=X)
    content = bytearray((tmp_path / "d.npz").read_bytes())
    directory = content.index(b"PK\1\2")
    content[directory + 24 : directory + 28] = struct.pack("<I", 4_000_000_000)  # its size, once it is unpacked
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(DataError, match="array 'x': 4,000,000,000 bytes unpacked, many times the size"):
        read(tmp_path / "d.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packed_in_another_way(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "d.npz", "w", method) as archive:
        archive.writestr("x.npy", npy_bytes(X))
    with pytest.raises(DataError, match=r"in a way that NumPy does not use; save it with numpy\.savez"):
        read(tmp_path / "d.npz")


@pytest.mark.parametrize("cut", [30, 150, -30, -1])
def test_an_archive_that_is_cut_off(tmp_path, cut):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    content = (tmp_path / "d.npz").read_bytes()
    (tmp_path / "d.npz").write_bytes(content[:cut])
    with pytest.raises(DataError, match=r"d\.npz is damaged or cut off"):
        read(tmp_path / "d.npz")


def test_a_member_that_was_changed(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    content = bytearray((tmp_path / "d.npz").read_bytes())
    content[content.index(X.tobytes())] ^= 1
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"d\.npz.*damaged.*CRC"):
        read(tmp_path / "d.npz")
