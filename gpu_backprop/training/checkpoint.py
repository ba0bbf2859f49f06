"""Model files: safetensors, which is data and never code.

A file holds the parameters by name (`layers.0.weight`, `layers.0.bias` ...), the state of the dropout generator
(`random`), and in its metadata, as JSON, the architecture and, where the network knows them, the preprocessing of its
data and the names of its classes, with a SHA-256 over all of it. Whoever reads it trusts nothing: before a network is
built, the tensors in the file are exactly those that the architecture calls for, so that no file can ask for more
memory than it brings along, nor for more than a limit, and the digest is right.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from gpu_backprop.backend.errors import InputError, ModelFileError, OutOfMemoryError, choose
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.backend.whole_file import new_file
from gpu_backprop.data import DataError, Preprocessing, limits
from gpu_backprop.data.errors import MemoryLimitError
from gpu_backprop.data.files import fill, native
from gpu_backprop.data.messages import counted
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.layers import layer_from
from gpu_backprop.network.network import Network
from gpu_backprop.network.numbers import scalar

PROGRAM, FORMAT = "gpu_backprop", "1"
HEADER_LIMIT = 1 << 24
"""Bytes of a file's header: room for some 50,000 layers, a million seeds, or the scaling of 400,000 features."""

JSON = 32
"""Bytes that JSON takes at most, once it is read, for each byte of its text."""

DTYPES = {"float32": "F32", "float64": "F64", "float16": "F32", "bfloat16": "F32"}
"""The dtype of a network, and what the format calls that of its parameters."""

STORED = {"F32": "<f4", "F64": "<f8", "U64": "<u8"}
"""The dtypes of the format that a file of ours has, as NumPy calls them."""

CODES = {np.dtype(stored).name: code for code, stored in STORED.items()}

Tensors = dict[str, tuple[str, list[int]]]
"""The dtype, as the format calls it, and the shape of each tensor."""

LEARNED: tuple[str, ...] = ("preprocessing", "classes")
"""What a file may know of the data, under these names in its metadata."""

GIVE = "give the path of a file that gpu_backprop.save wrote"
AGAIN = "copy it again, or save the network again"


def save(path: str | os.PathLike[str], net: Network, *, allow_nonfinite: bool = False) -> None:
    """Writes a network to a file in the safetensors format: architecture, parameters, the state of dropout, and
    `net.preprocessing` and `net.classes` where they are set. The same network gives the same bytes.

    The file appears whole or not at all; whatever happens on the way, an older file at `path` stays as it was until
    the new one is safe on the disk. The new one has its permissions.

    Args:
        allow_nonfinite: whether parameters may be NaN or infinite; `load` then warns of them.

    Raises:
        ModelFileError: the file cannot be written there, or the network holds what no file can: an activation function
            of your own, or a preprocessing or classes that do not fit it or each other; or a NaN or infinite parameter.
        InputError: `net` is not a network.
    """
    if not isinstance(net, Network):
        raise InputError(f"net must be a gpu_backprop.Network, got {type(net).__name__}: write save(path, net).")
    for layer in net.layers:
        if ACTIVATIONS.get(layer.activation.name) != layer.activation:
            raise ModelFileError(
                f"cannot save {layer!r}: its activation is a function of your own, and a model file holds no code; "
                "save net.parameters as an array instead, and build the network again to load it."
            )
    architecture, learned = json.dumps(net.architecture()), _learned(net)
    tensors = {name: np.ascontiguousarray(net.device.to_host(array)) for name, array in _arrays(net)}
    if not allow_nonfinite and (found := _nonfinite(tensors)):
        raise ModelFileError(
            f"cannot save the network: {found}, so that it predicts nothing of use; train it again with a lower "
            "learning rate, or save it as it is with save(path, net, allow_nonfinite=True)."
        )
    sha256 = _digest(architecture, tensors, learned)
    metadata = {"program": PROGRAM, "format": FORMAT, "architecture": architecture, **learned, "sha256": sha256}
    header = _header(tensors, metadata)
    if len(header) > HEADER_LIMIT:
        raise ModelFileError(
            "cannot save the network: it has more layers or members, features or categories, than a model file can "
            "describe."
        )
    try:
        with new_file(path) as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for name in _stored(tensors):
                file.write(tensors[name].data)
    except OSError as error:
        raise ModelFileError(
            f"cannot save the network as {os.fspath(path)}: {error.strerror}; give the name of a file in a folder that "
            "can be written."
        ) from error


