"""Whatever a file unpacks to is counted before it is held, against one limit: the machine's, or what was asked for."""

from __future__ import annotations

import csv
import gzip
import os
import re
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from gpu_backprop.data import Arrays, DataError, Preprocessing, Table, csv_file, limits, read
from gpu_backprop.data.errors import MemoryLimitError
from gpu_backprop.data.idx import read_idx

MB = 1 << 20


@pytest.fixture(autouse=True)
def large_machine(monkeypatch):
    """A machine that sets no bound, unless a test says otherwise."""
    monkeypatch.setattr(limits, "memory", lambda: 1 << 40)


# The limit ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (1, 1),
        (10**12, 10**12),
        ("123", 123),
        ("4GB", 4 * 10**9),
        ("4 GiB", 4 << 30),
        ("4g", 4 << 30),
        ("1.5MB", 1_500_000),
        ("512KiB", 512 << 10),
        ("2t", 2 << 40),
        (" 7 B ", 7),
    ],
)
def test_sizes(given, size):
    assert limits.size_of(given) == size


@pytest.mark.parametrize(
    "given", [0, -1, 1.5e300, True, "", "GB", "4 XB", "-4GB", "4GB!", "0.1", "1e9", "nan", [], None]
)
def test_what_is_no_size(given):
    with pytest.raises(DataError, match="a memory limit is a number of bytes, or a size such as 4GB or 500 MiB, not"):
        limits.size_of(given)


@pytest.mark.parametrize(
    ("files", "smallest"),
    [
        ({}, None),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": "1000000\n"}, 1_000_000),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": "max\n"}, None),
        (
            {
                "/proc/self/cgroup": "0::/a/b\n",
                "/sys/fs/cgroup/a/b/memory.max": "max\n",
                "/sys/fs/cgroup/a/memory.max": "3000000\n",
            },
            3_000_000,
        ),
        (
            {
                "/proc/self/cgroup": "7:cpu,cpuacct:/\n4:memory:/job\n0::/\n",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000\n",
                "/sys/fs/cgroup/memory/job/memory.limit_in_bytes": "9223372036854771712\n",
            },
            2_000_000,
        ),
    ],
    ids=["none", "container", "container without a limit", "a group above", "version 1"],
)
def test_a_container_has_less_than_its_machine(files, smallest, monkeypatch):
    monkeypatch.undo()
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else limits.UNKNOWN
    monkeypatch.setattr(limits, "_lines_of", lambda path: files.get(path.as_posix(), "").splitlines())
    assert limits.memory.__wrapped__() == min(whole, smallest or whole)


# Readers --------------------------------------------------------------------------------------------------------------


def idx_bytes(array: np.ndarray) -> bytes:
    codes = {"uint8": 8, "float64": 14}
    head = struct.pack(f">HBB{array.ndim}I", 0, codes[array.dtype.name], array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def csv_text(folder: Path) -> Path:
    (folder / "a.csv").write_text("a,b\n" + "1,x\n" * 100_000)
    return folder / "a.csv"


def csv_of_many_words(folder: Path) -> Path:
    (folder / "a.csv.gz").write_bytes(gzip.compress(b"a\n" + b"".join(b"w%d\n" % row for row in range(50_000))))
    return folder / "a.csv.gz"


def csv_of_many_columns(folder: Path) -> Path:
    (folder / "a.csv").write_text(",".join(f"c{n}" for n in range(20_000)) + "\n" + ",".join("1" * 20_000) + "\n")
    return folder / "a.csv"


def npy(folder: Path) -> Path:
    np.save(folder / "a_x.npy", np.zeros((1000, 400)))
    return folder / "a_x.npy"


def npy_pair(folder: Path) -> Path:
    np.save(folder / "a_x.npy", np.zeros((200_000, 1)))
    np.save(folder / "a_y.npy", np.zeros((200_000, 1)))
    return folder / "a_y.npy"


def npz(folder: Path) -> Path:
    np.savez_compressed(folder / "a.npz", x=np.zeros((1000, 400)))
    return folder / "a.npz"


def npz_of_text(folder: Path) -> Path:
    np.savez_compressed(folder / "a.npz", x=np.zeros((1000, 1)), y=np.array(["a" * 1000] * 1000))
    return folder / "a.npz"


def parquet_numbers(folder: Path) -> Path:
    parquet.write_table(pyarrow.table({"a": [7] * 400_000}), folder / "a.parquet")
    return folder / "a.parquet"


def parquet_words(folder: Path) -> Path:
    parquet.write_table(pyarrow.table({"a": [f"w{row}" for row in range(50_000)]}), folder / "a.parquet")
    return folder / "a.parquet"


def idx(folder: Path) -> Path:
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.zeros((4000, 28, 28), np.uint8))))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(4000, np.uint8)))
    return folder


