"""The layout of a model file. What is read may be damaged or made up, so that nothing in it is trusted."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gpu_backprop.backend.errors import ModelFileError, choose
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.whole_file import new_file
from gpu_backprop.data import limits
from gpu_backprop.data.files import fill, native
from gpu_backprop.network.layers import layer_from

PROGRAM, FORMAT = "gpu_backprop", "1"
LEARNED = "preprocessing", "classes", "trained_by", "averaged", "intervals"
"""What a file may hold besides, in its metadata, each as JSON."""

HEADER_LIMIT = 1 << 24
"""Bytes of a file's header: room for some 50,000 layers, a million seeds, or the scaling of 400,000 features."""

OWN_ACTIVATIONS = 100
"""The most different activations of expressions in a file: each takes some milliseconds to be read and checked."""

JSON = 32
"""Bytes that JSON takes at most, once it is read, for each byte of its text."""

DTYPES = {"float32": "F32", "float64": "F64", "float16": "F32", "bfloat16": "F32"}
"""The dtype of a network, and what the format calls that of its parameters."""

STORED = {"F32": "<f4", "F64": "<f8", "U64": "<u8", "I64": "<i8", "U8": "|u1", "BOOL": "|b1"}
"""The dtypes of the format that a file of ours has, as NumPy calls them."""

CODES = {np.dtype(stored).name: code for code, stored in STORED.items()}

Tensors = dict[str, tuple[str, list[int]]]
"""The dtype, as the format calls it, and the shape of each tensor."""

GIVE = "give the path of a file that gpu_backprop.save wrote"
AGAIN = "copy it again, or save the network again"