def file_size(net: Network) -> int:
    """Estimates how many bytes `save` writes, a little more than it does."""
    described = len(json.dumps(net.architecture())) + sum(map(len, _learned(net).values()))
    return int(net.parameters.nbytes + net.random.nbytes) + 2 * described + 1024 * (1 + len(net.layers))


def load(
    path: str | os.PathLike[str],
    device: str = "auto",
    dtype: str | None = None,
    tf32: bool = False,
    memory_limit: int | str | None = None,
) -> Network:
    """Reads a network that `save` wrote, on any device.

    Args:
        device: as `Network` takes it.
        dtype: another working dtype than it had: what was trained in bfloat16 on a GPU predicts on a CPU with
            dtype="float32". None: the same.
        tf32: as `Network` takes it; a file does not say.
        memory_limit: how much memory the file and the network may take, in bytes or as in "4GB"; None: half of the
            memory that this program may use, and no more than 200 times what the file takes on the disk, or 1 GiB.

    Raises:
        ModelFileError: there is no such file, or it is not such a file, whole and unaltered; the message says which.
        InputError, DeviceError: `device`, `dtype` or `tf32` is unknown, or cannot be used.
    """
    # a mistake in these arguments is not the file's
    on_host = open_device(device, "float32" if dtype is None else dtype, tf32).on_host
    with _refusing(path), limits.memory_limit(memory_limit):
        architecture, tensors, learned = _read(Path(path), dtype, on_host)
    if dtype is None:
        _check_dtype(path, architecture["dtype"], device)
        open_device(device, architecture["dtype"], tf32)
    with _refusing(path):
        changed = {} if dtype is None else {"dtype": dtype}
        net = Network.from_architecture(architecture | changed, device=device, tf32=tf32, draw=False)
        _teach(net, learned)
    for name, array in _arrays(net):
        net.device.copy_in(array, tensors[name])
    if found := _nonfinite(tensors):
        warnings.warn(f"{os.fspath(path)}: {found}: the network predicts nothing of use.", RuntimeWarning, stacklevel=2)
    return net


def _nonfinite(tensors: Mapping[str, Array]) -> str:
    """Says how many parameters are NaN or infinite, and where the first of them are; nothing if none is."""
    with np.errstate(all="ignore"):  # a sum takes no memory; NaN and infinity stay in it
        suspects = {name: array for name, array in tensors.items() if not np.isfinite(array.sum(dtype=np.float64))}
    counts = {name: int(array.size - np.isfinite(array).sum()) for name, array in suspects.items()}
    wrong = [name for name, count in counts.items() if count]
    bad = counted(sum(counts.values()), "parameter is", "parameters are")
    return f"{bad} NaN or infinite, first in {wrong[0]}" if wrong else ""