@pytest.mark.parametrize(
    "make",
    [
        csv_text, csv_of_many_words, csv_of_many_columns, npy, npy_pair, npz, npz_of_text, parquet_numbers,
        parquet_words, idx,
    ],
    ids=lambda make: make.__name__,
)  # fmt: skip
@pytest.mark.parametrize("given", [2_000_000, "2MB", "machine"])
def test_more_than_the_limit_is_refused(tmp_path, make, given, monkeypatch):
    """Each of them holds from 2 to 30 MB."""
    path = make(tmp_path)
    if given == "machine":
        monkeypatch.setattr(limits, "memory", lambda: 4_000_000)
        given, why = None, "more than half of the memory that this program may use, 2,000,000"
    else:
        why = "more than the limit of 2,000,000"
    with pytest.raises(MemoryLimitError) as caught:
        read(path, memory_limit=given)
    said = str(caught.value)
    assert re.search(rf"[0-9,]+ bytes unpacked, {why}; use a part of it, or allow more with --memory-limit \(mem", said)
    assert str(tmp_path) in said and len(said) < 500
    assert read(path, memory_limit="40MB").rows > 0


def test_what_was_read_before_does_not_count(tmp_path):
    path = npy(tmp_path)
    for _ in range(3):
        read(path, memory_limit=4_000_000)
    with limits.memory_limit("4MB"):
        for _ in range(3):
            read(path)
    for _ in range(3):
        read_idx(idx(tmp_path) / "train-images-idx3-ubyte.gz")


def test_a_file_of_little_may_not_become_much(tmp_path, monkeypatch):
    """Without a limit that was asked for, 200 times the size, or a GiB."""
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1000, 1000)))
    (tmp_path / "t-idx").write_bytes(gzip.compress(idx_bytes(np.zeros((1000, 1000)))))
    monkeypatch.setattr("gpu_backprop.data.files.ALWAYS", 1000)
    with pytest.raises(MemoryLimitError, match="array 'x': 8,000,128 bytes unpacked, many times the size of the file"):
        read(tmp_path / "a.npz")
    with pytest.raises(MemoryLimitError, match="t-idx: 8,000,000 bytes unpacked, many times the size of the file"):
        read_idx(tmp_path / "t-idx")
    assert read(tmp_path / "a.npz", memory_limit="1GB").rows == 1000


@pytest.mark.skipif(not hasattr(os, "SEEK_DATA"), reason="holes cannot be found there")
def test_holes_are_not_on_the_disk(tmp_path):
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 1)})
        file.truncate(file.tell() + 8 * 10**9)
    if path.stat().st_blocks * 512 > 10**9:
        pytest.skip("this file system has no holes")
    with pytest.raises(MemoryLimitError, match="8,000,000,000 bytes unpacked, many times the size of the file"):
        read(path)
    with path.open("rb") as file:
        file.seek(5)
        assert limits.stored_bytes(file) < MB
        assert file.tell() == 5
    np.save(path, np.ones((1000, 100)))
    with path.open("rb") as file:
        assert limits.stored_bytes(file) == 800_128


