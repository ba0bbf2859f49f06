"""Data files of every format, damaged or made to unpack to far more than they are: each must be read as a table or as
arrays from which one can learn, or be refused by a DataError in words, in a process that has little memory.

python bench/assault/data_files.py [--quick]
"""

from __future__ import annotations

import gzip
import io
import random
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow
from accidents import damaged
from pyarrow import parquet
from verdict import asked_quick, report
from workers import run_all

from gpu_backprop.data import DataError, read

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.data import test_fuzz as fuzz

MEMORY = 3 << 30
"""Bytes that a process may address: pyarrow and NumPy take one of three before they do anything."""

MB = 1 << 20
LIMIT, BESIDE = 100 * MB, 64 * MB
"""What bombs may be decoded to, and what reading may take besides."""

PARQUET = ("plain", "DELTA_BINARY_PACKED", "DELTA_BYTE_ARRAY", "gzip", "zstd", "two pages")

Files = dict[str, bytes]
"""By name: those of which the first is read, or the folder that they are in."""


def parquet_of(form: str) -> bytes:
    """A table in one of the ways in which Parquet stores it."""
    rows = 40
    columns = {
        "n": np.arange(rows),
        "t": [f"text {row % 7}" for row in range(rows)],
        "y": [0.5 * row for row in range(rows)],
    }
    options: dict[str, object] = {"compression": form if form in ("gzip", "zstd") else "none"}
    if form.startswith("DELTA"):
        name = "n" if form == "DELTA_BINARY_PACKED" else "t"
        options |= {"use_dictionary": False, "column_encoding": {name: form}}
    if form == "two pages":
        options |= {"data_page_version": "2.0", "row_group_size": 25, "data_page_size": 64}
    return fuzz.saved(lambda file: parquet.write_table(pyarrow.table(columns), file, **options))


@cache
def sound() -> list[tuple[str, Files]]:
    """Sound files of every format."""
    alone = {
        **fuzz.SOUND,
        "spaces.txt": b"a b c\n1  2 x\n3 4  y\n" * 3,
        "tabs.tsv": b"a\tb\tc\n1\t2\tx\n" + b"\n" * 50 + b"3\t4\ty\n",
        "words.npz": fuzz.saved(
            np.savez, x_train=fuzz.X, y_train=np.array(["a", "bb"] * 3), x_test=fuzz.X, y_test=fuzz.Y
        ),
        "truth.npz": fuzz.saved(np.savez_compressed, x=fuzz.X > 7, y=np.array(["ä", "ö"] * 3, ">U3")),
        "words_y.npy": fuzz.saved(np.save, np.array(["a", "bb"] * 3)),
        **{f"{form}.parquet": parquet_of(form) for form in PARQUET},
    }
    kinds = [(name, {name: content}) for name, content in alone.items()]
    kinds[[name for name, _ in kinds].index("words_y.npy")][1]["words_x.npy"] = fuzz.saved(np.save, fuzz.X)
    images = {"train-images-idx3-ubyte": fuzz.IDX_IMAGES, "train-labels-idx1-ubyte": fuzz.IDX_LABELS}
    kinds.append(("idx", images))
    kinds.append(("idx, packed", {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in images.items()}))
    return kinds


def mutant(number: int) -> Files:
    """The files of an attempt: one of them after accidents, of what it is packed in or of what is within."""
    chance = random.Random(number)
    name, files = sound()[number % len(sound())]
    victim = chance.choice(list(files)) if name.startswith("idx") else name
    _, other = chance.choice(sound())
    content, foreign = files[victim], next(iter(other.values()))
    within = victim.endswith((".gz", ".npz")) and chance.random() < 0.5
    if within and victim.endswith(".gz"):
        changed = gzip.compress(damaged(gzip.decompress(content), chance, foreign), mtime=0)
    elif within:
        changed = repacked(content, chance, foreign)
    else:
        changed = damaged(content, chance, foreign)
    return files | {victim: changed}


