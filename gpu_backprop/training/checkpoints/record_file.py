"""The file of a checkpoint: dicts, lists, text, numbers and arrays, in a safetensors file, which is data and no code.

Arrays are its tensors. The rest is JSON, in a tensor of bytes of its own, with {"tensor": name} where an array was. A
SHA-256 over all of it stands in the metadata. Whoever reads it trusts nothing: no more memory is taken than the file
has on the disk, and nothing is looked at before the digest is right.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.errors import InputError, ModelFileError
from gpu_backprop.backend.formula import Array
from gpu_backprop.data import DataError, limits
from gpu_backprop.network.numbers import scalar
from gpu_backprop.training.model_file import (
    CODES,
    JSON,
    STORED,
    Tensors,
    damaged,
    digest,
    in_order,
    read_header,
    read_tensors,
    write_tensors,
)

PROGRAM, FORMAT = "gpu_backprop checkpoint", "1"
REST = "json"
"""The tensor that has all but the arrays."""


def write_record(path: str | os.PathLike[str], record: Mapping[str, Any], device: Device) -> None:
    """Writes a record, whole or not at all; arrays of the device are copied to the host.

    Raises:
        InputError: something in it is neither plain data nor an array.
        OSError: the file can't be written.
    """
    tensors: dict[str, Array] = {}
    plain = _without_arrays(record, "", tensors, device)
    text = json.dumps(plain, separators=(",", ":")).encode()
    tensors[REST] = np.frombuffer(text, np.uint8)
    write_tensors(path, tensors, {"program": PROGRAM, "format": FORMAT, "sha256": digest(FORMAT, tensors, {})})


def read_record(path: Path) -> dict[str, Any]:
    """Reads a record.

    Raises:
        ModelFileError: it is no such file, whole and unaltered, or one of a newer version; the message says which.
    """
    try:
        return _read(path)
    except OSError as error:
        raise ModelFileError(error.strerror or str(error)) from error
    except (ModelFileError, DataError) as error:
        raise ModelFileError(str(error).partition("; ")[0]) from error  # which goes on with what to do about a model
    except MemoryError:
        raise ModelFileError("it is too large for the memory of this machine") from None
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"it is damaged ({str(error)[:300]})") from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file() and path.exists():
        raise ModelFileError("it is not a regular file")
    with open(path, "rb") as file, limits.decoding("it takes", limits.stored_bytes(file)):
        header = read_header(file)
        metadata = header.pop("__metadata__", {})
        if metadata.get("program") != PROGRAM:
            raise ModelFileError("it is a safetensors file, but no checkpoint")
        if (version := metadata.get("format")) != FORMAT:
            known = f"this version of gpu_backprop understands format {FORMAT}"
            raise ModelFileError(f"it has format {str(version)[:20]}, and {known}")
        expected: Tensors = {name: _form(entry) for name, entry in header.items()}
        size = os.fstat(file.fileno()).st_size - file.tell()
        order = in_order(expected, header, size)
        limits.take(size + JSON * expected[REST][1][0])
        tensors = read_tensors(file, expected, order)
    if metadata.get("sha256") != digest(FORMAT, tensors, {}):
        raise ModelFileError("it was altered or damaged after it was written: its SHA-256 is not right")
    record = _with_arrays(json.loads(tensors.pop(REST).tobytes()), tensors)
    if tensors or not isinstance(record, dict):
        raise damaged("not every tensor has a place")
    return record


def _form(entry: Mapping[str, Any]) -> tuple[str, list[int]]:
    dtype, shape = entry["dtype"], entry["shape"]
    if dtype not in STORED or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError("a tensor has no shape or dtype of ours")
    return dtype, list(shape)


def _without_arrays(value: Any, name: str, tensors: dict[str, Array], device: Device) -> Any:
    """Returns plain data with references in the place of arrays, which go to `tensors`."""
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value) or "tensor" in value:
            raise InputError(f"a checkpoint takes dicts whose keys are text, and not 'tensor', got {value!r:.100}.")
        return {key: _without_arrays(one, f"{name}.{key}", tensors, device) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_arrays(one, f"{name}.{place}", tensors, device) for place, one in enumerate(value)]
    if str(getattr(value, "dtype", "")) in CODES and not isinstance(value, np.generic):
        host = value if isinstance(value, np.ndarray) else device.to_host(value)
        tensors[name] = np.ascontiguousarray(host).reshape(host.shape)  # which makes an axis of none
        return {"tensor": name}
    plain = scalar(value)
    if isinstance(plain, (str, int, float, bool)) or plain is None:
        return plain
    raise InputError(
        f"a checkpoint takes dicts, lists, text, numbers and arrays, got {type(value).__name__} {value!r:.100} as "
        f"{name[1:]}."
    )


def _with_arrays(value: Any, tensors: dict[str, Array]) -> Any:
    """Puts each array in its place, once."""
    if isinstance(value, dict):
        if value.keys() == {"tensor"}:
            return tensors.pop(value["tensor"])
        return {key: _with_arrays(one, tensors) for key, one in value.items()}
    return [_with_arrays(one, tensors) for one in value] if isinstance(value, list) else value