@pytest.mark.skipif(not hasattr(os, "SEEK_DATA"), reason="holes cannot be found there")
def test_many_small_holes(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        for number in range(10):
            file.seek(number * 100 * MB)
            file.write(b"x" * 5000)
    with (tmp_path / "a").open("rb") as file:
        assert 50_000 <= limits.stored_bytes(file) < MB


def test_a_text_of_a_dictionary_is_unpacked_once(tmp_path):
    """A thousand rows of a million characters, in some kilobytes."""
    words = ["a" * 1_000_000, "b" * 1_000_000]
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0, 1, None, 1] * 250, pyarrow.int32()), words)
    parquet.write_table(pyarrow.table({"t": texts}), tmp_path / "a.parquet", compression="zstd", store_schema=False)
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    before = pyarrow.total_allocated_bytes()
    tracemalloc.start()
    try:
        found = read(tmp_path / "a.parquet", memory_limit="10MB")
        assert tracemalloc.get_traced_memory()[1] < 20 * MB
    finally:
        tracemalloc.stop()
    assert [text and text[0] for text in found.columns["t"]] == ["a", "b", None, "b"] * 250
    assert len({id(text) for text in found.columns["t"]}) == 3
    assert pyarrow.total_allocated_bytes() - before < 20 * MB


def test_long_texts_are_not_held_by_the_thousand(tmp_path, monkeypatch):
    """Cells of 100,000 characters: no more than some lines of them are held, whatever the number of rows."""
    monkeypatch.setattr(csv_file, "LONGEST_LINE", MB)
    line = b"x" * 100_000 + b",1\n"
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"a,b\n" + line * 200))
    tracemalloc.start()
    try:
        found = read(tmp_path / "a.csv.gz")
        assert tracemalloc.get_traced_memory()[1] < 4 * MB
    finally:
        tracemalloc.stop()
    assert found.rows == 200 and len({id(text) for text in found.columns["a"]}) == 1


@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_a_column_of_numbers_is_held_once(tmp_path, name):
    """Of a CSV file, whose rows are not known beforehand, one column twice for a moment; which is counted."""
    table = pyarrow.table({letter: np.arange(100_000) % 9 for letter in "abcd"})
    if name == "a.csv":
        (tmp_path / name).write_text("a,b,c,d\n" + "".join(f"{row},{row},{row},{row}\n" for row in range(100_000)))
    else:
        parquet.write_table(table, tmp_path / name)
    lines = 800_000 if name == "a.csv" else 0
    with pytest.raises(MemoryLimitError):
        read(tmp_path / name, memory_limit=3_200_000 + 2 * lines - 1)
    assert read(tmp_path / name, memory_limit=3_300_000 + 2 * lines).rows == 100_000


@pytest.mark.parametrize("array", [np.zeros((500, 2000), ">f8"), np.zeros((1000, 8000), bool)], ids=str)
def test_one_copy_of_an_array_is_enough(tmp_path, array):
    np.savez_compressed(tmp_path / "a.npz", x=array)
    tracemalloc.start()
    try:
        read(tmp_path / "a.npz")
        assert tracemalloc.get_traced_memory()[1] < array.nbytes + 4 * MB
    finally:
        tracemalloc.stop()


def test_a_header_of_gigabytes_is_not_read(tmp_path):
    content = b"\x93NUMPY\2\0" + struct.pack("<I", 30 * MB) + b" " * (30 * MB)
    (tmp_path / "x.npy").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="the header is missing or damaged .'it claims to have 31,457,280 bytes'"):
            read(tmp_path / "x.npy")
        assert tracemalloc.get_traced_memory()[1] < MB
    finally:
        tracemalloc.stop()


# Lines with nothing in them ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r", b" \n", b"  \r\n"])
@pytest.mark.parametrize("packed", [False, True])
def test_most_blank_lines_are_left_out_at_once(tmp_path, end, packed, monkeypatch):
    """Of many, so many are looked at as could be within a field; and no line changes its number."""
    looked_at = 0
    lines = csv_file._lines

    def counted(*given):
        nonlocal looked_at
        for line in lines(*given):
            looked_at += 1
            yield line

    monkeypatch.setattr(csv_file, "_lines", counted)
    monkeypatch.setattr(csv_file, "UNPACKED_AT_ONCE", 100)
    most = csv.field_size_limit(1000)
    many, own = 50_000, end.strip(b" ")
    content = b"a,b" + own + end * many + b"1,x" + own + end * many + b' 2,"y' + own + b'z"' + own + b"3,w" + own
    path = tmp_path / "a.csv"
    path.write_bytes(gzip.compress(content) if packed else content)
    try:
        table = read(path)
        assert table.columns["a"].tolist() == [1, 2, 3]
        assert table.columns["b"].tolist() == ["x", "y" + own.decode() + "z", "w"]
        assert table.lines.tolist() == [many + 2, 2 * many + 3, 2 * many + 5]
        assert looked_at < 5000
        path.write_bytes(content + b"4,u,5" + end)
        with pytest.raises(DataError, match=f"line {2 * many + 6}: 3 fields where the header has 2"):
            read(path)
    finally:
        csv.field_size_limit(most)