def write(
    path: str | os.PathLike[str], architecture: str, tensors: Mapping[str, Array], learned: Mapping[str, str]
) -> None:
    """Writes a file, whole or not at all; `architecture` and `learned` are JSON."""
    sha256 = digest(architecture, tensors, learned)
    metadata = {"program": PROGRAM, "format": FORMAT, "architecture": architecture, **learned, "sha256": sha256}
    write_tensors(path, tensors, metadata)


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Writes tensors and metadata, whole or not at all."""
    header = _header(tensors, metadata)
    if len(header) > HEADER_LIMIT:
        raise ModelFileError(
            "cannot save the network: it has more layers or members, features or categories, than a model file can "
            "describe."
        )
    with new_file(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name in _in_file_order(tensors):
            file.write(tensors[name].data)


def _in_file_order(tensors: Mapping[str, Array]) -> list[str]:
    """Sorts the names of tensors as a file holds them: the widest first, which keeps all aligned."""
    return sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))


def _header(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """Makes the header of a safetensors file; the library's own has its metadata in another order each time."""
    described: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in _in_file_order(tensors):
        array = tensors[name]
        begin, end = end, end + array.nbytes
        described[name] = {"dtype": CODES[array.dtype.name], "shape": array.shape, "data_offsets": [begin, end]}
    text = json.dumps(described, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _expected(architecture: Mapping[str, Any]) -> Tensors:
    """Returns type and shape of what a file holds of a network of this architecture, without building it."""
    units, seed = architecture["inputs"], architecture["seed"]
    models_shape = (len(seed),) if isinstance(seed, list) else ()
    dtype = choose("dtype", architecture["dtype"], DTYPES)
    tensors: Tensors = {}
    layers = [layer for layer in architecture["layers"] if isinstance(layer, dict)]
    own = {json.dumps(f) for layer in layers if isinstance(f := layer.get("activation"), dict)}
    if len(own) > OWN_ACTIVATIONS:
        raise ModelFileError(f"it has {len(own)} activations of expressions, and may have {OWN_ACTIVATIONS}")
    for place, description in enumerate(architecture["layers"]):
        layer = layer_from(description)
        layer.attach(place + 1, units, models_shape)
        units = layer.units
        for name, shape in layer.parameter_shapes().items():
            tensors[f"layers.{place}.{name}"] = dtype, [*models_shape, *shape]
    tensors["random"] = "U64", [*models_shape, len(architecture["layers"]), 3]
    return tensors


def digest(architecture: str, tensors: Mapping[str, Array], learned: Mapping[str, str]) -> str:
    """Returns the SHA-256 of all that a file holds."""
    sha256 = hashlib.sha256(architecture.encode())
    for name, array in sorted(tensors.items()):
        sha256.update(f"\n{name} {array.dtype.name} {array.shape}\n".encode())
        sha256.update(array.data)
    for name, text in sorted(learned.items()):
        sha256.update(f"\n{name} {len(text.encode())}\n{text}".encode())
    return sha256.hexdigest()


def read(path: Path, dtype: str | None, on_host: bool) -> tuple[dict[str, Any], dict[str, Array], dict[str, str]]:
    """Reads architecture, tensors and what was learned from the data; a ModelFileError says why a file is not whole and
    unaltered. It is not mapped: a mapped file that is cut off meanwhile ends the process."""
    if path.exists() and not path.is_file():
        raise ModelFileError(f"it is {'a folder' if path.is_dir() else 'not a regular file'}; {GIVE}")
    with open(path, "rb") as file, limits.decoding("it takes", limits.stored_bytes(file)):
        header = read_header(file)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or metadata.get("program") != PROGRAM:
            raise ModelFileError(f"it is a safetensors file, but of another program; {GIVE}")
        if not all(isinstance(text, str) for text in metadata.values()):
            raise damaged("its metadata are not all text")
        version, text = metadata.get("format", "?"), metadata.get("architecture", "")
        if version != FORMAT:
            known = f"this version of gpu_backprop understands format {FORMAT}"
            raise ModelFileError(f"it has format {version[:20]}, and {known}; install a newer one")
        architecture = json.loads(text)
        expected = _expected(architecture)
        _compare(expected, header)
        size = os.fstat(file.fileno()).st_size - file.tell()
        order = in_order(expected, header, size)
        limits.take(size)
        if on_host:  # where parameters and gradients will be as well
            numbers = sum(math.prod(shape) for _, shape in expected.values())
            limits.take(2 * numbers * (8 if (dtype or architecture["dtype"]) == "float64" else 4))
        tensors = read_tensors(file, expected, order)
    learned = {name: metadata[name] for name in LEARNED if name in metadata}
    if metadata.get("sha256") != digest(text, tensors, learned):
        raise ModelFileError(f"it was altered or damaged after it was written: its SHA-256 is not right; {AGAIN}")
    return architecture, tensors, learned


def read_header(file: BinaryIO) -> dict[str, Any]:
    """Reads what stands before the tensors: the length of the header, in eight bytes, and the header, in JSON, which
    begins with a brace. No more is read than the file can hold, whatever its first bytes say."""
    size, start = os.fstat(file.fileno()).st_size, file.read(9)
    length = int.from_bytes(start[:8], "little")
    if start[8:] not in (b"{", b"") or length > HEADER_LIMIT:
        raise ModelFileError(f"it is not a safetensors file; {GIVE}")
    if size < 9 or size < 8 + length:
        raise ModelFileError(f"it is cut off after {size} bytes; {AGAIN}")
    limits.take(JSON * length)
    try:
        header = json.loads(start[8:] + file.read(length - 1))
        if not all(isinstance(entry, dict) for entry in header.values()):
            raise ValueError("an entry is no object")
    except (ValueError, RecursionError) as error:
        raise damaged(f"its header: {str(error)[:300]}") from None
    return dict(header)


def damaged(why: str) -> ModelFileError:
    """Makes the error of a file that is not as it was written."""
    return ModelFileError(f"it is cut off or damaged ({why}); {AGAIN}")


def _compare(expected: Tensors, header: Mapping[str, Any]) -> None:
    """Raises ModelFileError unless the tensors of a header are those that its architecture calls for."""
    found = {name: (entry.get("dtype"), entry.get("shape")) for name, entry in header.items()}
    for name in {**expected, **found}:
        if expected.get(name) != found.get(name):
            called, held = (" ".join(map(str, of.get(name, ["nothing"])))[:60] for of in (expected, found))
            raise ModelFileError(f"as {name[:60]} its architecture calls for {called}, and it holds {held}; {AGAIN}")


def in_order(expected: Tensors, header: Mapping[str, Any], size: int) -> list[str]:
    """Sorts the names of the tensors as they lie in the `size` bytes behind the header, which they fill."""

    def begin(name: str) -> int:
        offsets = header[name].get("data_offsets")
        return offsets[0] if isinstance(offsets, list) and offsets and type(offsets[0]) is int else -1

    order, end = sorted(expected, key=begin), 0
    for name in order:
        dtype, shape = expected[name]
        begun, end = end, end + math.prod(shape) * np.dtype(STORED[dtype]).itemsize
        if header[name].get("data_offsets") != [begun, end]:
            raise damaged(f"{name[:60]} lies in another place than belongs to it")
    if end != size:
        raise damaged(f"its tensors have {end} bytes, and {size} follow the header")
    return order


def read_tensors(file: BinaryIO, expected: Tensors, order: Sequence[str]) -> dict[str, Array]:
    """Reads the tensors of an open file, one after the other."""
    tensors = {}
    for name in order:
        dtype, shape = expected[name]
        array = np.empty(shape, STORED[dtype])
        if fill(file, array) < array.nbytes:
            raise ModelFileError(f"it was cut off while it was read; {AGAIN}")
        tensors[name] = native(array)
    return tensors
