"""Whatever the bytes are, a reader gives data or a DataError that names the file; and what it gives can be learned
from, or is refused in the same way."""

from __future__ import annotations

import gzip
import io

import numpy as np
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from gpu_backprop.data import DataError, Preprocessing, Table, read


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A folder that all examples of a test share."""
    return tmp_path_factory.mktemp("fuzz")


def saved(save, *args, **kwargs) -> bytes:
    """What a function writes into a file."""
    file = io.BytesIO()
    save(file, *args, **kwargs)
    return file.getvalue()


def parquet_bytes() -> bytes:
    columns = {
        "n": pyarrow.array([1, None, 3] * 4, pyarrow.int32()),
        "t": pyarrow.array(["a", "b", None] * 4).dictionary_encode(),
        "u": ["x", "yy", "zzz"] * 4,
        "b": [True, False, None] * 4,
    }
    return saved(lambda file: parquet.write_table(pyarrow.table(columns), file))


X, Y = np.arange(24, dtype=np.float32).reshape(6, 4), np.array([0, 1, 2] * 2)
CSV = b'id;name;value\n1;"a;b";2.5\n2;"line\nbreak";NA\n3;caf\xc3\xa9;-1e3\n'
IDX_IMAGES = b"\0\0\x08\x03" + b"\0\0\0\x03\0\0\0\x02\0\0\0\x02" + bytes(range(12))
IDX_LABELS = b"\0\0\x08\x01" + b"\0\0\0\x03" + bytes([1, 2, 1])
SOUND = {
    "a.csv": CSV,
    "b.csv.gz": gzip.compress(CSV, mtime=0),
    "c.parquet": parquet_bytes(),
    "d.npz": saved(np.savez, x=X, y=Y),
    "e.npz": saved(np.savez_compressed, x=X.astype(np.uint8), y=np.array(["a", "b", "cd"] * 2)),
    "f_x.npy": saved(np.save, X),
    "g.npy": saved(np.save, np.asfortranarray(X.astype(">i2"))),
}


@st.composite
def mutated(draw, sound: bytes) -> bytes:
    """Sound bytes after a few accidents: other bytes, lost, doubled and foreign ones, an early end."""
    data = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(1, 8))
        match draw(st.sampled_from(["set", "lose", "double", "insert", "end"])):
            case "set":
                data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
            case "lose":
                del data[at : at + length]
            case "double":
                data[at:at] = data[at : at + 50 * length]
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=length))
            case "end":
                del data[at:]
    return bytes(data)


def unless_refused(path, call):
    """What a function gives; None if it raises a DataError, which must name the file in one bearable line."""
    try:
        return call()
    except DataError as error:
        said = str(error)
    assert str(path) in said
    assert len(said) < 1500
    assert "\n" not in said
    return None


def survives(path) -> bool:
    """Reads a file, and learns from it what can be learned; whether it can be read."""
    data = unless_refused(path, lambda: read(path))
    if data is None:
        return False
    assert data.rows > 0
    columns = list(data.columns) if isinstance(data, Table) else [None]
    for impute in (None, "median"):
        learned = unless_refused(path, lambda impute=impute: Preprocessing.fit(data, columns[-1], impute=impute))
        if learned is not None:
            x = learned.transform(data)
            assert x.shape == (data.rows, learned.inputs)
            assert np.isfinite(x).all()
            assert len(learned.targets(data)) == data.rows
    return True


@given(
    name=st.sampled_from([*SOUND, "h.txt", "i.tsv", "no suffix"]),
    magic=st.sampled_from(
        [b"", b"PAR1", b"\x93NUMPY\x01\0", b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b\x08\0", b"a,b\n"]
    ),
    data=st.binary(max_size=200),
)
def test_any_bytes(scratch, name, magic, data):
    path = scratch / name
    path.write_bytes(magic + data)
    survives(path)


@pytest.mark.parametrize("name", SOUND)
@given(data=st.data())
def test_sound_files_after_accidents(scratch, name, data):
    path = scratch / name
    path.write_bytes(data.draw(mutated(SOUND[name])))
    survives(path)


@given(images=mutated(IDX_IMAGES), labels=mutated(IDX_LABELS), packed=st.booleans(), damaged=st.integers(0, 2))
def test_idx_folders_after_accidents(tmp_path_factory, images, labels, packed, damaged):
    folder = tmp_path_factory.mktemp("idx")
    ending = ".gz" if packed else ""
    for what, sound, bad, number in ("images-idx3", IDX_IMAGES, images, 1), ("labels-idx1", IDX_LABELS, labels, 2):
        content = bad if damaged in (0, number) else sound
        (folder / f"train-{what}-ubyte{ending}").write_bytes(gzip.compress(content) if packed else content)
    survives(folder)
