"""Safetensors files of any program, as far as they hold float32 and float64. What is read may be damaged or made up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gpu_backprop.backend.errors import ModelFileError
from gpu_backprop.backend.formula import Array
from gpu_backprop.data import DataError, limits
from gpu_backprop.training.model_file import Tensors, in_order, read_header, read_tensors

MOST_AXES = 8


def read_tensor_file(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Reads all tensors of a file by name.

    Raises:
        ModelFileError: there is no such file, or it is not such a file, or holds other dtypes; the message says which.
    """
    try:
        return _read(Path(path))
    except OSError as error:
        why = error.strerror or str(error)
    except MemoryError:
        why = "it is too large for the memory of this machine"
    except (ModelFileError, DataError) as error:
        why = str(error).partition("; ")[0]  # which goes on with what to do about a model of ours
    raise ModelFileError(
        f"cannot read {os.fspath(path)}: {why}. Give the path of a safetensors file of float32 or float64 tensors."
    )


def _read(path: Path) -> dict[str, Array]:
    if path.exists() and not path.is_file():
        raise ModelFileError(f"it is {'a folder' if path.is_dir() else 'not a regular file'}")
    with open(path, "rb") as file, limits.decoding("it takes", limits.stored_bytes(file)):
        header = read_header(file)
        header.pop("__metadata__", None)
        tensors: Tensors = {name: _form(name[:60], entry) for name, entry in header.items()}
        size = os.fstat(file.fileno()).st_size - file.tell()
        order = in_order(tensors, header, size)
        limits.take(size)
        return read_tensors(file, tensors, order)


def _form(name: str, entry: dict[str, Any]) -> tuple[str, list[int]]:
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if dtype not in ("F32", "F64"):
        raise ModelFileError(f"its tensor {name} is {str(dtype)[:20]}")
    if (
        not isinstance(shape, list)
        or len(shape) > MOST_AXES
        or not all(type(axis) is int and 0 <= axis < 2**31 for axis in shape)
    ):
        raise ModelFileError(f"its tensor {name} has the shape {str(shape)[:60]}")
    return dtype, shape
