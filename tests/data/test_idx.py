"""IDX: every type, plain and gzipped; and whatever is wrong with a file is said with its name and the remedy."""

from __future__ import annotations

import gzip
import math
import os
import struct
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gpu_backprop.data.errors import DataError
from gpu_backprop.data.idx import TYPES, read_idx, read_idx_folder

CODES = {np.dtype(dtype).newbyteorder("="): code for code, dtype in TYPES.items()}
EMPTY_GZIP = gzip.compress(b"", mtime=0)
IMAGES = np.arange(5 * 3 * 2, dtype=np.uint8).reshape(5, 3, 2)
LABELS = np.array([7, 2, 1, 0, 255], np.uint8)


def header(code, *shape):
    return struct.pack(f">HBB{len(shape)}I", 0, code, len(shape), *shape)


def idx(array):
    return header(CODES[array.dtype], *array.shape) + array.astype(array.dtype.newbyteorder(">")).tobytes()


def folder_of(folder, **files):
    """Writes arrays under MNIST's names: train_images=..., test_labels=..."""
    for name, array in files.items():
        part, what = name.split("_")
        rank = {"images": 3, "labels": 1}[what]
        (folder / f"{'t10k' if part == 'test' else part}-{what}-idx{rank}-ubyte").write_bytes(idx(array))
    return folder


@pytest.fixture
def file(tmp_path):
    """A function that writes bytes into a file and returns its path."""

    def write(content, name="some-idx"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def refusal(path):
    with pytest.raises(DataError) as caught:
        read_idx(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# What can be read


def test_by_hand(file):
    content = bytes.fromhex("0000 0b 02 00000002 00000003 0001 0002 0003 ffff 0100 8000")
    array = read_idx(file(content))
    assert array.dtype == np.int16
    np.testing.assert_array_equal(array, [[1, 2, 3], [-1, 256, -32768]])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "float32", "float64"])
def test_every_type(file, dtype, packed):
    expected = np.arange(-3, 21).astype(dtype).reshape(2, 3, 4)
    content = idx(expected)
    array = read_idx(file(gzip.compress(content) if packed else content))
    np.testing.assert_array_equal(array, expected)
    assert array.dtype == np.dtype(dtype)
    assert array.dtype.isnative
    assert array.flags.c_contiguous and array.flags.writeable


def test_gzip_is_seen_from_the_content_not_the_name(file):
    for content, name in ((idx(LABELS), "plain.gz"), (gzip.compress(idx(LABELS)), "packed")):
        np.testing.assert_array_equal(read_idx(file(content, name)), LABELS)


def test_gzip_in_several_members(file):
    content = idx(IMAGES)
    array = read_idx(file(gzip.compress(content[:9]) + gzip.compress(content[9:])))
    np.testing.assert_array_equal(array, IMAGES)


def test_what_packs_very_well(file):
    expected = np.zeros((1000, 1000), np.float64)
    np.testing.assert_array_equal(read_idx(file(gzip.compress(idx(expected), 9))), expected)


@given(
    hnp.arrays(st.sampled_from(list(CODES)), hnp.array_shapes(min_dims=1, max_dims=5, max_side=4)),
    st.booleans(),
)
def test_what_was_written_is_read(expected, packed):
    content = idx(expected)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(gzip.compress(content) if packed else content)
        array = read_idx(path)
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)


# What is wrong with a file