@contextmanager
def _refusing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns whatever a bad file brings about into a ModelFileError."""
    try:
        yield
    except OSError as error:
        raise _refusal(path, f"{error.strerror or error}; {GIVE}") from error
    except (ModelFileError, MemoryLimitError) as error:
        raise _refusal(path, str(error)) from error
    except MemoryError as error:
        if isinstance(error, OutOfMemoryError):
            raise
        raise _refusal(path, "it is too large for the memory of this machine") from None
    except (InputError, LookupError, TypeError, ValueError, RecursionError) as error:
        why = f"its architecture is not one that this version of gpu_backprop can build ({str(error)[:300]})"
        raise _refusal(path, f"{why}; {AGAIN}") from error


def _refusal(path: str | os.PathLike[str], why: str) -> ModelFileError:
    return ModelFileError(f"cannot load {os.fspath(path)}: {why}.")


def _check_dtype(path: str | os.PathLike[str], dtype: str, device: str) -> None:
    """Raises InputError where this device does not work in the dtype of the file."""
    try:
        open_device(device, dtype)
    except InputError as error:
        raise InputError(
            f"cannot load {os.fspath(path)} as it was saved: {error} Its parameters are float32 all the same: "
            "gpu_backprop.load(path, dtype='float32') uses them on any device."
        ) from None


def _arrays(net: Network) -> Iterator[tuple[str, Array]]:
    """Yields what a file holds of a network, by name: device arrays."""
    for place, layer in enumerate(net.layers):
        for name in layer.parameter_shapes():
            yield f"layers.{place}.{name}", getattr(layer, name)
    yield "random", net.random


def _stored(tensors: Mapping[str, Array]) -> list[str]:
    """Sorts the names of tensors as a file holds them: the widest first, which keeps all aligned."""
    return sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))


def _header(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """Makes the header of a safetensors file; the library's own has its metadata in another order each time."""
    described: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in _stored(tensors):
        array = tensors[name]
        begin, end = end, end + array.nbytes
        described[name] = {"dtype": CODES[array.dtype.name], "shape": array.shape, "data_offsets": [begin, end]}
    text = json.dumps(described, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _expected(architecture: Mapping[str, Any]) -> Tensors:
    """Returns type and shape of what `_arrays` yields for a network of this architecture, without building it."""
    units, seed = architecture["inputs"], architecture["seed"]
    models_shape = (len(seed),) if isinstance(seed, list) else ()
    dtype = choose("dtype", architecture["dtype"], DTYPES)
    tensors: Tensors = {}
    for place, description in enumerate(architecture["layers"]):
        layer = layer_from(description)
        layer.attach(place + 1, units, models_shape)
        units = layer.units
        for name, shape in layer.parameter_shapes().items():
            tensors[f"layers.{place}.{name}"] = dtype, [*models_shape, *shape]
    tensors["random"] = "U64", [*models_shape, len(architecture["layers"]), 3]
    return tensors


def _digest(architecture: str, tensors: Mapping[str, Array], learned: Mapping[str, str] | None = None) -> str:
    digest = hashlib.sha256(architecture.encode())
    for name, array in sorted(tensors.items()):
        digest.update(f"\n{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.data)
    for name, text in sorted((learned or {}).items()):
        digest.update(f"\n{name} {len(text.encode())}\n{text}".encode())
    return digest.hexdigest()


# What the network knows of its data -----------------------------------------------------------------------------------


def _learned(net: Network) -> dict[str, str]:
    """Writes preprocessing and classes as JSON, those that are set."""
    known: dict[str, Any] = {}
    try:
        if net.preprocessing is not None:
            if not isinstance(net.preprocessing, Preprocessing):
                raise DataError(f"net.preprocessing is of type {type(net.preprocessing).__name__}, not a Preprocessing")
            known["preprocessing"] = net.preprocessing.to_dict()
        if net.classes is not None:
            listed = isinstance(net.classes, (list, tuple, np.ndarray))
            known["classes"] = [scalar(name) for name in net.classes] if listed else net.classes
        _check_learned(net, known.get("classes"))
        return {name: json.dumps(value, allow_nan=False) for name, value in known.items()}
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"cannot save the network: {error}; correct net.preprocessing or net.classes.") from error


def _teach(net: Network, learned: Mapping[str, str]) -> None:
    """Gives a network the preprocessing and classes that `_learned` wrote."""
    try:
        known = {name: json.loads(text, parse_constant=_no_number) for name, text in learned.items()}
        if "preprocessing" in known:
            net.preprocessing = Preprocessing.from_dict(known["preprocessing"])
        net.classes = known.get("classes")
        _check_learned(net, net.classes)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"what it says about its data cannot be used ({str(error)[:300]}); {AGAIN}") from error


def _check_learned(net: Network, classes: Any) -> None:
    """Raises DataError unless preprocessing and classes fit the network."""
    if net.preprocessing is not None and net.preprocessing.inputs != net.inputs:
        made = net.preprocessing.inputs
        raise DataError(f"the preprocessing makes {made} numbers of a row, and the network takes {net.inputs}")
    if classes is None:
        return
    if not isinstance(classes, list) or {type(name) for name in classes} not in ({str}, {int}):
        raise DataError("the classes are not a list of text, or of whole numbers")
    if len(set(classes)) != len(classes):
        raise DataError("the classes name one twice")
    if net.preprocessing is not None and net.preprocessing.classes != classes:
        learned = net.preprocessing.classes
        made = "quantities" if learned is None else f"the classes {str(learned)[:100]}"
        raise DataError(f"the preprocessing makes {made}, and net.classes are {str(classes)[:100]}")
    if len(classes) != max(2, net.outputs):  # one output says yes or no
        raise DataError(f"there are {len(classes)} classes, and the network has {net.outputs} outputs")