def repacked(content: bytes, chance: random.Random, foreign: bytes) -> bytes:
    """An .npz file of which one array is damaged, and well packed all the same."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        arrays = {info.filename: archive.read(info) for info in archive.infolist()}
    name = chance.choice(list(arrays))
    arrays[name] = damaged(arrays[name], chance, foreign)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in arrays.items():
            archive.writestr(name, content)
    return file.getvalue()


# Bombs ----------------------------------------------------------------------------------------------------------------


def packed(begin: bytes, piece: bytes, times: int, end: bytes = b"") -> bytes:
    """Gzipped: a beginning, a piece very many times, an end."""
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1, mtime=0) as to:
        to.write(begin)
        for _ in range(times):
            to.write(piece)
        to.write(end)
    return file.getvalue()


def npz_of(dtype: str, *shape: int) -> bytes:
    """An array of zeros, and labels."""
    file, length = io.BytesIO(), np.dtype(dtype).itemsize * int(np.prod(shape))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("y.npy", fuzz.saved(np.save, np.arange(shape[0])))
        with archive.open("x.npy", "w") as to:
            np.lib.format.write_array_header_1_0(to, {"descr": dtype, "fortran_order": False, "shape": shape})
            for _ in range(length // MB):
                to.write(bytes(MB))
            to.write(bytes(length % MB))
    return file.getvalue()


def table_of(**columns: object) -> bytes:
    return fuzz.saved(lambda file: parquet.write_table(pyarrow.table(columns), file, compression="zstd"))


def one_word(characters: int, rows: int) -> bytes:
    codes = pyarrow.array(np.zeros(rows, np.int32))
    return table_of(t=pyarrow.DictionaryArray.from_arrays(codes, ["w" * characters]), y=np.arange(rows) % 3)


def differences(characters: int, rows: int) -> bytes:
    """Long texts that differ in their ends, of which alone the file says something."""
    texts = pyarrow.array(["w" * characters + str(row) for row in range(rows // 10)])
    options = {"use_dictionary": False, "column_encoding": {"t": "DELTA_BYTE_ARRAY"}, "write_statistics": False}

    def write(file: io.BytesIO) -> None:
        with parquet.ParquetWriter(file, pyarrow.schema({"t": pyarrow.string()}), compression="zstd", **options) as to:
            for _ in range(10):
                to.write_table(pyarrow.table({"t": texts}))

    return fuzz.saved(write)


def mnist_of(code: int, *shape: int, behind: int) -> Files:
    """A folder whose images are announced, and are so many zeros."""
    head = struct.pack(f">HBB{len(shape)}I", 0, code, len(shape), *shape)
    images = packed(head, bytes(1 << 20), behind >> 20, bytes(behind % (1 << 20)))
    return {"train-images-idx3-ubyte.gz": images, "train-labels-idx1-ubyte": fuzz.IDX_LABELS}


BOMBS: tuple[Callable[[], Files], ...] = (
    lambda: {"blank.csv.gz": packed(b"a,b\n1,2\n", b"\n" * MB, 100, b"3,4\n")},
    lambda: {"blank-only.csv.gz": packed(b"", b"\r\n" * MB, 50)},
    lambda: {"spaces.csv.gz": packed(b"a,b\n1,2\n", b"   \n" * MB, 30, b"3,4\n")},
    lambda: {"cells.csv.gz": packed(b"a,b\n", b"x" * 100_000 + b",1\n", 2000)},
    lambda: {"line.csv.gz": packed(b"a,b\n", b"x" * MB, 50)},
    lambda: {"quote.csv.gz": packed(b'a,b\n"', b"x\n" * MB, 50)},
    lambda: {
        "wide.csv.gz": packed(b",".join(b"%d" % n for n in range(300_000)) + b",a\n", b"1," * 300_000 + b"1\n", 2)
    },
    lambda: {"header.csv.gz": packed(b"a", b",a" * MB, 7, b"\n1\n")},
    lambda: {"words.csv.gz": packed(b"a\n", b"".join(b"w%d\n" % row for row in range(100_000)), 3)},
    lambda: {"zeros.npz": npz_of("<f8", 1000, 30_000)},
    lambda: {"almost.npz": npz_of(">f8", 1000, 12_000)},
    lambda: {"truth.npz": npz_of("|b1", 2000, 200_000)},
    lambda: {"texts.npz": fuzz.saved(np.savez_compressed, x=fuzz.X, y=np.array(["w" * 9_000_000] * 6))},
    lambda: {"one-word.parquet": one_word(1_000_000, 1500)},
    lambda: {"one-long-word.parquet": one_word(10_000_000, 100_000)},
    lambda: {"rows.parquet": table_of(a=pyarrow.nulls(200_000_000))},
    lambda: {"ones.parquet": table_of(a=np.ones(10_000_000, np.int8), y=np.zeros(10_000_000, bool))},
    lambda: {"differences.parquet": differences(100_000, 3000)},
    lambda: {"columns.parquet": table_of(**{f"c{n}": [1, 2] for n in range(3000)})},
    lambda: mnist_of(8, 400_000, 28, 28, behind=299 * MB),
    lambda: mnist_of(14, 600_000, 28, 28, behind=20 * MB),
    lambda: mnist_of(8, 3, 28, 28, behind=200 * MB),
    lambda: mnist_of(8, 2**32 - 1, 2**32 - 1, 2**32 - 1, behind=MB),
    lambda: {"header_x.npy": b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1) + b" " * MB},
)
QUICK = {4, 5, 6, 8, 10, 13, 17, 20, 22, 23}
"""The bombs that are made in no time."""


def survive(path: Path) -> str:
    """Read a bomb, or have it refused, in little memory."""
    before, said = most_held(), "read"
    try:
        read(path, memory_limit=LIMIT)
    except DataError as error:
        if str(path) not in str(error) or len(str(error)) > 1500:
            raise
        said = "refused"
    taken = most_held() - before
    if taken > LIMIT + BESIDE:
        raise AssertionError(f"{path.name} took {taken:,} bytes")
    return said


def most_held() -> int:
    """The most bytes that this process has held."""
    if sys.platform != "linux":
        return 0
    import resource

    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def attempt(number: int, folder: Path) -> str:
    """Read the files of an attempt; those below 0 are bombs."""
    place = folder / "case"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    files = BOMBS[-number - 1]() if number < 0 else mutant(number)
    for name, content in files.items():
        (place / name).write_bytes(content)
    path = place if next(iter(files)).startswith("train-") else place / next(iter(files))
    if number < 0:
        return survive(path)
    return "read" if fuzz.survives(path) else "refused"


def main() -> int:
    quick = asked_quick(__doc__)
    mutants = 1000 if quick else 5200
    bombs = [-number - 1 for number in range(len(BOMBS)) if not quick or number in QUICK]
    outcomes, failures = run_all(attempt, [*bombs, *range(mutants)], MEMORY)
    what = f"{mutants:,} mutated data files and {len(bombs)} that unpack to far more than they are"
    return report(f"{what}: {outcomes['read']:,} read, {outcomes['refused']:,} refused in words", failures)


if __name__ == "__main__":
    sys.exit(main())