def test_no_file(tmp_path):
    assert "cannot be read" in refusal(tmp_path / "train-images")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "train-images-idx3-ubyte")
    assert "has no train-images-idx3-ubyte" in folder_refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (EMPTY_GZIP, "it is empty"),
        (b"\0", "00"),
        (b"<!DOCTYPE html>", "3c 21 44 4f"),
        (gzip.compress(b"a,b,c\n1,2,3\n", mtime=0), "61 2c 62 2c"),
        (header(0x0A, 3) + b"abc", "00 00 0a 01"),  # 0a is no type
        (b"\0\1\x08\1\0\0\0\3abc", "00 01 08 01"),
        (b"\0\0\x08\0", "00 00 08 00"),  # no axes
        (b"\0\0\x08\xff" + bytes(255 * 4), "00 00 08 ff"),
    ],
)
def test_not_idx(file, content, said):
    message = refusal(file(content))
    assert "not an IDX file" in message
    assert said in message


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", [4, 9, 15, 16, 17, 45])
def test_cut_short(file, packed, length):
    content = idx(IMAGES)
    assert len(content) == 16 + 30
    content = content[:length]
    assert "cut short" in refusal(file(gzip.compress(content) if packed else content))


def test_one_byte_is_missing(file):
    assert "30 bytes, but no more than 29 can follow" in refusal(file(idx(IMAGES)[:-1]))
    assert "30 bytes, but only 29 follow" in refusal(file(gzip.compress(idx(IMAGES)[:-1])))


@pytest.mark.parametrize("packed", [False, True])
def test_bytes_that_nobody_announced(file, packed):
    content = idx(IMAGES) + b"\0"
    message = refusal(file(gzip.compress(content) if packed else content))
    assert "is too long" in message
    assert "5 × 3 × 2 values of uint8, 30 bytes" in message


@pytest.mark.parametrize("shape", [(0,), (0, 28, 28), (60_000, 28, 0), (0, 2**32 - 1, 2**32 - 1)])
def test_nothing_in_it(file, shape):
    assert "is empty" in refusal(file(header(0x08, *shape)))


@pytest.mark.parametrize(
    "shape", [(10_000_000_000 // 8 // 784 + 1, 28, 28), (2**32 - 1,) * 3, (2**32 - 1,) * 32, (1,) * 31 + (2**31,)]
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_claim_that_the_file_cannot_hold_allocates_nothing(file, shape, packed, monkeypatch):
    content = header(0x0E, *shape) + bytes(5000)
    path = file(gzip.compress(content) if packed else content)
    monkeypatch.setattr(np, "empty", None)  # to allocate would fail
    message = refusal(path)
    assert "cut short or damaged" in message
    assert f"{8 * math.prod(shape):,} bytes" in message


def test_no_more_is_unpacked_than_announced(file):
    path = file(gzip.compress(idx(LABELS) + bytes(50_000_000)))
    tracemalloc.start()
    try:
        assert "is too long" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_more_than_the_memory_holds(file, monkeypatch):
    def empty(shape, dtype):
        raise MemoryError

    path = file(idx(LABELS))
    monkeypatch.setattr(np, "empty", empty)
    assert "too large for the memory" in refusal(path)


def damage(content, at):
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(idx(IMAGES), mtime=0)[:-9],  # the end of the data, the check sum and the length are gone
        gzip.compress(idx(IMAGES), mtime=0)[:-1],
        damage(gzip.compress(idx(IMAGES), mtime=0), -5 % len(gzip.compress(idx(IMAGES), mtime=0))),  # the check sum
        damage(gzip.compress(idx(IMAGES), mtime=0), 2),  # the method
        gzip.compress(idx(IMAGES), mtime=0) + b"trailing",
        b"\x1f\x8b",
    ],
)
def test_damaged_gzip(file, content):
    assert "damaged gzip" in refusal(file(content))


def is_read_or_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(content)
        try:
            assert read_idx(path).size > 0
        except DataError as refused:
            message = str(refused)
        else:
            return
    assert message.startswith(str(path))


@given(st.binary(max_size=64), st.sampled_from([b"", b"\0\0", b"\0\0\x08\1", b"\0\0\x0d\2\0\0\0\1", b"\x1f\x8b\x08\0"]))
def test_anything_at_all(content, start):
    is_read_or_refused(start + content)


@given(st.data(), st.sampled_from([idx(IMAGES), gzip.compress(idx(IMAGES), mtime=0)]))
def test_a_file_with_a_changed_byte(data, content):
    at = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.binary(min_size=1, max_size=1))
    is_read_or_refused(content[:at] + byte + content[at + 1 :])