def test_blank_lines_within_quotes_are_kept(tmp_path):
    field = "one" + "\n" * 100_000 + "two"
    (tmp_path / "a.csv").write_text(f'a,b\n1,"{field}"\n2,x\n')
    assert read(tmp_path / "a.csv").columns["b"].tolist() == [field, "x"]
    (tmp_path / "a.csv").write_text('a,b\n1,"' + "\n" * 1_000_000 + '"\n2,x\n')
    with pytest.raises(DataError, match="line 2: a field of more than 131,072 characters"):
        read(tmp_path / "a.csv")


# What is made of the data ---------------------------------------------------------------------------------------------


def test_the_inputs_of_a_network_count_too():
    """Each category is an input: a column of a few bytes a row becomes thousands of numbers."""
    words = np.array([f"w{row % 1000}" for row in range(9000)], object)
    table = Table("words.csv", {"word": words, "y": np.arange(9000.0) / 7})
    learned = Preprocessing.fit(table, "y")
    with pytest.raises(
        MemoryLimitError, match=r"words.csv: 9,000 rows of 1,000 inputs, .* --hash .* 36,000,000 bytes unpacked"
    ):
        learned.transform(table, memory_limit="35MB")
    assert learned.transform(table, memory_limit="36MB").shape == (9000, 1000)


def test_bytes_become_numbers_of_four_bytes_at_once():
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 28, 28)).astype(np.uint8)
    data = Arrays("pixels", pixels, np.arange(1000) % 10)
    learned = Preprocessing.fit(data)
    tracemalloc.start()
    try:
        x = learned.transform(data)
        assert tracemalloc.get_traced_memory()[1] < x.nbytes + MB
    finally:
        tracemalloc.stop()


# A process that has little memory ---------------------------------------------------------------------------------


BOMBS = """
import resource, sys
from gpu_backprop.data import read
import pyarrow.parquet
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[2:]:
    try:
        print("read", read(path).rows)
    except ValueError as error:
        print(type(error).__name__, error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the address space has a limit there")
def test_a_process_of_little_memory_survives_bombs(tmp_path):
    """Files that say they are 800 MB and more, where all that a process may address is 1 GiB."""
    junk = np.random.default_rng(0).bytes(MB)
    images = gzip.compress(struct.pack(">HBB3I", 0, 8, 3, 1_000_000, 28, 28) + junk)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(images)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(3, np.uint8)))
    parquet.write_table(pyarrow.table({"a": pyarrow.nulls(100_000_000)}), tmp_path / "a.parquet")
    done = subprocess.run(
        [sys.executable, "-c", BOMBS, str(1 << 30), str(tmp_path), str(tmp_path / "a.parquet")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["MemoryLimitError"] * 2
    assert done.stdout.count("bytes unpacked, more than half of the memory that this program may use, 536,870,912") == 2


# Stored preprocessing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["format", "inputs", "target", "kind"])
def test_a_description_of_great_depth(where):
    deep: object = []
    for _ in range(100_000):
        deep = [deep]
    given = {"format": 1, "inputs": {"kind": "table"}, "target": {"task": "regression"}}
    (given["inputs"] if where == "kind" else given)[where] = deep
    try:
        with pytest.raises(DataError, match="the stored preprocessing is damaged"):
            Preprocessing.from_dict(given)
    finally:
        while deep:  # one by one: all at once would take as many frames
            deep = deep.pop()