def _no_number(word: str) -> NoReturn:
    raise DataError(f"{word} is no number")


# Files ----------------------------------------------------------------------------------------------------------------


def _read(path: Path, dtype: str | None, on_host: bool) -> tuple[dict[str, Any], dict[str, Array], dict[str, str]]:
    """Reads architecture, tensors and what was learned from the data; a ModelFileError says why a file is not whole and
    unaltered. It is not mapped: a mapped file that is cut off meanwhile ends the process."""
    if path.exists() and not path.is_file():
        raise ModelFileError(f"it is {'a folder' if path.is_dir() else 'not a regular file'}; {GIVE}")
    with open(path, "rb") as file, limits.decoding("it takes", limits.stored_bytes(file)):
        header = _read_header(file)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or metadata.get("program") != PROGRAM:
            raise ModelFileError(f"it is a safetensors file, but of another program; {GIVE}")
        if not all(isinstance(text, str) for text in metadata.values()):
            raise _damaged("its metadata are not all text")
        version, text = metadata.get("format", "?"), metadata.get("architecture", "")
        if version != FORMAT:
            known = f"this version of gpu_backprop understands format {FORMAT}"
            raise ModelFileError(f"it has format {version[:20]}, and {known}; install a newer one")
        architecture = json.loads(text)
        expected = _expected(architecture)
        _compare(expected, header)
        size = os.fstat(file.fileno()).st_size - file.tell()
        order = _in_order(expected, header, size)
        limits.take(size)
        if on_host:  # where parameters and gradients will be as well
            numbers = sum(math.prod(shape) for _, shape in expected.values())
            limits.take(2 * numbers * (8 if (dtype or architecture["dtype"]) == "float64" else 4))
        tensors = _tensors(file, expected, order)
    learned = {name: metadata[name] for name in LEARNED if name in metadata}
    if metadata.get("sha256") != _digest(text, tensors, learned):
        raise ModelFileError(f"it was altered or damaged after it was written: its SHA-256 is not right; {AGAIN}")
    return architecture, tensors, learned


def _read_header(file: BinaryIO) -> dict[str, Any]:
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
        raise _damaged(f"its header: {str(error)[:300]}") from None
    return dict(header)


def _damaged(why: str) -> ModelFileError:
    return ModelFileError(f"it is cut off or damaged ({why}); {AGAIN}")


def _compare(expected: Tensors, header: Mapping[str, Any]) -> None:
    """Raises ModelFileError unless the tensors of a header are those that its architecture calls for."""
    found = {name: (entry.get("dtype"), entry.get("shape")) for name, entry in header.items()}
    for name in {**expected, **found}:
        if expected.get(name) != found.get(name):
            called, held = (
                f"{of[name][0]} {of[name][1]}"[:60] if name in of else "nothing" for of in (expected, found)
            )
            raise ModelFileError(f"as {name[:60]} its architecture calls for {called}, and it holds {held}; {AGAIN}")


def _in_order(expected: Tensors, header: Mapping[str, Any], size: int) -> list[str]:
    """Sorts the names of the tensors as they lie in the `size` bytes behind the header, which they fill."""

    def begin(name: str) -> int:
        offsets = header[name].get("data_offsets")
        return offsets[0] if isinstance(offsets, list) and offsets and type(offsets[0]) is int else -1

    order, end = sorted(expected, key=begin), 0
    for name in order:
        dtype, shape = expected[name]
        begun, end = end, end + math.prod(shape) * np.dtype(STORED[dtype]).itemsize
        if header[name].get("data_offsets") != [begun, end]:
            raise _damaged(f"{name[:60]} lies in another place than belongs to it")
    if end != size:
        raise _damaged(f"its tensors have {end} bytes, and {size} follow the header")
    return order


def _tensors(file: BinaryIO, expected: Tensors, order: Sequence[str]) -> dict[str, Array]:
    """Reads the tensors of an open file, one after the other."""
    tensors = {}
    for name in order:
        dtype, shape = expected[name]
        array = np.empty(shape, STORED[dtype])
        if fill(file, array) < array.nbytes:
            raise ModelFileError(f"it was cut off while it was read; {AGAIN}")
        tensors[name] = native(array)
    return tensors