# A folder


def test_both_parts(tmp_path):
    folder_of(tmp_path, train_images=IMAGES, train_labels=LABELS, test_images=IMAGES[:2], test_labels=LABELS[:2])
    images, labels = read_idx_folder(tmp_path)
    np.testing.assert_array_equal(images, IMAGES.reshape(5, 6))
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(labels, [7, 2, 1, 0, 255])
    assert labels.dtype == np.int64
    images, labels = read_idx_folder(str(tmp_path), "test")
    np.testing.assert_array_equal(images, IMAGES[:2].reshape(2, 6))
    np.testing.assert_array_equal(labels, [7, 2])


@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_every_way_to_write_the_names(tmp_path, dot, suffix):
    pack = gzip.compress if suffix else bytes
    (tmp_path / f"train-images{dot}idx3-ubyte{suffix}").write_bytes(pack(idx(IMAGES)))
    (tmp_path / f"train-labels{dot}idx1-ubyte{suffix}").write_bytes(pack(idx(LABELS)))
    images, labels = read_idx_folder(tmp_path)
    assert images.shape == (5, 6)
    assert labels.shape == (5,)


def test_a_folder_of_a_files_name_is_passed_over(tmp_path):
    """As in a copy of MNIST that is often downloaded: train-images-idx3-ubyte/ beside train-images.idx3-ubyte."""
    (tmp_path / "train-images-idx3-ubyte").mkdir()
    (tmp_path / "train-images.idx3-ubyte").write_bytes(idx(IMAGES))
    folder_of(tmp_path, train_labels=LABELS)
    assert read_idx_folder(tmp_path)[0].shape == (5, 6)


def folder_refusal(folder, part="train"):
    with pytest.raises(DataError) as caught:
        read_idx_folder(folder, part)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_files_are_named(tmp_path):
    message = folder_refusal(tmp_path, "test")
    assert "no t10k-images-idx3-ubyte and no t10k-labels-idx1-ubyte" in message
    assert "but nothing;" in message
    folder_of(tmp_path, train_images=IMAGES)
    message = folder_refusal(tmp_path)
    assert f"{tmp_path} has no train-labels-idx1-ubyte" in message
    assert "but train-images-idx3-ubyte;" in message
    for number in range(8):
        (tmp_path / f"a{number}").touch()
    assert "a0, a1, a2, a3, a4, a5 and 3 more" in folder_refusal(tmp_path)


def test_no_such_folder_and_no_folder_at_all(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        assert f"{path} is not a folder" in folder_refusal(path)


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert f"{tmp_path} cannot be read (Permission denied)" in folder_refusal(tmp_path)


def test_no_such_part(tmp_path):
    assert "'validation'; a folder of IDX files has the parts 'train' and 'test'" in folder_refusal(
        tmp_path, "validation"
    )


def test_images_and_labels_of_different_length(tmp_path):
    message = folder_refusal(folder_of(tmp_path, train_images=IMAGES, train_labels=LABELS[:3]))
    assert "5 images" in message and "3 labels" in message


@pytest.mark.parametrize(
    ("images", "labels", "wrong"),
    [
        (LABELS, LABELS, "train-images-idx3-ubyte does not hold images: it has uint8 values of the shape (5,)"),
        (IMAGES, IMAGES, "train-labels-idx1-ubyte does not hold labels: it has uint8 values of the shape (5, 3, 2)"),
        (IMAGES.astype(np.float32), LABELS, "does not hold images: it has float32 values"),
        (IMAGES, LABELS.astype(np.int32), "does not hold labels: it has int32 values"),
    ],
)
def test_a_mislabelled_file(tmp_path, images, labels, wrong):
    assert wrong in folder_refusal(folder_of(tmp_path, train_images=images, train_labels=labels))
